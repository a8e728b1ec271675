"""The command `perdure`: reads the arguments and hands over. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from perdure.cli.operations import add_operations, run

_EPILOG = """\
examples:
  perdure demo                                   ask this project's own documents
  perdure demo notes "When is the boat due?"     ask your own files
  perdure chat src --model openai:gpt-5-mini     talk about a folder
  perdure chat --store sqlite:///chat.db         and keep it: --session ID goes on with it
  perdure demo --crash                           kill it in the middle, and see it go on
  perdure demo . "..." --base-url http://localhost:11434/v1 --model qwen3

The model is --model, else the server at --base-url, else the first of OPENAI_API_KEY, ANTHROPIC_API_KEY,
GEMINI_API_KEY, XAI_API_KEY that is set, else an offline model that only quotes.

  export PERDURE_URL=sqlite:///desk.db           the store that worker, runs, sessions, backup and doctor work on
  perdure worker --app desk:definitions          drive what others have left or queued
  perdure runs show RUN                          what a run did, step by step"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; the process's own unless given.

    Returns:
        0, or 1 if it failed, or 130 if it was stopped. Wrong usage exits with 2.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        if given.command not in ("chat", "demo"):
            code = run(given)
        elif given.command == "chat":
            from perdure.cli.talk import Options, run_chat

            code = run_chat(Options(given.path, None, given.model, given.base_url, False, _store(given), given.session))
        elif given.crash:
            from perdure.cli.crash import run_crash

            code = run_crash(given.path, given.question)
        else:
            from perdure.cli.talk import Options, run_demo

            path, question = given.path, given.question
            if path and question is None and " " in path.strip() and not os.path.lexists(path):
                path, question = None, path  # a question alone
            asked = (path, question, given.model, given.base_url, given.json)
            code = run_demo(Options(*asked, _store(given), given.session))
        sys.stdout.flush()
    except KeyboardInterrupt:  # pressed twice, or before there was anything to stop
        return 130
    except BrokenPipeError:  # the reader went away, as in `perdure demo | head`; nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # the output cannot be written, as on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"perdure: {error.strerror or error}", file=sys.stderr)
        return 1
    return code


def _store(given: argparse.Namespace) -> str | None:
    return given.store or os.environ.get("PERDURE_URL") or None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="perdure",
        description="Stateful, durable multi-agent systems in plain Python.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    demo = commands.add_parser("demo", help="answer one question about files", description=_DEMO)
    chat = commands.add_parser("chat", help="a conversation about files", description=_CHAT)
    for command in (demo, chat):
        command.add_argument("path", nargs="?", help="a file or a folder; this project's documents unless given")
    demo.add_argument(
        "question",
        nargs="?",
        help="what to ask; without a path, a question about Perdure unless given",
    )
    for command in (demo, chat):
        command.add_argument("--model", metavar="PROVIDER:NAME", help="such as openai:gpt-5-mini, or offline")
        command.add_argument("--store", metavar="URL", help="keep it in this store; PERDURE_URL unless given")
        command.add_argument("--session", metavar="ID", help="go on with this session of the store")
        command.add_argument(
            "--base-url", metavar="URL", help="a server that speaks the OpenAI wire, such as a local one"
        )
    demo.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    demo.add_argument(
        "--crash", action="store_true", help="kill the process in the middle, and see another one go on (offline model)"
    )
    add_operations(commands)
    return parser


_DEMO = """\
A network of two agents: a librarian searches the files with a tool, an answerer answers with file and line."""
_CHAT = """\
The network of `perdure demo` as a conversation. /help lists commands; Ctrl-C stops an answer, Ctrl-D leaves."""


class _Version(argparse.Action):
    """Prints the version; it is only looked up when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("perdure")
        except PackageNotFoundError:
            found = "(not installed)"
        print(f"perdure {found}")
        parser.exit()
