"""Rebuilds what a model saw from the pieces that an inference's record names, and says what does not fit.

Pure: a view of the log. Hashes are checked, so what is shown was sent, or is said to be something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.agents.toolbox import text_hash
from perdure.types.base import Base
from perdure.types.errors import UnknownName
from perdure.types.messages import Message
from perdure.types.records import Erased, InferenceDone, PromptRange, Record
from perdure.types.transcript import said_before


class Prompt(Base):
    """What a model saw: the system text, the tools as JSON text, the messages; and what cannot be vouched for."""

    run_id: str
    key: str
    agent: str
    model: str
    system: str | None
    tools: str | None
    messages: tuple[Message, ...]
    doubts: tuple[str, ...] = ()


def inferences(records: Sequence[Record], run_id: str) -> list[Record]:
    """The inferences of a run, in the order of their records."""
    return [one for one in records if one.run_id == run_id and isinstance(one.payload, InferenceDone)]


def rebuild(records: Sequence[Record], run_id: str, which: str) -> Prompt:
    """Rebuild the prompt of an inference, named by its key or by its number among the run's inferences, from 0.

    Raises:
        UnknownName: the run has no such inference.
    """
    found = inferences(records, run_id)
    keys = [one.key or "" for one in found]
    place = int(which) if which.isdecimal() else keys.index(which) if which in keys else -1
    if not 0 <= place < len(found):
        gone = any(one.run_id == run_id and isinstance(one.payload, Erased) for one in records)
        known = ["(erased)"] if gone else [f"{n}: {key}" for n, key in enumerate(keys)]
        raise UnknownName("inference", which, known)
    record = found[place]
    done = record.payload
    assert isinstance(done, InferenceDone)
    before = [one for one in records if one.seq < record.seq]
    texts = {hash: text for one in [*before, record] for hash, text in _texts(one).items()}
    return prompt_of(run_id, keys[place], done, said_before(before, run_id, keys[place]), texts)


def prompt_of(run_id: str, key: str, done: InferenceDone, said: Sequence[Message], texts: Mapping[str, str]) -> Prompt:
    """Put a prompt together."""
    doubts: list[str] = []
    system = _text(texts, done.prompt.system, "system prompt", doubts)
    tools = _text(texts, done.prompt.tools, "list of tools", doubts)
    if len(said) != done.prompt.count:
        doubts.append(
            f"the conversation had {done.prompt.count} messages then, and {len(said)} can be rebuilt: part of it was "
            "erased, or was not in this session"
        )
    return Prompt(run_id, key, done.agent, done.model, system, tools, _messages(done, said, doubts), tuple(doubts))


def _texts(record: Record) -> dict[str, str]:
    return record.payload.texts if isinstance(record.payload, InferenceDone) else {}


def _text(texts: Mapping[str, str], hash: str | None, what: str, doubts: list[str]) -> str | None:
    if hash is None:
        return None
    text = texts.get(hash)
    if text is None:
        doubts.append(f"the text of the {what} ({hash}) is gone")
    elif text_hash(text) != hash:
        doubts.append(f"the text of the {what} is not the one that was sent: its hash is not {hash}")
    return text


def _messages(done: InferenceDone, said: Sequence[Message], doubts: list[str]) -> tuple[Message, ...]:
    if done.prompt.pieces is None:
        return tuple(said)
    messages: list[Message] = []
    for piece in done.prompt.pieces:
        if not isinstance(piece, PromptRange):
            messages.append(piece)
            continue
        if piece.end > len(said):
            doubts.append(f"the messages {piece.start} to {piece.end - 1} of the conversation cannot be rebuilt")
        messages += said[piece.start : piece.end]
    return tuple(messages)
