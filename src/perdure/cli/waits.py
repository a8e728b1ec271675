"""`perdure runs waits|approve|deny|answer`: what runs wait for, and answering it."""

from __future__ import annotations

import argparse
import getpass
import json
from collections.abc import Sequence

from perdure.cli.pages import show_page
from perdure.cli.paint import Painter, shorten
from perdure.cli.store import moment, operate
from perdure.log.inbox import WaitRow
from perdure.runtime.runtime import Runtime
from perdure.types.waits import Answer, Approval, Approve, Deny, Question, about


def list_waits(given: argparse.Namespace) -> int:
    """List what runs wait for."""

    async def work(runtime: Runtime, painter: Painter) -> int:
        found = await runtime.container(given.container).waits(
            session_id=given.session, run_id=given.run, kind=given.kind, after=given.after, limit=given.limit + 1
        )
        none = "Nobody waits for that." if given.session or given.run or given.kind else "Nothing waits."

        def show(shown: Sequence[WaitRow]) -> None:
            for one in shown:
                _show(painter, one)

        return show_page(given, painter, "waits", found, lambda one: one.wait.id, show, none)

    return operate(given, work)


def _show(painter: Painter, one: WaitRow) -> None:
    wait = one.wait
    painter.line(wait.id, "bold")
    match wait:
        case Approval():
            args = json.dumps(wait.args, ensure_ascii=False)
            painter.line(f"  approval of {wait.tool} {shorten(args, 1000)}", "yellow")
            if wait.reason:
                painter.line(f"  {shorten(wait.reason, 1000)}")
        case Question():
            painter.line(f"  question: {shorten(wait.text, 1000)}", "yellow")
            if wait.choices:
                painter.line(f"  one of: {', '.join(wait.choices)}")
        case _:
            painter.line(f"  {about(wait)}")
    facts = [f"run {one.run_id}", f"session {one.session_id}", f"since {moment(one.since)}"]
    if isinstance(wait, (Approval, Question)) and wait.agent:
        facts.insert(0, wait.agent)
    if wait.expires is not None:
        facts.append(f"until {moment(wait.expires)}")
    painter.line(f"  {' · '.join(facts)}", "dim")


def approve(given: argparse.Namespace) -> int:
    """Allow what a run waits for."""
    return _respond(given, Approve(_by(given)))


def deny(given: argparse.Namespace) -> int:
    """Refuse what a run waits for."""
    return _respond(given, Deny(given.why, _by(given)))


def answer(given: argparse.Namespace) -> int:
    """Answer a question that a run waits for."""
    return _respond(given, Answer(given.text, _by(given)))


def _by(given: argparse.Namespace) -> str | None:
    """Who answers: as given, else whoever is logged in."""
    if given.by is not None:
        return given.by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # this user has no name
        return None


def _respond(given: argparse.Namespace, said: Approve | Deny | Answer) -> int:
    async def work(runtime: Runtime, painter: Painter) -> int:
        response = await runtime.container(given.container).respond(given.wait, said)
        run = response.run
        if response.outcome == "early":
            painter.line(
                f"{run.id} does not ask that now; the answer is kept until it does, and goes with the run if it never "
                "does. perdure runs waits shows what is asked.",
                "yellow",
            )
        elif run.status == "queued":
            painter.line(f"{run.id} can go on: a process that has {run.definition!r} takes it, such as perdure worker.")
        else:
            painter.line(f"The answer is recorded; {run.id} is {run.status}.")
        return 0

    return operate(given, work)
