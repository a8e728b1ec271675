"""Messages: their JSON form loses nothing, and input of any shape becomes messages or a clear refusal."""

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from perdure import DefinitionError, FilePart, ImagePart, TextPart, ToolCall, UserMessage, file, image, text
from perdure.types.messages import (
    MAX_MESSAGE_BYTES,
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    ToolCallMessage,
    ToolResultMessage,
    assistant,
    dump_messages,
    load_messages,
    parse_arguments,
    read_input,
    result_text,
    system,
    user,
)
from tests.types.values import conversations, objects, plain_values, texts

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


class Kept(BaseModel):
    """A user's model with our messages in it."""

    messages: tuple[Message, ...]


# -- the JSON form ----------------------------------------------------------------------------------------------------


@given(conversations)
def test_no_message_loses_anything_on_its_way_to_json_and_back(said: tuple[Message, ...]):
    data = dump_messages(said)
    assert load_messages(data) == said
    assert load_messages(data.decode()) == said
    assert load_messages(json.loads(data)) == said


@given(conversations)
def test_no_message_loses_anything_inside_a_pydantic_model(said: tuple[Message, ...]):
    kept = Kept(messages=said)
    assert kept.messages == said
    assert Kept.model_validate_json(kept.model_dump_json()).messages == said
    assert Kept.model_validate(kept.model_dump()).messages == said


def test_the_json_form_is_tagged_and_leaves_defaults_out():
    said = (
        system("Be kind."),
        user(["see", image(b"\x00\x01")]),
        ReasoningMessage("hm", Opaque("anthropic", {"signature": "s"})),
        ToolCallMessage((ToolCall("call_1", "weather", {"city": "Oslo"}),)),
        ToolResultMessage(ToolCall("call_1", "weather", {"city": "Oslo"}), {"data": "rain"}),
        assistant("Rain."),
    )
    assert json.loads(dump_messages(said)) == [
        {"type": "text", "role": "system", "content": "Be kind."},
        {
            "type": "text",
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": "image", "data": "AAE="}],
        },
        {"type": "reasoning", "content": "hm", "opaque": {"provider": "anthropic", "data": {"signature": "s"}}},
        {"type": "tool_call", "tools": [{"id": "call_1", "name": "weather", "input": {"city": "Oslo"}}]},
        {
            "type": "tool_result",
            "tool": {"id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
            "content": {"data": "rain"},
        },
        {"type": "text", "role": "assistant", "content": "Rain.", "stop_reason": "stop"},
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        [{"type": "video"}],
        [{"type": "text", "role": "robot", "content": "x"}],
        [{"type": "text", "role": "user"}],
        "nothing",
    ],
)
def test_what_is_no_message_is_refused_with_its_path(wrong: Any):
    with pytest.raises(msgspec.ValidationError):
        load_messages(json.dumps(wrong))
    with pytest.raises(ValueError):
        Kept.model_validate({"messages": wrong})


def test_views_of_a_text_message():
    said = user(["a", image(PNG), text("b")])
    assert said.text == "ab"
    assert said.parts == (TextPart("a"), image(PNG), TextPart("b"))
    assert user("a").parts == (TextPart("a"),)


@pytest.mark.parametrize(
    ("content", "is_error", "data"),
    [
        ({"data": [1]}, False, [1]),
        ({"data": None}, False, None),
        ({"error": {"name": "ValueError", "message": "no"}}, True, None),
        ("plain text", False, "plain text"),
        ([1, 2], False, [1, 2]),
    ],
)
def test_views_of_a_tool_result(content: Any, is_error: bool, data: Any):
    result = ToolResultMessage(ToolCall("1", "t"), content)
    assert result.is_error is is_error
    assert result.data == data


@given(plain_values)
def test_a_result_reads_as_text_that_says_all(value: Any):
    written = result_text(value)
    assert written == value if isinstance(value, str) else json.loads(written) == value


# -- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [image, file])
def test_parts_from_bytes(make: Any):
    for source in (PNG, bytearray(PNG), memoryview(PNG)):
        part = make(source)
        assert (part.data, part.url) == (PNG, None)
        assert type(part.data) is bytes
    assert make(PNG, media_type="image/webp").media_type == "image/webp"


def test_parts_of_bytes_have_the_usual_kinds():
    assert image(PNG) == ImagePart(PNG, None, "image/png")
    assert file(PNG) == FilePart(PNG, None, "application/pdf", "file")
    assert file(PNG, name="plan.pdf").name == "plan.pdf"


def test_parts_from_a_path_take_kind_and_name_from_it(tmp_path: Path):
    photo = tmp_path / "ångström photo.jpg"
    photo.write_bytes(PNG)
    for source in (photo, str(photo)):
        assert image(source) == ImagePart(PNG, None, "image/jpeg")
        assert file(source) == FilePart(PNG, None, "image/jpeg", "ångström photo.jpg")
        assert file(source, name="x.bin", media_type="a/b") == FilePart(PNG, None, "a/b", "x.bin")
    nameless = tmp_path / "README"
    nameless.write_bytes(b"hi")
    assert file(nameless).media_type == "application/pdf"


@pytest.mark.parametrize(
    ("address", "kind", "name"),
    [
        ("https://example.org/a/b.jpg", "image/jpeg", "b.jpg"),
        ("http://example.org/b.webp?size=2/x.gif#top", "image/webp", "b.webp"),
        ("HTTPS://example.org/b.gif", "image/gif", "b.gif"),
        ("https://example.org/photo", "image/png", "photo"),
        ("https://example.org/", "image/png", "file"),
        ("https://example.org", "image/png", "file"),
    ],
)
def test_parts_from_an_address_are_not_fetched(address: str, kind: str, name: str):
    assert image(address) == ImagePart(None, address, kind)
    assert file(address).url == address
    assert file(address).name == name


@given(st.binary(max_size=60), st.sampled_from(["image/png", "image/svg+xml;charset=utf-8", ""]))
def test_parts_from_a_data_address_hold_its_bytes(data: bytes, kind: str):
    address = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    assert image(address) == ImagePart(data, None, kind.partition(";")[0] or "image/png")
    assert image(address.replace("data:", "DATA:")).data == data
    assert file(address, media_type="x/y").media_type == "x/y"


@pytest.mark.parametrize(
    "address", ["data:image/png;base64,a", "data:image/png;base64,é", "data:text/plain,hello", "data:"]
)
def test_a_broken_data_address_is_refused(address: str):
    with pytest.raises(DefinitionError, match=r"data: address cannot be read .* base64-encoded, such as"):
        image(address)


@pytest.mark.parametrize("missing", ["no such file.png", "", "a\0b", "x" * 5000])
@pytest.mark.parametrize("make", [image, file])
def test_an_unreadable_file_is_refused_by_name(make: Any, missing: str, tmp_path: Path):
    with pytest.raises(DefinitionError, match=r"Cannot read .*Give a readable file") as refused:
        make(str(tmp_path / missing))
    assert len(str(refused.value)) < 500


def test_a_source_of_another_type_is_refused():
    with pytest.raises(DefinitionError, match="source is a int; give a path, bytes, or an address"):
        image(5)  # type: ignore[arg-type]


# -- input ------------------------------------------------------------------------------------------------------------

HELLO = TextMessage("user", "hello")


@pytest.mark.parametrize(
    ("given", "messages", "prompt"),
    [
        ("hello", (HELLO,), None),
        ("hellö", (TextMessage("user", "hellö"),), None),
        (HELLO, (HELLO,), None),
        (UserMessage("hello"), (HELLO,), None),
        (UserMessage("hello", id="m1", system_prompt="Short."), (TextMessage("user", "hello", id="m1"),), "Short."),
        (UserMessage((text("a"), image(PNG))), (TextMessage("user", (text("a"), image(PNG))),), None),
        (UserMessage(["a", text("b")]), (TextMessage("user", (text("a"), text("b"))),), None),  # type: ignore[arg-type]
        (text("a"), (TextMessage("user", (text("a"),)),), None),
        (image(PNG), (TextMessage("user", (image(PNG),)),), None),
        (file(PNG), (TextMessage("user", (file(PNG),)),), None),
        (["see", image(PNG)], (TextMessage("user", (text("see"), image(PNG))),), None),
        (("see", "this"), (TextMessage("user", (text("see"), text("this"))),), None),
        ([system("s"), HELLO], (system("s"), HELLO), None),
        (["a", assistant("b"), "c", text("d")],
         (TextMessage("user", (text("a"),)), assistant("b"), TextMessage("user", (text("c"), text("d")))), None),
        (assistant("b"), (assistant("b"),), None),
        (ReasoningMessage("hm"), (ReasoningMessage("hm"),), None),
        (ToolCallMessage((ToolCall("1", "t"),)), (ToolCallMessage((ToolCall("1", "t"),)),), None),
        (ToolResultMessage(ToolCall("1", "t"), 1), (ToolResultMessage(ToolCall("1", "t"), 1),), None),
    ],
)  # fmt: skip
def test_input_of_each_shape_becomes_messages(given: Any, messages: Any, prompt: Any):
    assert read_input(given) == (messages, prompt)


@pytest.mark.parametrize("nothing", [None, "", [], (), [""], UserMessage(""), UserMessage(())])
def test_nothing_to_say_is_no_message(nothing: Any):
    assert read_input(nothing) == ((), None)


def test_a_turn_may_have_a_prompt_and_nothing_to_say():
    assert read_input(UserMessage("", system_prompt="Greet.")) == ((), "Greet.")


@pytest.mark.parametrize(
    "wrong", [5, 1.5, True, b"bytes", {"role": "user"}, {"a"}, object(), [5], ["a", None], [UserMessage("a")], [["a"]]]
)
def test_input_of_another_type_is_refused_with_what_to_give(wrong: Any):
    with pytest.raises(DefinitionError, match=r"The input (is|holds) a \w+; give text, parts"):
        read_input(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        TextMessage("user", 5),  # type: ignore[arg-type]
        TextMessage("robot", "x"),  # type: ignore[arg-type]
        TextMessage("user", ("text",)),  # type: ignore[arg-type]
        [ToolCallMessage((ToolCall(1, "t"),))],  # type: ignore[arg-type]
        ReasoningMessage("", Opaque("p", object())),
        UserMessage(5),  # type: ignore[arg-type]
        UserMessage(image(PNG)),  # type: ignore[arg-type]
    ],
)
def test_a_message_of_a_wrong_shape_is_refused_before_the_run(wrong: Any):
    with pytest.raises(DefinitionError, match="The input holds a message of a wrong shape"):
        read_input(wrong)


@pytest.mark.parametrize("wrong", ["ab\ud800", [text("\udfff")], UserMessage("\ud83d")])
def test_half_a_surrogate_pair_is_refused_because_nothing_could_keep_it(wrong: Any):
    with pytest.raises(DefinitionError, match="no valid text"):
        read_input(wrong)


def test_the_largest_input_that_is_accepted():
    room = MAX_MESSAGE_BYTES - len(dump_messages([user("x")])) + 1
    assert read_input("x" * room)[0][0].text == "x" * room  # type: ignore[union-attr]
    with pytest.raises(
        DefinitionError, match=r"10\.5 MB and at most 10\.5 MB are accepted; give large files by address"
    ):
        read_input("x" * (room + 1))


@pytest.mark.parametrize(
    "large",
    [
        "x" * (MAX_MESSAGE_BYTES + 1),
        "ä" * (MAX_MESSAGE_BYTES // 2 + 1),
        "\N{SNOWMAN}" * (MAX_MESSAGE_BYTES // 3 + 1),
        [image(b"\0" * MAX_MESSAGE_BYTES)],
        user("x" * MAX_MESSAGE_BYTES),
        ["x" * (MAX_MESSAGE_BYTES // 2)] * 3,
    ],
    ids=["ascii", "two bytes", "three bytes", "image", "message", "together"],
)
def test_more_than_ten_megabytes_are_refused(large: Any):
    with pytest.raises(DefinitionError, match="MB are accepted"):
        read_input(large)


@given(conversations)
def test_any_conversation_is_accepted_as_it_is(said: tuple[Message, ...]):
    assert read_input(said) == (said, None)


# -- arguments --------------------------------------------------------------------------------------------------------


@given(objects)
def test_arguments_are_read_as_the_object_that_they_are(value: dict[str, Any]):
    assert parse_arguments(json.dumps(value)) == value
    assert parse_arguments(f"\n {json.dumps(value, ensure_ascii=False)} ") == value


@pytest.mark.parametrize("empty", ["", " ", "\n\t", "{}"])
def test_no_arguments_are_an_empty_object(empty: str):
    assert parse_arguments(empty) == {}


@pytest.mark.parametrize(
    "raw",
    ["[1]", '"text"', "5", "null", "true", '{"a":', "{'a': 1}", '{"a": 1} {"b": 2}', '{"a": NaN}', '{"a": 1e999}',
     '{"a": "\\ud800"}', '{"a": "\ud800"}', '{"a":' * 100_000, "not json"],
)  # fmt: skip
def test_what_is_no_json_object_stays_as_the_model_wrote_it(raw: str):
    assert parse_arguments(raw) == raw


@given(texts)
def test_no_text_breaks_the_reading_of_arguments(raw: str):
    value = parse_arguments(raw)
    assert isinstance(value, dict) or value == raw


def test_a_text_part_is_text():
    with pytest.raises(DefinitionError, match=r"text\(5\) takes text, not a int"):
        text(5)  # type: ignore[arg-type]
