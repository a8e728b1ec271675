"""What a run looks like: wrapped and coloured in a terminal, plain in a pipe, readable in any encoding."""

import io
import re
from typing import Any

import pytest

from perdure.cli.paint import CITATION, Painter, shorten, shown_call, shown_result
from perdure.types.events import AgentStarted, MessageFinished, MessageReset, TextDelta, ToolFinished, ToolStarted
from perdure.types.usage import Usage


class Screen(io.TextIOWrapper):
    """A place to write to, with an encoding and perhaps a terminal."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, newline="")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def shown(self) -> str:
        self.flush()
        data: Any = self.buffer
        return data.getvalue().decode(self.encoding)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "30")
    return Screen(terminal=True)


def turn(painter: Painter) -> None:
    painter.event(AgentStarted(agent="Librarian"))
    painter.event(ToolStarted(tool="search_files", call_id="1", args={"query": "bow line"}, agent="Librarian"))
    hits = [{"path": "a.md", "start": 3, "end": 4, "text": "…"}, {"path": "b.md", "start": 9, "end": 9, "text": ""}]
    painter.event(ToolFinished(tool="search_files", call_id="1", result={"data": hits}, agent="Librarian"))
    painter.event(AgentStarted(agent="Answerer"))
    for piece in (
        "- Tie the ",
        "bow",
        " line ",
        "first. (a.md:3)\n",
        "- Then the stern line; a spring ",
        "line too (b.md:9)",
    ):
        painter.event(TextDelta(text=piece, agent="Answerer"))
    painter.event(MessageFinished(message_id="m"))
    painter.figures(["Librarian", "Answerer"], Usage(10, 1200, model_calls=2, tool_calls=1), 0.25)


def test_in_a_pipe_it_is_plain_and_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    turn(Painter(screen))
    assert screen.shown() == (
        "\nLibrarian\n"
        '  → search_files(query="bow line")\n'
        "  ← 2 passages: a.md:3-4, b.md:9\n"
        "\nAnswerer\n"
        "- Tie the bow line first. (a.md:3)\n"
        "- Then the stern line; a spring line too (b.md:9)\n"
        "\n2 agents (Librarian, Answerer) · 2 model calls · 1 tool call · 1,210 tokens · 0.25 s\n"
    )


def test_in_a_terminal_words_wrap_items_hang_and_citations_are_coloured(terminal: Screen) -> None:
    turn(Painter(terminal))
    shown = terminal.shown()
    assert "\x1b[36m(a.md:3)\x1b[0m" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line) <= 30 for line in plain.splitlines())
    assert "- Then the stern line; a\n  spring line too (b.md:9)\n" in plain.replace(" \n", "\n")


def test_no_color_is_respected(terminal: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    turn(Painter(terminal))
    assert "\x1b[3" not in terminal.shown()


def test_a_plain_encoding_gets_plain_characters() -> None:
    screen = Screen("ascii")
    painter = Painter(screen)
    turn(painter)
    painter.line("Grüße")
    shown = screen.shown()
    assert '> search_files(query="bow line")' in shown
    assert "2 model calls | 1 tool call" in shown
    assert "Gr??e" in shown


def test_text_is_shown_as_it_comes() -> None:
    screen = Screen()
    painter = Painter(screen)
    painter.event(TextDelta(text="One two thr", agent="A"))
    assert screen.shown() == "One two"
    painter.event(TextDelta(text="ee ", agent="A"))
    assert screen.shown() == "One two three"


def test_markup_and_control_characters_are_not_obeyed(terminal: Screen) -> None:
    painter = Painter(terminal)
    painter.line("[red]x[/red] :smile: \x1b]0;title\x07 \x9b2J \u202etxt")
    shown = terminal.shown()
    assert "[red]x[/red] :smile:" in shown
    assert not {"\x1b]", "\x07", "\x9b", "\u202e"} & {shown[n : n + size] for n in range(len(shown)) for size in (1, 2)}


def test_a_restart_is_said() -> None:
    screen = Screen()
    painter = Painter(screen)
    painter.event(TextDelta(text="Half a sen", agent="A"))
    painter.event(MessageReset(message_id="m", reason="the connection broke"))
    assert screen.shown() == "Half a sen\n  (starts again: the connection broke)\n"


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"data": []}, "nothing found"),
        ({"data": [1, 2]}, "2 items"),
        ({"data": "text"}, '"text"'),
        ({"data": {"path": "a.md", "start": 1, "end": 3}}, "a.md:1-3"),
        ({"error": {"name": "OSError", "message": "no disk"}}, "no disk"),
        ({"error": "no disk"}, "no disk"),
    ],
)
def test_results_are_short(result: Any, shown: str) -> None:
    assert shown_result(result) == shown


def test_calls_are_short() -> None:
    assert shown_call("f", {"a": "x" * 100, "b": [1]}) == f'f(a="{"x" * 58}…, b=[1])'
    assert shown_call("f", "not json") == "f(not json)"


def test_shortening_counts_columns() -> None:
    assert shorten("one\n  two", 20) == "one two"
    assert shorten("日本語日本語", 7) == "日本語…"


def test_citations_are_recognised() -> None:
    text = "See (docs/a-b.md:12), README:3 and `x.py:4-9`. At 10:30 it ends."
    assert [one[0] for one in CITATION.finditer(text)][:3] == ["docs/a-b.md:12", "README:3", "x.py:4-9"]
