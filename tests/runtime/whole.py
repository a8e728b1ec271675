"""An agent that does everything at once: parallel calls of each effect, steps, a child run, and transactions."""

from typing import Any

from perdure import Agent
from perdure.testing import call, calls, say
from tests.runtime.desk import answer, charge, fetch, look, trip
from tests.runtime.till import pay


def whole_says(asked: str, number: int) -> Any:
    if number:
        return say(f"done: {asked}")
    return calls(call("look"), call("fetch"), call("charge"), call("trip"), call("pay", who="ada"))


WHOLE = Agent("Whole", tools=[look, fetch, charge, trip, pay], model=answer(whole_says, "desk"))
