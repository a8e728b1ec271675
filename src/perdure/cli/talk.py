"""Running the demo network from a terminal: one question, or a conversation."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from perdure.cli.choose import Chosen, choose
from perdure.cli.conversation import Conversation, Turn
from perdure.cli.library import Library
from perdure.cli.paint import CITATION, Painter
from perdure.types.errors import AuthenticationFailed, ModelError, ModelUnreachable, PerdureError, RunError

DEFAULT_QUESTION = "What is a network, and who decides which agent runs next?"
NO_QUESTION = (
    'There is no question. Give one after the path, such as perdure demo notes "When is the boat due?"; '
    "or use perdure chat."
)
WRONG_USAGE = 2
STOPPED = 130
NO_STORE = (
    "A session is in a store, and none is named. Give --store, such as --store sqlite:///chat.db, or set PERDURE_URL."
)
_OWN = "Perdure's own documents"
HELP = """\
Ask about the files. Earlier questions and answers are remembered.
/new     forget the conversation
/files   list the files that are searched
/help    show this
/quit    leave (Ctrl-D too); Ctrl-C stops an answer"""


class Options(NamedTuple):
    """What the command line was given."""

    path: str | None = None
    question: str | None = None
    model: str | None = None
    base_url: str | None = None
    json: bool = False
    store: str | None = None
    session: str | None = None


def run_demo(options: Options) -> int:
    """Answer one question about files."""
    painter = Painter(sys.stderr if options.json else None)
    question = _readable(options.question or "").strip()
    if options.session is not None and not options.store:
        fail(PerdureError(NO_STORE), painter)
        return WRONG_USAGE
    try:
        library = open_library(options.path)
        if not question and options.path:
            fail(PerdureError(NO_QUESTION), painter)
            return WRONG_USAGE
        question = question or DEFAULT_QUESTION
        chosen = choose(options.model, options.base_url)
        if not options.json:
            painter.line(f"{about(library)}", "dim")
        painter.line(chosen.notice, "dim")
        if not options.json:
            painter.line()
            painter.line(f"? {question}", "bold")
        conversation = Conversation(library, chosen, options.store, options.session)
        with asyncio.Runner() as runner:
            turn = runner.run(_once(conversation, question, None if options.json else painter))
    except PerdureError as error:
        fail(error, painter)
        return 1
    except KeyboardInterrupt:
        painter.line("Stopped.", "yellow")
        return STOPPED
    if options.json:
        print(json.dumps(report(library, question, chosen, turn), ensure_ascii=False, indent=2))
    else:
        painter.figures(turn.agents, turn.result.usage, turn.seconds)
        if options.store:
            painter.line(f"To go on: {conversation.again(options.path)}", "dim")
    return 0


async def _once(conversation: Conversation, question: str, painter: Painter | None) -> Turn:
    try:
        await conversation.open()
        return await conversation.ask(question, painter)
    finally:
        await conversation.close()


def run_chat(options: Options) -> int:
    """Answer questions until the user leaves."""
    painter = Painter()
    if options.session is not None and not options.store:
        fail(PerdureError(NO_STORE), painter)
        return WRONG_USAGE
    try:
        library, chosen = open_library(options.path), choose(options.model, options.base_url)
        conversation = Conversation(library, chosen, options.store, options.session)
    except PerdureError as error:
        fail(error, painter)
        return 1
    painter.line(about(library), "dim")
    painter.line(chosen.notice, "dim")
    painter.line("/help shows what you can type.", "dim")
    if sys.stdin.isatty():
        _line_editing()
    elif (reconfigure := getattr(sys.stdin, "reconfigure", None)) is not None:
        reconfigure(errors="replace")
    with asyncio.Runner() as runner:
        try:
            runner.run(conversation.open())
            try:
                if options.session is not None:
                    runner.run(conversation.recall(painter))
                failed = _talk(runner, conversation, library, painter)
            finally:
                runner.run(conversation.close())
        except PerdureError as error:
            fail(error, painter)
            return 1
    if options.store and conversation.asked:
        painter.line(f"To go on: {conversation.again(options.path)}", "dim")
    return 1 if failed and not sys.stdin.isatty() else 0


def _talk(runner: asyncio.Runner, conversation: Conversation, library: Library, painter: Painter) -> bool:
    """Answer questions until the user leaves; says whether the last one failed."""
    failed = False
    while (line := _read_line(painter)) is not None:
        match line.strip():
            case "":
                pass
            case "/quit" | "/exit" | "/q":
                break
            case "/help" | "/?":
                for one in HELP.splitlines():
                    painter.short(one)
            case "/new":
                conversation.begin_anew()
                painter.line("Forgotten.", "dim")
            case "/files":
                for path in library.files:
                    painter.short(path)
            case command if command.startswith("/"):
                painter.line(f"There is no command {command}. /help lists them.", "yellow")
            case question:
                try:
                    turn = runner.run(conversation.ask(question, painter))
                except PerdureError as error:
                    fail(error, painter)
                    failed = True
                except KeyboardInterrupt:
                    painter.line("Stopped. Nothing of this question is remembered.", "yellow")
                else:
                    failed = False
                    painter.figures(turn.agents, turn.result.usage, turn.seconds)
    return failed


def report(library: Library, question: str, chosen: Chosen, turn: Turn) -> dict[str, Any]:
    """Show a turn as plain JSON values."""
    result = turn.result
    cited = [(one["path"], int(one["line"])) for one in CITATION.finditer(result.text)]
    return {
        "question": question,
        "answer": result.text,
        "citations": [{"path": path, "line": line} for path, line in dict.fromkeys(cited) if path in library.files],
        "searches": result.state.data.queries,
        "model": f"{chosen.model.provider}:{chosen.model.name}",
        "agents": turn.agents,
        "model_calls": result.usage.model_calls,
        "tool_calls": result.usage.tool_calls,
        "tokens": result.usage.total_tokens,
        "seconds": round(turn.seconds, 3),
        "stop_reason": result.stop_reason,
        "root": str(library.root),
    }


def open_library(path: str | None) -> Library:
    """Open the files to ask about; without a path, what this project has written about itself.

    Raises:
        LibraryError: there is nothing to read.
    """
    if path is not None:
        return Library.open(Path(path).expanduser())
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent.parent
    if (checkout / "README.md").is_file() and (checkout / "docs").is_dir() and package.parent.name == "src":
        return Library.open(checkout, name=_OWN, only=("README.md", "docs"))
    if (package / "_docs").is_dir():
        return Library.open(package / "_docs", name=_OWN)
    return Library.open(package, name="Perdure's own source")


def about(library: Library) -> str:
    """Say in one line what is searched."""
    skipped = sum(library.skipped.counts.values())
    left_out = ""
    if skipped:
        why, example = next(iter(library.skipped.last.items()))
        left_out = f"; {skipped} left out, such as {example}, which {why}"
    count = len(library.files)
    if count == 1:
        return f"Reading {next(iter(library.files))}{left_out}"
    return f"Reading {count} files of {library.name}{left_out}"


def fail(error: PerdureError, painter: Painter) -> None:
    """Write an error where errors go, behind what was shown so far."""
    painter.end()
    message, hint = explain(error)
    errors = Painter(sys.stderr)
    errors.line(f"perdure: {message}", "red")
    if hint:
        errors.line(hint)


def explain(error: PerdureError) -> tuple[str, str]:
    """Say in one or two lines what went wrong and what to do."""
    cause: BaseException = error
    while isinstance(cause, RunError) and cause.__cause__ is not None:
        cause = cause.__cause__
    hint = ""
    if isinstance(cause, AuthenticationFailed):
        hint = "Check the key, choose another model with --model, or go without one: --model offline"
    elif isinstance(cause, ModelUnreachable):
        hint = "Check the address and the network, or go without: --model offline"
    elif isinstance(cause, ModelError):
        hint = "Choose another model with --model, or go without one: --model offline"
    return str(cause) or type(cause).__name__, hint


def _read_line(painter: Painter) -> str | None:
    """Read a line of the conversation; None at its end."""
    while True:
        try:
            if sys.stdin.isatty():
                painter.line()
                return _readable(input("> "))
            line = sys.stdin.readline()
        except EOFError:
            painter.line()
            return None
        except KeyboardInterrupt:
            painter.line()
            painter.line("Ctrl-D or /quit leaves.", "dim")
            continue
        if not line:
            return None
        line = _readable(line)
        if line.strip():
            painter.line()
            painter.line(f"> {line.strip()}", "bold")
        return line


def _readable(text: str) -> str:
    """Replace what came in as bytes of another encoding; it could not be sent or kept."""
    return text.encode("utf-8", "replace").decode()


def _line_editing() -> None:
    """Give `input` its history and its arrow keys, where the platform has them."""
    try:
        import readline
    except ImportError:
        return
    readline.set_history_length(200)
