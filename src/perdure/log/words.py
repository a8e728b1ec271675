"""Pure: what is searched for, how words compare, and the piece of a text that is shown with what was found.

A word is a run of letters and digits; case and accents do not count. There is no syntax that could be wrong: words,
and phrases in double quotes, of which the last one need not be closed; everything else separates them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

MOST_WORDS = 32
"""How many words of a query are looked for; those behind them are not."""
SHOWN = 160
"""About how many characters of a text are shown."""

_BEFORE = 40
_LONGEST = 64
_PREFIX = 3
_WORD = re.compile(r"[^\W_]+")
_ITEM = re.compile(r'"([^"]*)"?|([^\s"]+)')


class Term(NamedTuple):
    """Words that must stand one behind the other; the last one may go on, if `begins`."""

    words: tuple[str, ...]
    begins: bool


class Snippet(NamedTuple):
    """A piece of a text on one line, and where in it stands what was found."""

    text: str
    marks: tuple[tuple[int, int], ...]


def read_query(text: str) -> list[Term]:
    """Read what somebody typed; a word of three letters or more also finds longer ones that begin with it."""
    terms: list[Term] = []
    room = MOST_WORDS
    for quoted, bare in _ITEM.findall(clean(text)):
        words = tuple(word[:_LONGEST] for word in _WORD.findall(quoted or bare))[:room]
        room -= len(words)
        if words:
            terms.append(Term(words, not quoted and len(words[-1]) >= _PREFIX))
    return list(dict.fromkeys(terms))


def clean(text: str) -> str:
    """Bring a text into the form in which it is indexed: composed, and without what no database takes."""
    sound = text.encode("utf-8", "replace").decode().replace("\0", " ")
    return unicodedata.normalize("NFC", sound)


def fold(word: str) -> str:
    """Bring a word into the form in which it is compared."""
    if word.isascii():
        return word.lower()
    apart = unicodedata.normalize("NFKD", word.casefold())
    return "".join(one for one in apart if one.isalnum())


def folded(text: str) -> str:
    """All words of a text, folded, with spaces between them; words that nobody would look for are cut."""
    return " ".join(fold(word)[:_LONGEST] for word in _WORD.findall(text))


def snippet(text: str, terms: list[Term]) -> Snippet:
    """Choose the piece of a text in which most of what was looked for stands, the first one of those."""
    found = sorted(_found(text, terms))
    best, start = 0, 0
    for n, (first, _, _) in enumerate(found):
        near = {which for at, _, which in found[n:] if at < first + SHOWN - _BEFORE}
        if len(near) > best:
            best, start = len(near), first
    low = _boundary(text, min(max(0, start - _BEFORE), max(0, len(text) - SHOWN)), start)
    high = min(len(text), low + SHOWN)
    if high < len(text):
        high = text.rfind(" ", start + 1, high) if " " in text[start + 1 : high] else high
    high = max(high, next((end for at, end, _ in found if at == start), 0))
    shown, marks = "…" if low else "", list[tuple[int, int]]()
    at = low
    inside = [(first, end) for first, end, _ in found if low <= first and end <= high]
    for first, end in _merged(inside):
        shown += _line(text[at:first])
        marks.append((len(shown), len(shown) + end - first))
        shown += text[first:end]
        at = end
    rest = _line(text[at:high])
    return Snippet(shown + (rest.rstrip() + "…" if high < len(text) else rest), tuple(marks))


def _found(text: str, terms: list[Term]) -> Iterator[tuple[int, int, int]]:
    """Where terms stand in a text: first character, the one behind the last, and which term it is."""
    spans = [(one.start(), one.end(), fold(one[0])) for one in _WORD.finditer(text)]
    wanted = [([fold(word) for word in one.words], one.begins) for one in terms]
    for place, (first, _, word) in enumerate(spans):
        for which, (words, begins) in enumerate(wanted):
            last = place + len(words) - 1
            if last >= len(spans) or (len(words) > 1 and word != words[0]):
                continue
            if any(spans[place + n][2] != words[n] for n in range(len(words) - 1)):
                continue
            end = spans[last][2]
            if end == words[-1] or (begins and end.startswith(words[-1])):
                yield first, spans[last][1], which


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    whole: list[tuple[int, int]] = []
    for first, end in sorted(spans):
        if whole and first < whole[-1][1]:
            whole[-1] = (whole[-1][0], max(end, whole[-1][1]))
        else:
            whole.append((first, end))
    return whole


def _boundary(text: str, low: int, start: int) -> int:
    """The first beginning of a word from a place on; a text without spaces is cut where it is."""
    if low == 0:
        return 0
    space = text.find(" ", low, start)
    return low if space < 0 else space + 1


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
