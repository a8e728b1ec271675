"""What is inferred for networks: the state from `state=`, the router's argument from it, agents checked against it."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from pydantic import BaseModel

from perdure import (
    Agent,
    Context,
    Hooks,
    Network,
    Parallel,
    Route,
    RouterArgs,
    RoutingAgent,
    Run,
    RunResult,
    RunStream,
    branch,
    default_routing_agent,
    parallel,
    sequence,
    tool,
)
from perdure.agents.routers import RouterFn


@dataclass
class Support:
    user: str = ""
    answered: bool = False


@dataclass
class Other:
    n: int = 0


class Loose(TypedDict, total=False):
    solved: bool


class Report(BaseModel):
    title: str


@tool
async def answer(ctx: Context[Support], text: str) -> str:
    return text


@tool
def count(ctx: Context[Other]) -> int:
    return ctx.state.data.n


biller = Agent("Billing", tools=[answer])
writer = Agent("Writer")
counter = Agent("Counter", tools=[count])


def route(r: RouterArgs[Support]) -> Agent | None:
    assert_type(r.state.data, Support)
    assert_type(r.network.state.data.answered, bool)
    if r.call_count == 0:
        return biller
    return None if r.state.data.answered else writer


async def slow_route(r: RouterArgs[Support]) -> Agent[Any, Support] | str | Route | None:
    return Route("expert", args={"n": r.call_count})


def is_answered(r: RouterArgs[Support]) -> bool:
    return r.state.data.answered


# -- construction ------------------------------------------------------------------------------------------------------

desk = Network("desk", agents=[biller, writer], router=route, state=Support, model="openai:gpt-5-mini", max_iter=10)
assert_type(desk, Network[Support, str])
assert_type(Network("desk", agents=[biller, writer], state=lambda: Support("ada")), Network[Support, str])
assert_type(Network("slow", agents=[biller], router=slow_route, state=Support), Network[Support, str])
assert_type(Network("plain", agents=[writer]), Network[dict[str, Any], str])
assert_type(Network("loose", agents=[writer], state=Loose), Network[Loose, str])
assert_type(Network("report", agents=[writer], output_type=Report), Network[dict[str, Any], Report])
assert_type(Network("report", agents=[biller], state=Support, output_type=Report), Network[Support, Report])

# a lambda gets a typed argument, by state= alone
Network("λ", agents=[biller, writer], state=Support, router=lambda r: None if r.state.data.answered else biller)
Network("λ", agents=[writer], router=lambda r: writer if r.state.data.get("go") else None)
Network("λ", agents=[biller, writer], state=Support, stop_when=lambda r: r.state.data.answered)
Network(
    "typo",
    agents=[biller],
    state=Support,
    router=lambda r: None if r.state.data.anwsered else biller,  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
)

# an agent whose tools want another state, and a router for another state, are errors in their lines
Network("wrong", agents=[biller, counter], state=Support)  # pyright: ignore[reportArgumentType]
Network("wrong", agents=[counter], state=Other, router=route)  # pyright: ignore[reportArgumentType]
Network("wrong", agents=[biller], state=Support())  # pyright: ignore[reportArgumentType]


# -- routers -----------------------------------------------------------------------------------------------------------

pair = parallel(biller, writer)
assert_type(pair, Parallel[Support])
line = sequence(biller, pair)
assert_type(line, RouterFn[Support])
assert_type(branch(is_answered, {True: writer, False: biller}), RouterFn[Support])
choice: RouterFn[Support] = branch(lambda r: r.state.data.answered, {True: writer, False: biller}, default=writer)
Network("line", agents=[biller, writer], state=Support, router=sequence(biller, parallel(biller, writer), writer))
Network("line", agents=[biller, writer], state=Support, router=line)
Network("line", agents=[biller, writer], state=Support, router=choice)
Network(
    "line",
    agents=[biller, writer],
    state=Support,
    router=sequence(
        biller,
        branch(lambda r: r.state.data.answered, {True: writer, False: biller}),
        stop_when=lambda r: r.state.data.answered,
    ),
)


def pick(ctx: Context[Any], result: Any) -> str | None:
    return "Writer"


directed = RoutingAgent("Director", on_route=pick)
Network("directed", agents=[biller, writer], state=Support, router=directed)
Network("directed", agents=[writer], router=default_routing_agent())
Network("hybrid", agents=[writer], router=lambda r: writer if r.call_count == 0 else default_routing_agent())
Network("hooks", agents=[writer], hooks=[Hooks()])


# -- doors -------------------------------------------------------------------------------------------------------------


async def doors() -> None:
    result = await desk.run("Why twice?", state=Support(user="u1"))
    assert_type(result, RunResult[str, Support])
    assert_type(result.state.data.answered, bool)
    assert_type(result.output, str)

    assert_type(desk.start("Why twice?"), Run[str, Support])
    assert_type(await desk.start("Why twice?").result(), RunResult[str, Support])
    async with desk.stream("Why twice?") as stream:
        assert_type(stream, RunStream[str, Support])
        assert_type(await stream.result(), RunResult[str, Support])
    assert_type(desk.run_sync("Why twice?").state.data, Support)

    await desk.run("Why twice?", state=Other())  # pyright: ignore[reportArgumentType]
    assert_type(desk.agents["Billing"], Agent[Any, Support])
