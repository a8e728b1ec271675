"""What a run is given to live in: the registry and the clock."""

import pytest

from perdure import Agent, DefinitionError, UnknownName
from perdure.durable.kernel import Kernel, Registry, SystemClock
from perdure.log.memory import MemoryLog


def test_definitions_are_found_by_their_name():
    registry = Registry()
    one = Agent("One")
    registry.add(one)
    registry.add(one)
    assert registry.get("One") is one


def test_two_definitions_of_one_name_are_refused():
    registry = Registry()
    registry.add(Agent("Same"))
    with pytest.raises(DefinitionError, match=r"Two definitions are named 'Same'.*Rename one"):
        registry.add(Agent("Same"))


def test_an_unknown_name_says_which_there_are():
    registry = Registry()
    registry.add(Agent("One"))
    with pytest.raises(UnknownName, match=r"no definition named 'Two'\. Known: 'One'"):
        registry.get("Two")


def test_a_kernel_without_a_log_lasts_no_longer_than_its_run():
    assert not Kernel().durable
    assert isinstance(Kernel().log, MemoryLog)
    log = MemoryLog()
    assert Kernel(log).durable
    assert Kernel(log).log is log


async def test_time_passes():
    clock = SystemClock()
    before = clock.now(), clock.monotonic()
    await clock.sleep(0)
    assert clock.now() >= before[0]
    assert clock.monotonic() >= before[1]
