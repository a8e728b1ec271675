"""Rule 18, by chance: whatever is said, forked, rewound, compacted and erased, everyone reads what a model says."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import Agent, Runtime
from perdure.runtime.conversations import Conversations
from perdure.testing import FunctionModel, say
from perdure.types import records as rec
from tests.runtime.desk import QUICK

clerk = Agent("Clerk", model=FunctionModel(lambda request: say(f"saw {len(request.messages)}")))
acts = st.lists(
    st.tuples(
        st.sampled_from(("turn", "turn", "turn", "fork", "fork", "inside", "rewind", "compact", "erase")),
        st.integers(0, 7),
        st.integers(0, 63),
    ),
    max_size=12,
)


class Model:
    """A session as it should be: what is said at each of its places, and where it goes on from what."""

    def __init__(self, base: str | None = None, low: int = 0, origin: "Model | None" = None) -> None:
        self.base = base
        self.low = low
        self.said = origin.up_to(low) if origin is not None else {0: []}
        self.erased = origin.erased if origin is not None else 0

    @property
    def last(self) -> int:
        return max(self.said)

    def goes_on(self, head: int, said: list[str]) -> None:
        """Behind the record `head` this is what was said."""
        self.said[head] = said

    def up_to(self, seq: int) -> dict[int, list[str]]:
        return {place: said for place, said in self.said.items() if place <= seq}


async def check(steps: list[tuple[str, int, int]], folder: str) -> None:
    models = {"s0": Model()}
    async with Runtime(f"sqlite:///{folder}/desk.db", [clerk], timing=QUICK, durability="normal") as rt:
        log = rt.container("default").log
        for number, (act, which, where) in enumerate(steps):
            id = sorted(models)[which % len(models)]
            model, session = models[id], rt.session(id)
            now = model.said[model.last]
            places = [one for one in model.said if one > model.erased]
            at = places[where % len(places)] if places else 0
            if act == "turn":
                await session.run(clerk, f"{number}")
                model.goes_on(await log.head(id), [*now, f"{number}", f"saw {len(now) + 1}"])
            elif act == "fork" and at:
                new = f"s{len(models)}"
                await session.fork(at, id=new)
                models[new] = Model(holder(models, id, at), at, model)
                models[new].goes_on(await log.head(new), model.said[at])
            elif act == "inside" and (runs := await rt.runs(session_id=id)):
                run = runs[where % len(runs)]
                records = await log.read_run(run.id)
                if any(isinstance(one.payload, rec.Erased) for one in records) or run.status == "cancelled":
                    continue
                new = f"s{len(models)}"
                answered = next(one.seq for one in records if isinstance(one.payload, rec.InferenceDone))
                again = await rt.fork(run.id, answered, session_id=new)
                result = await again.result()
                assert result.status == "completed"
                ends = records[-1].seq
                models[new] = Model(holder(models, id, answered), answered, model)
                models[new].said = model.up_to(records[0].seq - 1)
                models[new].goes_on(await log.head(new), model.said[ends])
            elif act == "rewind" and model.last and at != model.last and (at or not model.erased):
                await session.rewind(at)
                model.goes_on(await log.head(id), model.said[at])
            elif act == "compact" and model.last:
                await session.compact()
                model.goes_on(await log.head(id), now)
            elif act == "erase" and model.last:
                below = {id}
                for name in sorted(models):
                    if models[name].base in below:
                        below.add(name)
                assert set((await session.erase()).sessions) == below
                for name in below:
                    models[name].erased = await log.head(name)
                    models[name].said = {models[name].erased: []}
            for name, one in models.items():
                await same(rt, name, one)
        assert await rt.check(deep=True) == []


def holder(models: dict[str, Model], id: str, seq: int) -> str:
    """The session that has a record as its own."""
    while seq <= models[id].low:
        id = models[id].base or id
    return id


async def same(rt: Runtime, name: str, model: Model) -> None:
    messages: list[Any] = [one async for one in rt.session(name).messages()]
    assert [one.text for one in messages] == model.said[model.last]
    cold = await Conversations(rt.container("default").log).of(name)
    assert cold.messages == messages, "cached = uncached"
    assert [one.seq for one in await rt.session(name).records()] == list(range(1, cold.seq + 1))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(acts)
def test_r18_whatever_happens_everyone_reads_what_a_simple_model_says(steps: list[tuple[str, int, int]]):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(steps, folder))


async def test_what_was_erased_before_a_fork_is_no_place_of_the_fork(tmp_path: Path) -> None:
    await check([("turn", 0, 0), ("erase", 0, 0), ("turn", 0, 0), ("fork", 0, 0), ("fork", 1, 0)], str(tmp_path))
