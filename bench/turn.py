"""What the framework itself costs: turns over a model that answers at once, and many runs at the same time.

Every case uses the same fake model, which replays pieces made beforehand. The floor is a bare hand-written loop over
that model: a dict of functions, arguments validated by pydantic, a list of messages, no records, no events, no state.
Nothing is subtracted: a text turn is the whole of `await agent.run(...)`, in memory. `watched` cases have a consumer
that reads every event of the stream. The concurrent cases run 1,000 turns at once over a model that takes 50 ms: all by
one agent, each by an agent of its own, and each by an agent that is made for it within the measured time.
"""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from _harness import Bench
from perdure import Agent, ModelRequest, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, Usage, tool
from perdure.models.model import Capabilities
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.messages import Message

RUNS, DELAY = 1_000, 0.05
SPENT = Usage(input_tokens=20, output_tokens=10)
QUESTION = "What is the weather in Paris?"
ANSWER: tuple[ModelEvent, ...] = (TextChunk("It is sunny."), Finished("stop", SPENT, "replay", "bench"))


def asking(number: int) -> tuple[ModelEvent, ...]:
    """Make the answer that calls the tool."""
    call = ToolCallChunk(0, f"call_{number}", "weather", '{"city":"Paris"}')
    return (call, Finished("tool", SPENT, "replay", "bench"))


class Replay:
    """A model that says the n-th of its answers to a conversation with n answers in it already."""

    name = "replay"
    provider = "bench"
    capabilities = Capabilities()

    def __init__(self, *answers: tuple[ModelEvent, ...], delay: float = 0.0) -> None:
        self.answers = answers
        self.delay = delay

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Replay one answer; each earlier round left a call and its result behind the question."""
        if self.delay:
            await asyncio.sleep(self.delay)
        for piece in self.answers[len(request.messages) // 2]:
            yield piece


TEXT = Replay(ANSWER)
ONE_TOOL = Replay(asking(0), ANSWER)
TEN_TOOLS = Replay(*(asking(n) for n in range(10)), ANSWER)
SLOW = Replay(ANSWER, delay=DELAY)


async def weather(city: str) -> str:
    """Say the weather of a city."""
    return f"sunny in {city}"


class Arguments(TypedDict):
    """What `weather` takes."""

    city: str


FUNCTIONS = {"weather": (weather, TypeAdapter(Arguments).validator.validate_json)}


async def bare(model: Replay) -> str:
    """Run a turn as one would write it by hand."""
    messages: list[Message] = [TextMessage("user", QUESTION)]
    while True:
        text = ""
        calls: list[ToolCallChunk] = []
        async for piece in model.stream(ModelRequest(tuple(messages))):
            if isinstance(piece, TextChunk):
                text += piece.text
            elif isinstance(piece, ToolCallChunk):
                calls.append(piece)
        if not calls:
            messages.append(TextMessage("assistant", text))
            return text
        for call in calls:
            function, validate = FUNCTIONS[call.name]
            result = await function(**validate(call.arguments))
            kept = ToolCall(call.id, call.name, json.loads(call.arguments))
            messages += [ToolCallMessage((kept,)), ToolResultMessage(kept, {"data": result})]


def agent(model: Replay, *tools: Any) -> Agent[str, Any]:
    """Make the agent that is measured."""
    return Agent("Weatherman", model=model, tools=tools)


WEATHER = tool(weather, effect="pure")


def turn(one: Agent[str, Any]) -> Any:
    """Make the function that runs a turn."""
    return lambda: one.run(QUESTION)


def watched(one: Agent[str, Any]) -> Any:
    """Make the function that runs a turn and reads all its events."""

    async def read() -> str:
        async with one.stream(QUESTION) as stream:
            async for _ in stream:
                pass
            return (await stream.result()).output

    return read


async def at_once(runs: Callable[[], Iterable[Any]]) -> None:
    """Run many turns at once."""
    await asyncio.gather(*runs())


async def check() -> None:
    """Make sure that what is measured does what it says."""
    ten = await agent(TEN_TOOLS, WEATHER).run(QUESTION)
    assert (ten.output, ten.usage.model_calls, ten.usage.tool_calls) == ("It is sunny.", 11, 10)
    assert [one.data for one in ten.results[0].tool_calls] == ["sunny in Paris"] * 10
    assert (await agent(TEXT).run(QUESTION)).output == await bare(TEN_TOOLS) == "It is sunny."


def main() -> None:
    """Measure and report."""
    bench = Bench("turn")
    asyncio.run(check())
    cases = [
        ("text turn", agent(TEXT), TEXT, 300, 40.0),
        ("turn with one tool", agent(ONE_TOOL, WEATHER), ONE_TOOL, 150, None),
        ("ten-tool turn", agent(TEN_TOOLS, WEATHER), TEN_TOOLS, 30, 600.0),
    ]
    for name, answering, model, number, budget in cases:
        floor = f"bare {name}"
        bench.add(floor, lambda model=model: bare(model), number=number)
        bench.add(name, turn(answering), number=number, floor=floor, budget=budget)
        bench.add(f"{name}, watched", watched(answering), number=number, floor=floor)

    one, own = agent(SLOW), [agent(SLOW) for _ in range(RUNS)]
    floor, ideal = f"bare, {RUNS:,} at once", DELAY * 1000
    bench.add(floor, lambda: at_once(lambda: (bare(SLOW) for _ in range(RUNS))), unit="ms", ideal=ideal)
    for name, runs, budget in (
        ("one agent", lambda: (one.run(QUESTION) for _ in range(RUNS)), 100.0),
        ("own agents", lambda: (each.run(QUESTION) for each in own), 100.0),
        ("agents made on the spot", lambda: (agent(SLOW).run(QUESTION) for _ in range(RUNS)), None),
    ):
        function = functools.partial(at_once, runs)
        bench.add(f"{RUNS:,} at once, {name}", function, unit="ms", floor=floor, budget=budget, ideal=ideal)
    bench.run(rounds=25)


if __name__ == "__main__":
    main()
