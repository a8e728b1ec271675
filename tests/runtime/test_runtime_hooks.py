"""The hooks of a runtime: they see every agent, whoever runs it, and a network's see only its own."""

from typing import Any

from perdure import Agent, Context, Hooks, Network, Runtime, function, tool
from perdure.testing import ScriptedModel, call, say
from tests.runtime.desk import QUICK


def agent(name: str, *answers: Any, **more: Any) -> Agent[Any, Any]:
    return Agent(name, model=ScriptedModel(*answers), **more)


async def test_a_runtimes_hooks_see_the_agents_that_functions_tools_and_networks_run(url: str):
    seen: list[str] = []
    of_network: list[str] = []
    inner = agent("Inner", *[say("inner")] * 3)

    @tool(effect="steps")
    async def delegate(ctx: Context[Any]) -> str:
        """Ask another one."""
        return str((await ctx.run(inner, "go")).output)

    outer = agent("Outer", call("delegate"), say("outer"), tools=[delegate])
    member = agent("Member", call("delegate"), say("member"), tools=[delegate])
    net = Network("Net", agents=[member], router=lambda r: None if r.call_count else member, hooks=Hooks(
        on_start=lambda ctx, messages: of_network.append(ctx.agent.name)))  # fmt: skip

    @function
    async def job(ctx: Context[Any]) -> list[str]:
        return [str((await ctx.run(inner, "go")).output), await ctx.step.invoke("outer", outer, "go")]

    hooks = Hooks(on_start=lambda ctx, messages: seen.append(ctx.agent.name))
    async with Runtime(url, [job, outer, net, inner], hooks=hooks, timing=QUICK) as rt:
        assert (await rt.run(job)).output == ["inner", "outer"]
        assert (await rt.run(net, "go")).output == "member"
    assert seen == ["Inner", "Outer", "Inner", "Outer", "Member", "Inner", "Member"]
    assert of_network == ["Member", "Member"], "not what its agents run"
