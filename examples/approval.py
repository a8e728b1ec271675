"""An approval before a payment: the run waits in the store, as long as it takes, until a person has said yes or no.

    python examples/approval.py                    # ada allows it
    python examples/approval.py deny               # ada does not
    python examples/approval.py approve bills      # keeps the run and the bank in the folder bills

Kill it where you like, and start it again with the same folder: the bill is paid once, because the bank knows a payment
by its key. It needs no key for a model: that is a function. Give the agent `model="openai:gpt-5-mini"` to let a real
one decide.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from perdure import Agent, Approval, Context, Runtime, tool
from perdure.models.model import ModelRequest
from perdure.testing import Answer, FunctionModel, call, say
from perdure.types.messages import ToolResultMessage

LIMIT = 100


class Bank:
    """Stands in for a bank: a payment that comes again with the same key is the one that it has."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def connect(self) -> sqlite3.Connection:
        """Open the bank's books."""
        db = sqlite3.connect(self.path)
        db.execute("CREATE TABLE IF NOT EXISTS payment (key TEXT PRIMARY KEY, what TEXT)")
        return db

    def pay(self, key: str, what: str) -> None:
        """Pay, once for each key."""
        with closing(self.connect()) as db, db:
            db.execute("INSERT OR IGNORE INTO payment VALUES (?, ?)", (key, what))

    def paid(self) -> str:
        """Say what was paid."""
        with closing(self.connect()) as db:
            return ", ".join(what for (what,) in db.execute("SELECT what FROM payment")) or "nothing"


@tool(
    effect="idempotent",
    requires_approval=lambda amount, **_: f"{amount} NOK is above {LIMIT}" if amount > LIMIT else False,
)
async def pay(ctx: Context, amount: int, to: str, account: str = "1234.56.78903") -> str:
    """Pay a bill.

    Args:
        amount: in NOK
        to: who gets it
        account: from which account
    """
    ctx.use(Bank).pay(ctx.idempotency_key, f"{amount} NOK to {to} from {account}")
    return f"{amount} NOK paid to {to}"


def clerk_says(request: ModelRequest) -> Answer:
    """Pay the bill, then say what came of it."""
    last = request.messages[-1]
    if not isinstance(last, ToolResultMessage):
        return call("pay", amount=4200, to="Nordlys Power")
    return say("The bill is not paid." if last.is_error else "The bill is paid.")


clerk = Agent("Clerk", system="You pay bills.", tools=[pay], model=FunctionModel(clerk_says))


async def main(answer: str, folder: Path) -> None:
    """Ask for a payment in one runtime, and answer in another one, as if in other processes, weeks later."""
    store, bank = f"sqlite:///{folder / 'bills.db'}", Bank(folder / "bank.db")
    async with Runtime(store, [clerk], resources=[bank]) as runtime:
        result = await runtime.run(clerk, "Pay the power bill", session_id="bills", run_id="bill-7")
        print(f"The run is {result.status}; paid so far: {bank.paid()}")

    async with Runtime(store, [clerk], resources=[bank]) as runtime:
        for row in await runtime.waits(kind="approval"):
            wait = row.wait
            assert isinstance(wait, Approval)
            print(f"{wait.agent} wants to {wait.tool} {wait.args}: {wait.reason}")
            if answer == "deny":
                result = await runtime.deny(wait.id, "Pay it by the end of the month.", by="ada")
            else:
                result = await runtime.approve(wait.id, by="ada")
        print(f"The run is {result.status}: {result.output}")
        print(f"Paid: {bank.paid()}")


if __name__ == "__main__":
    answer = sys.argv[1] if len(sys.argv) > 1 else "approve"
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(exist_ok=True)
        asyncio.run(main(answer, Path(sys.argv[2])))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(answer, Path(folder)))
