"""Any transcript: messages of every kind in any order, as history processors and other providers may leave them."""

from hypothesis import strategies as st

from perdure.types.attachments import file, image
from perdure.types.messages import (
    Message,
    Opaque,
    ReasoningMessage,
    TextMessage,
    TextPart,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
    system,
)

PNG = b"\x89PNG\r\n"
words = st.text("ab \n", max_size=4)
opaque = st.one_of(
    st.none(),
    st.just(Opaque("openai", {"id": "rs_1"})),
    st.just(Opaque("anthropic", {"block": {"type": "thinking", "thinking": "hm", "signature": "c2ln"}})),
    st.just(Opaque("gemini", {"thoughtSignature": "c2ln"})),
)
media = st.sampled_from(
    [image(PNG), file(b"text", media_type="text/plain", name="a.txt"), image("https://a.test/b.png")]
)
contents = st.one_of(words, st.lists(st.one_of(st.builds(TextPart, words), media), max_size=3).map(tuple))
calls = st.builds(
    ToolCall,
    st.sampled_from(["", "a", "b", "c d", "call_0"]),
    st.sampled_from(["look", "files/read", ""]),
    st.one_of(st.dictionaries(words, st.integers(), max_size=2), st.just("{broken")),
    opaque,
)
results = st.one_of(
    st.fixed_dictionaries({"data": st.one_of(words, st.integers(), st.none())}),
    st.just({"error": {"name": "Timeout", "message": "too slow"}}),
    st.just({"other": 1}),
    words,
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(system, words),
    st.builds(TextMessage, st.just("user"), contents),
    st.builds(TextMessage, st.just("assistant"), contents, st.sampled_from(["stop", "tool", None]), opaque=opaque),
    st.builds(ReasoningMessage, words, opaque),
    st.builds(ToolCallMessage, st.lists(calls, min_size=1, max_size=3).map(tuple)),
    st.builds(ToolResultMessage, calls, results),
)
transcripts = st.lists(messages, max_size=12).map(tuple)
