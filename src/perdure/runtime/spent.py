"""What the runs of a session have consumed, counted from its log: each record is read once by each process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.agents.lost import usage_of
from perdure.log.log import Log
from perdure.runtime.conversations import KNOWN
from perdure.types.records import Record, RunFinished
from perdure.types.usage import NOTHING, Usage

if TYPE_CHECKING:
    from perdure.agents.running import Running


class Spent:
    """One session's consumption so far; child runs count in the run that started them."""

    def __init__(self) -> None:
        self.seq = 0
        self._over = NOTHING
        self._open: dict[str, Usage] = {}

    def add(self, records: Sequence[Record]) -> None:
        """Take the session's next records."""
        for record in records:
            if record.seq <= self.seq:
                continue
            self.seq = record.seq
            used = usage_of(record.payload)
            if used is not None:
                self._open[record.run_id] = self._open.get(record.run_id, NOTHING) + used
            elif isinstance(record.payload, RunFinished):
                self._over += self._open.pop(record.run_id, NOTHING)

    def besides(self, run_id: str) -> Usage:
        """What all runs but one have consumed."""
        return sum((used for id, used in self._open.items() if id != run_id), self._over)


class Spending:
    """What the sessions of a container have consumed, where a budget asks.

    Args:
        log: the container's log.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._known: OrderedDict[str, Spent] = OrderedDict()

    async def count(self, running: Running) -> None:
        """Count what a session's other runs have consumed, if its budget limits this one."""
        ledger, session_id = running.session_ledger, running.env.session_id
        if ledger is None:
            return
        spent = self._known.setdefault(session_id, Spent())
        self._known.move_to_end(session_id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        spent.add(await self._log.read_session(session_id, spent.seq))
        ledger.charge(spent.besides(running.env.run_id))
