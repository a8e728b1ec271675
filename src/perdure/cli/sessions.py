"""`perdure sessions`: what conversations there are, what was said, and taking one out, in, or away."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from perdure.cli.pages import print_json, show_page
from perdure.cli.paint import Painter
from perdure.cli.runs import text_of
from perdure.cli.store import LOOKS_LIKE, WrongUsage, moment, no_such, operate
from perdure.cli.table import Cell, table
from perdure.log.sessions import SessionRow
from perdure.runtime.container import Container
from perdure.runtime.runtime import Runtime
from perdure.types.base import plain
from perdure.types.errors import PerdureError
from perdure.types.messages import ReasoningMessage


def list_sessions(given: argparse.Namespace) -> int:
    """List sessions, the newest first."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        if given.after is not None:
            await _known(container, given.after)
        found = await container.sessions(after=given.after, limit=given.limit + 1)

        def show(shown: Sequence[SessionRow]) -> None:
            rows = [
                (
                    one.id,
                    Cell(str(one.runs), right=True),
                    Cell(str(one.open), "cyan" if one.open else "dim", right=True),
                    Cell(str(one.head), right=True),
                    Cell(moment(one.created_at), "dim"),
                    _about(one),
                )
                for one in shown
            ]
            table(painter, ("session", "runs", "open", "records", "begun", "user"), rows)

        return show_page(given, painter, "sessions", found, lambda one: one.id, show, "No sessions yet.")

    return operate(given, work)


def _about(row: SessionRow) -> str:
    fork = f"fork of {row.base} #{row.base_seq}" if row.base is not None else ""
    state = row.state if row.state not in ("created", "active") else ""
    return "  ".join(filter(None, (row.title or row.user_id, fork, state)))


def show_session(given: argparse.Namespace) -> int:
    """Show what was said in turns that have ended."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        await _known(container, given.session)
        said = [one async for one in container.session(given.session).messages()]
        shown = said[-given.limit :]
        if given.json:
            return print_json({"session": given.session, "before": len(said) - len(shown), "messages": plain(shown)})
        if len(said) > len(shown):
            painter.line(f"({len(said) - len(shown)} messages before these: --limit {len(said)})", "dim")
        for one in shown:
            painter.line("reasoning" if isinstance(one, ReasoningMessage) else one.role, "bold")
            for line in text_of(one).split("\n"):
                painter.line(f"  {line}")
        if not said:
            painter.line("Nothing was said in a turn that has ended.")
        return 0

    return operate(given, work)


def search_sessions(given: argparse.Namespace) -> int:
    """Find what was said, the best hits first."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        if given.session is not None:
            await _known(container, given.session)
        hits = await container.search(given.text, user_id=given.user, session_id=given.session, limit=given.limit)
        if given.json:
            return print_json({"hits": [plain(one) for one in hits]})
        for one in hits:
            painter.write(one.session_id, "bold")
            painter.write(f" #{one.seq}  {one.agent or one.role}  {moment(one.at)}", "dim", end="\n")
            painter.write("  ")
            at = 0
            for first, end in one.marks:
                painter.write(one.snippet[at:first])
                painter.write(one.snippet[first:end], "bold yellow")
                at = end
            painter.write(one.snippet[at:], end="\n")
        if not hits:
            painter.line("Nothing was found.")
        return 0

    return operate(given, work)


def fork_session(given: argparse.Namespace) -> int:
    """Make a session that goes on from a place in another one."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        await _known(container, given.session)
        fork = await container.session(given.session).fork(given.at, title=given.title)
        row = next(one for one in await container.sessions(limit=LOOKS_LIKE) if one.id == fork.id)
        painter.line(f"{fork.id} goes on from record {row.base_seq} of {row.base}; nothing has changed there.")
        return 0

    return operate(given, work)


def rewind_session(given: argparse.Namespace) -> int:
    """Go on from the end of an earlier turn."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        await _known(container, given.session)
        seq = await container.session(given.session).rewind(given.to, cancel=given.cancel)
        painter.line(f"{given.session} goes on from record {given.to}; what came behind it is kept and does not count.")
        painter.line(f"To take it back: perdure sessions rewind {given.session} --to {seq - 1}", "dim")
        return 0

    return operate(given, work)


def export_session(given: argparse.Namespace) -> int:
    """Write a session to a file."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        await _known(container, given.session)
        path = Path(given.file or f"{given.session}.jsonl")
        try:
            lines = await container.session(given.session).export(path)
        except OSError as error:
            raise PerdureError(f"{path} cannot be written: {error.strerror or error}.") from error
        painter.line(f"{given.session} is in {path}, with its child runs: {lines:,} lines.")
        return 0

    return operate(given, work)


def import_session(given: argparse.Namespace) -> int:
    """Take a session in from a file."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        try:
            session = await container.import_session(given.file)
        except OSError as error:
            raise PerdureError(f"{given.file} cannot be read: {error.strerror or error}.") from error
        held = [one.id for one in await container.runs(session_id=session.id, status="parked") if one.held]
        painter.line(f"{session.id} was taken into container {container.name!r}.")
        if held:
            painter.line(
                f"Its open runs are held, as the original may go on with them: {', '.join(held)}. To let one go on "
                "here: perdure runs resume RUN.",
                "yellow",
            )
        return 0

    return operate(given, work)


def erase_session(given: argparse.Namespace) -> int:
    """Erase a session, or all that was said by a user and to them."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        if (given.session is None) == (given.user is None):
            raise WrongUsage("Give a session, or --user ID.")
        if given.user is not None:
            erased = await container.erase(user_id=given.user)
            count = len(erased.sessions)
            what = f"{count} session{'' if count == 1 else 's'} of {given.user}"
        else:
            await _known(container, given.session)
            erased = await container.session(given.session).erase(cancel=given.cancel)
            count = len(erased.sessions) - 1
            what = f"{given.session}{f' and {count} of child runs and forks' if count else ''}"
        if given.json:
            return print_json(plain(erased))
        painter.line(f"{what} erased: {erased.records:,} records keep their place and time only.")
        if not erased.complete:
            painter.line(
                "The bytes are gone when PostgreSQL has vacuumed: VACUUM records, blobs, runs, sessions.", "yellow"
            )
        painter.line("Backups, copies and exports that were made before still have them.", "dim")
        return 0

    return operate(given, work)


async def _known(container: Container, id: str) -> None:
    """See that there is a session, or say which ids are like the one that is not there.

    Raises:
        PerdureError: there is no such session.
    """
    if not await container.log.head(id):
        known = [one.id for one in await container.sessions(limit=LOOKS_LIKE)]
        raise no_such("session", id, known, container.name)
