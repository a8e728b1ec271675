"""The commands that look after a store: their arguments, and where each is done."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from perdure.cli.limits import read_count, read_size, read_time

KINDS = ("person", "approval", "question", "event", "timer", "child")
_STATUSES = ("queued", "running", "waiting", "completed", "failed", "cancelled", "parked")


def run(given: argparse.Namespace) -> int:
    """Run the command that was given; its module is imported now."""
    module, _, name = given.do.partition(":")
    return getattr(importlib.import_module(f"perdure.cli.{module}"), name)(given)


def add_operations(commands: Any) -> None:
    """Add the commands."""
    worker = _command(commands, "worker", "drive runs that others have left or queued", "worker:run_worker")
    worker.add_argument(
        "--app",
        required=True,
        metavar="MODULE:NAME",
        help="an agent, a network, a durable function, a list of them, a Runtime, or a plain function that makes these",
    )
    worker.add_argument("--take-over", action="store_true", help="let the runs go on that this copy of a store holds")

    runs = _group(commands, "runs", "list, show, cancel, resume and replay runs, and answer what they wait for")
    listed = _command(runs, "list", "runs, the newest first", "runs:list_runs")
    listed.add_argument("--status", choices=_STATUSES)
    listed.add_argument("--session", metavar="ID")
    _pages(listed)
    show = _command(runs, "show", "what a run did, step by step", "runs:show_run")
    show.add_argument("run", metavar="RUN")
    show.add_argument("--prompt", metavar="K", help="what the model saw at an inference: its number or its key")
    show.add_argument("--limit", type=_rows, default=200, metavar="N", help="the last N lines (200)")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    cancel = _command(runs, "cancel", "ask for the end of a run; what it has finished is kept", "runs:cancel_run")
    cancel.add_argument("run", metavar="RUN")
    resume = _command(runs, "resume", "let a parked run go on", "runs:resume_run")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--accept", action="store_true", help="go on although its code has changed")
    resume.add_argument("--force", action="store_true", help="also take it from an owner that is alive and stuck")
    again = _command(
        runs, "replay", "follow a run again, offline, and say where the code would go another way", "replay:replay_run"
    )
    again.add_argument("run", metavar="RUN", help="a run of the store, or the file of a recording")
    again.add_argument("--app", required=True, metavar="MODULE:NAME", help="its code, as for worker")
    again.add_argument("--export", metavar="DIR", help="also write it down as a test for pytest, without secrets")
    again.add_argument(
        "--redact",
        action="append",
        default=[],
        metavar="WHAT",
        help="what goes besides secrets: a field's name, /an expression/, or emails; may be repeated",
    )
    again.add_argument("--keep-secrets", action="store_true", help="export everything as it is")

    waits = _command(runs, "waits", "what runs wait for", "waits:list_waits")
    waits.add_argument("--session", metavar="ID")
    waits.add_argument("--run", metavar="RUN", help="of this run, and of its children")
    waits.add_argument("--kind", choices=KINDS, help="person: approvals and questions")
    _pages(waits)
    for name, help, more in (
        ("approve", "allow what a run waits for", None),
        ("deny", "refuse what a run waits for", "--why"),
        ("answer", "answer a question that a run waits for", "text"),
    ):
        said = _command(runs, name, help, f"waits:{name}")
        said.add_argument("wait", metavar="WAIT", help="the wait's id, as perdure runs waits shows it")
        if more == "text":
            said.add_argument("text", metavar="TEXT")
        elif more is not None:
            said.add_argument(more, default="", metavar="TEXT", help="what the model is told")
        said.add_argument("--by", metavar="NAME", help="who says so; whoever is logged in unless given")

    fork = _command(runs, "fork", "go on from inside a run, in a session of its own", "runs:fork_run")
    fork.add_argument("run", metavar="RUN")
    fork.add_argument("--at", metavar="SEQ|STEP", help="behind which record or step; the last one before it stopped")
    fork.add_argument("--title", metavar="TEXT", help="the new session's title")

    events = _group(commands, "events", "tell of what has happened")
    sent = _command(events, "send", "functions of it start, runs that wait for it go on", "functions:send_event")
    sent.add_argument("name", metavar="NAME", help="such as app/invoice.paid")
    sent.add_argument("data", nargs="?", metavar="JSON", help="a JSON object; {} unless given")
    sent.add_argument("--id", metavar="ID", help="makes it once, however often it is sent")
    sent.add_argument("--user", metavar="ID", help="whose it is: what it starts is theirs, and it is erased with them")
    sent.add_argument("--container", default="default", metavar="NAME", help="the tenant (default)")
    sent.add_argument("--json", action="store_true", help="print one JSON object")
    functions = _group(commands, "functions", "list and remove durable functions")
    known = _command(functions, "list", "what starts them, and whether their code is here", "functions:list_functions")
    known.add_argument("--json", action="store_true", help="print one JSON object")
    removed = _command(functions, "remove", "let nothing start one any more", "functions:remove_function")
    removed.add_argument("name", metavar="NAME")

    sessions = _group(commands, "sessions", "list, show, search, fork, rewind, export, import and erase sessions")
    _pages(_command(sessions, "list", "sessions, the newest first", "sessions:list_sessions"))
    said = _command(sessions, "show", "what was said", "sessions:show_session")
    said.add_argument("session", metavar="SESSION")
    said.add_argument("--limit", type=_rows, default=200, metavar="N", help="the last N messages (200)")
    said.add_argument("--json", action="store_true", help="print one JSON object")
    find = _command(sessions, "search", "find what was said", "sessions:search_sessions")
    find.add_argument("text", metavar="TEXT", help='words that are all there; "in quotes" just as they stand')
    find.add_argument("--user", metavar="ID", help="only what was said in runs of this user")
    find.add_argument("--session", metavar="ID", help="only in this session")
    find.add_argument("--limit", type=_rows, default=20, metavar="N", help="at most N hits (20)")
    find.add_argument("--json", action="store_true", help="print one JSON object")
    branch = _command(sessions, "fork", "make a session that goes on from a place in another", "sessions:fork_session")
    branch.add_argument("session", metavar="SESSION")
    branch.add_argument("--at", type=int, metavar="SEQ", help="the last record that it reads; the last one there is")
    branch.add_argument("--title", metavar="TEXT", help="the new session's title")
    back = _command(sessions, "rewind", "go on from the end of an earlier turn", "sessions:rewind_session")
    back.add_argument("session", metavar="SESSION")
    back.add_argument("--to", type=int, required=True, metavar="SEQ", help="the last record that still counts")
    back.add_argument("--cancel", action="store_true", help="cancel its open runs first")
    out = _command(sessions, "export", "write a session to a file of JSON lines", "sessions:export_session")
    out.add_argument("session", metavar="SESSION")
    out.add_argument("file", nargs="?", help="SESSION.jsonl unless given")
    taken = _command(sessions, "import", "take a session in that was exported", "sessions:import_session")
    taken.add_argument("file")
    erase = _command(sessions, "erase", "erase what was said; that it was, and when, stays", "sessions:erase_session")
    erase.add_argument("session", nargs="?", metavar="SESSION")
    erase.add_argument("--user", metavar="ID", help="all sessions of a user; their open runs are cancelled first")
    erase.add_argument("--cancel", action="store_true", help="cancel its open runs first")
    erase.add_argument("--json", action="store_true", help="print the receipt as one JSON object")

    containers = _group(commands, "containers", "list and show containers, and set what each keeps and may hold")
    every = _command(containers, "list", "what holds for each container", "containers:list_containers")
    every.add_argument("--json", action="store_true", help="print one JSON object")
    one = _command(containers, "show", "what a container holds, and what it may", "containers:show_container")
    one.add_argument("name", metavar="NAME")
    one.add_argument("--json", action="store_true", help="print one JSON object")
    rules = _command(
        containers, "set", "say how long a container keeps what was said, and its quota", "containers:set_container"
    )
    rules.epilog = _RULES
    rules.formatter_class = argparse.RawDescriptionHelpFormatter
    rules.add_argument("name", metavar="NAME")
    for name, read, metavar, help in (
        ("retention", read_time, "TIME", "a session is removed this long after its last record"),
        ("sessions", read_count, "N", "at most N sessions"),
        ("open-runs", read_count, "N", "at most N runs that have not ended"),
        ("records", read_count, "N", "at most N records"),
        ("bytes", read_size, "SIZE", "at most so many bytes of what was said"),
    ):
        rules.add_argument(f"--{name}", type=read, metavar=metavar, help=help)

    backup = _command(commands, "backup", "copy the store while it is in use", "doctor:run_backup")
    backup.add_argument("target", metavar="FILE", help="the new file")
    doctor = _command(commands, "doctor", "look whether the store is well", "doctor:run_doctor")
    doctor.add_argument("--deep", action="store_true", help="read every page and every payload")
    doctor.add_argument("--take-over", action="store_true", help="let the runs go on that this copy of a store holds")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")


def _group(commands: Any, name: str, help: str) -> Any:
    group = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    return group.add_subparsers(dest="verb", metavar="verb", title="verbs", required=True)


def _command(commands: Any, name: str, help: str, do: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    command.set_defaults(do=do)
    command.add_argument("--store", metavar="URL", help="sqlite:///name.db or postgresql://…; PERDURE_URL unless given")
    if do.partition(":")[0] in ("runs", "waits", "sessions", "replay"):
        command.add_argument("--container", default="default", metavar="NAME", help="the tenant (default)")
    return command


def _pages(command: argparse.ArgumentParser) -> None:
    command.add_argument("--limit", type=_rows, default=50, metavar="N", help="at most N rows (50)")
    command.add_argument("--after", metavar="ID", help="the rows behind this one")
    command.add_argument("--json", action="store_true", help="print one JSON object")


_RULES = """\
TIME is a number with s, m, h, d or w; SIZE one with kB, MB, GB or TB; none takes a limit away. What is not given stays.

examples:
  perdure containers set acme --retention 30d --sessions 1000 --bytes 5GB
  perdure containers set acme --retention none
  perdure containers set acme --open-runs none --sessions none --bytes none"""


def _rows(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1")
    return int(text)
