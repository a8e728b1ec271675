"""Which quotes answer a question: those that share its telling words, and begin with what it asks about. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from perdure.models.quotes import Quote
from perdure.models.ranking import Ranking, terms

_MAX_QUOTES = 4
_MIN_COVERAGE, _MIN_COVERAGE_OF_SEVERAL = 0.34, 0.22
_SUBJECT = re.compile(
    r"[\s*_`\"'“(]*(?:(?:An?|The)\s+)?(?P<subject>\S+(?:\s\S+){0,3}?)\W*?(?:\s(?:is|are|means?)\b|\s—|:\s)",
    re.IGNORECASE,
)
_DEFINITION = re.compile(r"\W*(?:what|who)\s+(?:is|are|was|were)\b|.*\bmeans?\b", re.IGNORECASE)


def best_quotes(question: str, found: Sequence[Quote], limit: int = _MAX_QUOTES) -> list[Quote]:
    """Choose the quotes that answer a question best, best first.

    Returns:
        Quotes that share enough of the question's telling words; none if no quote does.
    """
    query = list(dict.fromkeys(terms(question)))
    ranking = Ranking([sorted({*terms(one.text), *terms(one.about)}) for one in found], by_length=0.4)
    defined = bool(_DEFINITION.match(question))
    scored: list[tuple[float, int]] = []
    for number, one in enumerate(found):
        coverage = ranking.coverage(number, query)
        own = terms(one.text)
        shared = len(set(query) & {*own, *terms(one.about)})
        if coverage < (_MIN_COVERAGE if shared < 2 else _MIN_COVERAGE_OF_SEVERAL):
            continue
        score = ranking.score(number, query) * (0.5 + coverage)
        score *= 0.45 if one.weak or len(own) < 3 else 1.0
        score *= 0.7 if not set(own) & set(query) else 1.0  # only its heading matches
        score *= _about(one, set(query), defined)
        score *= 1.0 - 0.2 * number / len(found)  # the tools ranked it lower
        scored.append((score, number))
    scored.sort(key=lambda one: (-one[0], one[1]))
    chosen: list[Quote] = []
    for score, number in scored:
        one = found[number]
        if score < 0.55 * scored[0][0] or len(chosen) == limit:
            break
        if not any(_same(one.text, other.text) for other in chosen):
            chosen.append(one)
    return chosen


def _about(one: Quote, query: set[str], defined: bool) -> float:
    """Say how much more a sentence counts because it begins with what is asked about."""
    subject = _SUBJECT.match(one.text[:200])
    if subject is None or one.weak:
        return 1.0
    named = set(terms(subject["subject"]))
    return (2.0 if defined else 1.3) if named and named <= query else 1.0


def _same(one: str, other: str) -> bool:
    """Tell whether two sentences say the same with nearly the same words."""
    first, second = set(terms(one)), set(terms(other))
    return len(first & second) >= 0.8 * max(1, min(len(first), len(second)))
