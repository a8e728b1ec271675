"""Asking people from inside a tool, in memory: `ctx.approve`, `ctx.ask`, `ask_human`, and waits that expire."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest
from pydantic import BaseModel

from perdure import (
    Agent,
    Answer,
    Approval,
    Approve,
    Conflict,
    Context,
    DefinitionError,
    Deny,
    Network,
    Question,
    RoutingAgent,
    RunResult,
    StepOutsideSteps,
    ask_human,
    human_tool,
    sequence,
    tool,
)
from perdure.durable import kernel
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types.messages import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.usefixtures("nothing_left")


PICK = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


class Clock(kernel.SystemClock):
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:  # type: ignore[override]
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(kernel.Kernel.__init__, "__defaults__", (None, found, None, None, None, None, None))
    return found


def agent(fn: Any, *answers: Any, **options: Any) -> Agent[str, Any]:
    made = tool(fn, **{"effect": "steps", **options})
    return Agent("A", model=ScriptedModel(*(answers or (call(made.name), say("Done.")))), tools=[made])


def told(result: RunResult[Any, Any]) -> Any:
    return result.results[-1].tool_calls[0].content


async def pay(ctx: Context[Any], amount: int = 5) -> str:
    """Pay."""
    decision = await ctx.approve(f"Pay {amount}?", args={"amount": amount}, timeout=timedelta(hours=1))
    if not decision:
        return f"not paid: {decision.why}"
    return f"paid, allowed by {decision.by}"


async def test_b49_a_body_waits_for_an_approval_and_goes_on_where_it_was():
    result = await agent(pay).run("x")
    (wait,) = result.waits
    assert isinstance(wait, Approval)
    assert (wait.tool, wait.args, wait.reason, wait.agent, wait.call_id) == (
        "pay",
        {"amount": 5},
        "Pay 5?",
        "A",
        "call_1",
    )
    result = await result.resume({wait.id: Approve("ada")})
    assert told(result) == {"data": "paid, allowed by ada"}


async def test_what_is_refused_is_false_and_says_why():
    result = await agent(pay).run("x")
    result = await result.resume({result.waits[0].id: Deny("too much")})
    assert told(result) == {"data": "not paid: too much"}


async def test_d15_a_late_answer_is_reported_and_not_applied(clock: Clock):
    result = await agent(pay).run("x")
    (wait,) = result.waits
    assert wait.expires == 1000 + 3600
    clock.at += 3600
    with pytest.raises(Conflict, match=r"over by itself, at 1970-01-01T01:16:40"):
        await result.resume({wait.id: Approve()})
    result = await result.resume()
    assert told(result) == {"data": "not paid: Nobody answered in time."}


async def test_an_approval_of_a_call_expires_and_the_model_is_told(clock: Clock):
    paid: list[int] = []

    async def pay(amount: int) -> None:
        paid.append(amount)

    payer = agent(
        pay,
        call("pay", amount=1),
        say("ok"),
        effect="once",
        requires_approval=True,
        approval_timeout=timedelta(days=21),
    )
    result = await payer.run("x")
    assert result.waits[0].expires == 1000 + 21 * 86400
    assert (await result.resume()).status == "waiting"
    clock.at += 22 * 86400
    result = await result.resume()
    assert told(result)["error"]["name"] == "timeout"
    assert "nobody answered in time" in told(result)["error"]["message"]
    assert (paid, result.output, result.usage.tool_calls) == ([], "ok", 0)


async def test_questions_have_choices_and_repeats_in_sequence_are_told_apart():
    async def book(ctx: Context[Any]) -> list[Any]:
        day = await ctx.ask("Which day?", choices=("Monday", "Tuesday"))
        hour = await ctx.ask("What time?", timeout=60)
        return [day.text if day else None, hour.text if hour else None, hour.by if hour else None]

    result = await agent(book).run("x")
    (day,) = result.waits
    assert isinstance(day, Question)
    assert (day.text, day.choices, day.agent, day.expires) == ("Which day?", ("Monday", "Tuesday"), "A", None)
    with pytest.raises(DefinitionError, match="its choices are 'Monday', 'Tuesday'"):
        await result.resume({day.id: Answer("Sunday")})
    with pytest.raises(DefinitionError, match=r"give Answer\(text\)"):
        await result.resume({day.id: Approve()})
    result = await result.resume({day.id: Answer("Monday")})
    (hour,) = result.waits
    assert hour.id != day.id
    result = await result.resume({hour.id: Answer("nine", by="ada")})
    assert told(result) == {"data": ["Monday", "nine", "ada"]}


async def test_a_question_that_nobody_answers_is_none(clock: Clock):
    async def late(ctx: Context[Any]) -> bool:
        return await ctx.ask("Anybody?", timeout=4 * 3600) is None

    result = await agent(late).run("x")
    clock.at += 4 * 3600
    assert told(await result.resume()) == {"data": True}


async def test_two_questions_at_once_wait_together():
    async def both(ctx: Context[Any]) -> list[str]:
        found = await asyncio.gather(ctx.ask("a?", id="a"), ctx.approve("b?", id="b"))
        return [found[0].text if found[0] else "", type(found[1]).__name__]

    result = await agent(both).run("x")
    first, second = result.waits
    result = await result.resume({first.id: Answer("A"), second.id: Deny()})
    assert told(result) == {"data": ["A", "Deny"]}


async def test_only_tools_whose_effects_are_in_their_steps_may_wait():
    result = await agent(pay, effect="once").run("x")
    assert told(result)["error"]["name"] == StepOutsideSteps.__name__


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda ctx: ctx.approve(""), "reason='' must be a text"),
        (lambda ctx: ctx.ask(" "), "text=' ' must be a text"),
        (lambda ctx: ctx.ask("x" * MAX_MESSAGE_BYTES), "would not read that"),
        (lambda ctx: ctx.ask("a?", choices="yes"), "sequence of different texts"),
        (lambda ctx: ctx.ask("a?", choices=("yes", "yes")), "sequence of different texts"),
        (lambda ctx: ctx.ask("a?", timeout=0), "seconds above 0"),
        (lambda ctx: ctx.ask("a?", timeout=float("inf")), "seconds above 0"),
        (lambda ctx: ctx.approve("a?", timeout="4h"), "the timeout '4h'"),
        (lambda ctx: ctx.approve("a?", args={"at": object()}), "args of ctx.approve"),
        (lambda ctx: ctx.approve("a?", id="a/b"), "must not be empty nor contain"),
    ],
)
async def test_what_cannot_be_asked_is_an_error_of_the_tool(wrong: Any, says: str):
    async def ask(ctx: Context[Any]) -> None:
        await wrong(ctx)

    assert says in told(await agent(ask).run("x"))["error"]["message"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("é" * (MAX_MESSAGE_BYTES // 2 + 1)), r"Answer\(text=…\) has 10,485,762 bytes and at most 10,485,760"),
        (Answer("x", by="b" * 201), r"Answer\(by=…\) has 201 bytes and at most 200"),
        (Answer(cast("Any", 5)), r"Answer\(text=…\) is a text, not 5"),
        (cast("Any", "yes"), r"answered with 'yes'; give Answer\(text\)"),
    ],
)
async def test_an_answer_that_is_none_or_too_large_is_refused(answer: Answer, says: str):
    result = await Agent("A", model=ScriptedModel(call("ask_human", question="a?"), "ok"), tools=[ask_human]).run("x")
    with pytest.raises(DefinitionError, match=says):
        await result.resume({result.waits[0].id: answer})
    result = await result.resume({result.waits[0].id: Answer("half \ud83d")})
    assert told(result) == {"data": "half �"}


# -- the arguments that a person saw --------------------------------------------------------------------------------


async def test_r65_the_person_sees_defaults_and_validated_values_and_just_these_are_used():
    class Line(BaseModel):
        item: str
        count: int = 1

    paid: list[Any] = []

    @tool(requires_approval=True)
    async def order(lines: list[Line], to: str = "ada", at: timedelta = timedelta(hours=1)) -> None:
        paid.append((lines, to, at))

    model = ScriptedModel(call("order", lines=[{"item": "tea"}, {"item": "jam", "count": "2"}]), "ok")
    result = await Agent("A", tools=[order], model=model).run("x")
    shown = {"lines": [{"item": "tea", "count": 1}, {"item": "jam", "count": 2}], "to": "ada", "at": "PT3600S"}
    assert cast("Approval", result.waits[0]).args == shown
    order.fn.__defaults__ = ("eve", timedelta(0))
    await result.resume({result.waits[0].id: Approve()})
    assert paid == [([Line(item="tea"), Line(item="jam", count=2)], "ada", timedelta(hours=1))]


async def test_r65_what_would_not_be_read_as_the_same_is_shown_as_it_came():
    class Cents(BaseModel):
        amount: int

        def model_post_init(self, context: Any) -> None:
            self.amount *= 100

    paid: list[int] = []

    @tool(requires_approval=True)
    async def pay(price: Cents, to: str = "ada", how: Any = object()) -> None:  # noqa: B008
        paid.append(price.amount)

    result = await Agent("A", tools=[pay], model=ScriptedModel(call("pay", price={"amount": 5}), "ok")).run("x")
    assert cast("Approval", result.waits[0]).args == {"price": {"amount": 5}, "to": "ada"}
    await result.resume({result.waits[0].id: Approve()})
    assert paid == [500]


async def test_r65_a_body_that_waits_is_entered_again_with_the_defaults_that_it_had():
    seen: list[int] = []

    async def slow(ctx: Context[Any], amount: int = 5) -> None:
        seen.append(amount)
        await ctx.approve("ok?")

    result = await agent(slow).run("x")
    slow.__defaults__ = (7,)
    await result.resume({result.waits[0].id: Approve()})
    assert seen == [5, 5]


async def test_a_predicate_may_say_why():
    @tool(requires_approval=lambda amount: f"{amount} is above 100" if amount > 100 else "")
    async def pay(amount: int) -> str:
        return "paid"

    payer = Agent("A", tools=[pay])
    assert (await payer.run("x", model=ScriptedModel(call("pay", amount=5), "ok"))).status == "completed"
    result = await payer.run("x", model=ScriptedModel(call("pay", amount=500), "ok"))
    assert cast("Approval", result.waits[0]).reason == "500 is above 100"


# -- the tool -------------------------------------------------------------------------------------------------------


async def test_a_model_asks_a_person_and_reads_the_answer():
    model = ScriptedModel(call("ask_human", question="Which one?", choices=["a", "b", "b"]), "ok")
    result = await Agent("A", model=model, tools=[ask_human]).run("x")
    (wait,) = result.waits
    assert isinstance(wait, Question)
    assert (wait.text, wait.choices) == ("Which one?", ("a", "b"))
    await result.resume({wait.id: Answer("b")})
    assert model.requests[1].messages[-1].content == {"data": "b"}  # type: ignore[union-attr]


async def test_the_tool_has_a_name_a_description_choices_and_a_timeout(clock: Clock):
    boss = human_tool("ask_boss", description="Ask the boss.", choices=["yes", "no"], timeout=60)
    assert (boss.name, boss.description, set(boss.parameters["properties"])) == (
        "ask_boss",
        "Ask the boss.",
        {"question"},
    )
    assert ask_human.description.startswith("Ask a person.")
    assert ask_human.parameters["properties"]["question"]["description"].startswith("everything")
    result = await Agent("A", model=ScriptedModel(call("ask_boss", question="May I?"), "ok"), tools=[boss]).run("x")
    assert isinstance(result.waits[0], Question)
    assert result.waits[0].choices == ("yes", "no")
    clock.at += 60
    assert "Nobody answered in time" in told(await result.resume())["data"]
    for wrong in ({"choices": "yes"}, {"timeout": -1}, {"name": "no good"}):
        with pytest.raises(DefinitionError):
            human_tool(**cast("dict[str, Any]", wrong))


async def test_waits_of_children_expire_with_their_parents(clock: Clock):
    def asks(request: Any) -> Any:
        return (
            call("ask_human", question="a?") if len(request.messages) == 1 else say(str(request.messages[-1].content))
        )

    child = Agent("Child", model=FunctionModel(asks), tools=[human_tool(timeout=10)])

    async def ask_child(ctx: Context[Any]) -> str:
        return (await ctx.run(child, "please")).output

    result = await agent(ask_child).run("x")
    assert isinstance(result.waits[0], Question)
    clock.at += 10
    assert "Nobody answered" in str(told(await result.resume()))


async def test_a_tool_of_a_routing_agent_waits_for_a_person():
    picked = tool(lambda name: name, name="pick", requires_approval=True, parameters=PICK)
    chooser = RoutingAgent("Chooser", tools=[picked], on_route=lambda ctx, result: result.tool_calls[0].data)
    desk = Network("Desk", agents=[Agent("Writer")], router=sequence(chooser))
    result = await desk.run("x", model=ScriptedModel(call("pick", name="Writer"), "hi"))
    assert cast("Approval", result.waits[0]).agent == "Chooser"
    result = await result.resume({result.waits[0].id: Approve()})
    assert (result.status, result.output) == ("completed", "hi")


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"approval_timeout": 0}, "approval_timeout: the timeout 0"),
        ({"in_doubt": "guess"}, "in_doubt='guess' is unknown"),
        ({"in_doubt": "ask", "effect": "pure"}, "the effect 'pure' is never in doubt"),
        ({"in_doubt": "ask", "undo": lambda: None}, "undo=… settles it already"),
    ],
)
def test_options_that_make_no_sense(options: Any, says: str):
    with pytest.raises(DefinitionError, match=says):
        tool(lambda: None, name="t", **options)


async def test_options_of_steps_that_make_no_sense():
    async def wrong(ctx: Context[Any]) -> Any:
        return await ctx.step.run("a", lambda: 1, in_doubt="ask", effect="pure")

    assert "never in doubt" in told(await agent(wrong).run("x"))["error"]["message"]


def test_a_copy_of_a_tool_keeps_how_it_asks():
    made = tool(lambda: None, name="t", requires_approval=True, approval_timeout=5, in_doubt="ask")
    copy = made.replace(name="u")
    assert (copy.approval_timeout, copy.in_doubt) == (5.0, "ask")
