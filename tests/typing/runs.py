"""Options are declared once: a wrong name or type is an error at every door; events are told apart by `match`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from decimal import Decimal
from typing import Any, assert_type

from perdure import (
    Agent,
    AgentResult,
    Approval,
    Approve,
    Budget,
    Deny,
    Message,
    ModelSettings,
    RunFailed,
    State,
    TextDelta,
    ToolFinished,
    ToolStarted,
    Usage,
    events,
    image,
    text,
)
from perdure.testing import EventRecorder, ScriptedModel, call, say

agent = Agent("A")


async def options() -> None:
    first = await agent.run(
        [text("Read this"), image(b"\x89PNG")],
        model=ScriptedModel(call("add", a=1), say("done")),
        settings=ModelSettings(temperature=0.0),
        budget=Budget(tokens=100, cost=Decimal("0.5")),
        deadline=30,
        on_busy="reject",
        max_iter=None,
        user_id="ada",
        resources=[object()],
    )
    await agent.run("and now?", messages=first.messages, state=State({"n": 1}))
    assert_type(first.messages, tuple[Message, ...])
    assert_type(first.results, tuple[AgentResult, ...])
    assert_type(first.usage, Usage)

    await agent.run("hi", modle="openai:gpt-5")  # pyright: ignore[reportCallIssue]
    await agent.run("hi", deadline="soon")  # pyright: ignore[reportArgumentType]
    await agent.run("hi", on_busy="wait")  # pyright: ignore[reportArgumentType]
    await agent.run("hi", max_iter="3")  # pyright: ignore[reportArgumentType]
    await agent.run(3)  # pyright: ignore[reportArgumentType]
    agent.start("hi", modle="openai:gpt-5")  # pyright: ignore[reportCallIssue]
    agent.stream("hi", modle="openai:gpt-5")  # pyright: ignore[reportCallIssue]
    agent.run_sync("hi", modle="openai:gpt-5")  # pyright: ignore[reportCallIssue]


async def waiting() -> None:
    result = await agent.run("pay")
    if result.status == "waiting":
        for wait in result.waits:
            assert_type(wait.id, str)
            if isinstance(wait, Approval):
                assert_type(wait.tool, str)
        result = await result.resume({wait.id: Approve() for wait in result.waits})
        result = await result.resume({"w": Deny("no")})
        await result.resume({"w": True})  # pyright: ignore[reportArgumentType]
    assert_type(result.output, str)


async def watching() -> None:
    async with agent.stream("hi") as stream:
        async for event in stream:
            match event:
                case TextDelta(text=piece):
                    assert_type(piece, str)
                case ToolStarted(tool=name, args=args):
                    assert_type(name, str)
                    assert_type(args, Any)
                case ToolFinished():
                    assert_type(event.is_error, bool)
                case events.RunFailed(error=error):
                    assert_type(error.message, str)
                case _:
                    pass
    try:
        await agent.run("hi")
    except RunFailed as failed:
        failed.result


async def recording() -> None:
    recorder = EventRecorder()
    run = await recorder.watch(agent.stream("hi"))
    assert_type((await run.result()).output, str)
    assert_type(recorder.of(TextDelta), list[TextDelta])
    recorder.of(str)  # pyright: ignore[reportArgumentType]
