"""Cron expressions: five fields, with `TZ=Europe/Oslo ` before them if they are not meant in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any

from perdure.types.errors import DefinitionError, InvalidId, MissingExtra
from perdure.types.ids import check_id

EACH = "*"
"""In place of containers: each that the store has when a schedule is due."""


def read_containers(given: Any, where: str) -> tuple[str, ...]:
    """Read in which containers a schedule starts something.

    Raises:
        DefinitionError: they are none.
    """
    if given is None:
        return ("default",)
    try:
        names = (given,) if isinstance(given, str) else tuple(given)
        if names == (EACH,) or (names and all(check_id(one, "container") for one in names)):
            return tuple(dict.fromkeys(names))
    except (InvalidId, TypeError):
        pass
    raise DefinitionError(
        f"{where}: container={given!r} must be the id of a container, several ids, or {EACH!r} for each that there is."
    )


def check_cron(text: str, where: str) -> str:
    """Refuse an expression that can never be due."""
    try:
        next_due(text, datetime.now(UTC).timestamp())
    except (ValueError, StopIteration) as error:
        said = str(error) or "no moment ever fits it"
        raise DefinitionError(
            f"{where}: cron={text!r} is no schedule ({said}). Give minute, hour, day, month and weekday, such as "
            "'0 2 * * *', or 'TZ=Europe/Oslo 0 2 * * MON-FRI'."
        ) from error
    return text


def next_due(text: str, after: float) -> float:
    """Say when an expression is due for the first time after a moment, in seconds since the epoch."""
    return next(_simulated(text, after)).timestamp()


def last_due(text: str, until: float) -> float:
    """Say when an expression was due for the last time at or before a moment."""
    # backwards the moment itself does not count, so it is looked for from the next one on
    return next(_simulated(text, next_due(text, until), reverse=True)).timestamp()


def _simulated(text: str, start: float, *, reverse: bool = False) -> Any:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise MissingExtra("cronsim", "cron") from error
    zone: tzinfo = UTC
    fields = text
    if text.startswith("TZ="):
        from zoneinfo import ZoneInfo  # only here, as few schedules name a zone

        name, _, fields = text[3:].partition(" ")
        try:
            zone = ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {name!r}") from error
    if len(fields.split()) != 5:
        raise ValueError("it must have five fields")
    try:
        return CronSim(fields, datetime.fromtimestamp(start, zone), reverse=reverse)
    except CronSimError as error:
        raise ValueError(str(error)) from error
