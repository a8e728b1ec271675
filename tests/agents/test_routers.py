"""The helpers that make routers: sequence, parallel, branch."""

from typing import Any

import pytest

from perdure import (
    Agent,
    DefinitionError,
    Network,
    RouterArgs,
    RoutingAgent,
    branch,
    parallel,
    sequence,
)
from perdure.testing import FunctionModel, ScriptedModel
from tests.agents.watching import watch

pytestmark = pytest.mark.usefixtures("nothing_left")
ONE, TWO, THREE, FOUR = (Agent(name, system=f"I am {name}.") for name in ("One", "Two", "Three", "Four"))
ALL = [ONE, TWO, THREE, FOUR]


def named() -> FunctionModel:
    """Each agent says its name."""
    return FunctionModel(lambda request: request.messages[0].text.removeprefix("I am ").removesuffix("."))


async def turns(router: Any, **options: Any) -> list[str]:
    """Which agents ran."""
    watched = await watch(Network("N", agents=ALL, router=router), model=named(), **options)
    if watched.error is not None:
        raise watched.error
    return [one.agent_name for one in watched.result.results]


async def test_b35_a_sequence_goes_through_its_stages_once():
    assert await turns(sequence(ONE, TWO, ONE)) == ["One", "Two", "One"]


async def test_b35_a_sequence_may_hold_groups_branches_and_routing_agents():
    chooser = RoutingAgent("Chooser", system="I am Two.", on_route=lambda ctx, result: result.text)

    async def fourth(r: RouterArgs[Any]) -> Agent[Any, Any]:
        return FOUR

    order = await turns(sequence(parallel(ONE, THREE), chooser, branch(lambda r: "x", {"x": THREE}), fourth))
    assert order == ["One", "Three", "Two", "Three", "Four"]


async def test_b35_a_stage_that_returns_nothing_ends_the_run():
    assert await turns(sequence(ONE, lambda r: None, TWO)) == ["One"]


@pytest.mark.parametrize("slow", [False, True])
async def test_b35_a_sequence_may_stop_early(slow: bool):
    def enough(r: RouterArgs[Any]) -> bool:
        return r.last_result is not None and r.last_result.agent_name == "Two"

    async def later(r: RouterArgs[Any]) -> bool:
        return enough(r)

    network = Network("N", agents=ALL, router=sequence(*ALL, stop_when=later if slow else enough))
    result = await network.run("x", model=named())
    assert [one.agent_name for one in result.results] == ["One", "Two"]
    assert result.stop_reason == "stop_when"


@pytest.mark.parametrize("slow", [False, True])
async def test_b35_a_branch_chooses_by_a_key(slow: bool):
    def key(r: RouterArgs[Any]) -> Any:
        return "long" if len(r.input) > 3 else r.call_count

    async def later(r: RouterArgs[Any]) -> Any:
        return key(r)

    router = branch(later if slow else key, {"long": ONE, 0: TWO, 1: parallel(THREE, FOUR)}, default=None)
    network = Network("N", agents=ALL, router=router, max_iter=3)
    assert [one.agent_name for one in (await network.run("x", model=named())).results] == ["Two", "Three", "Four"]
    assert [one.agent_name for one in (await network.run("long", model=named())).results] == ["One"] * 3


async def test_b35_a_branch_without_a_key_takes_its_default():
    assert await turns(sequence(branch(lambda r: "y", {"x": ONE}, default=TWO))) == ["Two"]
    assert await turns(branch(lambda r: "y", {"x": ONE})) == []


async def test_agents_of_a_group_may_be_given_by_name():
    assert await turns(sequence(parallel("One", "Four"))) == ["One", "Four"]


@pytest.mark.parametrize("given", [(), (ONE,), (ONE, ONE), (ONE, "One")])
def test_a_group_has_two_or_more_different_agents(given: Any):
    with pytest.raises(DefinitionError, match="two or more different agents"):
        parallel(*given)


def test_a_sequence_has_a_stage():
    with pytest.raises(DefinitionError, match="at least one stage"):
        sequence()


async def test_a_router_that_was_used_before_begins_anew_in_each_run():
    router = sequence(ONE, TWO)
    assert await turns(router) == ["One", "Two"]
    assert await turns(router) == ["One", "Two"]


async def test_the_run_s_router_wins():
    network = Network("N", agents=ALL, router=sequence(ONE))
    result = await network.run("x", router=sequence(TWO), model=ScriptedModel("hi"))
    assert [one.agent_name for one in result.results] == ["Two"]


@pytest.mark.parametrize(("choose", "choices"), [("topic", {}), (lambda r: "x", [ONE])])
def test_a_branch_needs_a_function_and_a_mapping(choose: Any, choices: Any):
    with pytest.raises(DefinitionError, match="give a function that says the key, and a mapping"):
        branch(choose, choices)
