"""Memory, from the concepts of AgentKit: the tools that send events, and the background functions that handle them.

What a memory is here is a row of the test's own; the tools answer before anything is written.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from perdure import Agent, Context, Runtime, SentEvent, function, tool
from perdure.testing import ScriptedModel, call, calls, say

Ctx = Context[Any]


class Memories:
    """Statements by their ids, as a memory service has them."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {"m0": "Ada lives in Rome."}

    def add(self, key: str, statements: list[str]) -> None:
        for n, one in enumerate(statements):
            self.kept[f"{key}-{n}"] = one


class Update(TypedDict):
    id: str
    statement: str


class Deletion(TypedDict):
    id: str


@tool(effect="steps")
async def create_memories(ctx: Ctx, statements: list[str]) -> str:
    """Save one or more new pieces of information to memory.

    Args:
        statements: The pieces of information to memorize.
    """
    await ctx.step.send_event("send-create-memories-event", "app/memories.create", {"statements": statements})
    return f"I have scheduled the creation of {len(statements)} new memories."


@tool(effect="steps")
async def manage_memories(
    ctx: Ctx,
    creations: list[str] | None = None,
    updates: list[Update] | None = None,
    deletions: list[Deletion] | None = None,
) -> str:
    """Create, update, and/or delete memories in a single atomic operation.

    Args:
        creations: A list of new statements to save as memories.
        updates: A list of memories to update.
        deletions: A list of memories to delete.
    """
    if creations:
        await ctx.step.send_event("create-memories", "app/memories.create", {"statements": creations})
    if updates:
        await ctx.step.send_event("update-memories", "app/memories.update", {"updates": updates})
    if deletions:
        await ctx.step.send_event("delete-memories", "app/memories.delete", {"deletions": deletions})
    return "Scheduled memory operations."


@function(name="add-memories", event="app/memories.create")
async def add_memories(ctx: Ctx, event: SentEvent) -> dict[str, str]:
    statements = event.data["statements"]
    memories = ctx.use(Memories)
    await ctx.step.run("add", memories.add, event.id, statements, effect="idempotent")
    return {"status": f"Added {len(statements)} memories."}


@function(name="update-memories", event="app/memories.update")
async def update_memories(ctx: Ctx, event: SentEvent) -> dict[str, str]:
    kept = ctx.use(Memories).kept
    for one in event.data["updates"]:
        await ctx.step.run(f"update {one['id']}", kept.update, {one["id"]: one["statement"]}, effect="idempotent")
    return {"status": f"Updated {len(event.data['updates'])} memories."}


@function(name="delete-memories", event="app/memories.delete")
async def delete_memories(ctx: Ctx, event: SentEvent) -> dict[str, str]:
    kept = ctx.use(Memories).kept
    for one in event.data["deletions"]:
        await ctx.step.run(f"delete {one['id']}", lambda id=one["id"]: bool(kept.pop(id, "")), effect="idempotent")
    return {"status": f"Deleted {len(event.data['deletions'])} memories."}


FUNCTIONS = (add_memories, update_memories, delete_memories)


async def outputs(runtime: Runtime) -> dict[str, Any]:
    """What the functions have returned, when all have ended."""
    found: dict[str, Any] = {}
    async with asyncio.timeout(60):
        for run in await runtime.runs():
            if any(run.definition == one.name for one in FUNCTIONS):
                async for event in runtime.events(run.session_id):
                    if type(event).__name__ == "RunCompleted":
                        found[run.definition] = event.output  # type: ignore[union-attr]
                        break
    return found


async def test_memory_tools_the_answer_does_not_wait_for_the_background_function(tmp_path: Path):
    memories = Memories()
    model = ScriptedModel(call("create_memories", statements=["Ada likes tea.", "Ada rows."]), say("Noted."))
    agent = Agent("memory-agent", tools=[create_memories], model=model)
    async with Runtime(f"sqlite:///{tmp_path}/m.db", [agent, *FUNCTIONS], resources=[memories]) as runtime:
        result = await runtime.run(agent, "I like tea and rowing.")
        assert result.output == "Noted."
        told = result.results[0].tool_calls[0].content
        assert told == {"data": "I have scheduled the creation of 2 new memories."}
        assert await outputs(runtime) == {"add-memories": {"status": "Added 2 memories."}}
    assert sorted(memories.kept.values()) == ["Ada likes tea.", "Ada lives in Rome.", "Ada rows."]


async def test_pattern_2_consolidated_tools_one_call_sends_several_events(tmp_path: Path):
    memories = Memories()
    memories.kept["m1"] = "Ada hates tea."
    asked = {
        "creations": ["Ada rows."],
        "updates": [{"id": "m0", "statement": "Ada lives in Oslo."}],
        "deletions": [{"id": "m1"}],
    }
    model = ScriptedModel(calls(call("manage_memories", **asked)), say("Done."))
    agent = Agent("memory-updater-agent", tools=[manage_memories], model=model)
    async with Runtime(f"sqlite:///{tmp_path}/m.db", [agent, *FUNCTIONS], resources=[memories]) as runtime:
        await runtime.run(agent, "I moved to Oslo.")
        assert await outputs(runtime) == {
            "add-memories": {"status": "Added 1 memories."},
            "update-memories": {"status": "Updated 1 memories."},
            "delete-memories": {"status": "Deleted 1 memories."},
        }
    assert sorted(memories.kept.values()) == ["Ada lives in Oslo.", "Ada rows."]
