"""The rules of the house that lint and import contracts cannot express.

Every rule is a function from a parsed file to its violations; each is also tried on a file that breaks it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "perdure"
MAX_LINES = 600

# Pure files: input and output are values, so they may not reach a clock, a socket, chance or the event loop.
PURE = (
    "types/assemble.py",
    "types/live.py",
    "types/project.py",
    "types/transcript.py",
    "types/upcast.py",
    "durable/tail.py",
    "agents/agent_loop.py",
    "agents/history_loop.py",
    "agents/rebuild.py",
    "agents/network_loop.py",
    "models/decoder.py",
    "models/openai_chat.py",
    "models/openai_responses.py",
    "models/anthropic.py",
    "models/gemini.py",
    "models/offline.py",
    "models/lookup.py",
    "models/fill.py",
    "models/quotes.py",
    "models/best_quotes.py",
    "models/ranking.py",
    "runtime/face.py",
    "cli/timeline.py",
)
IMPURE_MODULES = {"asyncio", "anyio", "time", "random", "secrets", "uuid", "socket", "threading"}
IMPURE_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
ROOMS = set(
    "types models db log durable agents history memory runtime server drivers client cli testing".split()  # noqa: SIM905
)
DRIVERS_MAY_IMPORT = {"drivers", "durable", "types"}


@dataclass(frozen=True)
class Source:
    """One source file, named from the package's folder."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.name)

    @property
    def room(self) -> str:
        return self.name.split("/", 1)[0] if "/" in self.name else ""

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yield line and absolute name of every import, in functions too; `from a import b` counts as a and a.b."""
        package = ["perdure", *self.name.split("/")[:-1]]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield node.lineno, module
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def too_long(source: Source) -> Iterator[str]:
    """A file that has grown too long holds more than one concept."""
    lines = source.text.count("\n")
    if lines > MAX_LINES:
        yield f"{source.name}: {lines} lines, at most {MAX_LINES}"


def no_module_docstring(source: Source) -> Iterator[str]:
    """Public modules and rooms say what they hold."""
    file = source.name.rsplit("/", 1)[-1]
    private = file.startswith("_") and file not in ("__init__.py", "__main__.py")
    if not private and not ast.get_docstring(source.tree):
        yield f"{source.name}: no module docstring"


def prints(source: Source) -> Iterator[str]:
    """Only the command line writes to the terminal."""
    if source.room == "cli":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{source.name}:{node.lineno}: print"


def impure(source: Source) -> Iterator[str]:
    """Pure files import nothing impure and ask no clock."""
    if source.name not in PURE:
        return
    for line, name in source.imports():
        if name.split(".")[0] in IMPURE_MODULES:
            yield f"{source.name}:{line}: imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            called = ".".join(ast.unparse(node.func).split(".")[-2:])
            if called in IMPURE_CALLS:
                yield f"{source.name}:{node.lineno}: calls {called}"


def imports_the_front_door(source: Source) -> Iterator[str]:
    """Rooms import from rooms: the lazy names of `perdure` would hide an arrow upward."""
    if source.room in ("", "cli"):
        return
    for line, name in source.imports():
        parts = name.split(".")
        if parts[0] == "perdure" and len(parts) == 2 and parts[1] not in ROOMS and not parts[1].startswith("_"):
            yield f"{source.name}:{line}: imports {parts[1]} from perdure"


def drivers_reach_too_far(source: Source) -> Iterator[str]:
    """Drivers know the durable room and the types, nothing else of the house."""
    if source.room != "drivers":
        return
    for line, name in source.imports():
        parts = name.split(".")
        if parts[0] == "perdure" and len(parts) > 1 and parts[1] not in DRIVERS_MAY_IMPORT:
            yield f"{source.name}:{line}: imports {name}"


RULES = [too_long, no_module_docstring, prints, impure, imports_the_front_door, drivers_reach_too_far]


def sources() -> list[Source]:
    """Every Python file of the package."""
    return [
        Source(path.relative_to(SRC).as_posix(), path.read_text(encoding="utf-8")) for path in sorted(SRC.rglob("*.py"))
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule) -> None:
    found = [violation for source in sources() for violation in rule(source)]
    assert found == []


def test_tests_are_not_too_long_either() -> None:
    tests = Path(__file__).parents[1]
    files = [path for path in tests.rglob("*.py") if "node_modules" not in path.parts]
    assert [found for path in files for found in too_long(Source(path.name, path.read_text(encoding="utf-8")))] == []


def test_every_folder_is_a_known_room() -> None:
    folders = {path.name for path in SRC.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders <= ROOMS


def test_every_room_has_an_init_file() -> None:
    folders = {path.parent for path in SRC.rglob("*.py")}
    assert sorted(str(folder.relative_to(SRC)) for folder in folders if not (folder / "__init__.py").exists()) == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (too_long, "log/log.py", "x = 1\n" * (MAX_LINES + 1)),
        (no_module_docstring, "log/__init__.py", "x = 1\n"),
        (no_module_docstring, "log/log.py", "import os\n"),
        (prints, "log/log.py", "print('x')\n"),
        (impure, "types/assemble.py", "import asyncio.queues\n"),
        (impure, "models/gemini.py", "def f():\n    from time import sleep\n"),
        (impure, "agents/agent_loop.py", "import datetime\nx = datetime.datetime.now(datetime.UTC)\n"),
        (impure, "agents/network_loop.py", "from datetime import date\nx = date.today()\n"),
        (imports_the_front_door, "agents/doors.py", "from perdure import Runtime\n"),
        (imports_the_front_door, "agents/doors.py", "from .. import Runtime\n"),
        (drivers_reach_too_far, "drivers/dbos.py", "from perdure.log.log import Log\n"),
        (drivers_reach_too_far, "drivers/dbos.py", "from ..agents import agent\n"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule, name: str, text: str) -> None:
    assert list(rule(Source(name, text)))


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (no_module_docstring, "log/_private.py", "x = 1\n"),
        (prints, "cli/main.py", "print('x')\n"),
        (impure, "agents/doors.py", "import asyncio\n"),
        (impure, "types/assemble.py", "from ..types.ids import RunId\nimport datetime\n"),
        (imports_the_front_door, "agents/doors.py", "from ..types import messages\nfrom perdure.types import ids\n"),
        (imports_the_front_door, "cli/demo.py", "from perdure import Agent\n"),
        (
            drivers_reach_too_far,
            "drivers/dbos.py",
            "from ..durable.drive import drive\nfrom perdure.types import ids\n",
        ),
    ],
)
def test_a_rule_lets_the_right_thing_pass(rule, name: str, text: str) -> None:
    assert list(rule(Source(name, text))) == []
