"""Program 1: hello agent."""

import pytest

from perdure import Agent, TextMessage
from perdure.testing import ScriptedModel, say

greeter = Agent("Greeter", system="Greet in one line.", model="openai:gpt-5-mini")


def test_hello_agent(capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(say("Hello, Ada!"))
    print(greeter.run_sync("I am Ada", model=model).output)
    assert capsys.readouterr().out == "Hello, Ada!\n"
    assert model.requests[0].messages == (
        TextMessage("system", "Greet in one line."),
        TextMessage("user", "I am Ada"),
    )


async def test_hello_agent_where_a_loop_runs_already() -> None:
    assert greeter.run_sync("I am Ada", model=ScriptedModel(say("Hello, Ada!"))).output == "Hello, Ada!"
