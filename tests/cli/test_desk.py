"""The demo's network with a scripted model: what its agents see, and what they may read."""

from pathlib import Path
from typing import Any

import pytest

from perdure.cli.demo import Findings, library_desk
from perdure.cli.library import Library
from perdure.testing import ScriptedModel, call, calls, say


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    text = "# Boats\n\nA sloop has one mast.\nA ketch has two masts.\n\n## Mooring\n\nTie the bow line first.\n"
    (tmp_path / "notes" / "boats.md").write_text(text, encoding="utf-8")
    (tmp_path / "notes" / "food.txt").write_text("Bread is in the galley.\n", encoding="utf-8")
    return tmp_path / "notes"


async def test_the_answer_sees_what_several_searches_found(folder: Path) -> None:
    model = ScriptedModel(
        calls(call("search_files", query="ketch"), call("search_files", query="bread")),
        call("read_lines", path="boats.md", start=8, end=8),
        say("Two masts (boats.md:3), bread (food.txt:1)."),
    )
    result = await library_desk.run("Masts and bread?", model=model, resources=[Library.open(folder)])
    assert result.output == "Two masts (boats.md:3), bread (food.txt:1)."
    assert result.state.data == Findings(["ketch", "bread"], ["boats.md:1-4", "food.txt:1-1"])
    assert [one.agent_name for one in result.results] == ["Librarian", "Answerer"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "../secret.md", "start": 1, "end": 2}, "There is no file '../secret.md'"),
        ({"path": "boats.md", "start": 99, "end": 100}, "boats.md has the lines 1 to 8"),
    ],
)
async def test_a_wrong_place_is_told_to_the_model(folder: Path, arguments: dict[str, object], message: str) -> None:
    (folder.parent / "secret.md").write_text("secret", encoding="utf-8")
    model = ScriptedModel(call("search_files", query="x"), call("read_lines", **arguments), say("Sorry."))
    result = await library_desk.run("?", model=model, resources=[Library.open(folder)])
    told: Any = result.results[1].tool_calls[0].content
    assert message in told["error"]["message"]


async def test_a_model_that_does_not_search_still_gets_an_answer(folder: Path) -> None:
    model = ScriptedModel(say("I know this."), say("Nothing was searched."))
    result = await library_desk.run("?", model=model, resources=[Library.open(folder)])
    assert result.output == "Nothing was searched."
