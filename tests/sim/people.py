"""The people of the simulated world: they answer runs, more than once, too early and too late, and they send news."""

from random import Random
from typing import TYPE_CHECKING, Any

from perdure import Answer, Approve
from perdure.db.database import StoreError
from perdure.log.waits import read_wait
from perdure.types.errors import UnknownName
from perdure.types.waits import Approval, Question, wait_id
from tests.sim.plan import News

if TYPE_CHECKING:
    from tests.sim.world import World

EVERY = 0.7
"""Seconds between two looks of theirs."""


class People:
    """Whoever answers.

    Args:
        world: where they live.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chance = Random(f"people {world.plan.seed}")
        self.taken: dict[tuple[str, str], set[Any]] = {}
        self.sent: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Begin to look what there is to answer, if there may be anything."""
        world, chance = self.world, self.chance
        if not world.plan.waits:
            return
        world.turns.after(EVERY, self._look)
        for one in () if world.calm else world.plan.asks:
            if "permit" in one.rounds and chance.random() < 0.4:  # perhaps before anybody has asked
                place = f"agent/0/infer/{chance.randrange(2)}/tool/{chance.randrange(2)}"
                at, id = one.at + chance.uniform(0, 3), wait_id(one.run, place)
                world.turns.at(at, lambda one=one, id=id: self._answer(one.container, id, Approve(by="early")))
            for n in range(chance.randint(0, 3) if "hear" in one.rounds else 0):
                for _ in range(chance.choice((1, 1, 2))):
                    at = max(0.0, one.at + chance.uniform(-0.5, 12))
                    world.turns.at(at, lambda one=one, n=n: self._send(one.container, one.run, n))

    def _look(self) -> None:
        world, chance = self.world, self.chance
        world.turns.after(EVERY, self._look)
        ask = "SELECT container, id, wait FROM waiters WHERE name IS NULL ORDER BY id"
        rows = world.look(ask) if world.taken else []
        for container, id, data in rows:
            wait = read_wait(data)
            if isinstance(wait, (Approval, Question)) and chance.random() < 0.6:
                for _ in range(1 if world.calm else chance.choice((1, 1, 2, 3))):
                    who = chance.choice("abc")
                    answer = Approve(by=who) if isinstance(wait, Approval) else Answer("all", by=who)
                    world.turns.after(chance.uniform(0, 0.5), lambda o=(container, id, answer): self._answer(*o))
        if self.taken and not world.calm and chance.random() < 0.1:
            container, id = chance.choice(sorted(self.taken))
            self._answer(container, id, Approve(by="late"))

    def _answer(self, container: str, id: str, answer: Any) -> None:
        process = self.world.somebody(self.chance)
        if process is not None:
            process.loop.spawn(self._give(process, container, id, answer))

    async def _give(self, process: Any, container: str, id: str, answer: Any) -> None:
        try:
            what = await process.runtime.container(container).log.answer(id, answer)
        except (StoreError, UnknownName):
            return
        if what != "late":
            self.taken.setdefault((container, id), set()).add(answer)

    def announce(self, news: News) -> None:
        """Send an event that starts functions, until it is acknowledged."""
        process = self.world.somebody(self.chance)
        if process is None:
            self.world.turns.after(0.5, lambda: self.announce(news))
            return
        waiting = [True]
        process.loop.spawn(self._announced(process, news, waiting))
        self._watch(process, news, waiting)

    def _watch(self, process: Any, news: News, waiting: list[bool]) -> None:
        if waiting[0] and process.loop.alive:
            self.world.turns.after(1.0, lambda: self._watch(process, news, waiting))
        elif waiting[0]:
            self.announce(news)

    async def _announced(self, process: Any, news: News, waiting: list[bool]) -> None:
        try:
            await process.runtime.container(news.container).send_event("job", {"n": news.number}, id=news.id)
        except StoreError:
            self.world.turns.after(0.5, lambda: self.announce(news))
        else:
            self.sent.add((news.container, news.id))
            self.world.opened(-1)
        waiting[0] = False

    def _send(self, container: str, run: str, number: int) -> None:
        process = self.world.somebody(self.chance)
        if process is None:
            self.world.turns.after(1.0, lambda: self._send(container, run, number))
        else:
            process.loop.spawn(self._tell(process, container, run, number))

    async def _tell(self, process: Any, container: str, run: str, number: int) -> None:
        id = f"news_{run}_{number}"
        try:
            await process.runtime.container(container).send_event("news", {"to": run, "n": number}, id=id)
        except StoreError:
            return
        self.sent.add((container, id))
