"""Performs one routing decision and turns the router's answer into names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from perdure.agents.context import Context, NetworkRun
from perdure.agents.definition import AgentDefinition, RoutingDefinition
from perdure.agents.env import Env
from perdure.agents.hooks import HookChain, settle
from perdure.agents.network_loop import NetworkLoop
from perdure.agents.network_loop import Route as RouteNote
from perdure.agents.result import AgentResult
from perdure.agents.routers import Parallel, Route, RouterArgs, StopWhen
from perdure.agents.routing_agent import default_routing_agent
from perdure.durable.program import Keep
from perdure.durable.run_io import RunIO
from perdure.types.errors import DefinitionError, UnknownName
from perdure.types.messages import TextMessage
from perdure.types.records import Pick, RouteDone


async def route(env: Env, state: NetworkLoop, note: RouteNote, key: str, io: RunIO) -> RouteDone | Keep:
    """Decide what runs next.

    Returns:
        The decision; or, under a place of its own, the routing agent that must be asked first.
    """
    network = env.network
    assert network is not None
    ctx: Context[Any] = Context(env, io, key, None, note.asked.doc if note.asked is not None else state.doc)
    if note.asked is not None:
        routing = env.roster.routing[note.agent or ""]
        said = AgentResult(routing.name, tuple(note.asked.said), f"{env.run_id}/{key}", io.kernel.clock.now())
        return await _decided(env, ctx, await settle(routing.on_route(ctx, said)), routing.name)
    if note.number == 0 and not await env.available(ctx):
        raise DefinitionError(
            f"Network {network.name!r}: no agent is enabled, so none can run; see the enabled= of its agents."
        )
    args = router_args(env, state, ctx)
    if network.stop_when is not None and state.call_count > 0 and await settle(network.stop_when(args)):
        return await _decided(env, ctx, StopWhen(), "stop_when")
    router: Any = env.router if env.router is not None else network.router
    if router is None:
        if env.model is None and network.model is None:
            raise DefinitionError(
                f"Network {network.name!r} has neither a router nor a model for the default routing agent; give it one "
                "of the two."
            )
        router = default_routing_agent()
    answer = router if isinstance(router, RoutingDefinition) else await settle(router(args))
    if isinstance(answer, RoutingDefinition):
        env.roster.routing[answer.name] = answer
        return Keep(f"{key}/ask", RouteDone(ask=answer.name, by=_name(router), patch=ctx.patch()))
    return await _decided(env, ctx, answer, _name(router))


async def recall_routing(env: Env, state: NetworkLoop) -> bool:
    """Find the routing agent whose turn is open, for which another process has asked the router; say whether it is."""
    network, asking = env.network, state.asking
    assert network is not None and asking is not None
    router: Any = env.router if env.router is not None else network.router or default_routing_agent()
    if not isinstance(router, RoutingDefinition):
        ctx: Context[Any] = Context(env, None, asking.prefix, None, state.doc)
        router = await settle(router(router_args(env, state, ctx)))
    found = isinstance(router, RoutingDefinition) and router.name == asking.rules.agent
    if found:
        env.roster.routing[router.name] = router
    return found


def router_args(env: Env, state: NetworkLoop, ctx: Context[Any]) -> RouterArgs[Any]:
    """Collect what a router is given."""
    started = state.started
    user_message = next(
        (m for m in reversed(started.messages if started else ()) if isinstance(m, TextMessage) and m.role == "user"),
        None,
    )
    results = env.results()
    return RouterArgs(
        input=user_message.text if user_message is not None else "",
        user_message=user_message,
        network=NetworkRun(env, ctx.state, []),
        stack=cast("Any", [env.roster.find(name, pick.args) for pick in state.queue for name in pick.agents]),
        call_count=state.call_count,
        decisions=state.routes,
        last_result=results[-1] if results else None,
        ctx=ctx,
    )


async def _decided(env: Env, ctx: Context[Any], answer: Any, by: str) -> RouteDone:
    if isinstance(answer, StopWhen):
        return RouteDone((), None, by, "stop_when", ctx.patch())
    picks = to_picks(env, answer)
    chain = HookChain(env.hooks)
    for hook in chain.on_route:
        names = tuple(name for pick in picks for name in pick.agents)
        changed = await settle(hook(ctx, names))
        if changed is not None:
            picks = to_picks(env, changed)
    return RouteDone(picks, None, by, "router", ctx.patch())


def to_picks(env: Env, answer: Any) -> tuple[Pick, ...]:
    """Turn a router's answer into names; agents from outside the network are taken into this run."""
    if answer is None:
        return ()
    if isinstance(answer, AgentDefinition):
        _admit(env, answer)
        return (Pick((answer.name,)),)
    if isinstance(answer, str):
        env.roster.find(answer)
        return (Pick((answer,)),)
    if isinstance(answer, Route):
        if answer.args is None:
            env.roster.find(answer.name)
        elif env.network is None or env.network.resolve is None:
            raise DefinitionError(
                f"The router asked for {answer.name!r} with arguments, and the network has no resolve= to build it."
            )
        else:
            env.roster.find(answer.name, answer.args)
        return (Pick((answer.name,), answer.args),)
    if isinstance(answer, Parallel):
        group = cast("Parallel[Any]", answer)
        inside = [pick for one in group.agents for pick in to_picks(env, one)]
        if not inside or any(pick.args is not None for pick in inside):
            raise DefinitionError(
                f"The router of {env.definition.name!r} returned {answer!r}; it takes one or more agents or names, and "
                "no Route with arguments."
            )
        return (Pick(tuple(name for pick in inside for name in pick.agents)),)
    if isinstance(answer, Sequence) and not isinstance(answer, (bytes, bytearray)):
        given = cast("Sequence[Any]", answer)
        if any(isinstance(one, RoutingDefinition) for one in given):
            raise DefinitionError("The router returned a routing agent inside a list; return it alone.")
        return tuple(pick for one in given for pick in to_picks(env, one))
    raise DefinitionError(
        f"The router of {env.definition.name!r} returned {answer!r}; return an agent, a name, a Route, parallel(…), a "
        "list of these, a routing agent, or None."
    )


def _admit(env: Env, agent: AgentDefinition) -> None:
    known = env.agents.get(agent.name)
    if known is agent:
        return
    if env.kernel.durable:
        raise UnknownName("agent", agent.name, list(env.agents))
    if known is not None:
        raise DefinitionError(
            f"The router of {env.definition.name!r} returned an agent from outside which is named {agent.name!r} like "
            "one that takes part; rename one of them."
        )
    env.agents[agent.name] = agent


def _name(router: Any) -> str:
    return (
        router.name if isinstance(router, RoutingDefinition) else getattr(router, "__qualname__", type(router).__name__)
    )
