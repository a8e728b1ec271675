"""Recordings as files: what is read again is what was written, secrets are not in it, and bad files are refused."""

import asyncio
import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Approve, Context, Runtime, TextMessage, tool
from perdure.testing import (
    EMAILS,
    Recording,
    RecordingError,
    ScriptedModel,
    call,
    export_test,
    recorded,
    recording,
    redacted,
    replay,
    say,
)
from perdure.types.errors import DefinitionError

KEY = "sk-proj-abcdefghijklmnop1234"


@tool(effect="pure")
async def look(ctx: Context[Any], login: dict[str, str]) -> dict[str, str]:
    """Look."""
    return {"Authorization": "Basic c2VjcmV0OnNlY3JldA==", "mail": "bob@example.com", "for": login["user"]}


def user_text(ctx: Context[Any]) -> str:
    first = ctx.messages[0]
    return first.text if isinstance(first, TextMessage) else ""


def prompt(ctx: Context[Any]) -> str:
    return f"You serve {ctx.user_id}. The key is {KEY}. {user_text(ctx)}"


agent = Agent("Case", system=prompt, tools=[look])


@tool(effect="steps")
async def order(ctx: Context[Any], mail: str) -> str:
    """Order."""
    picked = await ctx.step.run("pick", str.upper, mail)
    return (await ctx.run(agent, f"Write to {mail}: {picked}")).text


asker = Agent("Asker", tools=[order])


async def made() -> Recording:
    model = ScriptedModel(
        call("look", login={"user": "ada", "password": "hunter2!"}),
        say("hunter2! is no good password, ada@example.com."),
    )
    return await recording(await agent.run("My password is hunter2! and my mail ada@example.com", model=model))


async def test_a_recording_is_read_as_it_was_written(tmp_path: Path):
    run = await made()
    path = run.save(tmp_path / "run.json", redact=None)
    assert recorded(path) == run
    assert repr(run) == f"Recording({run.run.id!r} of 'Case', 1 runs, 6 records)"
    replay(path, agent).check()


async def test_secrets_are_not_in_the_file_and_it_replays(tmp_path: Path):
    run = await made()
    path = run.save(tmp_path / "run.json")
    text = path.read_text()
    for secret in ("hunter2!", KEY, "c2VjcmV0OnNlY3JldA=="):
        assert secret not in text
    assert "ada@example.com" in text
    assert len(set(re.findall(r"\[redacted:\d+\]", text))) == 3
    kept = recorded(path)
    assert kept.redacted
    replay(kept, agent).check()
    found = replay(kept, agent.replace(system=lambda ctx: "No key."))
    assert "-system: You serve None. The key is [redacted:" in found.text
    assert redacted(kept) == kept  # placeholders stay what they are


async def test_what_else_is_redacted_is_asked_for(tmp_path: Path):
    run = await made()
    for rules, gone in (
        (EMAILS, ["ada@example.com", "bob@example.com"]),
        (["mail"], ["bob@example.com"]),
        ([re.compile(r"mail (\S+)")], ["ada@example.com"]),
        ([lambda name, text: name == "mail"], ["bob@example.com"]),
    ):
        path = run.save(tmp_path / "run.json", redact=rules)
        text = path.read_text()
        assert [one for one in ("ada@example.com", "bob@example.com") if one not in text] == gone
        replay(path, agent).check()
    assert "redacted-" not in run.save(tmp_path / "run.json").read_text()
    with pytest.raises(DefinitionError, match="a field's name, a compiled regular expression, or a function"):
        redacted(run, [7])  # type: ignore[list-item]


async def test_a_redacted_recording_with_steps_and_child_runs_replays(tmp_path: Path):
    model = ScriptedModel(
        call("order", mail="ada@example.com"),
        call("look", login={"user": "ada", "password": "hunter2!"}),
        say("Written to ada@example.com."),
        say("Done, ada@example.com."),
    )
    run = await recording(await asker.run("Order for ada@example.com", model=model))
    path = run.save(tmp_path / "run.json", redact=EMAILS)
    assert "ada@example.com" not in path.read_text()
    replay(path, [asker]).check()
    other = asker.replace(tools=[order.replace(description="Order it.")])
    assert "something else about the tool 'order'" in replay(path, [other]).text


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is no JSON"),
    "no_json": (b"PK\x03\x04", "is no JSON"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "list": (b"[]", "does not say its format"),
    "no_format": (b"{}", "does not say its format"),
    "text_format": (b'{"format": "1"}', "does not say its format"),
    "too_new": (b'{"format": 2, "runs": []}', "has the format 2, and this version reads 1; upgrade"),
    "no_runs": (b'{"format": 1, "runs": []}', "it has no run"),
    "shape": (b'{"format": 1, "runs": [{"id": 7}]}', r"is damaged: .*\$\.runs\[0\]"),
    "no_records": (
        b'{"format": 1, "runs": [{"id": "r", "session_id": "s", "definition": "A", "status": "queued", '
        b'"records": []}]}',
        "does not begin with its start",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_file_that_is_no_recording_is_refused(bad: str, tmp_path: Path):
    data, why = BAD[bad]
    path = tmp_path / "run.json"
    path.write_bytes(data)
    with pytest.raises(RecordingError, match=why):
        recorded(path)
    with pytest.raises(RecordingError, match=why):
        replay(path, agent)


async def test_a_file_that_was_cut_off_changed_or_is_too_large_is_refused(tmp_path: Path):
    path = (await made()).save(tmp_path / "run.json")
    whole = path.read_bytes()
    with pytest.raises(RecordingError, match=r"MB and at most 0.0 MB are read; give max_bytes"):
        recorded(path, max_bytes=100)
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        recorded(tmp_path / "none.json")
    with pytest.raises(RecordingError, match="cannot be read: Is a directory"):
        recorded(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordingError, match="is damaged, or no recording"):
        recorded(path)
    said: Any = json.loads(whole)
    records = said["runs"][0]["records"]
    for change in (lambda: records.reverse(), lambda: records[0].update(run_id="other")):
        change()
        path.write_text(json.dumps(said))
        with pytest.raises(RecordingError, match=r"out of place|does not begin"):
            recorded(path)


async def test_a_run_that_was_erased_is_refused(tmp_path: Path):
    mine = agent.replace(model=ScriptedModel(say("x")))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [mine], durability="normal") as rt:
        result = await rt.run(mine, "x", session_id="s")
        await rt.session("s").erase()
        with pytest.raises(RecordingError, match=f"The run '{result.run_id}' was erased"):
            await recording(rt, result.run_id)
        with pytest.raises(RecordingError, match="needs the id of a run"):
            await recording(rt)


async def test_a_run_is_written_down_as_a_test_that_passes_until_the_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    @tool(requires_approval=True)
    async def pay(amount: int) -> str:
        return "paid"

    payer = Agent("Payer", tools=[pay], model=ScriptedModel(call("pay", amount=5), say("Paid.")))
    waiting = await payer.run("x")
    run = await recording(await waiting.resume({waiting.waits[0].id: Approve()}))
    code = """
from perdure import Agent, tool

@tool(requires_approval=True)
async def pay(amount: int) -> str:
    raise AssertionError("called")

def make():
    return [Agent("Payer", tools=[pay]{more})]
"""
    (tmp_path / "desk_code.py").write_text(code.format(more=""))
    kept, test = export_test(run, tmp_path / "tests", "desk_code:make", calls=True)
    assert sorted(one.name for one in (tmp_path / "tests").iterdir()) == [kept.name, test.name]
    test.write_text(test.read_text() + "\n# mine\n")
    assert export_test(run, tmp_path / "tests", "desk_code:make", calls=True) == (kept, test)
    assert "# mine" in test.read_text()
    monkeypatch.syspath_prepend(tmp_path)
    name = f"test_{kept.stem}_replays"
    await asyncio.to_thread(runpy.run_path(str(test))[name])
    # of another length: Python tells a changed file by its size and the second of its change
    (tmp_path / "desk_code.py").write_text(code.format(more=', system="New."'))
    monkeypatch.delitem(sys.modules, "desk_code")
    importlib.invalidate_caches()
    changed = runpy.run_path(str(test))[name]
    monkeypatch.delitem(sys.modules, "desk_code")
    with pytest.raises(AssertionError, match=r"\+system: New\."):
        changed()
    with pytest.raises(DefinitionError, match="is not module:name"):
        export_test(run, tmp_path, "desk")


def test_the_functions_are_not_hidden_by_the_modules_of_their_names():
    testing = importlib.import_module("perdure.testing")
    for name in testing.__all__:
        assert not isinstance(getattr(testing, name), type(json)), name
