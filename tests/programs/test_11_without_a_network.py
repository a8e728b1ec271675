"""Program 11: tests without a network."""

from dataclasses import dataclass

from perdure import Agent, Context, testing, tool
from perdure.testing import ScriptedModel, call, say


@dataclass
class Support:
    asked: int = 0


@tool
async def weather(city: str) -> str:
    return f"snow in {city}"


@tool
async def weather_with_ctx(ctx: Context[Support], city: str) -> str:
    ctx.state.data.asked += 1
    return f"snow in {city}"


agent = Agent("W", tools=[weather])


async def test_without_a_network() -> None:
    model = ScriptedModel(call("weather", city="Oslo"), say("Cold."))
    result = await agent.run("Oslo?", model=model)
    assert result.output == "Cold." and model.requests[1].messages[-1].content == {"data": "snow in Oslo"}


async def test_a_tool_alone() -> None:
    assert await weather_with_ctx(testing.context(Support()), "Oslo") == "snow in Oslo"
    ctx = testing.context(Support(asked=2))
    await weather_with_ctx(ctx, "Oslo")
    assert ctx.state.data.asked == 3
