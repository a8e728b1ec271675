"""`perdure runs replay`: a stored run against the code as it is, and as a test."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Context, Runtime, function
from perdure.cli.main import main
from tests.cli.desk_app import biller
from tests.runtime.desk import QUICK

APP = """
from perdure import Agent, Runtime, tool
from tests.cli.desk_app import look
from tests.cli.test_replay import tally

{name} = Agent("Billing", system="{system}", tools=[look])
definitions = [{name}, tally]
def runtime():
    return Runtime("sqlite:///never.db", definitions)
"""


@function(name="Tally")
async def tally(ctx: Context[Any], mail: str) -> str:
    return await ctx.step.run("note", lambda: mail, effect="pure")


@pytest.fixture
def perdure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command, in a folder with a store of one run and three versions of its code."""
    url = f"sqlite:///{tmp_path}/desk.db"

    async def fill() -> None:
        async with Runtime(url, [biller, tally], timing=QUICK, durability="normal") as rt:
            await rt.run(tally, {"mail": "ada@example.com"}, run_id="tally-1")
            await rt.run(biller, "Mail ada@example.com, the key is sk-abcdefghijklmnop1234", run_id="job-1")

    asyncio.run(fill())
    monkeypatch.setenv("PERDURE_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, system in (("same_code", biller.system), ("new_code", "You answer kindly.")):
        Path(f"{name}.py").write_text(APP.format(name="agent", system=system))
    Path("other_code.py").write_text('from perdure import Agent\nagent = Agent("Other")\nnothing = 7\n')

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["runs", "replay", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("app", ["same_code:agent", "same_code:definitions", "same_code:runtime"])
def test_the_same_code_does_the_same(app: str, perdure: Callable[..., tuple[int, str, str]]):
    code, out, err = perdure("job-1", "--app", app)
    assert (code, err) == (0, "")
    assert out == "Run job-1 of 'Billing' is the same in all 5 decisions.\n"
    assert not Path("never.db").exists()


def test_a_difference_is_shown_and_is_the_exit_status(perdure: Callable[..., tuple[int, str, str]]):
    code, out, err = perdure("job-1", "--app", "new_code:agent")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == (
        "Run job-1 of 'Billing' differs after 0 decisions, at agent/0/infer/0: the model is asked something else."
    )
    assert {"-system: You answer billing questions.", "+system: You answer kindly."} < set(lines)


def test_a_run_is_exported_as_a_test_and_its_file_replays_without_the_store(
    perdure: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
):
    code, out, _ = perdure("job-1", "--app", "same_code:runtime", "--export", "kept", "--redact", "emails")
    assert code == 0
    assert out.splitlines()[0] == "Written: kept/job_1.json and kept/test_job_1.py."
    said = Path("kept/job_1.json").read_text()
    assert "ada@example.com" not in said
    assert "sk-abc" not in said
    assert "replay(run, same_code.runtime()).check()" in Path("kept/test_job_1.py").read_text()
    monkeypatch.delenv("PERDURE_URL")
    assert perdure("kept/job_1.json", "--app", "same_code:agent")[0] == 0
    assert perdure("kept/job_1.json", "--app", "new_code:agent")[0] == 1
    monkeypatch.setenv("PERDURE_URL", f"sqlite:///{Path.cwd()}/desk.db")
    assert perdure("job-1", "--app", "same_code:agent", "--export", "all", "--keep-secrets")[0] == 0
    assert "sk-abc" in Path("all/job_1.json").read_text()
    assert perdure("job-1", "--app", "same_code:agent", "--export", "some", "--redact", "/Mail (\\S+),/")[0] == 0
    code, out, _ = perdure("tally-1", "--app", "same_code:definitions", "--export", "kept", "--redact", "emails")
    assert (code, out.splitlines()[1]) == (0, "Run tally-1 of 'Tally' is the same in all 2 decisions.")
    assert "ada@example.com" not in Path("kept/tally_1.json").read_text()
    assert "replay(run, same_code.definitions).check()" in Path("kept/test_tally_1.py").read_text()
    assert perdure("kept/tally_1.json", "--app", "other_code:agent")[0] == 1, "its code is gone"
    assert re.search(r"Mail redacted-\d+@example.invalid, the key", Path("some/job_1.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("job-7", "--app", "same_code:agent"), 1, "There is no run 'job-7' in container 'default'. Like it: "),
        (("job-1", "--app", "other_code:agent"), 1, "which is not among the given definitions"),
        (
            ("job-1", "--app", "other_code:nothing"),
            1,
            "replayed with agents, networks and functions, or with a Runtime, not with 7",
        ),
        (("job-1", "--app", "no_code:agent"), 2, "There is no module 'no_code'"),
        (("job-1", "--app", "same_code:none"), 2, "same_code has no 'none'"),
        (("job-1", "--app", "same_code:agent", "--redact", "/(/", "--export", "x"), 2, "no regular expression"),
        (("none.json", "--app", "same_code:agent"), 1, "none.json cannot be read: No such file"),
        (("same_code.py", "--app", "same_code:agent"), 1, "no recording: it is no JSON"),
        (
            ("job-1", "--app", "same_code:agent", "--export", "same_code.py"),
            2,
            "Nothing can be written to same_code.py",
        ),
    ],
)
def test_what_makes_no_sense_is_said(
    arguments: tuple[str, ...], code: int, why: str, perdure: Callable[..., tuple[int, str, str]]
):
    found, out, err = perdure(*arguments)
    assert found == code
    assert why in " ".join(err.split()), (out, err)
