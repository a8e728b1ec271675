"""A library: the text files below a folder, cut into passages that can be searched and cited.

It is read once, when it is opened. Hidden, generated and dependency folders are skipped, and so are binary files, files
that are too large and links that lead out of the folder. Every passage knows its file and its lines.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perdure.models.ranking import Ranking, terms
from perdure.types.errors import ConfigurationError

MAX_FILES = 5_000
MAX_FILE_BYTES = 1_000_000
MAX_TOTAL_BYTES = 16_000_000
MAX_DEPTH = 10
MAX_LINES_READ = 200
_PASSAGE_LINES, _PASSAGE_CHARS = 16, 900
_LINE_CHARS = 2_000

_SUFFIXES = """
    .adoc .asciidoc .bat .bib .c .cc .cfg .clj .conf .cpp .cs .css .csv .dart .ex .exs .fs .go .gradle .graphql .h .hpp
    .hs .html .ini .java .jl .js .jsx .kt .lua .m .markdown .md .mdx .mjs .ml .nix .org .php .pl .properties .proto .ps1
    .py .pyi .r .rb .rs .rst .scala .sh .sql .swift .tcl .tex .tf .toml .ts .tsx .txt .vue .yaml .yml .zig"""
SUFFIXES = frozenset(_SUFFIXES.split())
_NAMES = frozenset({"changelog", "dockerfile", "makefile", "readme", "todo"})
_SKIPPED_FOLDERS = "__pycache__ bower_components build dist env htmlcov node_modules site-packages target vendor venv"
_SKIPPED = frozenset(_SKIPPED_FOLDERS.split())
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")


class LibraryError(ConfigurationError):
    """There is nothing to read, or it cannot be read."""


@dataclass(frozen=True, slots=True)
class Passage:
    """Consecutive lines of a file, as they are written; lines count from 1, `end` is the last one."""

    path: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not read, counted by reason, such as `{"cannot be read": 1}`; `last` is an example."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    last: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, why: str, path: str) -> None:
        self.counts[why] = self.counts.get(why, 0) + 1
        self.last[why] = path


class Library:
    """Text files that can be searched.

    Args:
        root: the folder that paths are relative to.
        files: the lines of each file, by its path.
        skipped: what was left out, and why.
        name: what to call it; the root's name unless given.
    """

    def __init__(self, root: Path, files: dict[str, list[str]], skipped: Skipped, name: str = "") -> None:
        self.root = root
        self.name = name or root.name or str(root)
        self.files = files
        self.skipped = skipped
        self._passages: list[Passage] = []
        indexed: list[list[str]] = []
        for path, lines in files.items():
            for passage, heading in _passages(path, lines):
                self._passages.append(passage)
                indexed.append([*terms(passage.text), *terms(heading), *terms(path)])
        self._ranking = Ranking(indexed)

    @classmethod
    def open(cls, path: Path, *, name: str = "", only: Sequence[str] = ()) -> Library:
        """Read a file, or the text files below a folder.

        Args:
            path: the file or folder.
            name: what to call it; the path's own name unless given.
            only: names inside the folder, if not all of it is wanted.

        Raises:
            LibraryError: the path does not exist, cannot be read, or holds no text.
        """
        try:
            root = path.resolve(strict=True)
            mode = root.stat().st_mode
        except FileNotFoundError:
            raise LibraryError(f"There is no file or folder {str(path)!r}. Give a path that exists.") from None
        except (OSError, RuntimeError) as error:
            raise LibraryError(f"Cannot open {str(path)!r}: {_why(error)}.") from None
        skipped = Skipped()
        if stat.S_ISREG(mode):
            lines = _read(root, root.name, skipped)
            if lines is None:
                reason = next(iter(skipped.counts))
                raise LibraryError(f"{str(path)!r} {reason}. Give a text file or a folder of text files.")
            return cls(root.parent, {root.name: lines}, skipped)
        if not stat.S_ISDIR(mode):
            raise LibraryError(f"{str(path)!r} is neither a file nor a folder.")
        files: dict[str, list[str]] = {}
        total = 0
        for found, relative in _walk(root, only, skipped):
            if len(files) >= MAX_FILES or total >= MAX_TOTAL_BYTES:
                skipped.add("is beyond the limit of what is read", relative)
                continue
            lines = _read(found, relative, skipped)
            if lines:
                files[relative] = lines
                total += sum(map(len, lines))
        if not files:
            unreadable = [f"{path} {why}" for why, path in skipped.last.items()]
            because = f" ({'; '.join(unreadable)})" if unreadable else ""
            raise LibraryError(f"There are no text files below {str(path)!r}{because}. Give another folder or a file.")
        return cls(root, files, skipped, name)

    def search(self, query: str, limit: int = 6) -> list[Passage]:
        """Find the passages that fit a question best, best first, at most three of one file."""
        found: list[Passage] = []
        for number, _ in self._ranking.best(terms(query), 10 * limit):
            passage = self._passages[number]
            if sum(one.path == passage.path for one in found) < 3 or len(self.files) == 1:
                found.append(passage)
            if len(found) == limit:
                break
        return found

    def lines(self, path: str, start: int, end: int) -> Passage:
        """Read lines of a file of the library.

        Raises:
            KeyError: no such file is in the library; whatever else the path may name is not read.
            IndexError: the file has no such lines.
        """
        lines = self.files[path.removeprefix("./").replace("\\", "/")]
        start = max(1, start)
        if start > len(lines) or end < start:
            raise IndexError(len(lines))
        end = min(end, len(lines), start + MAX_LINES_READ - 1)
        return Passage(path, start, end, "\n".join(lines[start - 1 : end]))


def _walk(root: Path, only: Sequence[str], skipped: Skipped) -> Iterator[tuple[Path, str]]:
    """Find the files to read in a fixed order; names are relative, with slashes."""
    if only:
        for name in only:
            if (root / name).is_file():
                yield root / name, name
            elif (root / name).is_dir():
                yield from _folder(root / name, root, skipped, 1)
        return
    yield from _folder(root, root, skipped, 0)


def _folder(folder: Path, root: Path, skipped: Skipped, depth: int) -> Iterator[tuple[Path, str]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda one: (not one.name.lower().startswith("readme"), one.name))
    except OSError as error:
        skipped.add(f"cannot be read ({_why(error)})", folder.relative_to(root).as_posix())
        return
    folders: list[Path] = []
    for entry in found:
        name = (folder / entry.name).relative_to(root).as_posix()
        if entry.name.startswith("."):
            continue
        if not _is_unicode(name):
            skipped.add("has a name that is not UTF-8", name.encode("utf-8", "replace").decode())
            continue
        if entry.is_symlink() and not _inside(folder / entry.name, root):
            skipped.add("leads out of the folder", name)
        elif entry.is_dir(follow_symlinks=False):
            if entry.name.lower() not in _SKIPPED and not (folder / entry.name / "pyvenv.cfg").exists():
                folders.append(folder / entry.name)
        elif entry.is_file() and _is_text_name(entry.name):
            yield folder / entry.name, name
    for one in folders:
        if depth + 1 > MAX_DEPTH:
            skipped.add("lies too deep", one.relative_to(root).as_posix())
        else:
            yield from _folder(one, root, skipped, depth + 1)


def _is_unicode(name: str) -> bool:
    """Tell a name that can be shown and kept from one of bytes in another encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _is_text_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES or name.lower() in _NAMES


def _read(path: Path, name: str, skipped: Skipped) -> list[str] | None:
    """Read the lines of a text file; None, and the reason, if it is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            skipped.add(f"is larger than {MAX_FILE_BYTES // 1_000_000} MB", name)
            return None
        data = path.read_bytes()
    except OSError as error:
        skipped.add(f"cannot be read ({_why(error)})", name)
        return None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = data.decode("utf-16", errors="replace")
    elif b"\0" in data:
        skipped.add("is a binary file", name)
        return None
    else:
        text = data.decode("utf-8-sig", errors="replace")
        if text.count("\ufffd") > len(text) // 10:
            skipped.add("is a binary file", name)
            return None
    # Only line feeds end a line, so that numbers agree with editors and grep.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if not text.strip():
        skipped.add("is empty", name)
        return None
    return lines


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).lower()


def _passages(path: str, lines: list[str]) -> Iterator[tuple[Passage, str]]:
    """Cut a file at headings and blank lines into passages of moderate size, each with the headings above it."""
    trail: list[tuple[int, str]] = []
    begin, size, fenced = 0, 0, False

    def passage(stop: int) -> Iterator[tuple[Passage, str]]:
        first, last = begin, stop
        while first < last and not lines[first].strip():
            first += 1
        while last > first and not lines[last - 1].strip():
            last -= 1
        if first < last:
            text = "\n".join(line[:_LINE_CHARS] for line in lines[first:last])
            yield Passage(path, first + 1, last, text), " ".join(title for _, title in trail)

    markdown = path.lower().endswith((".md", ".markdown", ".mdx"))
    for number, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading = _HEADING.match(line) if markdown and not fenced else None
        long = number - begin >= _PASSAGE_LINES or size >= _PASSAGE_CHARS
        if heading or (long and not fenced and not line.strip()) or (long and size >= 3 * _PASSAGE_CHARS):
            yield from passage(number)
            begin, size = number, 0
        if heading:
            level = len(line) - len(line.lstrip("#"))
            trail = [*(one for one in trail if one[0] < level), (level, heading[1])]
        size += len(line)
    yield from passage(len(lines))
