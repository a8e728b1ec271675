"""Asking people: what a body waits for, and until when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from perdure.types.base import plain, sound
from perdure.types.errors import DefinitionError
from perdure.types.messages import MAX_MESSAGE_BYTES
from perdure.types.waits import Answer, Approval, Approve, Decision, Deny, Elapsed, Question

if TYPE_CHECKING:
    from perdure.durable.step import Body

UNKNOWN = "whether it took effect is unknown. Find out, then say what is to be done."


async def approve(
    body: Body,
    id: str,
    reason: str,
    *,
    args: Mapping[str, Any] | None,
    timeout: float | timedelta | None,
    agent: str = "",
    call_id: str = "",
) -> Decision:
    """Wait for a person to allow or refuse something, as a step of a body; see `Context.approve`."""
    what = f"ctx.approve(id={id!r})"
    check_text(what, "reason", reason)
    shown = cast("dict[str, Any]", plain(dict(args or {}), f"args of {what}"))
    wait = check_timeout(what, timeout)
    io = body.io

    def make(mark: str) -> Approval:
        until = expiry(io.kernel.store_now(), wait)
        return Approval(mark, body.name, shown, io.token.run_id, agent, call_id, sound(reason), until)

    answer = await body.wait(id, what, make)
    assert isinstance(answer, (Approve, Deny, Elapsed))
    return answer


async def ask(
    body: Body,
    id: str,
    text: str,
    *,
    choices: Sequence[str],
    timeout: float | timedelta | None,
    agent: str = "",
) -> Answer | None:
    """Wait for a person's answer, as a step of a body; see `Context.ask`."""
    what = f"ctx.ask(id={id!r})"
    check_text(what, "text", text)
    offered = check_choices(what, choices)
    wait = check_timeout(what, timeout)
    io = body.io

    def make(mark: str) -> Question:
        until = expiry(io.kernel.store_now(), wait)
        return Question(mark, sound(text), io.token.run_id, agent, offered, until)

    answer = await body.wait(id, what, make)
    return answer if isinstance(answer, Answer) else None


def check_text(what: str, name: str, text: object) -> None:
    """Refuse what cannot be shown to a person.

    Raises:
        DefinitionError: it is no text, empty, or too long.
    """
    if not isinstance(text, str) or not text.strip():
        raise DefinitionError(f"{what}: {name}={text!r} must be a text that a person can read.")
    if len(text) > MAX_MESSAGE_BYTES // 4:
        raise DefinitionError(f"{what}: {name}=… has {len(text):,} characters; a person would not read that.")


def check_choices(what: str, choices: object) -> tuple[str, ...]:
    """Read the answers that a person may choose from.

    Raises:
        DefinitionError: they are no texts, or one is there twice.
    """
    if isinstance(choices, (list, tuple)):
        given = tuple(cast("Sequence[object]", choices))
        if all(isinstance(one, str) and one for one in given) and len(set(given)) == len(given):
            return tuple(sound(one) for one in cast("tuple[str, ...]", given))
    raise DefinitionError(f"{what}: choices={choices!r} must be a sequence of different texts.")


def check_timeout(what: str, timeout: object) -> float | None:
    """Read how long somebody is waited for, in seconds.

    Raises:
        DefinitionError: it is no time.
    """
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e10:
        raise DefinitionError(f"{what}: the timeout {timeout!r} must be seconds above 0, or a timedelta.")
    return float(seconds)


def expiry(now: float, seconds: float | None) -> float | None:
    """When a wait that begins now is over by itself."""
    return None if seconds is None else now + seconds


def check_in_doubt(what: str, in_doubt: object, effect: str, undo: object) -> None:
    """Refuse what cannot be done with a call in doubt.

    Raises:
        DefinitionError: it is unknown, or has no meaning beside the effect and `undo`.
    """
    if in_doubt not in ("tell", "ask"):
        raise DefinitionError(f"{what}: in_doubt={in_doubt!r} is unknown; it is 'tell' or 'ask'.")
    if in_doubt == "ask" and (effect != "once" or undo is not None):
        beside = "undo=… settles it already" if effect == "once" else f"the effect {effect!r} is never in doubt"
        raise DefinitionError(f"{what}: in_doubt='ask' is for the effect 'once' without undo=…; {beside}.")
