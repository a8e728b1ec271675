"""What an inference's record says of its prompt: enough to make every request again, and nothing twice."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import Agent, Hooks, tool
from perdure.agents.prompt import prompt_ref
from perdure.agents.toolbox import EMPTY_TOOLBOX, text_hash
from perdure.testing import ScriptedModel, call, say
from perdure.types.base import decode_json, encode_json
from perdure.types.messages import Message, TextMessage, system, user
from perdure.types.records import InferenceDone, PromptRange, PromptRef
from tests.agents.watching import watch


def again(ref: PromptRef, texts: dict[str, str], transcript: list[Message]) -> list[Message]:
    """Make a prompt from what its record says."""
    said: list[Message] = [system(texts[ref.system])] if ref.system is not None else []
    if ref.pieces is None:
        return [*said, *transcript[: ref.count]]
    for piece in ref.pieces:
        said += transcript[piece.start : piece.end] if isinstance(piece, PromptRange) else [piece]
    return said


some = st.lists(
    st.builds(
        TextMessage, st.sampled_from(["system", "user"]), st.sampled_from(["", "a"]), id=st.sampled_from([None, "m"])
    ),
    max_size=4,
).map(tuple)


@given(some, st.data())
def test_any_prompt_can_be_made_again(transcript: tuple[Message, ...], data: st.DataObject):
    changed = data.draw(st.booleans())
    prompt = list(transcript)
    if changed:
        prompt = [*data.draw(st.permutations(prompt)), *data.draw(some)][: data.draw(st.integers(0, 8))]
        prompt += data.draw(some)
    if data.draw(st.booleans()):
        prompt = [system("Be kind."), *prompt]
    ref, texts = prompt_ref((), prompt, transcript, changed, EMPTY_TOOLBOX)
    assert again(ref, texts, list(transcript)) == prompt
    assert ref.count == len(transcript)


def test_what_was_kept_before_is_not_kept_again():
    known = {text_hash("Be kind.")}
    ref, texts = prompt_ref(known, [system("Be kind."), user("hi")], [user("hi")], False, EMPTY_TOOLBOX)
    assert (ref.system, texts) == (text_hash("Be kind."), {})


def test_neighbours_are_one_range():
    said = [user(str(n)) for n in range(6)]
    ref, _ = prompt_ref((), [*said[:2], user("new"), *said[3:6]], said, True, EMPTY_TOOLBOX)
    assert ref.pieces == (PromptRange(0, 2), user("new"), PromptRange(3, 6))


@tool(effect="pure")
def weather(city: str) -> str:
    """Say the weather."""
    return f"rain in {city}"


def forget(ctx: Any, messages: list[Message]) -> list[Message]:
    """Keep the prompt and the last two messages, and add a note."""
    return [messages[0], user("Earlier messages were left out."), *messages[-2:]]


def other_prompt(ctx: Any, messages: list[Message]) -> list[Message]:
    return [system(f"Turn {len(messages)}."), *messages[1:]]


@pytest.mark.parametrize("hook", [None, forget, other_prompt])
async def test_the_log_knows_every_request(hook: Any):
    model = ScriptedModel(call("weather", city="Oslo"), call("weather", city="Rome"), say("Rain."))
    hooks = Hooks(on_start=hook) if hook is not None else ()
    watched = await watch(Agent("A", system="Be kind.", tools=[weather], hooks=hooks, model=model))
    texts: dict[str, str] = {}
    assert watched.result is not None
    transcript = list(watched.result.messages)
    made: list[Any] = []
    for record in await watched.records():
        if isinstance(record.payload, InferenceDone):
            assert not set(texts) & set(record.payload.texts), "each text is kept once"
            texts.update(record.payload.texts)
            made.append(again(record.payload.prompt, texts, transcript))
            tools = decode_json(texts[record.payload.prompt.tools or ""])
            assert tools == decode_json(encode_json(model.requests[len(made) - 1].tools))
    assert made == [list(one.messages) for one in model.requests]


async def test_a_system_message_of_the_conversation_stays_in_it():
    model = ScriptedModel(say("Hi."))
    watched = await watch(Agent("A", model=model), [system("Be kind."), user("hi")])
    (payload,) = [one.payload for one in await watched.records() if isinstance(one.payload, InferenceDone)]
    assert watched.result is not None
    made = again(payload.prompt, payload.texts, list(watched.result.messages))
    assert made == list(model.requests[0].messages)
    assert [one.text for one in made if isinstance(one, TextMessage)] == ["Be kind.", "hi"]
