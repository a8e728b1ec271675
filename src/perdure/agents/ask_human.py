"""A tool by which a model asks a person; the run waits, and the answer is the tool's result."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from perdure.agents.context import Context
from perdure.agents.tool import Tool
from perdure.durable.people import check_choices, check_timeout

NOBODY = "Nobody answered in time. Go on without the answer, or say that you cannot."
_DESCRIPTION = "Ask a person. Use it when something is missing that only a person knows or may decide."


def human_tool(
    name: str = "ask_human",
    *,
    description: str = _DESCRIPTION,
    choices: Sequence[str] = (),
    timeout: float | timedelta | None = None,
) -> Tool[..., Any, object]:
    """Make a tool by which a model asks a person.

    Args:
        name: the name that the model sees.
        description: what the model is told of it: who is asked, and for what.
        choices: the answers that are possible; unless given, the model may offer some with its question.
        timeout: how long the run waits, in seconds or as a timedelta; for ever unless given. Then the model is told
            that nobody has answered.

    Raises:
        DefinitionError: an option has a wrong value.
    """
    what = f"human_tool({name!r})"
    offered, seconds = check_choices(what, choices), check_timeout(what, timeout)

    async def asked(ctx: Context[Any], question: str, choices: Sequence[str]) -> str:
        answer = await ctx.ask(question, choices=choices, timeout=seconds)
        return answer.text if answer is not None else NOBODY

    async def ask(ctx: Context[Any], question: str) -> str:
        """Ask.

        Args:
            question: everything that the person must know to answer it
        """
        return await asked(ctx, question, offered)

    async def ask_with_choices(ctx: Context[Any], question: str, choices: list[str] | None = None) -> str:
        """Ask.

        Args:
            question: everything that the person must know to answer it
            choices: the answers to choose from, if no other makes sense
        """
        return await asked(ctx, question, list(dict.fromkeys(one for one in choices or () if one)))

    return Tool(ask if offered else ask_with_choices, name=name, description=description, effect="steps")


ask_human = human_tool()
"""A tool by which a model asks a person anything, for as long as it takes."""
