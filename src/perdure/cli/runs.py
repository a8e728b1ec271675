"""`perdure runs`: what runs there are, what one did, and ending or resuming it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from perdure.agents.lost import usage_of
from perdure.agents.rebuild import Prompt, inferences, rebuild
from perdure.cli.pages import print_json, show_page
from perdure.cli.paint import Painter, counted, shorten
from perdure.cli.store import STYLES, find_run, lasted, moment, operate
from perdure.cli.table import Cell, table
from perdure.cli.timeline import Line, as_json, timeline
from perdure.db.database import StoreCorrupt
from perdure.log.log import ENDED, RunRow
from perdure.runtime.forks import cut_run
from perdure.runtime.parked import why_parked
from perdure.runtime.runtime import Runtime
from perdure.types.base import plain
from perdure.types.messages import Message, ReasoningMessage, TextMessage, ToolCallMessage, ToolResultMessage
from perdure.types.records import Record, RunFinished
from perdure.types.usage import NOTHING, Usage


def list_runs(given: argparse.Namespace) -> int:
    """List runs, the newest first."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        if given.after is not None:
            await find_run(container, given.after)
        runs = await container.runs(
            status=given.status, session_id=given.session, after=given.after, limit=given.limit + 1
        )
        none = "There are no such runs." if given.status or given.session or given.after else "No runs yet."

        def show(shown: Sequence[RunRow]) -> None:
            rows = [
                (
                    one.id,
                    Cell(_status(one), STYLES[one.status]),
                    one.definition,
                    Cell(moment(one.created_at), "dim"),
                    one.session_id,
                )
                for one in shown
            ]
            table(painter, ("run", "status", "definition", "accepted", "session"), rows)

        return show_page(given, painter, "runs", runs, lambda one: one.id, show, none)

    return operate(given, work)


def _status(run: RunRow) -> str:
    return f"held ({run.held})" if run.held is not None else run.status


def show_run(given: argparse.Namespace) -> int:
    """Show what a run did, or what a model saw in it."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        run = await find_run(container, given.run)
        if given.prompt is not None:
            records = await container.log.read_session(run.session_id)
            prompt = rebuild(records, run.id, given.prompt)
            if given.json:
                print_json(plain(prompt))
            else:
                _show_prompt(painter, prompt)
            return 1 if prompt.doubts else 0
        try:
            records = await container.log.read_run(run.id)
        except StoreCorrupt as error:
            if given.json:
                print_json({"run": plain(run), "error": str(error)})
            else:
                painter.line(f"{run.id} of {run.definition!r} is {run.status}: {error}", "yellow")
            return 1
        lines = timeline(records)
        if given.json:
            return print_json({"run": plain(run), "timeline": [as_json(one) for one in lines]})
        _show(painter, run, records, lines, given.limit)
        return 0

    return operate(given, work)


def cancel_run(given: argparse.Namespace) -> int:
    """Ask for the end of a run."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        run = await find_run(container, given.run)
        if run.status in ENDED:
            painter.line(f"{run.id} is over already: {run.status}.")
            return 0
        await container.cancel(run.id)
        after = await container.log.run(run.id)
        if after.status == "cancelled":
            painter.line(f"{run.id} is cancelled.")
        else:
            painter.line(
                f"{run.id} was asked to end; it is {after.status} until its owner, or a worker, has closed it."
            )
        return 0

    return operate(given, work)


def resume_run(given: argparse.Namespace) -> int:
    """Let a parked run go on."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        before = await find_run(container, given.run)
        run = await container.resume(before.id, force=given.force, accept=given.accept)
        if run.status == "waiting":
            painter.line(f"{run.id} waits again, as it did when the store was copied.")
        else:
            painter.line(
                f"{run.id} is {run.status}: a process that has {run.definition!r} takes it, such as perdure worker."
            )
        return 0

    return operate(given, work)


def fork_run(given: argparse.Namespace) -> int:
    """Go on from inside a run, in a session of its own."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        container = runtime.container(given.container)
        run = await find_run(container, given.run)
        at = int(given.at) if given.at is not None and given.at.isdecimal() else given.at
        cut = await cut_run(container, run.id, at, title=given.title)
        await container.log.fork(cut.fork)
        painter.line(
            f"{cut.run.id} goes on from record {cut.fork.seq} of {run.id}, in session {cut.fork.id}. A process that "
            f"has {run.definition!r} takes it, such as perdure worker."
        )
        return 0

    return operate(given, work)


# -- one run ---------------------------------------------------------------------------------------------------------


def _show(painter: Painter, run: RunRow, records: Sequence[Record], lines: Sequence[Line], limit: int) -> None:
    last = records[-1].payload
    end = f": {last.stop_reason}" if isinstance(last, RunFinished) else ""
    painter.write(run.id, "bold")
    painter.write(f"  {run.definition}  ")
    painter.write(f"{_status(run)}{end}", STYLES[run.status], end="\n")
    usage = last.usage if isinstance(last, RunFinished) else _spent(records, run.id)
    facts = [
        f"session {run.session_id}",
        moment(run.created_at),
        lasted(records[-1].created_at - records[0].created_at),
        counted(usage.model_calls, "model call"),
        counted(usage.tool_calls, "tool call"),
        f"{usage.total_tokens:,} tokens",
    ]
    if usage.cost:
        facts.append(f"${usage.cost:.4f}")
    painter.line(" · ".join(facts), "dim")
    if run.parent is not None:
        painter.line(f"started by {run.parent}", "dim")
    if run.status == "parked":
        painter.line(f"parked: {why_parked(run, records)}", "yellow")
    painter.line()
    hidden = len(lines) - limit
    if hidden > 0:
        painter.line(f"({hidden} lines before these: --limit {len(lines)})", "dim")
    rows: list[Sequence[str | Cell]] = []
    number = sum(one.kind == "inference" for one in lines[: max(0, hidden)])
    for one in lines[max(0, hidden) :]:
        what = one.what
        if one.kind == "inference":
            what, number = f"#{number} {what}", number + 1
        style = "yellow" if one.mark else _LOOKS.get(one.status, "dim" if one.kind in _QUIET else "")
        took = "" if one.took is None else lasted(one.took)
        kept = Cell("=" if one.kept else "", "green")
        rows.append(
            (
                Cell(lasted(one.at), "dim", True),
                Cell(took, "dim", True),
                kept,
                Cell(one.label, "cyan"),
                Cell(what, style),
            )
        )
    table(painter, ("at", "took", "", "step", ""), rows)
    painter.line()
    if any(one.kept for one in lines):
        painter.line("= was finished before another owner went on: answered from the log, not done again", "dim")
    if inferences(records, run.id):
        painter.line(f"What the model saw at #0: perdure runs show {run.id} --prompt 0", "dim")


_LOOKS = {"error": "red", "timeout": "red", "unknown": "red", "denied": "yellow", "waiting": "yellow", "erased": "dim"}
_QUIET = ("run_started", "agent_finished", "started", "route", "child")


def _spent(records: Sequence[Record], run_id: str) -> Usage:
    """What an open run has used so far."""
    used = (usage_of(one.payload) for one in records if one.run_id == run_id)
    return sum((one for one in used if one is not None), NOTHING)


# -- a prompt --------------------------------------------------------------------------------------------------------


def _show_prompt(painter: Painter, prompt: Prompt) -> None:
    painter.write(prompt.key, "bold")
    painter.write(f"  {prompt.agent}  {prompt.model}", end="\n")
    if prompt.doubts:
        for doubt in prompt.doubts:
            painter.line(f"Not as it was sent: {doubt}.", "red")
    else:
        painter.line("As it was sent: every text has the hash that was recorded.", "green")
    if prompt.system is not None:
        _message(painter, "system", prompt.system)
    for one in prompt.messages:
        _message(painter, one.role if not isinstance(one, ReasoningMessage) else "reasoning", text_of(one))
    if prompt.tools is not None:
        painter.line()
        painter.line("tools", "bold")
        for tool in json.loads(prompt.tools):
            painter.short(f"  {tool['name']}  {shorten(tool.get('description', ''), 100)}")


def _message(painter: Painter, role: str, text: str) -> None:
    painter.line()
    painter.line(role, "bold")
    for line in text.split("\n"):
        painter.line(f"  {line}")


def text_of(message: Message) -> str:
    """Show a message as text."""
    match message:
        case TextMessage():
            return message.text
        case ReasoningMessage():
            return message.content
        case ToolCallMessage():
            return "\n".join(f"{call.name} {json.dumps(call.input, ensure_ascii=False)}" for call in message.tools)
        case ToolResultMessage():
            return f"{message.tool.name}: {json.dumps(message.content, ensure_ascii=False)}"
        case _:
            return json.dumps(plain(message), ensure_ascii=False)
