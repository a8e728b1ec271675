"""The `Log` protocol: two ways to write, and reading in order.

`append` belongs to the owner of a run, who shows its token; `post` is open to everyone and takes inbox payloads only
(rule 1 of the hard cases). Sequence numbers are given per session, without gaps, in the order of commitment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from perdure.types.base import Base
from perdure.types.records import Answered, CancelAsked, Payload, Record


class Token(Base):
    """Proof of owning a run: its epoch and a nonce; both must match (rule 4 of the hard cases)."""

    run_id: str
    session_id: str
    epoch: int
    nonce: str


class Entry(NamedTuple):
    """A record to be written: the key of the step that it closes, if any, and its payload."""

    key: str | None
    payload: Payload


INBOX = (Answered, CancelAsked)
"""The payloads that anyone may post."""


class Log(Protocol):
    """Where records are kept."""

    async def start(self, run_id: str, session_id: str, entries: Sequence[Entry]) -> Token:
        """Create a run and its first records in one transaction, and own it.

        Raises:
            Conflict: a run with this id exists.
        """
        ...

    async def claim(self, run_id: str) -> Token:
        """Own a run that exists, with a new epoch.

        Raises:
            UnknownName: there is no such run.
        """
        ...

    async def append(self, token: Token, entries: Sequence[Entry]) -> int:
        """Write records of one step in one transaction.

        Returns:
            The sequence number of the last one.

        Raises:
            Conflict: the token is not the owner's any more, or another payload has a key already.
        """
        ...

    async def post(self, run_id: str, payload: Payload) -> int:
        """Write an inbox record, without a token.

        Returns:
            Its sequence number.

        Raises:
            UnknownName: there is no such run.
            TypeError: the payload is not of an inbox kind.
        """
        ...

    async def read(self, run_id: str, after: int = 0) -> list[Record]:
        """Read a run's records behind a sequence number, in order."""
        ...
