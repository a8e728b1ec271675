"""What a seed stands for: who says what to whom, and what goes wrong when."""

import re
from random import Random
from typing import Any, NamedTuple

ROUNDS = ("look", "fetch", "charge", "pay", "trip", "bump", "shaky")
"""The first tools of the desk."""
LATER = (("book", "reserve", "stay"), ("nap", "hear", "talk", "permit", "ask", "errand"), ("order", "hire"))
"""Those that came later, age by age: a seed that has found something goes on to stand for what it was then."""
NEWEST = 1 + len(LATER)
FUNCTIONS = 4
"""The age from which on there are durable functions, and sessions are forked and rewound."""


class Ask(NamedTuple):
    """One message of a user."""

    at: float
    container: str
    session: str | None
    run: str
    definition: str
    rounds: str
    times: int = 1

    @property
    def place(self) -> tuple[str, str]:
        return self.container, self.session or f"session_{self.run.removeprefix('run_')}"


class Trouble(NamedTuple):
    """Something that goes wrong with a process at a moment: kill, pause (for some seconds), stop, jump, cancel."""

    at: float
    kind: str
    process: int
    amount: float = 0.0


class News(NamedTuple):
    """An event of a user, which starts functions."""

    at: float
    container: str
    number: int
    times: int = 1

    @property
    def id(self) -> str:
        return f"job_{self.number}"


class Cut(NamedTuple):
    """Somebody forks a session or a run, or rewinds a session, and goes on there; `hard` also where runs are open."""

    at: float
    kind: str
    number: int
    rounds: str
    hard: bool


class Plan(NamedTuple):
    """Everything that is decided before the simulation begins."""

    seed: int
    processes: int
    hosts: int
    asks: tuple[Ask, ...]
    troubles: tuple[Trouble, ...]
    faults: float
    deaths: float
    slowness: float
    jobs: bool = False
    news: tuple[News, ...] = ()
    cuts: tuple[Cut, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether anything may wait for people or for news."""
        return any(re.search("hear|permit|ask|errand", one.rounds) for one in (*self.asks, *self.cuts))

    @classmethod
    def of(cls, seed: int, age: int = NEWEST) -> "Plan":
        """Make the plan that a seed stands for, among the tools that there were at an age."""
        chance = Random(f"plan {seed}")
        asks: list[Ask] = []
        for number in range(chance.randint(1, 3)):
            container = chance.choice(("default", "default", "acme"))
            session = f"s{number}" if chance.random() < 0.8 else None
            asks += [
                Ask(
                    round(chance.uniform(0, 6), 3),
                    container,
                    session,
                    f"run_{number}{turn}",
                    "Net" if chance.random() < 0.25 else "Desk",
                    _with_later(_rounds(chance), Random(f"rounds {seed} {number} {turn}"), age),
                    chance.choice((1, 1, 1, 2)),
                )
                for turn in range(chance.randint(1, 4) if session else 1)
            ]
        processes = chance.randint(1, 4)
        troubles = [_trouble(chance, processes) for _ in range(chance.choice((0, 1, 2, 3, 5)))]
        news, cuts = _news_and_cuts(seed, age) if age >= FUNCTIONS else ((), ())
        return cls(
            seed,
            processes,
            chance.randint(1, processes),
            tuple(sorted(asks, key=lambda one: one.at)),
            tuple(sorted(troubles)),
            chance.choice((0.0, 0.0, 0.01, 0.05)),
            chance.choice((0.0, 0.0, 0.01, 0.03)),
            chance.choice((0.0001, 0.003, 0.05)),
            age >= FUNCTIONS,
            news,
            cuts,
        )


def _news_and_cuts(seed: int, age: int) -> tuple[tuple[News, ...], tuple[Cut, ...]]:
    chance = Random(f"news {seed}")
    news = [
        News(round(chance.uniform(0, 9), 3), chance.choice(("default", "default", "acme")), n, chance.choice((1, 1, 3)))
        for n in range(chance.choice((0, 0, 1, 2, 4)))
    ]
    cuts = [
        Cut(
            round(chance.uniform(0.5, 14), 3),
            chance.choice(("fork", "continuation", "continuation", "rewind")),
            n,
            _with_later(_rounds(chance), chance, age),
            chance.random() < 0.5,
        )
        for n in range(chance.choice((0, 0, 1, 2, 4)))
    ]
    return tuple(sorted(news)), tuple(sorted(cuts))


def _rounds(chance: Random) -> str:
    rounds = [
        ",".join(chance.choices(ROUNDS, weights=(2, 2, 3, 1, 2, 2, 1), k=chance.choice((1, 1, 2, 3))))
        for _ in range(chance.choice((0, 1, 1, 2, 3)))
    ]
    return "|".join(rounds) or "-"


def _with_later(rounds: str, chance: Random, age: int) -> str:
    """Put tools that came later in the place of others."""
    for tools in LATER[: age - 1]:
        rounds = re.sub(r"\w+", lambda one, tools=tools: chance.choice((one[0], one[0], chance.choice(tools))), rounds)
    return rounds


def _trouble(chance: Random, processes: int) -> Trouble:
    kind = chance.choice(("kill", "kill", "kill", "pause", "pause", "stop", "jump", "cancel"))
    amount: Any = 0.0
    if kind == "pause":
        amount = chance.choice((0.5, 4.0, 15.0, 40.0))
    elif kind == "jump":
        amount = chance.choice((-3600.0, 3600.0))
    return Trouble(round(chance.uniform(0, 12), 3), kind, chance.randrange(processes), amount)
