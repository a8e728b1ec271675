"""A user's code and the record that closes its step in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from perdure.db.database import Call, CallFailed, Database, Exists, Script, Sql
from perdure.log.log import Token
from perdure.log.rows import RECORD, Coded, record_of
from perdure.log.schema import ROOM
from perdure.types.errors import Conflict
from perdure.types.records import Payload, encode_payload, kind_of
from perdure.types.status import RunStatus

TRIES = 3
"""How often code is called that was too late; nothing of it is kept, and perhaps only the machine was slow."""


class Transactions(ABC):
    """A log in a database whose transactions a user's code can share."""

    db: Database
    now: Callable[[], float]
    container: str

    @abstractmethod
    def _fence(self, token: Token) -> Script[int | None]: ...

    @abstractmethod
    def _refused(self, token: Token, coded: Sequence[Coded], asked: RunStatus | None) -> Script[int]: ...

    @abstractmethod
    def _insert(self, last: int, session: str, run_id: str, coded: Sequence[Coded], now: float) -> Script[None]: ...

    async def transact(
        self, token: Token, key: str, call: Callable[[Any], Any], close: Callable[[Any], Payload]
    ) -> tuple[int, Payload]:
        """Run code in one transaction with the record that closes its step; if the record is there, it is not run.

        Args:
            token: proof of owning the run; looked at behind the code, so that nothing of another owner's is kept.
            key: the step's place.
            call: the code; given the transaction, and awaited on PostgreSQL.
            close: makes the record's payload of what the code gave.

        Returns:
            The record's sequence number, and its payload.

        Raises:
            Conflict: another owner has the run since, or it has ended.
            StoreError: the database failed; the same may be asked again, also if the outcome is not known.
            Exception: what the code raised; nothing of it is kept.
        """

        def script() -> Script[tuple[int, Payload]]:
            mine = (self.container, token.run_id, key)
            rows = yield Sql(f"{RECORD} WHERE r.container = ? AND r.run = ? AND r.key = ?", mine)
            if rows:
                return int(rows[0][0]), record_of(rows[0]).payload
            rows = yield Call(f"transaction {key}", fn=call)
            payload = close(rows[0][0])
            coded = [Coded(key, kind_of(payload), encode_payload(payload))]
            last = yield from self._fence(token)
            if last is None:
                yield from self._refused(token, coded, None)
                raise Conflict(f"The run {token.run_id!r} has ended; nothing more can be appended to it.")
            yield from self._insert(last, token.session_id, token.run_id, coded, self.now())
            return last % ROOM + 1, payload

        attempt = 0
        while True:
            attempt += 1
            try:
                return await self.db.write(script)
            except Exists:  # written meanwhile by a transaction of ours whose outcome was not known
                continue
            except CallFailed as failed:
                if failed.late and attempt < TRIES:
                    continue
                raise failed.error from failed.error.__cause__
