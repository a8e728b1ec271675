"""Keys are places: nothing that a provider or a user names decides which record belongs to which step."""

import asyncio
from pathlib import Path
from typing import Any

from perdure import Agent, Runtime, tool
from perdure.testing import ScriptedModel, raw, say
from perdure.types import records as rec
from perdure.types.chunks import Finished, ToolCallChunk
from perdure.types.messages import ToolResultMessage
from tests.runtime.desk import QUICK


def asked(*ids: str, of: int) -> Any:
    """An answer with calls whose ids are these, as some providers send them: repeated, or none."""
    chunks = [ToolCallChunk(n, id, "count", f'{{"n": {of + n}}}') for n, id in enumerate(ids)]
    return raw(*chunks, Finished("tool"))


async def test_r06_keys_are_places_though_a_provider_repeats_its_call_ids(url: str, tmp_path: Path):
    counted: list[int] = []
    reached, held, beside = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @tool(effect="pure")
    async def count(n: int) -> int:
        if n == 4 and not held.is_set():
            reached.set()
            await held.wait()
        counted.append(n)
        if n == 5:
            beside.set()
        return n

    script = [asked("x", "x", of=0), asked("x", "", of=2), asked("", "", of=4), say("Done.")]

    def agent(answers: list[Any]) -> Agent[Any, Any]:
        return Agent("A", model=ScriptedModel(*answers), tools=[count])

    first = agent(script)
    async with Runtime(url, [first], timing=QUICK) as runtime:
        await runtime.start(first, "Go", session_id="s", run_id="job")
        await reached.wait()
        await beside.wait()
    held.set()
    second = agent(script[3:])  # nothing that was asked before is asked again
    async with Runtime(url, [second], timing=QUICK) as runtime:
        result = await runtime.run(second, "Go", session_id="s", run_id="job")
        records = await runtime.session("s").records()
    assert result.output == "Done." and sorted(counted) == [0, 1, 2, 3, 4, 5]
    closed = [one.key for one in records if isinstance(one.payload, rec.ToolDone)]
    assert sorted(closed) == [f"agent/0/infer/{k}/tool/{n}" for k in range(3) for n in range(2)]
    results = [one for one in result.messages if isinstance(one, ToolResultMessage)]
    assert [one.content for one in results] == [{"data": n} for n in range(6)]
    for one in records:  # only what closes a step has a key
        opens = isinstance(one.payload, (rec.RunStarted, rec.Started, rec.Claimed, rec.RunFinished))
        assert (one.key is None) == opens, one
