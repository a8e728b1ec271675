"""Which texts fit a question: words, a light stemmer and BM25. Pure, and small on purpose.

A text becomes a list of terms: lower-case stems without stop words. `max_iter` and `OfflineModel` are terms as a whole
and in their parts. Scripts that are written without spaces give one term a character.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+(?:['’][^\W\d_]{1,2}\b)?(?:[_.-][^\W_]+)*")
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W_a-zA-Z0-9]+")
_VOWEL = re.compile(r"[aeiouy]")

_STOP = """
    a about above after again all also although always am an and another any are as at be because been before being
    below between both but by can cannot could did do does doing done down during each either else ever every few for
    from further get gets give given go goes got had has have having he her here hers him his how however i if in into
    is it its itself just let like made many may me might mine more most much must my myself neither no nor
    not now of off on once one only or other our ours out over own per please rather same say says shall she should
    show since so some something such tell than that the their theirs them then there therefore these they thing things
    this those though through to too under until up upon us use used uses using very via want was way we were what
    whatever when where whether which while who whom whose why will with within without would yes yet you your yours
    explain describe happen happens happened i'm it's that's what's don't doesn't isn't
    aren't can't won't i've you're there's let's"""
STOP_WORDS = frozenset(_STOP.split())
"""Words that say nothing about what is asked for."""

_ENDINGS = (
    ("isation", "ise"), ("ization", "ise"), ("ize", "ise"), ("ational", ""), ("fulness", "ful"), ("iveness", "ive"),
    ("ability", ""), ("ibility", ""), ("able", ""), ("ible", ""), ("ement", ""), ("ment", ""), ("ation", ""),
    ("ator", ""), ("ate", ""), ("tion", "t"), ("sion", "s"), ("ingly", ""), ("ing", ""), ("edly", ""), ("ied", "y"),
    ("ed", ""), ("er", ""), ("or", ""), ("ly", ""), ("ness", ""), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"),
    ("xes", "x"), ("ies", "y"), ("ss", "ss"), ("us", "us"), ("is", "is"), ("s", ""),
)  # fmt: skip


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """Cut a lower-case English word down to the part that its forms share."""
    if len(word) > 40 or not word.isascii() or not word.isalpha():
        return word
    while (shorter := _shorter(word)) != word:
        word = shorter
    return word


def _shorter(word: str) -> str:
    """Cut off one ending, if enough is left of the word."""
    if len(word) < 4:
        return word
    for ending, instead in _ENDINGS:
        root = word[: len(word) - len(ending)]
        if word.endswith(ending) and len(root) >= 3 and _VOWEL.search(root):
            return root + instead
    if word[-1] == word[-2] and word[-1] not in "aeious":
        return word[:-1]
    return word[:-1] if word[-1] == "e" else word


def words(text: str) -> list[str]:
    """List the words of a text as they are written, in order."""
    return _WORD.findall(text)


def key_words(text: str) -> list[str]:
    """List the words that carry the meaning of a question, once each, as they are written."""
    found: dict[str, str] = {}
    for word in words(text):
        if word.lower().replace("’", "'") not in STOP_WORDS:
            found.setdefault(word.lower(), word)
    return list(found.values())


def terms(text: str) -> list[str]:
    """List the stems of a text without stop words; compound words count as a whole and in their parts."""
    found: list[str] = []
    for word in words(text):
        lower = word.lower().replace("’", "'")
        if lower in STOP_WORDS:
            continue
        found.append(stem(lower.split("'")[0]))
        parts = _PARTS.findall(re.split("['’]", word)[0])
        if len(parts) > 1:
            found.extend(stem(part.lower()) for part in parts if part.lower() not in STOP_WORDS)
    return found


class Ranking:
    """BM25 over texts, each given as its terms; `by_length` is how much more a long one must have, from 0 to 1."""

    def __init__(self, documents: Sequence[Sequence[str]], by_length: float = 0.6) -> None:
        self._by_length = by_length
        self._counts = [Counter(one) for one in documents]
        self._lengths = [len(one) for one in documents]
        self._mean = sum(self._lengths) / len(documents) if documents else 1.0
        self._holders: dict[str, list[int]] = {}
        for number, counts in enumerate(self._counts):
            for term in counts:
                self._holders.setdefault(term, []).append(number)

    def weight(self, term: str) -> float:
        """Say how much a term tells: the rarer, the more."""
        found = len(self._holders.get(term, ()))
        return math.log(1 + (len(self._counts) - found + 0.5) / (found + 0.5))

    def score(self, number: int, query: Sequence[str]) -> float:
        """Score one text against the terms of a question; 0 if they share nothing."""
        counts, k1, b = self._counts[number], 1.2, self._by_length
        norm = k1 * (1 - b + b * self._lengths[number] / (self._mean or 1.0))
        return sum(
            self.weight(term) * counts[term] * (k1 + 1) / (counts[term] + norm)
            for term in dict.fromkeys(query)
            if term in counts
        )

    def coverage(self, number: int, query: Sequence[str]) -> float:
        """Say which share of a question's terms a text has, from 0 to 1, rare terms counting more."""
        whole = sum(self.weight(term) for term in dict.fromkeys(query))
        if not whole:
            return 0.0
        return sum(self.weight(term) for term in dict.fromkeys(query) if term in self._counts[number]) / whole

    def best(self, query: Sequence[str], limit: int) -> list[tuple[int, float]]:
        """List the numbers and scores of the best texts, best first, equal scores in their order."""
        holders = {number for term in query for number in self._holders.get(term, ())}
        scored = [(number, self.score(number, query)) for number in holders]
        return sorted(scored, key=lambda one: (-one[1], one[0]))[:limit]
