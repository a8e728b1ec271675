"""`perdure runs waits`, `approve`, `deny`, `answer`: an answer is recorded, and who has the definition goes on."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Runtime, human_tool
from perdure.cli.main import main
from perdure.testing import call
from perdure.types.waits import wait_id
from tests.runtime import desk
from tests.runtime.desk import QUICK
from tests.runtime.payers import PAYER, TWO, once

Perdure = Callable[..., tuple[int, str, str]]
ASKS = human_tool(choices=["Oslo", "Bergen"], timeout=3600)
CURIOUS = Agent("Curious", tools=[ASKS], model=once(call("ask_human", question="Where to?")))
DEFINITIONS = (PAYER, TWO, CURIOUS)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with three runs that wait, named by the environment."""
    where = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/desk.db"
    monkeypatch.setattr(desk, "place", tmp_path)
    monkeypatch.setenv("PERDURE_URL", where)

    async def fill(rt: Runtime) -> None:
        for n, one in enumerate(DEFINITIONS):
            assert (await rt.run(one, "go", session_id=f"s-{n}", run_id=f"job-{n}")).status == "waiting"

    opened(where, fill)
    return where


def opened(url: str, work: Any) -> Any:
    async def whole() -> Any:
        async with Runtime(url, DEFINITIONS, timing=QUICK, durability="normal") as rt, asyncio.timeout(30):
            return await work(rt)

    return asyncio.run(whole())


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str]) -> Perdure:
    """Run the command here: its exit code, what it wrote, and its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def waits(perdure: Perdure, *arguments: str) -> list[Any]:
    return json.loads(perdure("runs", "waits", "--json", *arguments)[1])["waits"]


def goes_on(url: str, number: int) -> Any:
    """What the run gives when a process that has its definition is there."""

    async def work(rt: Runtime) -> Any:
        run = await rt.start(DEFINITIONS[number], "go", session_id=f"s-{number}", run_id=f"job-{number}")
        return await run.result()

    return opened(url, work)


def test_what_runs_wait_for_is_listed_in_pages(url: str, perdure: Perdure):
    code, out, _ = perdure("runs", "waits")
    assert code == 0
    lines = out.splitlines()
    assert sum(line.startswith("job-") for line in lines) == 4
    for wanted in (
        '  approval of pay {"amount": 500, "currency": "NOK"}',
        "  500 is above 100",
        "  question: Where to?",
        "  one of: Oslo, Bergen",
    ):
        assert wanted in lines, wanted
    (facts,) = [line for line in lines if "until" in line]
    assert facts.startswith("  Curious · run job-2 · session s-2 · since 20")
    first = json.loads(perdure("runs", "waits", "--limit", "3", "--json")[1])
    assert [one["run_id"] for one in first["waits"]] == ["job-0", "job-1", "job-1"]
    assert perdure("runs", "waits", "--limit", "3")[1].splitlines()[-1] == f"The next ones: --after {first['next']}"
    assert [one["run_id"] for one in waits(perdure, "--after", first["next"])] == ["job-2"]
    assert len(waits(perdure, "--kind", "approval")) == 3
    assert len(waits(perdure, "--session", "s-1")) == len(waits(perdure, "--run", "job-1")) == 2
    assert perdure("runs", "waits", "--kind", "timer")[:2] == (0, "Nobody waits for that.\n")
    assert perdure("runs", "waits", "--container", "acme")[:2] == (0, "Nothing waits.\n")
    with pytest.raises(SystemExit):
        perdure("runs", "waits", "--kind", "people")


def test_an_answer_is_recorded_and_whoever_has_the_definition_goes_on(url: str, perdure: Perdure):
    (wait,) = waits(perdure, "--run", "job-0")
    code, out, _ = perdure("runs", "approve", wait["wait"]["id"], "--by", "ada")
    assert (code, out) == (0, "job-0 can go on: a process that has 'Payer' takes it, such as perdure worker.\n")
    assert waits(perdure, "--run", "job-0") == []
    assert goes_on(url, 0).output == "{'data': 'pay'}"
    shown = perdure("runs", "show", "job-0")[1]
    assert f"approval of pay: 500 is above 100 ({wait['wait']['id']}) was allowed by ada" in shown
    code, _, err = perdure("runs", "deny", wait["wait"]["id"], "--why", "too late")
    assert code == 1
    assert "it was allowed by ada, at 20" in err


def test_one_is_denied_with_a_reason_and_one_is_answered(url: str, perdure: Perdure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOGNAME", "whoever")
    for one in waits(perdure, "--run", "job-1"):
        assert perdure("runs", "deny", one["wait"]["id"], "--why", "too much")[0] == 0
    assert goes_on(url, 1).output.count("too much") == 2
    assert "was denied by whoever: too much" in perdure("runs", "show", "job-1")[1]
    (question,) = waits(perdure, "--run", "job-2")
    code, _, err = perdure("runs", "answer", question["wait"]["id"], "Rome")
    assert code == 1 and "its choices are 'Oslo', 'Bergen'" in err
    assert perdure("runs", "answer", question["wait"]["id"], "Oslo", "--by", "bo")[0] == 0
    assert goes_on(url, 2).output == "{'data': 'Oslo'}"
    assert "question" not in perdure("runs", "waits")[1]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_what_is_no_wait_is_said(url: str, perdure: Perdure):
    for id, wanted in (
        ("nonsense", "is not the id of a wait"),
        (wait_id("gone", "a"), "There is no run in the container 'default' named 'gone'"),
    ):
        code, out, err = perdure("runs", "approve", id)
        assert (code, out) == (1, "")
        assert wanted in err
    code, out, _ = perdure("runs", "approve", wait_id("job-0", "elsewhere"))
    assert (code, " ".join(out.split())) == (
        0,
        "job-0 does not ask that now; the answer is kept until it does, and goes with the run if it never does. "
        "perdure runs waits shows what is asked.",
    )
