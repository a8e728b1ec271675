"""Every Python block of the README and of docs/ runs.

The blocks of a page run in order and share their names, as in a notebook; `await` may stand at the top level. What the
models answer and what a block prints is declared in a comment before it:

    <!-- answers: call("weather", city="Oslo"), say("Cold.")
    prints: Cold. -->

A model that is named (`"openai:…"`) is replaced by one that gives these answers; each must be used.
"""

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import perdure
import perdure.models
import perdure.testing
from perdure.models import resolve
from perdure.models.model import Capabilities, ModelRequest
from perdure.types.chunks import ModelEvent

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "programs" / "programs.md"])
_BLOCK = re.compile(r"(?:^<!--(?P<said>(?:(?!-->).)*)-->\n)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of Python: its code, the number of its first line, and what was declared about it."""

    code: str
    line: int
    answers: str
    prints: str | None


def blocks(text: str) -> Iterator[Block]:
    for match in _BLOCK.finditer(text):
        said = match["said"] or ""
        answers = re.search(r"answers:(.*?)(?=^\s*prints:|\Z)", said, re.DOTALL | re.MULTILINE)
        prints = re.search(r"prints:(.*)\Z", said, re.DOTALL)
        yield Block(
            match["code"],
            text.count("\n", 0, match.start("code")) + 1,
            answers[1].strip() if answers else "",
            inspect.cleandoc(prints[1]).strip() if prints else None,
        )


class Stand:
    """Stands in for every model that is named, and gives the answers that the current block declares."""

    provider = "test"
    capabilities = Capabilities(structured_output="yes")

    def __init__(self) -> None:
        self.name = "stand"
        self.script = perdure.testing.ScriptedModel()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        async for event in self.script.stream(request):
            yield event


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    found = Stand()
    makers: dict[str, Any] = vars(resolve)["_PROVIDERS"]
    for provider in list(makers):
        monkeypatch.setitem(makers, provider, lambda name, **_: found)
        for home in (resolve, perdure.models):
            monkeypatch.setattr(home, provider.replace("-", "_"), lambda name, **_: found, raising=False)
    vars(resolve)["_named"].cache_clear()
    yield found
    vars(resolve)["_named"].cache_clear()


def run_block(block: Block, page: Path, names: dict[str, Any], stand: Stand) -> None:
    known = {name: getattr(room, name) for room in (perdure, perdure.testing) for name in room.__all__}
    answers: Any = eval(f"({block.answers},)", known | names) if block.answers else ()
    stand.script = perdure.testing.ScriptedModel(*answers)
    tree = ast.increment_lineno(ast.parse(block.code), block.line - 1)
    where = page.relative_to(ROOT).as_posix()
    code = compile(tree, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    assert len(stand.script.requests) == len(answers), f"line {block.line}: the model was not asked for every answer"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(
    page: Path,
    stand: Stand,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("snippets")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = vars(module)
    for block in blocks(page.read_text(encoding="utf-8")):
        run_block(block, page, names, stand)
        printed = capsys.readouterr().out.strip()
        if block.prints is not None:
            assert printed == block.prints, f"{page.name}, line {block.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_test_named_exists(page: Path) -> None:
    named = re.findall(r"`((?:src|tests|bench|docs)/[\w./-]+)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{test}"


def test_every_error_that_is_documented_is_public() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 30 and all(issubclass(getattr(perdure, one), perdure.PerdureError) for one in named)


class TestTheTest:
    """The machinery finds what is wrong."""

    PAGE = '# x\n\n<!-- answers: say("Hi."), say("Ho.")\nprints: Hi. -->\n```python\nx = 1\n```\n\n```python\ny\n```\n'

    def test_blocks_are_found_with_their_lines_and_declarations(self) -> None:
        first, second = blocks(self.PAGE)
        assert (first.code, first.line, first.answers, first.prints) == ("x = 1\n", 6, 'say("Hi."), say("Ho.")', "Hi.")
        assert (second.code, second.line, second.answers, second.prints) == ("y\n", 10, "", None)

    def test_an_answer_that_is_not_used_is_found(self, stand: Stand) -> None:
        with pytest.raises(AssertionError, match="every answer"):
            run_block(next(blocks(self.PAGE)), ROOT / "README.md", {}, stand)

    def test_a_failing_block_names_its_line(self, stand: Stand) -> None:
        with pytest.raises(NameError) as failure:
            run_block(list(blocks(self.PAGE))[1], ROOT / "README.md", {}, stand)
        last = failure.traceback[-1]
        assert (Path(str(last.path)).name, last.lineno) == ("README.md", 9)
