"""Program 2: a typed tool."""

from dataclasses import dataclass
from typing import Literal

from perdure import Agent, tool
from perdure.testing import ScriptedModel, call, say


@dataclass
class Weather:
    city: str
    degrees: int
    unit: str


class Api:
    async def get(self, city: str, unit: str) -> Weather:
        return Weather(city, -3 if unit == "C" else 27, unit)


api = Api()


@tool(effect="pure", timeout=5)
async def weather(city: str, unit: Literal["C", "F"] = "C") -> Weather:
    """Current weather.

    Args:
        city: name in English
    """
    return await api.get(city, unit)


agent = Agent("W", tools=[weather], model="anthropic:claude-sonnet-4-5")


async def test_a_tool_stays_callable_as_what_it_was() -> None:
    assert (await weather("Oslo")).unit == "C"
    assert await weather("Oslo", unit="F") == Weather("Oslo", 27, "F")


async def test_typed_tool() -> None:
    model = ScriptedModel(call("weather", city="Oslo"), say("-3 °C in Oslo."))
    result = await agent.run("How cold is it in Oslo?", model=model)
    assert result.output == "-3 °C in Oslo."
    (told,) = model.requests[0].tools
    assert (told.name, told.description) == ("weather", "Current weather.")
    assert told.parameters["properties"]["city"] == {"type": "string", "description": "name in English"}
    assert told.parameters["properties"]["unit"]["enum"] == ["C", "F"]
    assert told.parameters["required"] == ["city"]
    (answered,) = result.results[0].tool_calls
    assert answered.data == {"city": "Oslo", "degrees": -3, "unit": "C"}


async def test_wrong_arguments_go_back_to_the_model() -> None:
    model = ScriptedModel(call("weather", city="Oslo", unit="K"), call("weather", city="Oslo"), say("Cold."))
    result = await agent.run("How cold is it in Oslo?", model=model)
    wrong, right = result.results[0].tool_calls
    assert wrong.is_error and "unit" in str(wrong.content)
    assert not right.is_error
