"""Tools: what a model is told of them, and what they are called with."""

from __future__ import annotations

from datetime import date
from typing import Any

from pydantic import BaseModel

from perdure import Agent, Context, Tool, tool
from perdure.testing import ScriptedModel, call, say


class Created(BaseModel):
    gte: date
    lte: date


DESCRIPTION = (
    "Returns all of a user's charges. Call this whenever you need to find one or more charges between a date range."
)


async def ask(charges: Tool[..., Any, Any], **arguments: Any) -> Any:
    """Let a model call the tool; give what it is answered."""
    agent = Agent("Billing", tools=[charges])
    model = ScriptedModel(call("list_charges", **arguments), say("Done."))
    result = await agent.run("What was I charged?", model=model)
    (answered,) = result.results[0].tool_calls
    return answered.content


async def test_creating_a_tool() -> None:
    got: list[Any] = []

    async def handler(ctx: Context, user_id: str, created: Created) -> list[dict[str, Any]]:
        # the arguments have their types
        got.append((ctx.agent.name, user_id, created.gte, created.lte))
        return [{"amount": 20}]

    list_charges_tool = tool(handler, name="list_charges", description=DESCRIPTION)

    schema = list_charges_tool.parameters
    assert list_charges_tool.description == DESCRIPTION
    assert set(schema["properties"]) == {"user_id", "created"}
    assert schema["required"] == ["user_id", "created"]

    answer = await ask(list_charges_tool, user_id="u1", created={"gte": "2024-01-01", "lte": "2024-01-31"})
    assert got == [("Billing", "u1", date(2024, 1, 1), date(2024, 1, 31))]
    assert answer == {"data": [{"amount": 20}]}


async def test_creating_a_tool_with_one_model_of_its_parameters() -> None:
    class Parameters(BaseModel):
        user_id: str
        created: Created

    async def handler(input: Parameters, ctx: Any = None) -> str:
        return f"{input.user_id} from {input.created.gte}"

    list_charges_tool = tool(handler, name="list_charges", description=DESCRIPTION, parameters=Parameters)
    assert set(list_charges_tool.parameters["properties"]) == {"user_id", "created"}
    answer = await ask(list_charges_tool, user_id="u1", created={"gte": "2024-01-01", "lte": "2024-01-31"})
    assert answer == {"data": "u1 from 2024-01-01"}


async def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    def handler(user_id: str, created: Created) -> str:
        raise AssertionError("never called")

    answer = await ask(tool(handler, name="list_charges"), user_id="u1", created={"gte": "yesterday", "lte": 3})
    assert answer["error"]["name"] == "ArgumentsInvalid"
    assert "created.gte" in answer["error"]["message"]


async def test_optional_parameters() -> None:
    got: list[Any] = []

    async def handler(ctx: Context, user_id: str, created: Created | None) -> list[dict[str, Any]]:
        got.append((user_id, created))
        return []

    list_charges_tool = tool(handler, name="list_charges", description=DESCRIPTION)
    assert list_charges_tool.parameters["required"] == ["user_id", "created"]
    assert await ask(list_charges_tool, user_id="u1", created=None) == {"data": []}
    assert got == [("u1", None)]


async def test_optional_parameters_with_a_default() -> None:
    def handler(user_id: str, created: Created | None = None) -> str:
        return f"{user_id} {created}"

    list_charges_tool = tool(handler, name="list_charges", description=DESCRIPTION)
    assert list_charges_tool.parameters["required"] == ["user_id"]
    assert await ask(list_charges_tool, user_id="u1") == {"data": "u1 None"}
