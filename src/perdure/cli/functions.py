"""`perdure events` and `perdure functions`: telling of what has happened, and which functions that starts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from perdure.cli.pages import print_json
from perdure.cli.paint import Painter
from perdure.cli.store import WrongUsage, moment, operate
from perdure.cli.table import Cell, table
from perdure.log.functions import Subscription
from perdure.runtime.runtime import Runtime
from perdure.types.base import plain
from perdure.types.cron import EACH
from perdure.types.errors import PerdureError


def send_event(given: argparse.Namespace) -> int:
    """Tell of something that has happened."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        data = _data(given.data)
        container = runtime.container(given.container)
        event = await container.send_event(given.name, data, id=given.id, user_id=given.user)
        starts = [one.name for one in await container.log.functions() if one.event == event.name]
        if given.json:
            return print_json({"event": plain(event), "starts": starts})
        painter.line(f"{event.name} is taken in as {event.id}.")
        if starts:
            painter.line(f"It starts {', '.join(starts)}; a process that has their code drives them.")
        return 0

    return operate(given, work)


def _data(text: str | None) -> Any:
    """Read what was given as the event's data.

    Raises:
        WrongUsage: it is no JSON object.
    """
    try:
        data: Any = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise WrongUsage(f"The data {text!r} are no JSON ({error}). Give an object, such as '{{\"n\": 1}}'.") from None
    if not isinstance(data, dict):
        raise WrongUsage(f"The data {text!r} are no JSON object. Give one, such as '{{\"n\": 1}}'.")
    return data  # pyright: ignore[reportUnknownVariableType]  # the event's own check reads it


def list_functions(given: argparse.Namespace) -> int:
    """List the functions that the store knows, and what starts them."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        functions = await runtime.container("default").log.functions()
        if given.json:
            return print_json({"functions": [plain(one) for one in functions]})
        if not functions:
            painter.line("No functions yet. A runtime makes those known that it is given.")
            return 0
        rows = [
            (one.name, _started_by(one), _limit(one), moment(one.next_at) if one.next_at else "", _known(one))
            for one in functions
        ]
        table(painter, ("function", "started by", "at once", "next", "code"), rows)
        return 0

    return operate(given, work)


def _started_by(one: Subscription) -> str:
    where = "" if one.containers == ("default",) else f" in {', '.join(one.containers).replace(EACH, 'each container')}"
    ways = [f"event {one.event}" if one.event else "", f"cron {one.cron}{where}" if one.cron else ""]
    return ", ".join(way for way in ways if way) or "calls"


def _limit(one: Subscription) -> str:
    if one.most is None:
        return ""
    return f"{one.most} for each {one.key}" if one.key else str(one.most)


def _known(one: Subscription) -> Cell:
    if one.known:
        return Cell("a process that is alive has it")
    return Cell(f"nobody here has it; last seen {moment(one.at)}", "yellow")


def remove_function(given: argparse.Namespace) -> int:
    """Forget a function: nothing starts it any more, until a runtime is given it again."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        log = runtime.container("default").log
        if not await log.unsubscribe(given.name):
            known = ", ".join(one.name for one in await log.functions()) or "none"
            raise PerdureError(f"There is no function {given.name!r}. There are: {known}.")
        painter.line(f"{given.name} is forgotten: nothing starts it any more. Its runs stay; cancel them if need be.")
        return 0

    return operate(given, work)
