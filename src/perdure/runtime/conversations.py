"""The conversations of a container: folded once, then only what is new.

A turn that this process has driven is taken as it was here, without reading it back: its messages stay the very same
objects, by which a provider's mapping knows them again. What others have written is read behind what is known, and a
conversation that is not at hand from its last compacted record on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.log.log import ENDED, Accepted, Log, RunRow
from perdure.models.prefix import PREFIXES
from perdure.types.messages import Message
from perdure.types.records import Compacted, Record, Rewound, RunStarted
from perdure.types.transcript import Transcript, begins
from perdure.types.visible import visible

if TYPE_CHECKING:
    from perdure.agents.running import Running

KNOWN = 256
"""How many conversations are kept at hand."""


async def seen(log: Log, session_id: str, before: int | None = None) -> list[Record]:
    """Read what counts of a session, before a record if it is given: from its last compacted record on."""
    while True:
        start = max(await log.compacted(session_id, before) - 1, 0)
        records = visible(await log.read_session(session_id, start, before))
        if all(one.payload.to >= start for one in records if isinstance(one.payload, Rewound)):
            return records  # else it was rewound in between, to before where it was read from


class Conversations:
    """What was said in the sessions of a container.

    Args:
        log: the container's log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: OrderedDict[str, Transcript] = OrderedDict()

    async def of(self, session_id: str) -> Transcript:
        """The conversation of all turns that have ended."""
        known = self._at_hand(session_id)
        records = await self._log.read_session(session_id, known.seq) if known.seq else []
        if not known.seq or any(type(one.payload) is Rewound for one in records):
            known = self._known[session_id] = Transcript()
            records = await seen(self._log, session_id)
        for record in records:
            if record.seq > known.seq:
                known.add(record)
        return known

    def _at_hand(self, session_id: str) -> Transcript:
        known = self._known.setdefault(session_id, Transcript())
        self._known.move_to_end(session_id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return known

    async def earlier(
        self, running: Running, accepted: Accepted | None = None, records: Sequence[Record] = ()
    ) -> Sequence[Message]:
        """What was said before a run that has the turn; nothing, if its caller knows better.

        Args:
            running: the run.
            accepted: how it was taken in, if that was just now.
            records: what the log has of it, if it was not.
        """
        env, started = running.env, running.started
        if accepted is not None and accepted.head == 1:
            return ()  # most sessions have one turn, and would push out those that go on
        known = self._at_hand(env.session_id)
        if accepted is not None and known.seq == accepted.head - 1:
            known.add(Record(accepted.head, env.run_id, env.session_id, None, started, accepted.run.created_at))
        elif not started.history:
            known = await self.of(env.session_id)
            began = next((one.seq for one in records if begins(one, env.run_id)), known.seq)
            if known.grown > began:  # it was parked, and others have had their turns since
                return await self._before(env.session_id, env.run_id, records[0].seq)
        return () if started.history else tuple(known.messages)

    def ended(self, running: Running, accepted: Accepted | None = None) -> None:
        """Take what was said in a run that was driven here, if it has ended."""
        io, loop = running.io, running.loop
        if io is None or loop.finished is None or loop.finished.status not in ENDED:
            return
        said = tuple(loop.transcript[len(loop.earlier) :])
        known = self._known.get(running.env.session_id)
        if known is not None:
            alone = accepted is not None and io.alone and known.seq == accepted.head
            known.driven(running.env.run_id, said, io.committed if alone else None)

    def forget(self, session_ids: Sequence[str]) -> None:
        """Keep nothing in this process of sessions that were erased."""
        for id in session_ids:
            self._known.pop(id, None)
        PREFIXES.clear()

    async def before(self, run: RunRow) -> tuple[Message, ...]:
        """What was said in the turns before a run's; nothing, if its caller knew better."""
        return await self._before(run.session_id, run.id, run.position)

    async def _before(self, session_id: str, run_id: str, position: int) -> tuple[Message, ...]:
        start = max(await self._log.compacted(session_id, position) - 1, 0)
        records: list[Record] = []
        for record in await self._log.read_session(session_id, start):
            if begins(record, run_id):
                break
            if record.run_id == run_id and isinstance(record.payload, RunStarted) and record.payload.history:
                return ()
            records.append(record)
        transcript = Transcript()
        for record in visible(records):
            transcript.add(record)
        return tuple(transcript.messages)

    async def compact(self, session_id: str, messages: Sequence[Message] | None = None) -> int:
        """Write down what was said so far, or what is to stand for it, as the point that readers start from.

        Returns:
            The record's sequence number.

        Raises:
            Conflict: a run of the session has not ended, or somebody has written to it meanwhile.
        """
        known = await self.of(session_id)
        payload = Compacted(tuple(known.messages if messages is None else messages))
        return await self._log.mark(session_id, payload, known.seq)
