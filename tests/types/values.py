"""Strategies for messages and plain JSON values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from perdure.types.messages import (
    FilePart,
    ImagePart,
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    TextPart,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
scalars: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
finite = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Plain JSON values of any depth."""
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    )


plain_values = nested(finite)
objects = st.dictionaries(texts, plain_values, max_size=4)
opaques = st.none() | st.builds(Opaque, texts, plain_values)
parts = st.one_of(
    st.builds(TextPart, texts),
    st.builds(ImagePart, st.binary(max_size=40), st.none(), st.sampled_from(["image/png", "image/webp"])),
    st.builds(ImagePart, st.none(), texts, texts),
    st.builds(FilePart, st.binary(max_size=40), st.none(), texts, texts),
    st.builds(FilePart, st.none(), texts, texts, texts),
)
calls = st.builds(ToolCall, texts, texts, objects | texts, opaques)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        TextMessage,
        st.sampled_from(["system", "user", "assistant"]),
        texts | st.lists(parts, max_size=4).map(tuple),
        st.sampled_from([None, "tool", "stop"]),
        st.none() | texts,
        opaques,
    ),
    st.builds(ToolCallMessage, st.lists(calls, max_size=4).map(tuple)),
    st.builds(ToolResultMessage, calls, plain_values),
    st.builds(ReasoningMessage, texts, opaques),
)
conversations = st.lists(messages, max_size=6).map(tuple)
