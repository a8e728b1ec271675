"""A sync form takes what its async twin takes, and gives what that gives."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, assert_type

from perdure import Agent, Erasure, Message, PostedEvent, Run, RunResult, Runtime, SearchHit, SessionInfo

agent = Agent("A")


def doors(runtime: Runtime) -> None:
    assert_type(runtime.approve_sync("w", by="ada"), RunResult[Any, Any])
    assert_type(runtime.search_sync("boat", user_id="ada"), list[SearchHit])
    runtime.search_sync("boat", user="ada")  # pyright: ignore[reportCallIssue]
    acme = runtime.container("acme")
    assert_type(acme.session.start_sync(session_id="s"), SessionInfo)
    session = acme.session("s")
    assert_type(session.messages_sync(), Iterator[Message])
    assert_type(session.replay_sync(limit=3), list[PostedEvent])
    assert_type(session.erase_sync(cancel=True), Erasure)
    assert_type(acme.erase_sync(user_id="ada"), Erasure)
    acme.configure_sync(retention="a day")  # pyright: ignore[reportArgumentType]
    run = session.start_sync(agent, "hi")
    assert_type(run.result_sync().output, str)
    with runtime.stream(agent, "hi") as stream:
        assert_type(stream.text_sync(), Iterator[str])
        assert_type(stream.result_sync().output, str)


async def twins(runtime: Runtime, run: Run[int, Any]) -> None:
    assert_type(run.result_sync(), RunResult[int, Any])
    assert_type(await runtime.cancel("r", reason="interrupted"), None)
    assert_type((await runtime.resume("r", force=True)).id, str)
