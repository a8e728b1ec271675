"""`perdure containers`: which tenants there are, how long each keeps what was said, and how much it may hold."""

from __future__ import annotations

import argparse
from typing import Any

from msgspec import structs

from perdure.cli.limits import NONE, SIZES, TIMES
from perdure.cli.pages import print_json
from perdure.cli.paint import Painter
from perdure.cli.store import WrongUsage, no_such, operate
from perdure.cli.table import Cell, table
from perdure.log.policy import Policy, Quota, Usage, read_policies
from perdure.runtime.runtime import Runtime
from perdure.types.base import plain

LIMITS = Quota.__struct_fields__


def list_containers(given: argparse.Namespace) -> int:
    """List all containers, and what holds for each."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        names, known = await runtime.images.entities.containers(), await read_policies(runtime.db)
        policies = {name: known.get(name, Policy()) for name in names}
        if given.json:
            return print_json({"containers": [_json(name, one) for name, one in policies.items()]})
        if not policies:
            painter.line("No containers yet: a session makes its own, and perdure containers set makes one.")
            return 0
        rows = [(name, *_limits(one), _kept(one)) for name, one in policies.items()]
        table(painter, ("container", *(f"{_word(what)} ≤" for what in LIMITS), "kept"), rows)
        return 0

    return operate(given, work)


def show_container(given: argparse.Namespace) -> int:
    """Show what a container holds, and what it may."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        await _known(runtime, given.name)
        container = runtime.container(given.name)
        policy, usage = await container.policy(), await container.usage()
        if given.json:
            return print_json({**_json(given.name, policy), "usage": plain(usage)})
        painter.line(given.name, "bold")
        painter.line(f"kept: {_kept(policy)}")
        limits = zip(LIMITS, _limits(policy), strict=True)
        rows = [(Cell(_word(what), "cyan"), _held(what, usage), limit) for what, limit in limits]
        table(painter, ("", "held", "at most"), rows)
        return 0

    return operate(given, work)


def set_container(given: argparse.Namespace) -> int:
    """Say how long a container keeps what was said, and how much it may hold."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        asked = {what: getattr(given, what) for what in LIMITS if getattr(given, what) is not None}
        if given.retention is None and not asked:
            raise WrongUsage("Nothing is to be set: give --retention, --sessions, --open-runs, --records or --bytes.")
        new = given.name not in await runtime.images.entities.containers()
        container = runtime.container(given.name)
        changes: dict[str, Any] = {}
        if given.retention is not None:
            changes["retention"] = None if given.retention == NONE else given.retention
        if asked:
            before = (await container.policy()).quota or Quota()
            quota = structs.replace(before, **{name: None if one == NONE else one for name, one in asked.items()})
            changes["quota"] = None if quota == Quota() else quota
        policy = await container.configure(**changes)
        limits = zip(LIMITS, _limits(policy), strict=True)
        said = [one.text if what == "bytes" else f"{one.text} {_word(what)}" for what, one in limits if one.text]
        may = f"at most {', '.join(said)}" if said else "as much as comes"
        painter.line(f"{given.name}{', which is new,' if new else ''} may hold {may}.")
        painter.line(f"What was said in it is kept: {_kept(policy)}. Every process follows within seconds.")
        return 0

    return operate(given, work)


async def _known(runtime: Runtime, name: str) -> None:
    names = await runtime.images.entities.containers()
    if name not in names:
        raise no_such("container", name, names)


def _kept(policy: Policy) -> str:
    seconds = policy.retention
    if seconds is None:
        return "for ever, unless the runtime says otherwise"
    unit = next((one for one in reversed(TIMES) if seconds % TIMES[one] == 0), "s")
    return f"{seconds / TIMES[unit]:g} {unit} after the last record"


def _limits(policy: Policy) -> list[Cell]:
    values = [(what, getattr(policy.quota, what, None)) for what in LIMITS]
    return [Cell("" if value is None else _amount(what, value), right=True) for what, value in values]


def _held(what: str, usage: Usage) -> Cell:
    return Cell(_amount(what, getattr(usage, what)), right=True)


def _json(name: str, policy: Policy) -> dict[str, Any]:
    return {"container": name, "retention": policy.retention, "quota": plain(policy.quota)}


def _word(what: str) -> str:
    return what.replace("_", " ")


def _amount(what: str, value: int) -> str:
    if what != "bytes":
        return f"{value:,}"
    unit = next((one for one in reversed(SIZES) if value >= SIZES[one]), "")
    return f"{value / SIZES[unit]:.4g} {unit.upper().replace('KB', 'kB')}".strip()
