"""Rule 20: whoever drives only wakes. A run that waits is let go, a lost wake is found, and decisions are names."""

from __future__ import annotations

from typing import Any

import pytest

from perdure import Agent, Context, Network, Route, RunFailed, Runtime, tool
from perdure.log.sql import SqlLog
from perdure.testing import FunctionModel, call, say
from perdure.types import records as rec
from perdure.types.messages import ToolResultMessage
from perdure.types.sent_event import SentEvent
from tests.runtime.desk import QUICK, until

Ctx = Context[Any]
SELDOM = QUICK._replace(sweep=1000.0)
"""Nobody looks around by himself."""


@tool(effect="steps")
async def listen(ctx: Ctx) -> Any:
    """Wait for news."""
    event = await ctx.step.wait_for_event("news", "app/news")
    return event and event.data["n"]


def says(request: Any) -> Any:
    last = request.messages[-1]
    return say(f"heard {last.content}") if isinstance(last, ToolResultMessage) else call("listen")


LISTENER = Agent("Listener", tools=[listen], model=FunctionModel(says))


async def test_r20_a_run_that_waits_is_let_go_and_a_lost_wake_is_found_by_who_looks_around(url: str):
    async with Runtime(url, [LISTENER], timing=SELDOM) as rt:
        result = await rt.run(LISTENER, "go", session_id="s", run_id="job")  # it comes back: nothing blocks on a wait
        log = rt.container("default").log
        assert (result.status, (await log.run("job")).owner) == ("waiting", None)
        # who has sent the event dies before it has told anybody whom it has woken
        await SqlLog(rt.db, log.now, "another").send([SentEvent("app/news", {"n": 7}, "event_1")])
        assert (await log.run("job")).status == "queued"
        await rt.sweep()
        await until(lambda: ended(rt))
        (end,) = [one.payload for one in await log.read_run("job") if isinstance(one.payload, rec.RunFinished)]
        assert end.status == "completed" and "7" in str(end.output)


async def ended(rt: Runtime) -> bool:
    return (await rt.container("default").log.run("job")).status == "completed"


async def test_r20_a_decision_is_kept_as_a_name_which_must_be_found_at_its_first_return(url: str):
    made: list[str] = []

    def expert(name: str, args: dict[str, Any]) -> Agent[Any, Any]:
        made.append(f"{name} {args['topic']}")
        return Agent(name, model=FunctionModel(lambda request: say(f"all about {args['topic']}")))

    def route(r: Any) -> Any:
        return Route("expert", args={"topic": "bees"}) if r.call_count == 0 else None

    one = Agent("One", model=FunctionModel(lambda request: say("one")))
    known = Network("Known", agents=[one], router=route, resolve=expert)
    stray = Network("Stray", agents=[one], router=lambda r: Agent("Stranger", model=one.model))
    async with Runtime(url, [known, stray], timing=QUICK) as rt:
        result = await rt.run(known, "go", session_id="s")
        assert result.results[0].agent_name == "expert" and made
        (decided,) = [p for o in await rt.session("s").records() if isinstance(p := o.payload, rec.RouteDone)][:1]
        assert b"bees" in rec.encode_payload(decided) and b"all about" not in rec.encode_payload(decided)
        with pytest.raises(RunFailed, match="Stranger"):
            await rt.run(stray, "go", session_id="t")
        kinds = {type(one.payload) for one in await rt.session("t").records()}
        assert rec.InferenceDone not in kinds, "no model was asked"
