"""What the ready adapters share: a thread is an ordered list of entries, each kept once by its id.

An entry is what a user said or what an agent did. A repetition after a crash, or by another process, has the same id
and is passed over, so nothing is doubled; who appends holds the thread meanwhile, so nothing is lost.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Self, TypeAlias
from uuid import uuid4

import msgspec

from perdure.agents.history import Asked, HistoryAdapter, HistoryContext, Past
from perdure.agents.result import AgentResult
from perdure.types.base import Base, encode_json
from perdure.types.errors import HistoryError
from perdure.types.ids import check_id

Turn: TypeAlias = Asked | AgentResult
"""What a thread is made of."""

MAX_ENTRY = 10 * 1024 * 1024


class Entry(Base):
    """One entry as a store takes it: a hash of its id, when it was made, and its JSON."""

    id: str
    created_at: float
    text: str


class _Kept(Base):
    asked: Asked | None = None
    result: AgentResult | None = None


_decoder = msgspec.json.Decoder(_Kept)


def turn_id(turn: Turn) -> str:
    """The id by which a repetition is known: a user's message by its own, a result by its place, content and time."""
    return turn.id if isinstance(turn, Asked) else f"{turn.id}/{turn.checksum}"


def to_entry(turn: Turn) -> Entry:
    """Write a turn as a store takes it.

    Raises:
        HistoryError: it is no turn, or too large.
    """
    if isinstance(turn, Asked):
        kept, what = _Kept(turn), "A message"
    elif isinstance(turn, AgentResult):  # pyright: ignore[reportUnnecessaryIsInstance]
        kept, what = _Kept(result=turn), f"What {turn.agent_name!r} did"
    else:
        raise HistoryError(f"A thread takes Asked and AgentResult, not {type(turn).__name__}.")
    data = encode_json(kept)
    if len(data) > MAX_ENTRY:
        raise HistoryError(
            f"{what} is {len(data) / 1e6:.1f} MB and a history takes at most {MAX_ENTRY / 1e6:.1f} MB in one entry; "
            "keep large contents elsewhere and their address in the message."
        )
    return Entry(blake2b(turn_id(turn).encode(), digest_size=16).hexdigest(), turn.created_at, data.decode())


def from_text(text: str | bytes, store: str) -> Turn:
    """Read a turn back.

    Raises:
        HistoryError: the text is none that this library has written.
    """
    try:
        kept = _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HistoryError(f"{store} holds an entry that cannot be read: {error}") from error
    turn = kept.asked or kept.result
    if turn is None:
        raise HistoryError(f"{store} holds an entry that is neither a user's message nor an agent's result.")
    return turn


def shown_address(address: str) -> str:
    """An address without user, password and options, for errors."""
    kind, separator, rest = address.partition("://")
    if not separator:
        return "…"
    return f"{kind}://{rest.partition('?')[0].rpartition('@')[2]}"


class ThreadStore(HistoryAdapter):
    """A history adapter over a store of threads; it can also be read and written without a run.

    Use it with `async with`, or close it, when the process does not need it any more.
    """

    @abstractmethod
    async def put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        """Append entries to a thread, which is made if need be, and pass over those that it has."""

    @abstractmethod
    async def texts(self, thread_id: str) -> Sequence[str | bytes]:
        """Give the entries of a thread, in order."""

    @abstractmethod
    async def forget(self, thread_id: str) -> bool:
        """Delete a thread and say whether it was there."""

    @abstractmethod
    async def close(self) -> None:
        """Give back what is held; what is asked afterwards opens it anew."""

    # -- for everybody -----------------------------------------------------------------------------------------------

    async def read(self, thread_id: str) -> list[Turn]:
        """Give what was said in a thread, in order; nothing if there is none.

        Raises:
            HistoryError: the store failed.
        """
        texts = await self.texts(check_id(thread_id, "thread_id"))
        return [from_text(text, repr(self)) for text in texts]

    async def append(self, thread_id: str, turns: Sequence[Turn], *, user_id: str | None = None) -> None:
        """Append to a thread, which is made if need be; what it has by the same id is passed over.

        Raises:
            HistoryError: the store failed, or an entry is too large; nothing is appended then.
        """
        check_id(thread_id, "thread_id")
        if user_id is not None:
            check_id(user_id, "user_id")
        found: dict[str, Entry] = {}
        for turn in turns:
            entry = to_entry(turn)
            found.setdefault(entry.id, entry)
        await self.put(thread_id, list(found.values()), user_id)

    async def delete(self, thread_id: str) -> bool:
        """Delete a thread with all that was said in it, and say whether it was there.

        Raises:
            HistoryError: the store failed.
        """
        return await self.forget(check_id(thread_id, "thread_id"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- for runs ----------------------------------------------------------------------------------------------------

    async def create_thread(self, ctx: HistoryContext) -> str:
        """Make an empty thread."""
        thread_id = str(uuid4())
        await self.append(thread_id, (), user_id=ctx.user_id)
        return thread_id

    async def get(self, ctx: HistoryContext) -> Sequence[Past]:
        """Give what was said, without the message that this run is about."""
        said = await self.read(ctx.thread_id)
        own = ctx.user_message.id if ctx.user_message is not None else None
        return [one for one in said if not isinstance(one, Asked) or one.id != own]

    async def append_user_message(self, ctx: HistoryContext) -> None:
        """Store what the user said."""
        if ctx.user_message is not None:
            await self.append(ctx.thread_id, [ctx.user_message], user_id=ctx.user_id)

    async def append_results(self, ctx: HistoryContext) -> None:
        """Store what agents have done."""
        await self.append(ctx.thread_id, ctx.new_results, user_id=ctx.user_id)
