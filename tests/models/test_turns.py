"""Messages arranged as turns: every call with one result, whatever the history looks like."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.models.turns import Answer, turns
from perdure.types.messages import (
    Message,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    system,
    user,
)

A, B = ToolCall("a", "look", {"page": 1}), ToolCall("b", "look", {"page": 2})


def result(call: ToolCall, data: object = "ok") -> ToolResultMessage:
    return ToolResultMessage(call, {"data": data})


def said(text: str) -> TextMessage:
    return TextMessage("assistant", text, stop_reason="tool")


def test_an_answer_is_one_turn_with_its_results() -> None:
    thought = ReasoningMessage("hm")
    messages = (system("s"), user("u"), thought, said("I look."), ToolCallMessage((A, B)), result(A), result(B))
    first, second, answer = turns(messages)
    assert (first, second) == messages[:2]
    assert answer == Answer([thought, said("I look."), A, B], [result(A), result(B)])


def test_results_are_in_call_order_and_follow_their_calls_directly() -> None:
    messages = (ToolCallMessage((A, B)), result(B), user("Hurry up"), result(A))
    answer, between = turns(messages)
    assert answer == Answer([A, B], [result(A), result(B)])
    assert between == user("Hurry up")


def test_an_answer_after_an_answer_is_a_turn_of_its_own() -> None:
    assert turns((assistant("one"), assistant("two"))) == [Answer([assistant("one")]), Answer([assistant("two")])]
    again = ToolCall("c", "look")
    messages = (ToolCallMessage((A,)), result(A), ToolCallMessage((again,)), result(again))
    assert turns(messages) == [Answer([A], [result(A)]), Answer([again], [result(again)])]


def test_a_call_without_a_result_gets_one_that_says_so() -> None:
    (answer, _) = turns((ToolCallMessage((A, B)), result(A), user("Never mind")))
    assert isinstance(answer, Answer)
    assert [one.tool for one in answer.results] == [A, B]
    assert answer.results[1].is_error


def test_a_result_whose_call_was_dropped_gets_its_call_back() -> None:
    assert turns((result(A), result(B), user("Go on"))) == [Answer([A, B], [result(A), result(B)]), user("Go on")]


def test_ids_are_unique_and_fit_every_provider() -> None:
    same, odd, long = ToolCall("x", "f"), ToolCall("a b/c", "f"), ToolCall("y" * 100, "f")
    messages = [ToolCallMessage((same, same, odd, long, ToolCall("", "f"))), *(result(same, n) for n in (1, 2))]
    messages += [
        result(odd),
        result(long),
        result(ToolCall("", "f"), "last"),
        ToolCallMessage((same,)),
        result(same, 3),
    ]
    arranged = turns(messages)
    ids = [call.id for one in arranged if isinstance(one, Answer) for call in one.calls]
    assert len(set(ids)) == 6
    assert all(len(id) <= 64 and id.replace("_", "").replace("-", "").isalnum() for id in ids)
    results = [one for turn in arranged if isinstance(turn, Answer) for one in turn.results]
    assert [one.tool.id for one in results] == ids
    assert [one.data for one in results] == [1, 2, "ok", "ok", "last", 3]
    assert turns(messages) == arranged  # the same each time, or no prompt could be cached


words = st.text("ab", min_size=1, max_size=3)
calls = st.builds(ToolCall, st.sampled_from(["", "a", "b", "c d"]), words, st.dictionaries(words, st.integers()))
anything = st.lists(
    st.one_of(
        st.builds(user, words),
        st.builds(assistant, words),
        st.builds(said, words),
        st.builds(ReasoningMessage, words),
        st.lists(calls, min_size=1, max_size=3).map(lambda each: ToolCallMessage(tuple(each))),
        st.builds(ToolResultMessage, calls, st.fixed_dictionaries({"data": words})),
    ),
    max_size=12,
)


@given(anything)
def test_nothing_is_lost_and_every_call_has_its_result(messages: list[Message]) -> None:
    arranged = turns(messages)
    answers = [one for one in arranged if isinstance(one, Answer)]
    for answer in answers:
        assert [one.tool for one in answer.results] == answer.calls
    ids = [call.id for answer in answers for call in answer.calls]
    assert len(ids) == len(set(ids))
    texts = [one.text for one in messages if isinstance(one, TextMessage)]
    kept = [p for t in arranged for p in (t.parts if isinstance(t, Answer) else [t]) if isinstance(p, TextMessage)]
    assert sorted(one.text for one in kept) == sorted(texts)
    made = sum(len(one.tools) for one in messages if isinstance(one, ToolCallMessage))
    assert len(ids) >= made
    contents = [str(one.content) for one in messages if isinstance(one, ToolResultMessage)]
    for content in contents:
        assert content in [str(one.content) for answer in answers for one in answer.results]
