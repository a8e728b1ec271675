"""Program 4: two agents, a code router, typed state. Program 5: their stream, shown in the terminal."""

from dataclasses import dataclass

import pytest

from perdure import Agent, Context, Network, RouterArgs, RunCompleted, TextDelta, ToolStarted, tool
from perdure.testing import EventRecorder, ScriptedModel, call, say


@dataclass
class Support:
    user: str = ""
    answered: bool = False


@tool
async def answer(ctx: Context[Support], text: str) -> str:
    ctx.state.data.answered = True
    return text


biller = Agent("Billing", tools=[answer])
writer = Agent("Writer")


def route(r: RouterArgs[Support]) -> Agent | None:
    if r.call_count == 0:
        return biller
    return None if r.state.data.answered else writer


desk = Network("desk", agents=[biller, writer], router=route, state=Support, model="openai:gpt-5-mini")


async def test_the_biller_answers() -> None:
    model = ScriptedModel(call("answer", text="A refund is on its way."), say("You will be refunded."))
    result = await desk.run("Why twice?", state=Support(user="u1"), model=model)
    assert result.state.data.answered is True
    assert result.state.data == Support("u1", answered=True)
    assert result.output == "You will be refunded."
    assert [one.agent_name for one in result.results] == ["Billing"]
    assert result.stop_reason == "router"


async def test_the_writer_takes_over() -> None:
    given = Support(user="u1")
    model = ScriptedModel(say("I do not know."), say("We will look into it."))
    result = await desk.run("Why twice?", state=given, model=model, max_iter=2)
    assert result.state.data.answered is False
    assert [one.agent_name for one in result.results] == ["Billing", "Writer"]
    assert result.output == "We will look into it."
    assert given == Support(user="u1")


async def test_stream_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(call("answer", text="Refund."), say("You will be refunded."), chunk=5)
    async with desk.stream("Why twice?", model=model) as stream:
        async for event in stream:
            match event:
                case TextDelta(text=t):
                    print(t, end="", flush=True)
                case ToolStarted(tool=name, args=a):
                    print(f"[{name} {a}]")
        result = await stream.result()
    assert capsys.readouterr().out == "[answer {'text': 'Refund.'}]\nYou will be refunded."
    assert result.state.data.answered


async def test_the_two_line_form(capsys: pytest.CaptureFixture[str]) -> None:
    agent = Agent("Greeter")
    async with agent.stream("hi", model=ScriptedModel(say("Hello, Ada."), chunk=1)) as s:
        async for t in s.text():
            print(t, end="")
    assert capsys.readouterr().out == "Hello, Ada."


async def test_the_stream_is_well_formed() -> None:
    recorder = EventRecorder()
    model = ScriptedModel(say("Hm."), say("We will look into it."))
    await recorder.watch(desk.stream("Why twice?", model=model, max_iter=2))
    recorder.assert_well_formed()
    assert recorder.types()[-1] is RunCompleted
    assert recorder.text == "Hm.We will look into it."
