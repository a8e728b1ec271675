"""The sync doors of a runtime."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, DefinitionError, RunFailed, Runtime
from perdure.db.database import StoreError
from perdure.testing import FunctionModel, say
from tests.runtime.desk import QUICK


def open_runtime(folder: Path, *definitions: Any) -> Runtime:
    return Runtime(f"sqlite:///{folder}/sync.db", definitions, timing=QUICK, durability="normal")


def echo() -> Agent[Any, Any]:
    return Agent("Echo", model=FunctionModel(lambda request: say(f"{len(request.messages)} messages")))


def threads() -> set[str]:
    return {one.name for one in threading.enumerate() if one.name.startswith("perdure")}


def test_a_runtime_that_is_not_open_is_opened_for_one_run(tmp_path: Path):
    agent = echo()
    rt = open_runtime(tmp_path, agent)
    assert [rt.run_sync(agent, "x", session_id="s").output for _ in range(2)] == ["1 messages", "3 messages"]
    assert not threads()


def test_sync_code_keeps_a_runtime_open_with_with(tmp_path: Path):
    agent = echo()
    with open_runtime(tmp_path, agent) as rt:
        assert rt.run_sync(agent, "x", session_id="s").output == "1 messages"
        assert rt.container("acme").run_sync(agent, "x", session_id="s").output == "1 messages"
        assert rt.session("s").run_sync(agent, "x").output == "3 messages"
        assert "perdure-loop" in threads()
    assert not threads()
    with pytest.raises(StoreError, match="not open"):
        rt.session("s")


def test_what_fails_in_the_loop_is_raised_here(tmp_path: Path):
    def fails(_: Any) -> Any:
        raise ValueError("no")

    agent = Agent("A", model=FunctionModel(fails))
    with open_runtime(tmp_path, agent) as rt, pytest.raises(RunFailed):
        rt.run_sync(agent, "x")
    with pytest.raises(StoreError, match="no folder"), open_runtime(tmp_path / "nowhere", agent):
        pass
    assert not threads()


async def test_it_works_where_an_event_loop_runs_and_says_so_where_it_would_block(tmp_path: Path):
    agent = echo()
    rt = open_runtime(tmp_path, agent)
    assert rt.run_sync(agent, "x").output == "1 messages", "as in a notebook"
    async with rt:
        with pytest.raises(DefinitionError, match="await run"):
            rt.run_sync(agent, "x")
        assert (await asyncio.to_thread(rt.run_sync, agent, "x")).output == "1 messages"
