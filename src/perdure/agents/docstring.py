"""Docstrings, read for a model: what a function does, and what each argument means.

Google, numpy and sphinx styles are understood, also mixed. Sections about arguments are taken apart; those about
results and errors are left out, because a model sees the results; everything else is the description.
"""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

_ARGUMENTS = {"args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters"}
_LEFT_OUT = {"returns", "return", "yields", "yield", "raises", "raise"}
_SECTION = re.compile(r"(?P<indent>\s*)(?P<title>[A-Za-z][A-Za-z ]*):\s*\Z")
_RULE = re.compile(r"\s*-{3,}\s*\Z")
_GOOGLE = re.compile(r"\s*\*{0,2}(?P<name>\w+)\s*(?:\((?:[^()]|\([^()]*\))*\))?\s*:(?:\s+(?P<text>.*)|\s*)\Z")
_NUMPY = re.compile(r"\s*(?P<names>\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?\Z")
_SPHINX = re.compile(r"\s*:(?P<field>\w+)(?:\s+(?P<about>[^:]*?))?:(?:\s+(?P<text>.*)|\s*)\Z")
_SPHINX_ARGUMENTS = {"param", "parameter", "arg", "argument", "key", "keyword"}
_SPHINX_LEFT_OUT = {"type", "return", "returns", "rtype", "raises", "raise", "except", "exception", "yields", "yield"}


class Docstring(NamedTuple):
    """What a docstring says: the description, and a text per argument."""

    description: str
    arguments: dict[str, str]


def read_docstring(text: str | None) -> Docstring:
    """Take a docstring apart."""
    if not text:
        return Docstring("", {})
    lines = inspect.cleandoc(text).splitlines()
    kept: list[str] = []
    found: dict[str, list[str]] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        underlined = at + 1 < len(lines) and bool(line.strip()) and bool(_RULE.match(lines[at + 1]))
        title = line.strip().lower()
        if underlined and title in _ARGUMENTS | _LEFT_OUT:
            end = _end_of_numpy(lines, at + 2)
            if title in _ARGUMENTS:
                _read_entries(lines[at + 2 : end], _NUMPY, found)
            at = end
            continue
        section = _SECTION.match(line)
        if section and section["title"].strip().lower() in _ARGUMENTS | _LEFT_OUT:
            end = _end_of_block(lines, at + 1, len(section["indent"]))
            if section["title"].strip().lower() in _ARGUMENTS:
                _read_entries(lines[at + 1 : end], _GOOGLE, found)
            at = end
            continue
        field = _SPHINX.match(line)
        if field and field["field"] in _SPHINX_ARGUMENTS | _SPHINX_LEFT_OUT:
            end = _end_of_block(lines, at + 1, _indent(line))
            about = (field["about"] or "").split()
            if about and field["field"] in _SPHINX_ARGUMENTS:
                # `:param int days: …` has the type before the name
                found[about[-1].lstrip("*")] = [field["text"] or "", *lines[at + 1 : end]]
            at = end
            continue
        kept.append(line)
        at += 1
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    arguments = {name: " ".join(" ".join(parts).split()) for name, parts in found.items()}
    return Docstring(description, {name: said for name, said in arguments.items() if said})


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _end_of_block(lines: list[str], start: int, indent: int) -> int:
    """Find the first line after `start` that is neither blank nor indented more than the block's head."""
    end = start
    for at in range(start, len(lines)):
        if lines[at].strip():
            if _indent(lines[at]) <= indent:
                break
            end = at + 1
    return end


def _end_of_numpy(lines: list[str], start: int) -> int:
    """Find the next underlined title."""
    for at in range(start, len(lines) - 1):
        if lines[at].strip() and _RULE.match(lines[at + 1]):
            return at
    return len(lines)


def _read_entries(lines: list[str], entry: re.Pattern[str], found: dict[str, list[str]]) -> None:
    """Collect `name: text` entries; lines that are indented more than the first entry continue the last one."""
    base: int | None = None
    current: list[list[str]] = []
    for line in lines:
        if not line.strip():
            continue
        base = _indent(line) if base is None else base
        head = entry.match(line) if _indent(line) <= base else None
        if head is None:
            for parts in current:
                parts.append(line)
            continue
        groups = head.groupdict()
        names = groups.get("names") or groups["name"]
        current = [found.setdefault(name.strip().lstrip("*"), []) for name in names.split(",")]
        if groups.get("text"):
            current[0].append(groups["text"])
