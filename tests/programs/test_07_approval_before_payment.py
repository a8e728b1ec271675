"""Program 7: approval before payment."""

from pathlib import Path
from typing import Any, cast

from perdure import Agent, Approval, Context, Runtime, tool
from perdure.testing import ScriptedModel, call, calls, say

paid: list[tuple[int, str]] = []


@tool(requires_approval=lambda amount, **_: amount > 100)
async def pay(ctx: Context, amount: int, to: str) -> str:
    paid.append((amount, to))
    return f"{amount} to {to}"


async def test_approval_before_payment(tmp_path: Path) -> None:
    both = calls(call("pay", amount=500, to="Bo"), call("pay", amount=700, to="Eve"), call("pay", amount=5, to="Al"))
    agent = Agent("Payer", tools=[pay], model=ScriptedModel(both, say("All paid.")))
    asked: list[dict[str, Any]] = []
    async with Runtime(f"sqlite:///{tmp_path}/desk.db", [agent]) as rt:
        result = await rt.run(agent, "Pay the bill", session_id="s")
        if result.status == "waiting":
            for wait in result.waits:
                asked.append(cast("Approval", wait).args)
                result = await rt.approve(wait.id, by="ada")
        assert result.output == "All paid."
    assert asked == [{"amount": 500, "to": "Bo"}, {"amount": 700, "to": "Eve"}]
    assert sorted(paid) == [(5, "Al"), (500, "Bo"), (700, "Eve")]
