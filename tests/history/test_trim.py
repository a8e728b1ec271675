"""Processors: what a model sees is short, and still a conversation that every provider takes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Agent, DefinitionError, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, tool
from perdure.agents.hooks import Hooks
from perdure.history.trim import drop_tool_chatter, estimate_tokens, fit_tokens, keep_last
from perdure.testing import ScriptedModel, call, say
from perdure.types.messages import Message, ReasoningMessage


def shown(hooks: Hooks, messages: list[Message]) -> list[Message]:
    assert hooks.on_start is not None
    answer: Any = hooks.on_start(None, messages)
    return messages if answer is None else answer


def turn(n: int, tools: int = 0) -> list[Message]:
    said: list[Message] = [TextMessage("user", f"question {n}")]
    for k in range(tools):
        asked = ToolCall(f"c{n}.{k}", "look", {"n": n})
        said += [ReasoningMessage("hm"), ToolCallMessage((asked,)), ToolResultMessage(asked, {"data": n})]
    return [*said, TextMessage("assistant", f"answer {n}")]


def check_messages(messages: list[Message]) -> None:
    """See that each call is followed by its results, and that no result or thought stands alone."""
    open_calls: list[str] = []
    for n, one in enumerate(messages):
        if isinstance(one, ToolResultMessage):
            assert one.tool.id == open_calls.pop(0)
            continue
        assert not open_calls
        if isinstance(one, ToolCallMessage):
            open_calls = [call.id for call in one.tools]
        elif isinstance(one, ReasoningMessage):
            assert isinstance(messages[n + 1], ToolCallMessage)
    assert not open_calls


SYSTEM = TextMessage("system", "Be short.")


def texts(messages: list[Message]) -> list[str]:
    return [one.text if isinstance(one, TextMessage) else type(one).__name__ for one in messages]


def test_b42_the_last_messages_are_kept_whole():
    before = [SYSTEM, *turn(1), *turn(2, tools=1), TextMessage("user", "now")]
    assert texts(shown(keep_last(1), before)) == ["Be short.", "answer 2", "now"]
    assert texts(shown(keep_last(3), before)) == ["Be short.", "answer 2", "now"]  # a call without its question goes
    assert texts(shown(keep_last(5), before))[1:3] == ["question 2", "ReasoningMessage"]
    assert shown(keep_last(100), before) is before


def test_b42_a_budget_of_tokens_keeps_the_newest_and_this_turn_in_any_case():
    before = [SYSTEM, *turn(1), *turn(2), TextMessage("user", "x" * 4000)]
    assert texts(shown(fit_tokens(10), before)) == ["Be short.", "x" * 4000]
    room = estimate_tokens([before[0], *before[3:]])
    assert texts(shown(fit_tokens(room), before)) == ["Be short.", "question 2", "answer 2", "x" * 4000]
    assert texts(shown(fit_tokens(3, len), before)) == ["Be short.", "answer 2", "x" * 4000]


def test_b42_the_chatter_of_tools_of_earlier_turns_is_left_out():
    before = [SYSTEM, *turn(1, tools=2), *turn(2, tools=1), *turn(3, tools=1)[:-1]]
    assert texts(shown(drop_tool_chatter(), before)) == [
        *("Be short.", "question 1", "answer 1", "question 2", "answer 2", "question 3"),
        *("ReasoningMessage", "ToolCallMessage", "ToolResultMessage"),
    ]
    assert texts(shown(drop_tool_chatter(1), before)).count("ToolCallMessage") == 2
    assert texts(shown(drop_tool_chatter(9), before)).count("ToolCallMessage") == 4


@given(
    st.lists(st.integers(0, 3), max_size=6),
    st.one_of(
        st.integers(1, 12).map(keep_last),
        st.integers(1, 600).map(fit_tokens),
        st.integers(0, 4).map(drop_tool_chatter),
    ),
    st.integers(0, 3),
)
def test_whatever_is_left_out_is_a_conversation_still(turns: list[int], hooks: Hooks, now: int):
    before = [SYSTEM, *(one for n, tools in enumerate(turns) for one in turn(n, tools)), *turn(99, now)[:-1]]
    after = shown(hooks, before)
    check_messages(after)
    assert after[0] is SYSTEM and after[-1] is before[-1]
    places = [next(n for n, known in enumerate(before) if known is one) for one in after]
    assert places == sorted(places)


async def test_what_is_stored_is_not_touched():
    @tool(effect="pure")
    def look() -> str:
        return "seen"

    model = ScriptedModel(call("look"), say("One."), say("Two."))
    agent = Agent("A", model=model, tools=[look], hooks=[drop_tool_chatter(), keep_last(1)])
    first = await agent.run("first")
    second = await agent.run("second", messages=first.messages)
    assert texts(list(model.requests[2].messages)) == ["One.", "second"]
    assert len(second.messages) == 6


@pytest.mark.parametrize("make", [keep_last, fit_tokens])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "3"])
def test_numbers_that_are_none_are_refused(make: Any, value: Any):
    with pytest.raises(DefinitionError, match="above 0"):
        make(value)
