"""Which tool looks things up, judged by its name, description and parameters. Pure."""

from __future__ import annotations

import re
from typing import Any

from perdure.models.fill import QUERY_NAMES
from perdure.models.model import ToolSpec
from perdure.models.ranking import terms

_SEARCH = "search find lookup look query recall retrieve grep ask"
_READ = "get fetch list read show load check describe"
_CHANGE = """
    add book buy cancel change clear create delete drop edit forget move order pay post publish put refund remove
    rename replace reset run schedule send set store transfer update upload write"""
SEARCH_VERBS, READ_VERBS, CHANGE_VERBS = (frozenset(one.split()) for one in (_SEARCH, _READ, _CHANGE))


def searches(tool: ToolSpec) -> bool:
    """Tell whether a tool has a parameter that takes words to search for."""
    properties: dict[str, dict[str, Any]] = tool.parameters.get("properties", {})
    return any(
        key.lower() in QUERY_NAMES and one.get("type", "string") in ("string", "array")
        for key, one in properties.items()
    )


def lookup_score(tool: ToolSpec, question: str) -> float:
    """Say how much a tool looks like one that looks up what is asked; 0 or less means that it does not.

    A tool whose name begins with a verb of change is never one. Else a tool that searches, by its name or its
    description and a parameter; else one whose name says what the question is about, such as `get_weather`.
    """
    parts = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", tool.name)]
    name = set(parts)
    asked = set(terms(question))
    shared = 0.1 * len(asked & set(terms(f"{' '.join(parts)} {tool.description}")))
    if parts and parts[0] in CHANGE_VERBS and not name & (SEARCH_VERBS | READ_VERBS):
        return -2 + min(shared, 0.9)
    if SEARCH_VERBS & name:
        return 3 + searches(tool) + shared
    if searches(tool) and SEARCH_VERBS & set(re.findall(r"[a-z]+", tool.description.lower())):
        return 2 + shared
    topic = set(terms(" ".join(name - READ_VERBS)))
    return 1 + shared if topic & asked else -1 + min(shared, 0.9)
