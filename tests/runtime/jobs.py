"""Durable functions that the tests run here and in processes that are killed."""

from typing import Any

from perdure import Agent, Concurrency, Context, NonRetriable, RetryAfter, SentEvent, function
from perdure.testing import say
from tests.runtime import desk
from tests.runtime.desk import answer, note, until

Ctx = Context[Any]


@function(name="Double")
async def double(ctx: Ctx, n: int) -> int:
    await ctx.step.run("tell", note, f"double {n}", effect="idempotent")
    return 2 * n


@function(name="Twice")
async def parent(ctx: Ctx, n: int) -> int:
    await ctx.step.run("first", note, "first", effect="idempotent")
    doubled = await ctx.step.invoke("double", double, {"n": n})
    await ctx.step.run("last", note, "last", effect="idempotent")
    return doubled + 1


@function(name="Tells")
async def tells(ctx: Ctx) -> str:
    sent = await ctx.step.send_event("tell", "app/told", {"n": 1})
    await ctx.step.run("last", note, "told", effect="idempotent")
    return sent.id


@function(name="Hears", event="app/told")
async def hears(ctx: Ctx, event: SentEvent) -> Any:
    await ctx.step.run("hear", note, f"hears {event.id}", effect="idempotent")
    return event.data


@function(name="Hears too", event="app/told")
async def hears_too(event: SentEvent) -> str:
    note(f"hears too {event.id}")
    return event.name


@function(name="Flaky", retries=3)
async def flaky(ctx: Ctx) -> str:
    await ctx.step.run("once", note, "once")
    note("attempt")
    if desk.effects().count("attempt") < 3:
        raise RetryAfter(0.01, "not yet")
    return "at last"


@function(name="Never", retries=2)
async def never(ctx: Ctx) -> None:
    note("attempt")
    raise RetryAfter(0.01, "no")


@function(name="Wrong")
async def wrong(ctx: Ctx) -> None:
    raise NonRetriable("it is wrong")


@function(name="Stays")
async def stays(ctx: Ctx) -> str:
    await ctx.step.run("stay", note, "stays", effect="idempotent")
    await ctx.step.sleep("long", 10_000)
    return "never"


@function(name="Invokes")
async def invokes(ctx: Ctx, timeout: float | None = None) -> str:
    return await ctx.step.invoke("stays", stays, timeout=timeout)


async def _narrow(n: int) -> int:
    note(f"in {n}")
    await until((desk.place / desk.gate).exists)
    note(f"out {n}")
    return n


@function(name="Narrow", event="app/narrow", concurrency=2)
async def narrow(ctx: Ctx, event: SentEvent) -> int:
    return await _narrow(event.data["n"])


@function(name="Keyed", event="app/keyed", concurrency=Concurrency(1, "data.user"))
async def keyed(ctx: Ctx, event: SentEvent) -> int:
    return await _narrow(event.data["n"])


@function(name="Nightly", cron="TZ=Europe/Oslo 30 2 * * *", container=("default", "acme"))
async def nightly(ctx: Ctx, event: SentEvent) -> float:
    note(f"nightly {event.data['container']} {event.data['due']}")
    return event.data["due"]


CLERK = Agent("Clerk", model=answer(lambda asked, number: say(f"answer to {asked}"), "clerk"))


@function(name="Asks")
async def asks(ctx: Ctx) -> str:
    return await ctx.step.invoke("clerk", CLERK, "why")


FUNCTIONS = (double, parent, tells, hears, hears_too, flaky, never, wrong, stays, invokes, narrow, keyed, nightly, asks)
JOBS = (*FUNCTIONS, CLERK)
