"""The projection: whatever the records are, what is opened is closed, and live and late readers see the same."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Approval, Approve, Usage, events
from perdure.testing.well_formed import find_flaw
from perdure.types import records as rec
from perdure.types.messages import (
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    user,
)
from perdure.types.project import Projector

CALLS = (ToolCall("c0", "weather", {"city": "Oslo"}), ToolCall("c1", "clock", {}))
SAID = (ReasoningMessage("hm"), TextMessage("assistant", "Let me see.", "tool"), ToolCallMessage(CALLS))
STARTED = rec.RunStarted("Desk", "network", (user("hi"),), parent="run_0")
COMPLETED = rec.RunFinished("completed", "answer", output="Rain.", usage=Usage(3, 4, model_calls=1))
FAILED = rec.RunFinished("failed", "error", error=rec.ErrorInfo("ValueError", "no"))
CANCELLED = rec.RunFinished("cancelled", "deadline")
DELTAS = (events.TextDelta, events.ReasoningDelta, events.ToolCallStarted, events.ToolArgsDelta)


def projector() -> Projector:
    return Projector("run_1", "session_1")


def record(seq: int, payload: rec.Payload, key: str | None = None) -> rec.Record:
    return rec.Record(seq, "run_1", "session_1", key, payload, 0.0)


def shown(*given: rec.Payload | tuple[str, rec.Payload], by: Projector | None = None) -> list[events.AnyEvent]:
    """What a late reader sees of these payloads, each with its key if it has one."""
    reader = by or projector()
    rows = [one if isinstance(one, tuple) else (None, one) for one in given]
    return [event for seq, (key, payload) in enumerate(rows, 1) for event in reader.record(record(seq, payload, key))]


def names(seen: list[events.AnyEvent]) -> list[str]:
    return [type(one).__name__ for one in seen]


def result(number: int, content: Any = "rain") -> ToolResultMessage:
    return ToolResultMessage(CALLS[number], {"data": content})


# -- a whole run ------------------------------------------------------------------------------------------------------


def test_a_turn_with_tools_is_shown_whole_from_its_records():
    seen = shown(
        STARTED,
        ("route/0", rec.RouteDone((rec.Pick(("A",)),), by="route")),
        ("agent/0/infer/0", rec.InferenceDone("A", SAID, "tool", usage=Usage(1, 2, model_calls=1))),
        ("agent/0/infer/0/tool/1", rec.ToolDone("A", result(1), patch=[{"op": "add", "path": "/a", "value": 1}])),
        ("agent/0/infer/0/tool/0", rec.ToolDone("A", result(0))),
        ("agent/0/infer/1", rec.InferenceDone("A", (assistant("Rain."),), usage=Usage(5, 6, model_calls=1))),
        ("agent/0", rec.AgentDone("A", "answer")),
        ("route/1", rec.RouteDone(by="route")),
        COMPLETED,
    )
    at: dict[str, Any] = {"run_id": "run_1", "session_id": "session_1"}
    infer: dict[str, Any] = {**at, "agent": "A", "step": "agent/0/infer/0", "seq": 3}
    message = {"message_id": "run_1/agent/0/infer/0"}
    assert seen[:12] == [
        events.RunStarted(definition="Desk", input=(user("hi"),), parent="run_0", seq=1, **at),
        events.RouteDecided(agents=("A",), by="route", step="route/0", seq=2, **at),
        events.AgentStarted(**at, agent="A", step="agent/0"),
        events.MessageStarted(**message, **{**infer, "seq": None}),
        events.ReasoningDelta(text="hm", **message, **infer),
        events.TextDelta(text="Let me see.", **message, **infer),
        events.ToolCallStarted(tool="weather", call_id="c0", **message, **infer),
        events.ToolCallStarted(tool="clock", call_id="c1", **message, **infer),
        events.ToolCallReady(tool="weather", call_id="c0", args={"city": "Oslo"}, **message, **infer),
        events.ToolCallReady(tool="clock", call_id="c1", args={}, **message, **infer),
        events.MessageFinished(messages=SAID, **message, **infer),
        events.UsageUpdated(usage=Usage(1, 2, model_calls=1), **infer),
    ]
    assert names(seen[12:]) == [
        *("ToolStarted", "ToolFinished", "StateChanged"),
        *("ToolStarted", "ToolFinished"),
        *("MessageStarted", "TextDelta", "MessageFinished", "UsageUpdated"),
        *("AgentFinished", "RouteDecided", "RunCompleted"),
    ]
    assert seen[13] == events.ToolFinished(
        tool="clock", call_id="c1", result={"data": "rain"}, agent="A", step="agent/0/infer/0/tool/1", seq=4, **at
    )
    assert seen[-1] == events.RunCompleted(stop_reason="answer", output="Rain.", usage=COMPLETED.usage, seq=9, **at)
    assert find_flaw(seen) is None


@pytest.mark.parametrize(
    ("end", "kind"), [(COMPLETED, "RunCompleted"), (FAILED, "RunFailed"), (CANCELLED, "RunCancelled")]
)
def test_the_end_of_a_run_is_one_event(end: rec.RunFinished, kind: str):
    seen = shown(STARTED, end)
    assert names(seen) == ["RunStarted", kind]
    assert getattr(seen[-1], "error", end.error) == end.error
    assert getattr(seen[-1], "stop_reason", end.stop_reason) == end.stop_reason


# -- whatever is opened is closed -------------------------------------------------------------------------------------

STEPS = [f"agent/{a}/infer/{k}" for a in ("0", "1/0", "1/1") for k in (0, 1)]
openings = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.sampled_from(STEPS)),
        st.tuples(st.just("tool"), st.sampled_from([f"{step}/tool/{n}" for step in STEPS for n in (0, 1)])),
        st.tuples(st.just("infer"), st.sampled_from(STEPS)),
        st.tuples(st.just("call"), st.sampled_from([f"{step}/tool/{n}" for step in STEPS for n in (0, 1)])),
        st.tuples(st.just("fail"), st.sampled_from(STEPS)),
    ),
    max_size=20,
)


@given(openings, st.sampled_from([COMPLETED, FAILED, CANCELLED]))
def test_a_terminal_record_closes_all_that_is_open(opened: list[tuple[str, str]], end: rec.RunFinished):
    reader = projector()
    seen = reader.record(record(1, STARTED))
    finished: set[str] = set()
    for kind, step in opened:
        if step in finished:
            continue
        if kind == "message":
            seen += reader.begin_message(step, "A")
        elif kind == "tool":
            seen += reader.begin_tool(step, "A", "weather", "c0", {})
        elif kind == "infer":
            seen += reader.record(record(2, rec.InferenceDone("A", SAID), step))
        elif kind == "call":
            seen += reader.record(record(2, rec.ToolDone("A", result(0)), step))
        else:
            seen += reader.record(record(2, rec.StepFailed(step, rec.ErrorInfo("ValueError", "no"))))
        if kind in ("infer", "call", "fail"):
            finished.add(step)
    seen += reader.record(record(99, end))
    assert find_flaw(seen) is None


def test_what_a_stop_leaves_open_is_closed_as_interrupted():
    reader = projector()
    seen = reader.record(record(1, STARTED))
    seen += reader.begin_tool("agent/0/infer/0/tool/0", "A", "weather", "c0", {})
    seen += reader.begin_message("agent/0/infer/1", "A")
    seen += reader.record(record(2, CANCELLED))
    at: dict[str, Any] = {"run_id": "run_1", "session_id": "session_1", "agent": "A"}
    assert seen[-4:-1] == [
        events.MessageFinished(message_id="run_1/agent/0/infer/1", interrupted=True, step="agent/0/infer/1", **at),
        events.ToolFinished(
            tool="weather", call_id="c0", result=None, outcome="interrupted", step="agent/0/infer/0/tool/0", **at
        ),
        events.AgentFinished(stop_reason="deadline", step="agent/0", **at),
    ]


def test_agents_that_a_failure_leaves_open_are_closed_as_failed():
    reader = projector()
    reader.begin_agent("agent/0/infer/0", "A")
    closed = reader.record(record(2, FAILED))[0]
    assert isinstance(closed, events.AgentFinished)
    assert (closed.agent, closed.stop_reason) == ("A", "error")


# -- live and late readers --------------------------------------------------------------------------------------------


def test_live_openings_and_the_record_show_what_the_record_alone_shows_apart_from_deltas():
    inference = record(2, rec.InferenceDone("A", SAID, "tool", usage=Usage(1, model_calls=1)), "agent/0/infer/0")
    live = projector()
    seen = [*live.begin_message("agent/0/infer/0", "A"), *live.record(inference)]
    assert not any(isinstance(one, DELTAS) for one in seen), "a live reader has had them"
    late = projector().record(inference)
    assert [one for one in late if not isinstance(one, DELTAS)] == seen

    call = record(3, rec.ToolDone("A", result(0)), "agent/0/infer/0/tool/0")
    live, late = projector(), projector()
    opened = live.begin_tool("agent/0/infer/0/tool/0", "A", "weather", "c0", {"city": "Oslo"})
    assert [*opened, *live.record(call)] == late.record(call)


def test_nothing_is_opened_twice():
    reader = projector()
    assert names(reader.begin_message("agent/0/infer/0", "A")) == ["AgentStarted", "MessageStarted"]
    assert reader.begin_message("agent/0/infer/0", "A") == []
    assert reader.begin_agent("agent/0/infer/1", "A") == []
    assert names(reader.begin_tool("agent/0/infer/0/tool/0", "A", "t", "c", {})) == ["ToolStarted"]
    assert reader.begin_tool("agent/0/infer/0/tool/0", "A", "t", "c", {}) == []
    assert names(reader.begin_agent("agent/1/0/infer/0", "B")) == ["AgentStarted"]
    assert names(reader.begin_agent("agent/1/1/infer/0", "B")) == ["AgentStarted"], "each of several at once"


@pytest.mark.parametrize("stop", ["hook", "budget"])
def test_an_inference_that_was_stopped_before_the_model_shows_no_message(stop: Any):
    assert shown(("agent/0/infer/0", rec.InferenceDone("A", stop=stop, stop_detail="why"))) == []


def test_a_turn_that_its_budget_ended_says_so_once():
    seen = shown(("agent/0", rec.AgentDone("A", "budget", detail="2 of 2 calls are used")))
    assert names(seen) == ["AgentStarted", "BudgetExceeded", "AgentFinished"]
    assert isinstance(seen[1], events.BudgetExceeded) and seen[1].detail == "2 of 2 calls are used"


def test_an_empty_answer_is_still_an_answer():
    assert names(shown(("agent/0/infer/0", rec.InferenceDone("A")))) == [
        "AgentStarted",
        "MessageStarted",
        "MessageFinished",
    ]


def test_a_cut_off_answer_is_shown_as_interrupted():
    seen = shown(("agent/0/infer/0", rec.InferenceDone("A", (assistant("Ra"),), interrupted=True)))
    finished = next(one for one in seen if isinstance(one, events.MessageFinished))
    assert finished.interrupted and finished.messages == (assistant("Ra"),)


# -- routing ----------------------------------------------------------------------------------------------------------


def test_a_routing_agent_s_answers_are_not_shown_but_what_they_cost_is():
    reader = projector()
    assert reader.begin_message("route/0/infer/0", "Chooser") == []
    assert reader.begin_tool("route/0/infer/0/tool/0", "Chooser", "select_agent", "c0", {}) == []
    seen = shown(
        STARTED,
        ("route/0/ask", rec.RouteDone(ask="Chooser", by="Chooser")),
        ("route/0/infer/0", rec.InferenceDone("Chooser", SAID, usage=Usage(1, 2, model_calls=1))),
        ("route/0/infer/0/tool/0", rec.ToolDone("Chooser", result(0))),
        ("route/0/infer/0/tool/1", rec.ToolDone("Chooser", result(1))),
        ("route/0", rec.RouteDone((rec.Pick(("A",)), rec.Pick(("B", "C"))), by="Chooser")),
        COMPLETED,
        by=reader,
    )
    assert names(seen) == ["RunStarted", "UsageUpdated", "RouteDecided", "RunCompleted"]
    assert seen[2] == events.RouteDecided(
        agents=("A", "B", "C"), by="Chooser", step="route/0", seq=6, run_id="run_1", session_id="session_1"
    )


def test_what_a_router_changed_is_shown():
    patch: rec.JsonPatch = [{"op": "add", "path": "/a", "value": 1}]
    seen = shown(("route/0", rec.RouteDone(by="r", patch=patch)))
    assert names(seen) == ["StateChanged", "RouteDecided"]
    assert isinstance(seen[0], events.StateChanged) and seen[0].patch == patch


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_waits_answers_attempts_and_inner_steps_are_shown():
    waits = (Approval("w1", "refund", {}, "run_1"), Approval("w2", "refund", {}, "run_1"))
    error = rec.ErrorInfo("RateLimited", "slow down")
    seen = shown(
        ("agent/0/infer/0/tool/0/wait/0", rec.WaitOpened("A", waits)),
        rec.Answered("w1", Approve("ada")),
        rec.AttemptFailed("agent/0/infer/1", 1, error, 0.5),
        ("agent/0/infer/0/tool/0/charge", rec.StepDone("charge", 5)),
        ("agent/0/infer/0/tool/0/run:B:ab", rec.ChildDone("run_2", "completed")),
        rec.CancelAsked(),
    )
    at: dict[str, Any] = {"run_id": "run_1", "session_id": "session_1"}
    place = "agent/0/infer/0/tool/0"
    assert seen == [
        events.WaitOpened(wait=waits[0], agent="A", step=f"{place}/wait/0", seq=1, **at),
        events.WaitOpened(wait=waits[1], agent="A", step=f"{place}/wait/0", seq=1, **at),
        events.WaitResolved(wait_id="w1", answer=Approve("ada"), seq=2, at=0.0, **at),
        events.StepRetrying(attempt=1, wait=0.5, error=error, step="agent/0/infer/1", seq=3, **at),
        events.StepFinished(name="charge", step=f"{place}/charge", seq=4, **at),
    ]


def test_every_payload_can_be_shown():
    for kind in get_args(rec.Payload):
        required = {
            field.encode_name: EXAMPLES[field.encode_name] for field in msgspec.structs.fields(kind) if field.required
        }
        assert isinstance(projector().record(record(1, kind(**required), "agent/0")), list)


EXAMPLES: dict[str, Any] = {
    "definition": "A",
    "program": "agent",
    "messages": (),
    "agent": "A",
    "result": result(0),
    "stop_reason": "answer",
    "name": "charge",
    "run_id": "run_2",
    "status": "completed",
    "waits": (),
    "step": "agent/0",
    "error": rec.ErrorInfo("ValueError", "no"),
    "attempt": 1,
    "wait": 0.5,
    "wait_id": "w1",
    "answer": Approve(),
    "epoch": 2,
    "usage": Usage(),
    "base": "session_0",
    "seq": 7,
    "to": 7,
    "event_type": "note",
    "content": "x",
    "event_id": "e1",
    "sequence": 3,
    "state": "ended",
}
