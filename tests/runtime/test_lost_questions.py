"""A model that a step has asked when its process died: it counts as asked, and is asked again."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from perdure import Budget, Runtime
from perdure.cli.timeline import timeline
from perdure.types.records import AttemptLost
from tests.runtime import asker
from tests.runtime.desk import QUICK, until


async def killed_while_it_asks(url: str, folder: Path) -> None:
    path = os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))
    process = await asyncio.create_subprocess_exec(
        sys.executable, asker.__file__, url, env={**os.environ, "PYTHONPATH": path, "ASKER": str(folder)}
    )
    try:
        await until(lambda: (folder / "asked").exists())
    finally:
        process.kill()
        await process.wait()


async def test_d08_d20_a_question_of_a_step_that_died_with_its_process_counts_as_one_call(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    await killed_while_it_asks(url, tmp_path)
    monkeypatch.setattr(asker, "FOLDER", tmp_path)
    async with Runtime(url, [asker.asks], timing=QUICK) as rt, asyncio.timeout(60):
        result = await rt.run(asker.asks, run_id="job")
        records = await rt.container("default").log.read_run("job")
    assert result.output == "Oslo, Oslo"
    lost = [one.payload for one in records if isinstance(one.payload, AttemptLost)]
    assert [one.step for one in lost] == ["function/where#try/0"], "and none for what was asked later"
    assert lost[0].usage.input_tokens == len("Where is it? " * 10) // 4
    assert result.usage.model_calls == 3
    assert any("a call was lost with its process" in one.what for one in timeline(records))


async def test_d20_an_undisturbed_run_counts_none(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asker, "FOLDER", tmp_path)
    (tmp_path / "asked").touch()
    async with Runtime(url, [asker.asks], timing=QUICK) as rt:
        result = await rt.run(asker.asks, budget=Budget(model_calls=2))
        assert (result.output, result.usage.model_calls) == ("Oslo, Oslo", 2)
