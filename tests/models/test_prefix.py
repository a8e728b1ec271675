"""What was mapped before is not mapped again, and nobody can tell: the request is the same, byte for byte."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.models import prefix
from perdure.models.anthropic import encode as anthropic
from perdure.models.anthropic import mark
from perdure.models.gemini import encode as gemini
from perdure.models.model import ModelRequest, ToolSpec
from perdure.models.openai_chat import Dialect
from perdure.models.openai_chat import encode as chat
from perdure.models.openai_responses import encode as responses
from perdure.models.prefix import Prefixes
from perdure.models.turns import Arranged
from perdure.types.base import encode_json
from perdure.types.errors import BadRequest
from perdure.types.messages import (
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    dump_messages,
    load_messages,
    system,
    user,
)
from tests.models.transcripts import messages, transcripts

DEEPSEEK = Dialect(returns="reasoning_content")
WAYS: dict[str, Callable[[ModelRequest], dict[str, Any]]] = {
    "chat": lambda request: chat("gpt-5", request),
    "deepseek": lambda request: chat("r1", request, DEEPSEEK, "deepseek", prefill=True),
    "responses": lambda request: responses("gpt-5", request),
    "responses, no thoughts": lambda request: responses("gpt-4o", request),
    "anthropic": lambda request: anthropic("claude-sonnet-4-5", request),
    "anthropic, bound": lambda request: anthropic("claude-fable-5", request),
    "gemini": lambda request: gemini("gemini-3-pro", request),
    "gemini, old": lambda request: gemini("gemini-2.5-flash", request),
}
TOOL = ToolSpec("look", "Look.", {"type": "object", "properties": {}})
NOTHING = Prefixes(least=2**40)


def body(way: str, request: ModelRequest, known: Prefixes) -> dict[str, Any] | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "PREFIXES", known)
        try:
            return WAYS[way](request)
        except BadRequest as error:
            return str(error)


changes = st.one_of(
    *[st.tuples(st.just("say"), transcripts)] * 4,
    st.tuples(st.just("think"), st.none()),
    st.tuples(st.just("keep last"), st.integers(0, 20)),
    st.tuples(st.just("rewind"), st.integers(0, 20)),
    st.tuples(st.just("replace"), st.tuples(st.integers(0, 20), messages)),
    st.tuples(st.just("same again"), st.integers(0, 20)),
    st.tuples(st.just("other process"), st.none()),
    st.tuples(st.just("other branch"), st.none()),
)
agents = st.tuples(
    st.sampled_from(sorted(WAYS)),
    st.sampled_from([(system("A"),), (), (system("A"), system("B"))]),
    st.sampled_from([(TOOL,), ()]),
    st.sampled_from([None, "Well"]),
)


def after(change: tuple[str, Any], said: tuple[Message, ...]) -> tuple[Message, ...]:
    """What a conversation is after something has happened to it."""
    kind, what = change
    if kind == "say":
        return (*said, *what)
    if kind == "think":
        request = ModelRequest((system("A"), *said), (TOOL,))
        block = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
        opaque = Opaque("anthropic", {"block": block, "after": mark("claude-fable-5", request)})
        return (*said, ReasoningMessage("hm", opaque), user("go on"))
    if kind == "keep last":
        return said[-what:] if what else ()
    if kind == "rewind":
        return said[:what]
    if kind == "replace":
        place, other = what
        return (*said[:place], other, *said[place + 1 :])
    if kind == "same again":  # equal, but another object, as a history processor may make it
        return (*said[:what], *load_messages(dump_messages(said[what : what + 1])), *said[what + 1 :])
    return tuple(load_messages(dump_messages(said)))


def same_bytes(known: Prefixes, said: tuple[Message, ...], agent: tuple[Any, ...]) -> tuple[Any, bytes]:
    way, front, tools, begun = agent
    request = ModelRequest((*front, *said), tools, prefill=begun)
    with_it = body(way, request, known)
    assert encode_json(with_it) == encode_json(body(way, request, NOTHING))
    return with_it, encode_json(with_it)


@given(
    st.lists(st.tuples(changes, st.integers(0, 1)), max_size=12),
    st.lists(agents, min_size=2, max_size=2),
    st.sampled_from([2**30, 2**30, 2000, 0]),
)
def test_r19_a_request_is_the_same_with_and_without_what_is_remembered(
    steps: list[tuple[Any, int]], two: list[tuple[Any, ...]], limit: int
) -> None:
    known = Prefixes(limit, least=1)
    said: tuple[Message, ...] = ()
    branch: tuple[Message, ...] = ()
    sent: list[tuple[Any, bytes]] = []
    for change, agent in steps:
        if change[0] == "other branch":
            said, branch = branch, said
        else:
            said = after(change, said)
        sent.append(same_bytes(known, said, two[agent]))
        assert known.size <= limit
    for one, at_that_time in sent:
        assert encode_json(one) == at_that_time, "a request that was sent does not change afterwards"


A, B = ToolCall("a", "look", {"page": 1}), ToolCall("b", "look", {"page": 2})
begun = TextMessage("assistant", "I look.", stop_reason="tool")
first = (user("one"), ToolCallMessage((A,)), ToolResultMessage(A, {"data": 1}))
HARD: dict[str, tuple[tuple[Message, ...], tuple[Message, ...]]] = {
    "an earlier message is another": ((user("one"), user("two")), (user("other"), user("two"), user("three"))),
    "an equal one is of another type": (
        (ToolCallMessage((A,)), ToolResultMessage(A, {"data": 1}), user("two")),
        (ToolCallMessage((A,)), ToolResultMessage(A, {"data": True}), user("two")),
    ),
    "a result whose call is gone follows": (first, (*first, ToolResultMessage(B, {"data": 2}))),
    "an answer goes on": ((user("one"), begun), (user("one"), begun, ToolCallMessage((A,)))),
    "a result comes late": (
        (user("one"), ToolCallMessage((A, B)), user("hurry")),
        (user("one"), ToolCallMessage((A, B)), user("hurry"), user("!"), ToolResultMessage(A, {"data": 1})),
    ),
    "an id comes twice": (first, (*first, *first)),
    "the user goes on": ((user("one"),), (user("one"), user("two"))),
    "the system speaks in between": (first, (*first, system("C"), user("two"))),
    "it was said by the system": ((*first, system("C")), (*first, system("C"), user("two"))),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("way", WAYS)
def test_what_follows_or_differs_is_never_taken_for_what_is_remembered(way: str, case: str) -> None:
    before, later = HARD[case]
    objects = {encode_json(one): one for one in before}
    later = tuple(objects.get(encode_json(one), one) for one in later)
    known = Prefixes(least=1)
    agent = (way, (system("A"),), (), None)
    sent, at_that_time = same_bytes(known, before, agent)
    same_bytes(known, later, agent)
    same_bytes(known, before, agent)
    assert encode_json(sent) == at_that_time


def test_thoughts_that_are_bound_to_what_was_before_go_back_as_long_as_it_is_so() -> None:
    known = Prefixes(least=1)
    said: tuple[Message, ...] = (user("one"),)
    agent = ("anthropic, bound", (system("A"),), (TOOL,), None)
    for number in range(5):
        said = (*after(("think", None), said), assistant(f"{number}"), user("next"))
        _, sent = same_bytes(known, said, agent)
        assert sent.count(b'"thinking":"hm"') == number + 1
    _, sent = same_bytes(known, (*said[:-1], system("C"), user("next")), agent)
    assert b'"thinking":"hm"' not in sent, "the system said something since, so the prompt in front is another"


def turn(number: int) -> tuple[Message, ...]:
    call = ToolCall(f"call_{number}", "look", {"page": number})
    said = (ToolCallMessage((call,)), ToolResultMessage(call, {"data": number}), assistant(f"answer {number}"))
    return (user(f"question {number}"), *said)


@pytest.mark.parametrize("way", WAYS)
def test_r19_only_what_is_new_is_mapped(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []

    class Counting(Arranged):
        def __init__(self, messages: Any) -> None:
            mapped.append(len(messages))
            super().__init__(messages)

    monkeypatch.setattr(prefix, "Arranged", Counting)
    known = Prefixes()
    said: tuple[Message, ...] = ()
    for number in range(50):
        said = (*said, *turn(number))
        body(way, ModelRequest((system(f"It is {number} o'clock."), *said), (TOOL,)), known)
    new = 4 if way != "anthropic, bound" else len(said)  # thoughts are bound to the prompt in front, which differs
    assert mapped[-1] == new
    body(way, ModelRequest((system("It is 49 o'clock."), *said, user("And now?")), (TOOL,)), known)
    assert mapped[-1] == 1, "the same prompt in front"


def test_agents_of_several_providers_take_turns_on_one_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Prefixes()
    said: tuple[Message, ...] = ()
    for number in range(20):
        said = (*said, *turn(number))
        for way in ("chat", "anthropic", "gemini", "responses"):
            body(way, ModelRequest(said), known)
    assert len(known._known) == 4, "one beginning each, and the older ones are gone"


def test_what_is_remembered_has_a_limit() -> None:
    known = Prefixes(limit=20_000)
    for number in range(50):
        said = tuple(message for n in range(5) for message in turn(1000 * number + n))
        body("chat", ModelRequest(said), known)
        assert 0 < known.size <= 20_000
    assert known.size == sum(one.size for one in known._known.values())
    body("chat", ModelRequest(tuple(user("x" * 1000) for _ in range(30))), known)
    assert known.size <= 20_000, "one that is larger than the limit is not kept"
    known.clear()
    assert (known.size, len(known._known)) == (0, 0)
