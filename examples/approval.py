"""An approval before a payment: the run waits in the store, as long as it takes, until a person has said yes or no.

    python examples/approval.py            # ada allows it
    python examples/approval.py deny       # ada does not

It needs no key: the model is a function. Give the agent `model="openai:gpt-5-mini"` to let a real one decide.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from perdure import Agent, Approval, Context, Runtime, tool
from perdure.models.model import ModelRequest
from perdure.testing import Answer, FunctionModel, call, say
from perdure.types.messages import ToolResultMessage

LIMIT = 100
paid: list[str] = []


@tool(requires_approval=lambda amount, **_: f"{amount} NOK is above {LIMIT} NOK" if amount > LIMIT else False)
async def pay(ctx: Context, amount: int, to: str, account: str = "1234.56.78903") -> str:
    """Pay a bill.

    Args:
        amount: in NOK
        to: who gets it
        account: from which account
    """
    paid.append(f"{amount} NOK to {to} from {account}")  # here a bank is called, with ctx.idempotency_key
    return f"{amount} NOK paid to {to}"


def clerk_says(request: ModelRequest) -> Answer:
    """Pay the bill, then say what came of it."""
    last = request.messages[-1]
    if not isinstance(last, ToolResultMessage):
        return call("pay", amount=4200, to="Nordlys Power")
    return say("The bill is not paid." if last.is_error else "The bill is paid.")


clerk = Agent("Clerk", system="You pay bills.", tools=[pay], model=FunctionModel(clerk_says))


async def main(answer: str, store: str) -> None:
    """Ask for a payment in one runtime, and answer in another one, as if in other processes, weeks later."""
    async with Runtime(store, [clerk]) as runtime:
        result = await runtime.run(clerk, "Pay the power bill", session_id="bills", run_id="bill-7")
        print(f"The run is {result.status}; paid so far: {paid}")

    async with Runtime(store, [clerk]) as runtime:
        for row in await runtime.waits(kind="approval"):
            wait = row.wait
            assert isinstance(wait, Approval)
            print(f"{wait.agent} wants to {wait.tool} {wait.args}: {wait.reason}")
            if answer == "deny":
                result = await runtime.deny(wait.id, "Pay it by the end of the month.", by="ada")
            else:
                result = await runtime.approve(wait.id, by="ada")
        print(f"The run is {result.status}: {result.output}")
        print(f"Paid: {', '.join(paid) or 'nothing'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "approve", f"sqlite:///{Path(folder)}/bills.db"))
