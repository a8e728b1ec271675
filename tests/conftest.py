"""Rules for the whole test run."""

import os
import resource
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.servers import PostgresServer

pytest.register_assert_rewrite(
    *(f"perdure.testing.{name}" for name in ("conformance", "fork_conformance", "history_conformance"))
)

# How long an example takes says something about the machine, not about the code.
settings.register_profile("perdure", deadline=None)
settings.load_profile("perdure")


@pytest.fixture(scope="session")
def postgres() -> Iterator["PostgresServer"]:
    """A PostgreSQL server for this process of the test session, started when it is first asked for."""
    from tests.servers import PostgresServer

    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres: "PostgresServer") -> str:
    """The address of a new, empty PostgreSQL database."""
    return postgres.database()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count skipped tests as failures in CI: there, everything a test needs is installed.

    Only the controlling process has a terminal reporter with results, so this also holds under xdist.
    """
    if os.environ.get("CI", "").lower() != "true" or hasattr(session.config, "workerinput"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were skipped when a skip is a failure, and what a soak has come to."""
    if "SOAK" in os.environ:
        _soaked(terminalreporter)
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("CI", "").lower() != "true" or not skipped:
        return
    terminalreporter.section("skipped tests are failures in CI", red=True, bold=True)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"{report.nodeid}: {reason}")


def _soaked(reporter: pytest.TerminalReporter) -> None:
    """Say how many seeds and cases there were, how many have failed, where, and how large a process has become."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in reporter.stats.get(outcome, []):
            counts.setdefault(report.nodeid.partition("::")[0], Counter())[outcome] += 1
    reporter.section("soak", bold=True)
    seeds, first = os.environ.get("SEEDS", "0"), os.environ.get("FIRST_SEED", "0")
    reporter.write_line(f"{seeds} seeds from {first} on, if the simulator was among what ran")
    for path, count in sorted(counts.items()):
        bad = count["failed"] + count["error"]
        reporter.write_line(f"{path}: {count['passed']} passed{f', {bad} FAILED' if bad else ''}", red=bool(bad))
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    reporter.write_line(f"the largest process had {largest // 1024} MB")
