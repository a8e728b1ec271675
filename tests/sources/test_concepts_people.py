"""Human in the loop: a tool that tells a person of a question and waits for the answer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from perdure import Agent, Context, Question, Runtime, ask_human, human_tool, tool
from perdure.testing import ScriptedModel, call, say

sent: list[tuple[str, str]] = []


async def tell_developer(ticket_id: str, question: str) -> None:
    """Here a message goes to a chat or a mailbox."""
    sent.append((ticket_id, question))


def ask_developer(timeout: timedelta) -> Any:
    @tool(effect="steps")
    async def ask_developer(ctx: Context, question: str, ticket_id: str) -> Any:
        """Ask a developer for technical help.

        Args:
            question: the question
            ticket_id: the ticket that it is about
        """
        await ctx.step.run("tell.developer", tell_developer, ticket_id, question, effect="idempotent")
        response = await ctx.step.wait_for_event(
            "developer.response",
            "app/support.ticket.developer-response",
            timeout=timeout,
            match={"ticketId": ticket_id},
        )
        if response is None:
            return {"error": "No response provided"}
        return {"developer_response": response.data["answer"]}

    return ask_developer


def support(timeout: timedelta = timedelta(hours=4)) -> tuple[Agent[Any, Any], ScriptedModel]:
    model = ScriptedModel(call("ask_developer", question="Is it known?", ticket_id="t-1"), say("We are on it."))
    return Agent("Support", tools=[ask_developer(timeout)], model=model), model


def told(model: ScriptedModel) -> Any:
    message: Any = model.requests[1].messages[-1]
    return message.content


async def test_human_in_the_loop(tmp_path: Path) -> None:
    sent.clear()
    agent, model = support()
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as runtime:
        run = await runtime.start(agent, "It crashes", session_id="s")
        assert (await run.reached()).status == "waiting"
        assert sent == [("t-1", "Is it known?")]
        await runtime.send_event("app/support.ticket.developer-response", {"ticketId": "t-2", "answer": "no"})
        await runtime.send_event("app/support.ticket.developer-response", {"ticketId": "t-1", "answer": "yes"})
        async with asyncio.timeout(30):
            assert (await run.result()).output == "We are on it."
    assert told(model) == {"data": {"developer_response": "yes"}}
    assert len(sent) == 1


async def test_human_in_the_loop_without_an_answer(tmp_path: Path) -> None:
    agent, model = support(timedelta(milliseconds=50))
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as runtime:
        run = await runtime.start(agent, "It crashes", session_id="s")
        async with asyncio.timeout(30):
            assert (await run.result()).output == "We are on it."
    assert told(model) == {"data": {"error": "No response provided"}}


async def test_human_in_the_loop_with_the_tool_that_is_there(tmp_path: Path) -> None:
    developer = human_tool("ask_developer", description="Ask a developer for technical help.", timeout=4 * 3600)
    model = ScriptedModel(
        call("ask_developer", question="Is it known?"), call("ask_human", question="Why?"), say("Ok.")
    )
    agent = Agent("Support", tools=[developer, ask_human], model=model)
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as runtime:
        result = await runtime.run(agent, "It crashes", session_id="s")
        wait = result.waits[0]
        assert isinstance(wait, Question) and wait.text == "Is it known?"
        async with asyncio.timeout(30):
            result = await runtime.answer(wait.id, "yes", by="ada")
            assert told(model) == {"data": "yes"}
            result = await runtime.answer(result.waits[0].id, "because")
    assert result.output == "Ok."
