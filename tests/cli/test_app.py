"""`--app`: a user's module is imported where no event loop runs, and its failures are shown as its own."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.cli.main import main

LOOPS = """
import asyncio
from perdure import Agent

async def name():
    await asyncio.sleep(0)
    return "Made in a loop"

agent = Agent(asyncio.run(name()))
def made():
    return Agent(asyncio.run(name()))
"""
RAISES = """
def helper():
    raise ValueError("no such table")
helper()
"""
MAKER = """
import sys
def made():
    return 1 / 0
def leaves():
    sys.exit("not today")
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PERDURE_URL", raising=False)
    for name, text in (("app_loops", LOOPS), ("app_raises", RAISES), ("app_maker", MAKER), ("app_typo", "x = (")):
        Path(f"{name}.py").write_text(text)
    Path("app_needs.py").write_text("import a_module_that_nobody_has\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["worker", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    yield run


@pytest.mark.parametrize("app", ["app_loops:agent", "app_loops:made"])
def test_a_module_may_run_an_event_loop_of_its_own(app: str, worker: Command):
    code, _, err = worker("--app", app)
    assert code == 2 and "No store is named" in err, "all that is missing is a store"


@pytest.mark.parametrize(
    ("app", "first", "last"),
    [
        ("app_raises:x", "perdure: app_raises cannot be imported:", "ValueError: no such table"),
        ("app_needs:x", "perdure: app_needs cannot be imported:", "No module named 'a_module_that_nobody_has'"),
        ("app_maker:made", "perdure: app_maker:made cannot be called:", "ZeroDivisionError: division by zero"),
        ("app_maker:leaves", "perdure: app_maker:leaves cannot be called:", "SystemExit: not today"),
        ("app_typo:x", "perdure: app_typo cannot be imported:", "SyntaxError: '(' was never closed"),
    ],
)
def test_what_fails_in_a_users_module_is_shown_with_its_own_lines(app: str, first: str, last: str, worker: Command):
    code, out, err = worker("--app", app)
    assert (code, out) == (2, "")
    lines = err.rstrip().splitlines()
    assert lines[0] == first and lines[-1].endswith(last)
    files = re.findall(r'File "([^"]+)"', err)
    assert files and {Path(one).stem for one in files} == {app.partition(":")[0]}


def test_the_same_is_true_where_a_run_is_replayed(worker: Command, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "replay", "job-1", "--app", "app_raises:x"]) == 2
    assert "ValueError: no such table" in capsys.readouterr().err
