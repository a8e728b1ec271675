"""What the tests of a log do to it, over and over."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from perdure.log.log import Accepted, Entry, Log, NewRun, Token
from perdure.types import records as rec
from perdure.types.messages import TextMessage

DONE = Entry(None, rec.RunFinished("completed", "answer"))
CANCELLED = Entry(None, rec.RunFinished("cancelled", "cancelled"))


class MakeLog(Protocol):
    """Makes logs over one store; a container sees nothing of another, owners of one container see the same."""

    def __call__(self, container: str = "default", owner: str = "one") -> Log: ...


def step(key: str, result: Any = None) -> Entry:
    """Make an entry that closes a step."""
    return Entry(key, rec.StepDone(key, result))


async def begin(log: Log, run_id: str = "run_1", session_id: str = "ses_1", input_hash: str = "") -> Accepted:
    """Hand a run in."""
    new = NewRun(run_id, session_id, "A", input_hash, "ada")
    return await log.accept(new, rec.RunStarted("A", "agent", (TextMessage("user", run_id),)))


async def owned(log: Log, run_id: str = "run_1", session_id: str = "ses_1") -> Token:
    """Hand a run in and own it."""
    accepted = await begin(log, run_id, session_id)
    assert accepted.token is not None, "the session was not free"
    return accepted.token


async def claimed(log: Log, run_id: str = "run_1", *, dead: bool = False) -> Token:
    """Claim a run, its owner being dead or not."""
    owner = (await log.run(run_id)).owner
    found = await log.claim(run_id, dead=[owner] if dead and owner is not None else [])
    assert found is not None, f"{run_id} was not to be had"
    return found[0]


async def raises(kind: type[Exception], doing: Awaitable[object]) -> Exception:
    """See that something is refused, and give the error."""
    try:
        got = await doing
    except kind as error:
        return error
    raise AssertionError(f"It gave {got!r}, but should have raised {kind.__name__}.")


async def kinds(log: Log, session_id: str = "ses_1") -> list[str]:
    """List the keys, or else the kinds, of a session's records."""
    return [one.key or one.kind for one in await log.read_session(session_id)]


def gapless(seqs: Sequence[int]) -> bool:
    """Whether sequence numbers begin with 1 and follow each other."""
    return list(seqs) == list(range(1, len(seqs) + 1))
