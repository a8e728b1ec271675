"""What open calls of a run wait for, so that what a call has given up is not answered in its place."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.types.records import Forked, Payload, Record, WaitOpened


class CallWaits:
    """The waits of one run, by the key of the call that has opened them."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, ...]] = {}

    def recall(self, records: Iterable[Record]) -> None:
        """Take note of what is recorded."""
        for record in records:
            self.over(record.key, record.payload)
            if type(record.payload) is Forked:
                self._open.clear()  # what came before are waits of the run that this one goes on from

    def over(self, key: str | None, payload: Payload) -> tuple[str, ...]:
        """Take note of a record, and say which waits nobody is interested in any more."""
        if key is None or not (self._open or type(payload) is WaitOpened):
            return ()
        if type(payload) is not WaitOpened:
            return self._open.pop(key, ())
        call = key.rpartition("/wait/")[0]
        now = tuple(wait.id for wait in payload.waits)
        before = self._open.get(call, ())
        self._open[call] = now
        return tuple(id for id in before if id not in now)
