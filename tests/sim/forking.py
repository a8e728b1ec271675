"""Those who fork and rewind sessions of the simulated world, and go on in them, while runs go on."""

from random import Random
from typing import TYPE_CHECKING, Any

from perdure.db.database import StoreError
from perdure.types.errors import Conflict, InvalidId, RunError, UnknownName
from tests.sim.plan import Ask, Cut

if TYPE_CHECKING:
    from tests.sim.world import Process, World

Place = tuple[str, str]


class Forking:
    """Whoever forks and rewinds.

    Args:
        world: where they live.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.chance = Random(f"forking {world.plan.seed}")
        self.made: dict[Place, tuple[str, int, str | None]] = {}
        self.rewound: list[tuple[Place, int, int]] = []

    def begin(self) -> None:
        """Do what is planned, each at its time; nothing of it belongs to an undisturbed world."""
        for cut in () if self.world.calm else self.world.plan.cuts:
            self.world.turns.at(cut.at, lambda cut=cut: self._choose(cut))

    def _choose(self, cut: Cut) -> None:
        """Say once where it is cut: whoever has no answer asks for the same again."""
        world, chance = self.world, self.chance
        ask = "SELECT container, id FROM sessions WHERE parent IS NULL ORDER BY number"
        sessions = world.look(ask) if world.subscribed else []
        if not sessions:
            return
        container, session = chance.choice(sessions)
        rows = world.look(
            "SELECT run, seq FROM records WHERE container = ? AND session = ? AND run <> '' ORDER BY seq",
            *(container, session),
        )
        if not rows:
            return
        # half of the time near the end, where something is open
        run, seq = (
            rows[-1 - min(int(chance.expovariate(0.5)), len(rows) - 1)]
            if chance.random() < 0.5
            else (chance.choice(rows))
        )
        if cut.kind == "rewind":
            ends = world.look(
                "SELECT seq FROM records WHERE container = ? AND session = ? AND kind = 'run_finished' ORDER BY seq",
                *(container, session),
            )
            seq = chance.choice([0, *(one[0] for one in ends)]) if chance.random() < 0.9 else seq
        world.opened(1)
        self._try(cut, container, session, run, seq)

    def _try(self, cut: Cut, *where: Any) -> None:
        process = self.world.somebody(self.chance)
        if process is None:
            self.world.turns.after(0.5, lambda: self._try(cut, *where))
            return
        waiting = [True]
        process.loop.spawn(self._do(process, waiting, cut, *where))
        self._watch(process, waiting, cut, where)

    def _watch(self, process: "Process", waiting: list[bool], cut: Cut, where: Any) -> None:
        if waiting[0] and process.loop.alive:
            self.world.turns.after(1.0, lambda: self._watch(process, waiting, cut, where))
        elif waiting[0]:
            self._try(cut, *where)

    async def _do(
        self, process: "Process", waiting: list[bool], cut: Cut, container: str, session: str, run: str, seq: int
    ) -> None:
        assert process.runtime is not None
        there = process.runtime.container(container)
        new = f"{cut.kind}_{cut.number}"
        again = False
        try:
            if cut.kind == "rewind":
                at = await there.session(session).rewind(seq, cancel=cut.hard)
                self.rewound.append(((container, session), seq, at))
            elif cut.kind == "fork":
                await there.session(session).fork(seq, id=new)
                self.made[container, new] = (session, seq, None)
            else:
                going_on = await there.fork(run, seq, id=f"run_{new}", session_id=new)
                self.made[container, new] = (session, seq, run)
                self.world.taken.add((container, going_on.id))
        except (Conflict, InvalidId, UnknownName) as error:
            if "is not this fork" in str(error):
                self.world.wrong.append(f"the fork {new} was made again, and was told: {error}")
        except (StoreError, RunError):
            again = True
        waiting[0] = False
        if again:
            self.world.turns.after(0.5, lambda: self._try(cut, container, session, run, seq))
        elif cut.kind != "rewind" and (container, new) in self.made:
            self.world._deliver(Ask(0.0, container, new, f"run_{new}_next", "Desk", cut.rounds))
        else:
            self.world.opened(-1)

    def inherits(self, container: str, run: str, key: str) -> bool:
        """Whether a forked run goes on from another one that had finished a step."""
        rows = self.world.look(
            "SELECT base, base_seq, base_run FROM sessions WHERE container = ? AND fork_run = ?", container, run
        )
        for base, seq, origin in rows:
            text = "SELECT 1 FROM records WHERE container = ? AND session = ? AND run = ? AND key = ? AND seq <= ?"
            if self.world.look(text, container, base, origin, key, seq):
                return True
            if self.inherits(container, origin, key):
                return True
        return False
