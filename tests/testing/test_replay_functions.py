"""Replaying where there are functions: they are passed over, and their own runs say that they are not replayed."""

from pathlib import Path

import pytest

from perdure import Agent, DefinitionError, Runtime, function
from perdure.testing import ScriptedModel, recording, replay, say


async def test_a_function_among_the_definitions_is_passed_over_and_its_own_runs_say_so(tmp_path: Path):
    @function
    async def note() -> str:
        return "noted"

    agent = Agent("A", model=ScriptedModel(say("Hello.")))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent, note], durability="normal") as runtime:
        await runtime.run(agent, "Hi", run_id="said")
        await runtime.run(note, None, run_id="noted")
        said, noted = await recording(runtime, "said"), await recording(runtime, "noted")
    replay(said, [agent, note]).check()
    with pytest.raises(DefinitionError, match="a function; those of agents"):
        replay(noted, [agent, note])
