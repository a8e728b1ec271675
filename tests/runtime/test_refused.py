"""What makes no sense is refused with one error that says why, on every store alike, and the next thing goes on."""

import os
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, ConfigurationError, Conflict, Context, DefinitionError, Runtime, UnknownName, function
from perdure.log.owners import LockFile
from perdure.testing import FunctionModel, say

agent = Agent("echo", model=FunctionModel(lambda _: say("hello")))


@function
async def name_steps(ctx: Context[Any], names: list[str]) -> list[str]:
    """Do one step under each name."""
    return [await ctx.step.run(name, str.upper, "done") for name in names]


@pytest.mark.parametrize(
    "name", ["x" * 201, "a\0b", "two\nlines", "a\u200bb", "", "a/b", "a#2"], ids=lambda name: repr(name[:8])
)
async def test_the_name_of_a_step_is_a_short_text_on_every_store(url: str, name: str):
    async with Runtime(url, [agent, name_steps]) as rt:
        with pytest.raises(Exception, match=r"not allowed"):
            await rt.run(name_steps, {"names": [name]})
        longest = ["\U0001f600" * 200]  # the most bytes that a name may take
        assert (await rt.run(name_steps, {"names": longest})).output == ["DONE"]
        assert (await rt.run(agent, "hi")).output == "hello"


async def test_a_place_that_is_too_deep_is_refused(url: str):
    @function
    async def deep(ctx: Context[Any]) -> str:
        step = ctx.step
        for _ in range(4):
            step = step.scope("\U0001f600" * 200)
        return await step.run("do", str.upper, "done")

    async with Runtime(url, [deep, agent]) as rt:
        with pytest.raises(Exception, match=r"place that is too long"):
            await rt.run(deep)
        assert (await rt.run(agent, "hi")).output == "hello"


@pytest.mark.parametrize("limit", [0, -1, 10**9, True, "5", 1.5])
async def test_a_page_has_some_rows_and_not_too_many(url: str, limit: Any):
    async with Runtime(url, [agent]) as rt:
        for page in (rt.runs, rt.sessions, rt.waits):
            with pytest.raises(DefinitionError, match=r"a page has 1 to 10,000 rows"):
                await page(limit=limit)


async def test_a_status_that_no_run_can_have_is_refused(url: str):
    async with Runtime(url, [agent]) as rt:
        with pytest.raises(DefinitionError, match=r"'complete' of a run; it is one of queued, running"):
            await rt.runs(status="complete")
        await rt.run(agent, "hi")
        assert [run.status for run in await rt.runs(status="completed")] == ["completed"]


async def test_a_run_id_is_one_run_of_one_session_and_one_user(url: str):
    async with Runtime(url, [agent]) as rt:
        first = await rt.run(agent, "hi", run_id="r", session_id="hers", user_id="ada")
        for other in ({"session_id": "his"}, {"user_id": "bob"}):
            with pytest.raises(Conflict, match=f"was used with another {next(iter(other))}"):
                await rt.run(agent, "hi", run_id="r", **other)
        again = await rt.run(agent, "hi", run_id="r", session_id="hers", user_id="ada")
        assert again.output == first.output == (await rt.run(agent, "hi", run_id="r")).output
        assert len(await rt.runs()) == 1


async def test_what_is_not_there_is_said_without_naming_what_is(url: str):
    async with Runtime(url, [agent]) as rt:
        await rt.run(agent, "hi", session_id="secret-of-ada", run_id="r")
        for asked in (rt.fork("nobody", at=1), rt.container("default").cancel("nobody")):
            with pytest.raises(UnknownName, match=r"named 'nobody'\.$"):
                await asked


def test_a_folder_of_locks_that_others_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"perdure-owners-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="look dead"):
        LockFile("own_1")
    folder.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match="look dead"):
        LockFile("own_1")
    folder.unlink()
    LockFile("own_1").close(remove=True)
