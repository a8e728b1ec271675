"""How a run looks in a terminal: agents, tool calls, text as it comes, and a last line of figures.

Only this file knows the terminal library. In a pipe there is no colour and no wrapping; a terminal that cannot show a
character gets a plainer one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO, cast

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from perdure.types.base import encode_json
from perdure.types.events import (
    AgentStarted,
    AnyEvent,
    BudgetExceeded,
    MessageFinished,
    MessageReset,
    StepRetrying,
    TextDelta,
    ToolFinished,
    ToolStarted,
    WaitOpened,
)
from perdure.types.usage import Usage

CITATION = re.compile(r"(?P<path>[^\s:()\[\]`]+\.?[\w-]+):(?P<line>\d+)(?:-(?P<end>\d+))?")
_PLAIN = str.maketrans({"→": ">", "←": "<", "·": "|", "…": "...", "—": "-", "“": '"', "”": '"', "’": "'"})
_TOKEN = re.compile(r"(\S*)(\s)")


class Painter:
    """Writes to the terminal, or to whatever stands in its place.

    Args:
        file: where to write; the standard output unless given.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        file = file if file is not None else sys.stdout
        if (encoding := getattr(file, "reconfigure", None)) is not None:
            encoding(errors="replace")  # a strange character in a file must not end the program
        self._console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._plain = not _can_show("→←·…—“”", self._console.encoding)
        self._flow = _Flow(self)
        self._agent: str | None = None

    @property
    def width(self) -> int:
        """Columns of the terminal; in a pipe lines are as long as they are."""
        return self._console.width if self._console.is_terminal else 10_000

    def write(self, text: str, style: str = "", end: str = "") -> None:
        """Write text as it is."""
        if self._plain:
            text = text.translate(_PLAIN)
        self._console.print(Text(_safe(text), style=style), end=end, soft_wrap=True)

    def line(self, text: str = "", style: str = "") -> None:
        """Write one line or paragraph, wrapped to the terminal."""
        self._flow.end()
        for word in text.split(" "):
            self._flow.feed(word + " ", style)
        self._flow.end()
        if not text:
            self.write("", end="\n")

    def short(self, text: str, style: str = "") -> None:
        """Write a line cut to the terminal's width."""
        self._flow.end()
        self.write(shorten(text, min(self.width, 160) - 1), style, end="\n")

    def event(self, event: AnyEvent) -> None:
        """Show an event of a run, if it is for people."""
        match event:
            case AgentStarted(agent=name):
                self._agent = name
            case TextDelta(text=text, agent=agent):
                self._name(agent)
                self._flow.feed(text)
            case ToolStarted(tool=name, args=args, agent=agent):
                self._name(agent)
                self.short(f"  → {shown_call(name, args)}", "dim")
            case ToolFinished(result=result, is_error=failed):
                self.short(f"  ← {shown_result(result)}", "red" if failed else "dim")
            case MessageFinished():
                self._flow.end()
            case MessageReset(reason=reason):
                self.short(f"  (starts again: {reason})", "yellow")
            case StepRetrying(attempt=attempt, wait=wait, error=error):
                self.short(f"  (attempt {attempt} failed: {error.message}; again in {wait:.1f} s)", "yellow")
            case BudgetExceeded(detail=detail):
                self.line(f"  (stopped: {detail})", "yellow")
            case WaitOpened():
                self.line("  (waits for somebody outside)", "yellow")
            case _:
                pass

    def _name(self, agent: str | None) -> None:
        """Say which agent is at work, once for each turn that shows something."""
        if self._agent is not None:
            self._flow.end()
            self.line()
            self.line(agent or self._agent, "bold")
            self._agent = None

    def figures(self, agents: Sequence[str], usage: Usage, seconds: float) -> None:
        """Write the last line: agents run, model calls, tool calls, tokens and time."""
        self.line()
        cost = f" · ${usage.cost:.4f}" if usage.cost else ""
        self.line(
            f"{counted(len(agents), 'agent')} ({', '.join(agents)}) · {counted(usage.model_calls, 'model call')} · "
            f"{counted(usage.tool_calls, 'tool call')} · {usage.total_tokens:,} tokens{cost} · {seconds:.2f} s",
            "dim",
        )

    def end(self) -> None:
        """End the line that is being written."""
        self._flow.end()
        self._console.file.flush()


class _Flow:
    """Text that comes in pieces, wrapped at words; list items hang, citations are coloured."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._held = ""
        self._style = ""
        self._column = 0
        self._indent = 0
        self._gap = ""

    def feed(self, text: str, style: str = "") -> None:
        """Take a piece; a word is written when it is complete."""
        self._style = style
        self._held += text
        while match := _TOKEN.match(self._held):
            self._held = self._held[match.end() :]
            self._word(match[1])
            if match[2] == "\n":
                self._break()
            else:
                self._gap += " "

    def end(self) -> None:
        """Write what is left, and end the line."""
        self._word(self._held)
        self._held = ""
        self._gap = ""
        if self._column:
            self._break()

    def _break(self) -> None:
        self._painter.write("", end="\n")
        self._column, self._indent, self._gap = 0, 0, ""

    def _word(self, word: str) -> None:
        if not word:
            return
        size = cell_len(word)
        if self._column and self._column + len(self._gap) + size > self._painter.width:
            self._painter.write("", end="\n")
            self._painter.write(" " * self._indent)
            self._column = self._indent
        else:
            if not self._column:
                self._indent = len(self._gap) + (2 if word in ("-", "*", "•") else 0)
            self._painter.write(self._gap)
            self._column += len(self._gap)
        cited = not self._style and CITATION.search(word)
        self._painter.write(word, "cyan" if cited else self._style)
        self._column += size
        self._gap = ""


def shown_call(name: str, args: Any) -> str:
    """Show a tool call as `name(argument="value")`, values cut short."""
    if not isinstance(args, dict):
        return f"{name}({shorten(str(args), 60)})"
    given = cast("dict[str, Any]", args)
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in given.items())})"


def shown_result(result: Any) -> str:
    """Show in a few words what a tool returned."""
    if isinstance(result, dict) and "error" in result:
        error: Any = cast("dict[str, Any]", result)["error"]
        return str(cast("dict[str, Any]", error).get("message", error)) if isinstance(error, dict) else str(error)
    data: Any = cast("dict[str, Any]", result).get("data", result) if isinstance(result, dict) else result
    if isinstance(data, list):
        found = cast("list[Any]", data)
        places = [place for one in found if (place := _place(one))]
        if found and len(places) == len(found):
            return f"{counted(len(places), 'passage')}: {', '.join(places)}"
        return counted(len(found), "item") if found else "nothing found"
    return _place(data) or _value(data)


def _place(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    hit = cast("dict[str, Any]", value)
    if not isinstance(hit.get("path"), str) or "start" not in hit:
        return ""
    return f"{hit['path']}:{hit['start']}" + (f"-{hit['end']}" if hit.get("end", hit["start"]) != hit["start"] else "")


def _value(value: Any) -> str:
    return shorten(encode_json(value).decode(), 60)


def shorten(text: str, limit: int) -> str:
    """Put a text on one line of at most so many columns."""
    text = re.sub(r"\s*\n\s*", " ", text.rstrip())
    if cell_len(text) <= limit:
        return text
    while text and cell_len(text) > limit - 1:
        text = text[: max(0, len(text) - max(1, (cell_len(text) - limit) // 2))]
    return text + "…"


def counted(number: int, what: str) -> str:
    """Say how many there are of something."""
    return f"{number} {what}" + ("" if number == 1 else "s")


_CONTROLS = (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STEERING: dict[int, str | None] = {**dict.fromkeys(_CONTROLS), ord("\n"): "\n", ord("\t"): " "}


def _safe(text: str) -> str:
    """Take out control characters: a file or a model must not steer the terminal."""
    return text.translate(_STEERING)


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True
