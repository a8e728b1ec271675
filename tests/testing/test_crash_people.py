"""`crash_everywhere` with people: they answer what a run asks, and after a crash it is known what they said."""

from typing import Any

import pytest

from perdure import Agent, Answer, Approve, Context, Deny, tool
from perdure.testing import ScriptedModel, call, calls, crash_everywhere, say
from perdure.types.waits import Approval, Question


class Till:
    """The world outside: what was paid, under which keys."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.by_key: dict[str, int] = {}


@tool(effect="once", requires_approval=True)
async def charge(ctx: Context[Any], amount: int) -> str:
    """Charge."""
    ctx.use(Till).paid.append(f"charge {amount}")
    return "charged"


@tool(effect="steps")
async def book(ctx: Context[Any]) -> str:
    """Book where a person wants to go."""
    where = await ctx.ask("Where to?", choices=("Oslo", "Bergen"))
    assert where is not None
    decision = await ctx.approve(f"Book {where.text}?", args={"to": where.text})
    if not decision:
        return f"not booked: {decision.why}"
    await ctx.step.run("book", ctx.use(Till).by_key.__setitem__, f"{where.text} {ctx.run_id}", 1, effect="idempotent")
    return f"booked for {decision.by}"


def clerk() -> Agent[str, Any]:
    model = ScriptedModel(calls(call("charge", amount=5), call("book")), say("Done."))
    return Agent("Clerk", tools=[charge, book], model=model)


def helpful(wait: Approval | Question) -> Approve | Deny | Answer | None:
    return Answer("Oslo", by="ada") if isinstance(wait, Question) else Approve(by="bo")


def test_b54_what_people_say_is_known_wherever_a_process_dies():
    asked: list[str] = []

    def people(wait: Approval | Question) -> Approve | Deny | Answer | None:
        asked.append(wait.id)
        return helpful(wait)

    report = crash_everywhere(clerk, "Go", outside=Till, people=people, twice=True, most=60)
    assert len(report.points) == 60 and len(set(asked)) == 3
    assert any("answer" in one.where for one in report.points), "also where an answer is written"


def test_people_may_deny_and_may_say_nothing():
    def strict(wait: Approval | Question) -> Approve | Deny | Answer | None:
        return Deny("too much", by="bo") if isinstance(wait, Approval) else Answer("Bergen")

    assert crash_everywhere(clerk, "Go", outside=Till, people=strict, most=30).points
    silent = crash_everywhere(clerk, "Go", outside=Till, people=lambda wait: None, most=30)
    assert silent.points and not silent.failures, "it waits, wherever it was killed"


def test_a_program_that_does_something_before_a_person_has_allowed_it_is_found():
    @tool(effect="steps")
    async def hasty(ctx: Context[Any]) -> str:
        """Count, then ask."""
        ctx.use(Till).paid.append("hasty")
        return str(bool(await ctx.approve("May I?")))

    def hurried() -> Agent[str, Any]:
        return Agent("Hurried", tools=[hasty], model=ScriptedModel(call("hasty"), say("Done.")))

    with pytest.raises(AssertionError, match="hasty"):
        crash_everywhere(hurried, "Go", outside=Till, people=helpful)


def test_an_answer_that_does_not_fit_is_told():
    with pytest.raises(AssertionError, match="does not come to its end"):
        crash_everywhere(clerk, "Go", outside=Till, people=lambda wait: Answer("?"))
