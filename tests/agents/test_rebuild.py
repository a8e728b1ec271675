"""What a model saw, rebuilt from the log, is what it was sent."""

from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Context, Hooks, Network, Runtime, UnknownName, parallel, sequence, tool
from perdure.agents.rebuild import inferences, rebuild
from perdure.models.model import ModelRequest
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.base import decode_json
from perdure.types.messages import Message, TextMessage, ToolCallMessage
from perdure.types.records import InferenceDone, Record


@tool(effect="pure")
async def look(what: str = "") -> str:
    """Look."""
    return f"seen {what}"


class Seen:
    """A model that keeps what it was sent: first two calls, then a text."""

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []
        self.model = FunctionModel(self.answer)

    def answer(self, request: ModelRequest) -> Any:
        self.requests.append(request)
        asked = max(n for n, one in enumerate(request.messages) if isinstance(one, TextMessage) and one.role == "user")
        called = any(isinstance(one, ToolCallMessage) for one in request.messages[asked:])
        return say("done") if called or not request.tools else calls(call("look", what="a"), call("look", what="b"))


async def records(rt: Runtime, definition: Any, **options: Any) -> list[Record]:
    """Run something twice in one session, and read the records."""
    for n in range(2):
        await rt.run(definition, f"question {n}", session_id="s", run_id=f"run_{n}", **options)
    return await rt.session("s").records()


def same(seen: Seen, found: list[Record]) -> None:
    """Every inference of both runs can be rebuilt to what was sent."""
    sent = [(list(one.messages), [tool.name for tool in one.tools]) for one in seen.requests]
    for run in ("run_0", "run_1"):
        for place, record in enumerate(inferences(found, run)):
            prompt = rebuild(found, run, str(place))
            assert prompt == rebuild(found, run, record.key or "")
            assert prompt.doubts == ()
            system = [TextMessage("system", prompt.system)] if prompt.system is not None else []
            tools = decode_json(prompt.tools) if prompt.tools is not None else []
            sent.remove(([*system, *prompt.messages], [one["name"] for one in tools]))
    assert sent == []


async def test_r13_an_agents_prompts_are_rebuilt(tmp_path: Path):
    seen = Seen()
    agent = Agent("A", system="Be brief.", tools=[look], model=seen.model)
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as rt:
        same(seen, await records(rt, agent))


async def test_a_networks_prompts_are_rebuilt(tmp_path: Path):
    seen = Seen()
    first, second, third = (Agent(name, system=f"I am {name}.", tools=[look], model=seen.model) for name in "ABC")
    network = Network("N", agents=[first, second, third], router=sequence(first, parallel(second, third), first))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [network]) as rt:
        same(seen, await records(rt, network))


async def test_r13_a_prompt_that_hooks_have_changed_is_rebuilt(tmp_path: Path):
    seen = Seen()

    def on_start(_: Context[Any], messages: list[Message]) -> list[Message]:
        kept = messages[:1] + messages[-3:]
        return [*kept, TextMessage("user", "Mind the gap.")] if len(messages) > 3 else messages

    agent = Agent("A", system="Be brief.", tools=[look], model=seen.model, hooks=Hooks(on_start=on_start))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as rt:
        same(seen, await records(rt, agent))


async def test_what_does_not_fit_is_said(tmp_path: Path):
    seen = Seen()
    agent = Agent("A", system="Be brief.", tools=[look], model=seen.model)
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as rt:
        found = await records(rt, agent)
        with pytest.raises(UnknownName, match="0: agent/0/infer/0"):
            rebuild(found, "run_0", "7")
        [first, *_] = inferences(found, "run_0")
        assert isinstance(first.payload, InferenceDone)
        system = first.payload.prompt.system or ""
        texts = first.payload.texts
        texts[system] = "Be rude."
        assert "is not the one that was sent" in rebuild(found, "run_0", "1").doubts[0]
        del texts[system]
        assert "is gone" in rebuild(found, "run_0", "1").doubts[0]
        texts[system] = "Be brief."
        assert rebuild(found, "run_0", "1").doubts == ()
        later = [one for one in found if one.run_id == "run_1"]
        assert "can be rebuilt" in rebuild(later, "run_1", "0").doubts[-1]
        await rt.session("s").erase()
        with pytest.raises(UnknownName, match="erased"):
            rebuild(await rt.session("s").records(), "run_0", "0")
