"""Rules for the whole test run."""

import os
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
    """Say which tests were skipped when a skip is a failure."""
    skipped = terminalreporter.stats.get("skipped", [])
    if os.environ.get("CI", "").lower() != "true" or not skipped:
        return
    terminalreporter.section("skipped tests are failures in CI", red=True, bold=True)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        terminalreporter.write_line(f"{report.nodeid}: {reason}")
