"""The assembler: pieces in any order of streaming become the messages that the model said."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.types.assemble import Assembler
from perdure.types.chunks import Finished, FinishReason, ModelEvent, ReasoningChunk, Restarted, TextChunk, ToolCallChunk
from perdure.types.errors import DefinitionError
from perdure.types.messages import (
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCall,
    ToolCallMessage,
    dump_messages,
    load_messages,
)
from perdure.types.usage import Usage
from tests.types.values import objects, texts


def assembled(*pieces: ModelEvent) -> Assembler:
    """An assembler that was given these pieces."""
    assembler = Assembler()
    for piece in pieces:
        assembler.add(piece)
    return assembler


def calls_of(assembler: Assembler) -> list[ToolCall]:
    """All calls of the answer, in order."""
    return [call for one in assembler.messages() if isinstance(one, ToolCallMessage) for call in one.tools]


# -- any interleaving -------------------------------------------------------------------------------------------------

Stream = list[tuple[str, int, str]]
kinds = st.sampled_from(["text", "reasoning", "call"])
streams = st.lists(st.tuples(kinds, st.integers(0, 3), texts), max_size=30)


def piece(kind: str, block: int, body: str) -> ModelEvent:
    if kind == "call":
        return ToolCallChunk(block, f"id{block}", f"tool{block}", body)
    return TextChunk(body, block) if kind == "text" else ReasoningChunk(body, block)


@given(streams)
def test_each_block_has_its_own_text_whatever_came_between(stream: Stream):
    assembler = assembled(*(piece(*one) for one in stream))
    expected: dict[tuple[str, int], str] = {}
    for kind, block, body in stream:
        expected[kind, block] = expected.get((kind, block), "") + body

    said: list[tuple[str, Any]] = []
    for one in assembler.messages():
        if isinstance(one, ToolCallMessage):
            said += [("call", (call.name, call.id)) for call in one.tools]
        elif isinstance(one, TextMessage):
            assert one.role == "assistant"
            said.append(("text", one.text))
        else:
            assert isinstance(one, ReasoningMessage)
            said.append(("reasoning", one.content))
    wanted = [
        (kind, (f"tool{block}", f"id{block}") if kind == "call" else body)
        for (kind, block), body in expected.items()
        if body or kind == "call"
    ]
    assert said == wanted, "blocks keep the order in which they began, and only their own text"
    assert assembler.text == "".join(body for (kind, _), body in expected.items() if kind == "text")
    assert assembler.has_calls == any(kind == "call" for kind, _, _ in stream)


@given(streams)
def test_what_is_assembled_can_be_kept(stream: Stream):
    said = assembled(*(piece(*one) for one in stream)).messages()
    assert load_messages(dump_messages(said)) == said


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "a", "b", "call_0", "call_1", "a_1"])), max_size=12))
def test_ids_of_calls_are_unique_and_kept_where_they_can_be(made: list[tuple[int, str]]):
    assembler = assembled(*(ToolCallChunk(block, id, "t") for block, id in made))
    ids = [call.id for call in calls_of(assembler)]
    assert len(set(ids)) == len(ids) and all(ids)
    first: dict[int, str] = {}
    for block, id in made:
        first[block] = first.get(block) or id
    for place, wanted in enumerate(first.values()):
        if wanted and wanted not in list(first.values())[:place] and wanted not in ids[:place]:
            assert ids[place] == wanted


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", "a", "call_0", "a_1"]), st.booleans()), max_size=12))
def test_an_id_that_was_shown_while_a_call_streams_is_the_one_that_it_keeps(made: list[tuple[int, str, bool]]):
    assembler = Assembler()
    shown: dict[int, str] = {}
    for block, id, show in made:
        assembler.add(ToolCallChunk(block, id, f"tool{block}"))
        if show:
            assert shown.setdefault(block, assembler.call_id(block)) == assembler.call_id(block)
    kept = {call.name: call.id for call in calls_of(assembler)}
    assert len(set(kept.values())) == len(kept)
    assert {f"tool{block}": id for block, id in shown.items()}.items() <= kept.items()


@given(objects, st.integers(1, 7))
def test_arguments_in_pieces_are_read_when_they_are_whole(arguments: dict[str, Any], size: int):
    written = json.dumps(arguments)
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    assembler = assembled(ToolCallChunk(0, "1", "t"), *(ToolCallChunk(0, arguments=one) for one in pieces))
    assert calls_of(assembler) == [ToolCall("1", "t", arguments)]


@given(st.text(st.characters(), max_size=30), st.integers(1, 3))
def test_any_text_that_a_provider_may_send_can_be_kept(sent: str, size: int):
    units = sent.encode("utf-16-le", "surrogatepass")
    halves = [units[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(units), 2)]
    pieces = ["".join(halves[at : at + size]) for at in range(0, len(halves), size)]
    assembler = assembled(*(TextChunk(one) for one in pieces), *(ToolCallChunk(arguments=one) for one in pieces))
    said = assembler.messages()
    assert load_messages(dump_messages(said)) == said
    if not any("\ud800" <= c <= "\udfff" for c in sent) and sent:
        assert isinstance(said[0], TextMessage) and said[0].text == sent, "pairs that were cut apart are whole again"


# -- what a message is ------------------------------------------------------------------------------------------------


def test_neighbouring_calls_are_one_message_and_text_beside_calls_is_kept():
    assembler = assembled(
        ReasoningChunk("hm"), TextChunk("Let me see."), ToolCallChunk(0, "1", "a"), ToolCallChunk(1, "2", "b")
    )
    assert assembler.messages() == (
        ReasoningMessage("hm"),
        TextMessage("assistant", "Let me see.", stop_reason="tool"),
        ToolCallMessage((ToolCall("1", "a"), ToolCall("2", "b"))),
    )
    parted = assembled(ToolCallChunk(0, "1", "a"), TextChunk("and"), ToolCallChunk(1, "2", "b"))
    assert [type(one) for one in parted.messages()] == [ToolCallMessage, TextMessage, ToolCallMessage]


def test_a_text_says_whether_a_call_follows():
    assert assembled(TextChunk("Done.")).messages() == (TextMessage("assistant", "Done.", stop_reason="stop"),)


def test_name_and_id_of_a_call_are_those_that_came_first():
    assembler = assembled(ToolCallChunk(0, "", "a"), ToolCallChunk(0, "1", "b"), ToolCallChunk(0, "2"))
    assert calls_of(assembler) == [ToolCall("1", "a")]


def test_opaque_parts_stay_with_their_block_also_without_text():
    sign, encrypted, mark = Opaque("p", {"s": 1}), Opaque("p", "enc"), Opaque("p", [1])
    assembler = assembled(
        ReasoningChunk("hm"),
        ReasoningChunk("", opaque=sign),
        ReasoningChunk("", 1, encrypted),
        TextChunk("a"),
        TextChunk("", opaque=mark),
        ToolCallChunk(0, "1", "t", "", sign),
        ToolCallChunk(0, arguments="{}"),
    )
    assert assembler.messages() == (
        ReasoningMessage("hm", sign),
        ReasoningMessage("", encrypted),
        TextMessage("assistant", "a", "tool", opaque=mark),
        ToolCallMessage((ToolCall("1", "t", {}, sign),)),
    )
    assert assembled(TextChunk("", opaque=mark)).messages() == (
        TextMessage("assistant", "", stop_reason="stop", opaque=mark),
    )


def test_empty_blocks_leave_nothing():
    assembler = assembled(TextChunk(""), ReasoningChunk(""), Finished())
    assert assembler.messages() == ()
    assert assembler.text == ""


@pytest.mark.parametrize("rubbish", ["text", None, {"text": "x"}])
def test_what_is_no_piece_is_refused(rubbish: Any):
    with pytest.raises(DefinitionError, match=f"streamed a {type(rubbish).__name__}"):
        assembled(TextChunk("a"), rubbish)


# -- beginning anew, breaking off, ending -----------------------------------------------------------------------------


@given(streams, streams)
def test_what_came_before_a_new_beginning_is_void(before: Stream, after: Stream):
    pieces = [piece(*one) for one in after]
    again = assembled(*(piece(*one) for one in before), Finished("max_tokens"), Restarted("overloaded"), *pieces)
    assert again.messages() == assembled(*pieces).messages()
    assert again.finished is None
    assert again.finish == assembled(*pieces).finish


def test_an_answer_that_was_cut_off_keeps_all_but_its_calls():
    assembler = assembled(ReasoningChunk("hm"), TextChunk("Let me"), ToolCallChunk(0, "1", "t", '{"a":'))
    assert [type(one) for one in assembler.without_calls()] == [ReasoningMessage, TextMessage]


@pytest.mark.parametrize(
    ("said", "calls", "finish"),
    [
        ("stop", False, "stop"),
        ("stop", True, "tool"),
        ("tool", True, "tool"),
        ("tool", False, "tool"),
        ("max_tokens", True, "max_tokens"),
        ("refused", False, "refused"),
    ],
)
def test_why_an_answer_ended(said: FinishReason, calls: bool, finish: FinishReason):
    end = Finished(said, Usage(3, 4))
    pieces: list[ModelEvent] = [ToolCallChunk(0, "1", "t")] if calls else [TextChunk("a")]
    assembler = assembled(*pieces, end)
    assert assembler.finish == finish
    assert assembler.finished is end
    assert assembled(*pieces).finish == ("tool" if calls else "stop")
