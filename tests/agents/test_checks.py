from typing import Any

import pytest

from perdure import Agent, Approve, DefinitionError, tool
from perdure.testing import ScriptedModel, call, say


def test_an_agent_among_the_tools_is_told_how_to_become_one():
    helper = Agent("Helper")
    with pytest.raises(DefinitionError, match=r"make it a tool with \.as_tool\(\)"):
        Agent("Boss", tools=[helper])  # pyright: ignore[reportArgumentType]
    assert Agent("Boss", tools=[helper.as_tool()]).tools


@pytest.mark.parametrize("answers", [[1], "yes", Approve()])
async def test_answers_that_are_no_mapping_are_refused(answers: Any):
    @tool(requires_approval=True)
    def pay() -> str:
        """Pay."""
        return "paid"

    result = await Agent("Cashier", tools=[pay], model=ScriptedModel(call("pay"), say("Paid."))).run("Pay")
    with pytest.raises(DefinitionError, match="by the waits' ids"):
        await result.resume(answers)
    assert (await result.resume({result.waits[0].id: Approve()})).output == "Paid."
