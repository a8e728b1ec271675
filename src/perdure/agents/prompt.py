"""What an inference's record says of its prompt: hashes and ranges instead of a copy."""

from __future__ import annotations

from collections.abc import Container, Sequence

from perdure.agents.toolbox import Toolbox, text_hash
from perdure.types.messages import Message, TextMessage
from perdure.types.records import PromptRange, PromptRef

_hashes: dict[str, str] = {}


def _hash(text: str) -> str:
    found = _hashes.get(text)
    if found is None:
        if len(_hashes) > 256:
            _hashes.clear()
        found = _hashes[text] = text_hash(text)
    return found


def prompt_ref(
    known: Container[str], prompt: Sequence[Message], transcript: Sequence[Message], changed: bool, toolbox: Toolbox
) -> tuple[PromptRef, dict[str, str]]:
    """Name what a prompt was made of.

    Returns:
        The reference, and the texts that are to be kept with it because the run has not kept them yet.
    """
    texts: dict[str, str] = {}
    system: str | None = None
    first = prompt[0] if prompt else None
    if isinstance(first, TextMessage) and first.role == "system" and _is_own(first, prompt, transcript, changed):
        text = first.text
        system = _hash(text)
        if system not in known:
            texts[system] = text
        prompt = prompt[1:] if changed else prompt
    if toolbox.digest is not None and toolbox.digest not in known:
        texts[toolbox.digest] = toolbox.text
    pieces = _pieces(prompt, transcript) if changed else None
    return PromptRef(len(transcript), system, toolbox.digest, pieces), texts


def _is_own(first: TextMessage, prompt: Sequence[Message], transcript: Sequence[Message], changed: bool) -> bool:
    """Whether a system message is the prompt's own, just a text, and no message of the conversation."""
    if not changed:
        return len(prompt) > len(transcript)
    return first == TextMessage("system", first.text) and all(first is not one for one in transcript)


def _pieces(prompt: Sequence[Message], transcript: Sequence[Message]) -> tuple[PromptRange | Message, ...]:
    places = {id(one): n for n, one in enumerate(transcript)}
    pieces: list[PromptRange | Message] = []
    for one in prompt:
        place = places.get(id(one))
        last = pieces[-1] if pieces else None
        if place is None:
            pieces.append(one)
        elif isinstance(last, PromptRange) and last.end == place:
            pieces[-1] = PromptRange(last.start, place + 1)
        else:
            pieces.append(PromptRange(place, place + 1))
    return tuple(pieces)
