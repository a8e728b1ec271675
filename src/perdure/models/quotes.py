"""Sentences out of tool results, each with the place it is from. Pure.

A tool may return anything: text, `path:line: text` as grep writes it, hits with a path, a line and a text, records,
numbers. Whatever it is becomes quotes: one sentence, table row or line of code each. Wrapped lines of Markdown are
joined; a heading, or the definition above a docstring, is kept beside its sentences: it says what they are about.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from perdure.types.base import Json, decode_json

PATH_KEYS = ("path", "file", "filename", "file_path", "source", "url", "uri", "document", "title", "id")
LINE_KEYS = ("line", "start", "start_line", "line_number", "lineno", "lines")
TEXT_KEYS = ("text", "content", "snippet", "passage", "excerpt", "body", "quote", "summary", "answer", "result")
MAX_ROW = 2_000
"""A longer line is a text of its own."""

_LOCATED = re.compile(
    r"(?P<path>[\w./\\@-]{0,200}[\w-]\.[A-Za-z]\w{0,15}):(?P<line>\d+)(?:-\d+)?(?::|\s|$)\s*(?P<rest>.*)"
)
_HEADING = re.compile(r"\s*(?:#{1,6}\s+(?P<mark>.*?)\s*#*|(?:async\s+)?(?:def|class)\s+(?P<name>\w+).*)$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+")
_RULE = re.compile(r"[\s|:=~^*_#+.-]*$")
_QUOTES = re.compile(r'"""|\'\'\'')
_LINK = re.compile(r"!?\[([^\]\[]*)\]\([^()\s]*\)")
_PROSE_FILE = re.compile(r"(?:^[^.]*|\.(?:md|markdown|mdx|rst|txt|adoc|asciidoc|org|tex|html|csv))$", re.IGNORECASE)
_COMMENT = re.compile(r"\s*(?:#+!?|//+|/?\*+/?|--|;;?)\s+")
_STATEMENT = re.compile(
    r"\s*(?:if|elif|else|for|while|with|return|raise|yield|assert|import|from|def|class|async|await|try|except|finally|"
    r"const|let|var|func|fn|pub|public|private|static|export)\b(?:.*[:({\[,;]$|.*\w[(\[]|.*\w\.\w|.*[!=<>]=|\s*\S*[^.\s]$)"
    r"|.*(?:[=!<>+-]=|\s=\s|->|=>|\)\s*[:{]|[;{\[(]\s*$|^\s*[\])}]|\w\(\w*\)|\w\.\w+\(|\w\[)"
)
_CODE = re.compile(
    r"\s*(?:(?:async\s+)?(?:def|class|with|for|while|if|elif|else|try|except|import|return|raise|assert|await)\b.*[:)\w]$"
    r"|from\s+\S+\s+import\b|@\w|[)\]}]|[$>]\s"
    r"|[\w.\[\]]+(?::\s*[\w.\[\]\"', |]+)?\s*(?:[:=]=?|->)\s*\S.*[^.!?]$|.*[({\[,;=\\]$)"
)
_END = re.compile(r"(?<=[.!?])[)\"'”’*_`]*\s+(?=[\"'“(*_\[]*(?:`|[A-Z0-9\u00c0-\uffff]))|(?<=[。！？])")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|St|No|Fig|approx)|\b[A-Z])\.$")


class Quote(NamedTuple):
    """One sentence of a tool result.

    `about` is text that belongs to the sentence without being shown: its heading, or a record's tool and arguments.
    `weak` is a line of code, or a pointer to another page: better than nothing.
    """

    text: str
    source: str = ""
    about: str = ""
    weak: bool = False


def quotes(content: Json, about: str = "") -> list[Quote]:
    """List the quotes in what a tool returned; `about` is what it was asked."""
    return list(_walk(content, "", None, about, 0))


def _walk(value: Json, path: str, line: int | None, about: str, depth: int) -> Iterator[Quote]:
    if depth > 20 or value is None:
        return
    if isinstance(value, dict):
        path, line = _place(value, path, line)
        texts = [key for key in TEXT_KEYS if isinstance(value.get(key), str)]
        inner: list[Any] = [one for one in value.values() if isinstance(one, (dict, list))]
        if texts:
            for key in texts:
                yield from _walk(value[key], path, line, about, depth + 1)
        elif inner:
            for one in inner:
                yield from _walk(one, path, line, about, depth + 1)
        elif value:
            shown = ", ".join(f"{key}: {_scalar(one)}" for key, one in value.items())
            yield Quote(shown, _source(path, line), about)
    elif isinstance(value, list):
        for one in value:
            yield from _walk(one, path, line, about, depth + 1)
    elif isinstance(value, str):
        nested = _nested(value)
        if nested is not None:
            yield from _walk(nested, path, line, about, depth + 1)
        elif len(value) < 60 and "\n" not in value.strip() and not path and not _LOCATED.match(value):
            yield Quote(value.strip(), "", about)
        else:
            yield from _located(value, path, line)
    else:
        yield Quote(_scalar(value), _source(path, line), about)


def _scalar(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _nested(value: str) -> Json:
    """Read text that is itself a JSON object or list, as some tools return it."""
    if value[:1] not in ("{", "["):
        return None
    try:
        return decode_json(value)
    except ValueError:
        return None


def _place(value: dict[str, Any], path: str, line: int | None) -> tuple[str, int | None]:
    """Read where a hit is from, if it says so."""
    path = next((value[key] for key in PATH_KEYS if isinstance(value.get(key), str) and value[key]), path)
    for key in LINE_KEYS:
        number: Any = value.get(key)
        if isinstance(number, list) and number:
            number = cast("list[Any]", number)[0]
        if isinstance(number, str) and (digits := re.match(r"\d+", number)):
            number = int(digits[0])
        if isinstance(number, int) and not isinstance(number, bool):
            return path, number
    return path, line


def _source(path: str, line: int | None) -> str:
    return f"{path}:{line}" if path and line is not None else path


def _located(text: str, path: str, line: int | None) -> Iterator[Quote]:
    """Split text into pieces where lines begin with a place of their own, then into sentences."""
    piece: list[str] = []
    for row in text.splitlines():
        match = _LOCATED.match(row) if len(row) <= MAX_ROW else None
        if match is None or "//" in match["path"]:
            piece.append(row)
            continue
        yield from _sentences(piece, path, line)
        path, line = match["path"].strip(), int(match["line"])
        piece = [match["rest"]] if match["rest"] else []
    yield from _sentences(piece, path, line)


def _sentences(rows: list[str], path: str, line: int | None) -> Iterator[Quote]:
    """Split rows into sentences; rows are consecutive lines of a file if a first line is known."""
    hidden = False  # in a comment of Markdown
    heading, fenced, program = "", False, not _PROSE_FILE.search(path.rsplit("/", 1)[-1])
    paragraph: list[tuple[int, str]] = []

    def at(number: int) -> str:
        return _source(path, None if line is None else line + number)

    def end() -> Iterator[Quote]:
        for number, sentence in _split(paragraph):
            yield Quote(_LINK.sub(r"\1", sentence), at(number), heading, weak=bool(_LINK.match(sentence)))
        paragraph.clear()

    for number, raw in enumerate(rows):
        row = _QUOTES.sub(" ", raw)
        if _QUOTES.match(raw.lstrip()):
            yield from end()
        if hidden or row.lstrip().startswith("<!--"):
            yield from end()
            hidden = "-->" not in row
        elif row.lstrip().startswith(("```", "~~~")):
            yield from end()
            fenced = not fenced
        elif len(row) > MAX_ROW:
            yield from end()
            paragraph.append((number, row.strip()))
            yield from end()
        elif not row.strip() or _RULE.match(row):
            if paragraph and number and re.match(r"[=~^*-]{3,}\s*$", row) and paragraph[-1][0] == number - 1:
                heading = paragraph.pop()[1].strip()
            yield from end()
        elif not fenced and (match := _HEADING.match(row)) and (match["name"] or not program):
            yield from end()
            heading = match["mark"] or match["name"]
            if match["name"]:
                yield Quote(row.strip(), at(number), heading, weak=True)
        elif fenced or _is_code(row, program, bool(paragraph)):
            yield from end()
            if any(char.isalnum() for char in row):
                yield Quote(row.strip(), at(number), heading, weak=True)
        elif row.lstrip().startswith("|"):
            yield from end()
            if number + 1 < len(rows) and rows[number + 1].strip() and _RULE.match(rows[number + 1]):
                continue  # the head of the table
            cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
            shown = _LINK.sub(r"\1", " — ".join(cell for cell in cells if cell))
            yield Quote(shown, at(number), heading, weak=bool(_LINK.match(cells[0])))
        else:
            if program and (comment := _COMMENT.match(row)):
                row = row[comment.end() :]
            if item := _ITEM.match(row):
                yield from end()
                row = row[item.end() :]
            paragraph.append((number, row.strip().removeprefix("> ")))
            if _QUOTES.search(raw.lstrip()[3:]):
                yield from end()
    yield from end()


def _is_code(row: str, program: bool, in_prose: bool) -> bool:
    """Tell a line of a program from a line of a text, or of a comment or docstring in a program."""
    if program:
        return not _COMMENT.match(row) and bool(_STATEMENT.match(row) or (not in_prose and _CODE.match(row)))
    return not in_prose and bool(_CODE.match(row))


def _split(paragraph: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Split a paragraph of numbered rows into sentences, each with the number of the row in which it begins."""
    text = " ".join(row for _, row in paragraph)
    starts: list[tuple[int, int]] = []
    offset = 0
    for number, row in paragraph:
        starts.append((offset, number))
        offset += len(row) + 1
    begin = 0
    for match in [*_END.finditer(text), None]:
        stop = match.end() if match else len(text)
        sentence = text[begin:stop].strip()
        if match and _ABBREVIATED.search(text[begin : match.start()].rstrip()):
            continue
        if any(char.isalnum() for char in sentence):
            yield starts[bisect_right(starts, begin, key=lambda one: one[0]) - 1][1], sentence
        begin = stop
