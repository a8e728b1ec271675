"""Records: each kind of payload is kept and read back without loss, under the name of the contract."""

from decimal import Decimal
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Answer, Approval, Approve, Deny, Usage
from perdure.types import records as rec
from perdure.types.messages import (
    Message,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    user,
)
from tests.types.values import conversations, plain_values

CALL = ToolCall("call_1", "weather", {"city": "Oslo"})
RESULT = ToolResultMessage(CALL, {"data": "rain"})
USAGE = Usage(10, 5, 3, 2, 1, 1, 1, Decimal("0.10"))
PATCH: rec.JsonPatch = [{"op": "replace", "path": "/a/b", "value": {"c": [None, 1.5]}}]
HANDLED = rec.Handled({"data": 5}, "error", [{"op": "add", "path": "/a", "value": 1}])
ERROR = rec.ErrorInfo("ValueError", "no", "agent/0")
SAID: tuple[Message, ...] = (ReasoningMessage("hm"), TextMessage("assistant", "a", "tool"), ToolCallMessage((CALL,)))
APPROVAL = Approval("wait_1", "refund", {"amount": 5}, "run_1", "A", "call_1", "large")

CUT = rec.InferenceDone("A", (TextMessage("assistant", "Half of"),), interrupted=True)
PAYLOADS: dict[str, list[rec.Payload]] = {
    "run_started": [
        rec.RunStarted("Desk", "network", (user("hi"),)),
        rec.RunStarted(
            "A", "agent", (), (user("a"), assistant("b")), "Brief.", {"n": [1]}, {"max_iter": 3}, "ada", "run_0", "x",
            {"router": "route"},
        ),
        rec.RunStarted("F", "function", (), input={"amount": 5}),
    ],
    "inference": [
        rec.InferenceDone("A"),
        rec.InferenceDone(
            "A", SAID, "tool", "m", "p", USAGE,
            rec.PromptRef(3, "h1", "h2", (rec.PromptRange(0, 2), user("inserted"), rec.PromptRange(3, 4))),
            {"h1": "Be kind.", "h2": "[]"}, PATCH, ("B",), None, "", True, {"x": 1}, (RESULT,), (user("again"),), True,
            SAID,
        ),
        rec.InferenceDone("A", stop="budget", stop_detail="9 of 9 tokens"),
    ],
    "tool": [
        rec.ToolDone("A", RESULT),
        rec.ToolDone(
            "A", ToolResultMessage(CALL, {"error": {}}), "unknown", PATCH, ("B",), USAGE, {"amount": 5}, HANDLED, True
        ),
    ],
    "route": [
        rec.RouteDone(),
        rec.RouteDone((rec.Pick(("A",)), rec.Pick(("B", "C"), {"a": 1})), "R", "route", "stop_when", PATCH, USAGE),
    ],
    "agent_finished": [
        rec.AgentDone("A", "answer"),
        rec.AgentDone("A", "max_iter", SAID, True, {"x": 1}, PATCH, ("B",), "why"),
    ],
    "started": [rec.Started("agent/0/infer/0/tool/0"), rec.Started("agent/0/infer/0/tool/0", {"amount": 5}, "ab12")],
    "claim": [rec.Claimed(2), rec.Claimed(3, True, True, "it cannot be gone on with", ("router is gone",), {})],
    "step": [rec.StepDone("charge"), rec.StepDone("charge", {"id": 5}, "ab12", ERROR)],
    "transaction": [rec.TransactionDone("pay", {"id": 5}, "ab12", ERROR)],
    "infer": [rec.InferDone("ask", {"id": 5}, "ab12", ERROR, SAID, SAID, "m", "p", USAGE)],
    "imported": [
        rec.Imported("history"),
        rec.Imported("history", {"id": 5}, "ab12", ERROR, SAID, (rec.PastResult("A", "r/0", 1.5, 0, 1),)),
    ],
    "child": [rec.ChildDone("run_2", "completed"), rec.ChildDone("run_2", "failed", USAGE, {"a": 1}, ERROR, "ab12")],
    "wait": [rec.WaitOpened("A", (APPROVAL,), {"amount": 5}, PATCH, ("B",))],
    "failed": [rec.StepFailed("agent/0/infer/0", ERROR), rec.StepFailed("agent/0/infer/0", ERROR, True, CUT)],
    "attempt": [rec.AttemptFailed("agent/0/infer/0", 2, ERROR, 1.5, "openai:gpt-5")],
    "attempt_lost": [rec.AttemptLost("agent/0/infer/0", USAGE, told=True)],
    "run_finished": [
        rec.RunFinished("completed", "answer"),
        rec.RunFinished("failed", "error", True, {"a": 1}, USAGE, ERROR),
    ],
    "compacted": [rec.Compacted(()), rec.Compacted(SAID)],
    "answer": [
        rec.Answered("wait_1", Approve("ada")),
        rec.Answered("wait_1", Deny("no", "ada")),
        rec.Answered("wait_1", Answer("text", "ada")),
    ],
    "cancel": [rec.CancelAsked(), rec.CancelAsked("deadline", "after 5 s")],
    "forked": [rec.Forked("session_0", 7), rec.Forked("session_0", 7, "run_0")],
    "rewound": [rec.Rewound(0), rec.Rewound(7)],
    "event": [
        rec.SessionEvent("note", "said", "evt_1", 2),
        rec.SessionEvent("note", "", "evt_2", 3, {"n": [1]}, {"from_agent": "a"}, "evt_1", "ada"),
    ],
    "session": [rec.StateSet("active"), rec.StateSet("ended", True)],
    "unparked": [rec.Unparked(), rec.Unparked(True, True)],
    "erased": [rec.Erased(), rec.Erased("tool")],
}  # fmt: skip
EACH = [(kind, payload) for kind, payloads in PAYLOADS.items() for payload in payloads]


def test_the_examples_cover_every_payload_and_set_every_field_once():
    assert {type(payload) for _, payload in EACH} == set(get_args(rec.Payload))
    for kind in get_args(rec.Payload):
        given = [payload for _, payload in EACH if type(payload) is kind]
        for name in kind.__struct_fields__:
            default = msgspec.structs.fields(kind)[kind.__struct_fields__.index(name)].default
            assert any(getattr(one, name) != default for one in given), f"{kind.__name__}.{name} is never set"


@pytest.mark.parametrize(("kind", "payload"), EACH)
def test_a_payload_is_read_back_as_it_was_kept(kind: str, payload: rec.Payload):
    data = rec.encode_payload(payload)
    assert rec.decode_payload(data) == payload
    assert rec.encode_payload(rec.decode_payload(data)) == data, "the same bytes again: records are compared by them"


@pytest.mark.parametrize(("kind", "payload"), EACH)
def test_a_kind_has_the_name_under_which_it_is_kept(kind: str, payload: rec.Payload):
    assert rec.kind_of(payload) == kind
    assert rec.Record(1, "run_1", "session_1", None, payload, 0.0).kind == kind
    assert msgspec.json.decode(rec.encode_payload(payload))["type"] == kind


@given(conversations, plain_values, plain_values)
def test_any_content_is_read_back_as_it_was_kept(said: tuple[Message, ...], state: Any, output: Any):
    for payload in (
        rec.RunStarted("A", "agent", said, said, state=state),
        rec.InferenceDone("A", said, output=output, has_output=True, feedback=said),
        rec.AgentDone("A", "answer", said, True, output),
        rec.StepDone("s", output),
    ):
        assert rec.decode_payload(rec.encode_payload(payload)) == payload


@given(st.integers(1, 2**40), st.none() | st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 2e9))
def test_a_record_is_a_value_of_its_own(seq: int, key: str | None, at: float):
    record = rec.Record(seq, "run_1", "session_1", key, rec.RunFinished("completed", "answer"), at)
    assert msgspec.json.decode(msgspec.json.encode(record), type=rec.Record) == record
    assert record.version == rec.SCHEMA_VERSION


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"{}", b'{"type":"unheard_of"}', b'{"type":"tool","agent":5}', b'{"type":"run_finished"}', b"\xff"],
)
def test_bytes_of_no_known_kind_are_refused(data: bytes):
    with pytest.raises(msgspec.DecodeError):
        rec.decode_payload(data)


def test_fields_that_a_later_version_adds_are_passed_over():
    assert rec.decode_payload(b'{"type":"cancel","reason":"deadline","later":[1]}') == rec.CancelAsked("deadline")
