"""The one harness of all benchmarks.

A benchmark names functions, sync or async. They are measured in turns, a little of each per round, so that a noisy
machine hurts all of them alike. What counts is the ratio to a named floor of the same run: absolute times belong to
one machine. A case may have a budget for its median; the report says whether it is met. With `--json` the last line of
the output is one JSON object; without it there is a table.

    bench = Bench("turn")
    bench.add("bare loop", bare, number=100)
    bench.add("text turn", turn, number=100)
    bench.run(floor="bare loop")
"""

import argparse
import asyncio
import gc
import inspect
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Measured = Callable[[], object]
Unit: TypeAlias = Literal["us", "ms"]
SCALES: dict[Unit, float] = {"us": 1e6, "ms": 1e3}


@dataclass
class Case:
    """One measured function; `samples` holds seconds per call, one sample a round."""

    name: str
    function: Measured
    number: int
    unit: Unit
    floor: str | None = None
    budget: float | None = None
    ideal: float | None = None
    most: float | None = None
    least: float | None = None
    is_async: bool = False
    samples: list[float] = field(default_factory=list[float])

    @property
    def median(self) -> float:
        """The median in the case's unit."""
        return statistics.median(self.samples) * SCALES[self.unit]

    def row(self, floor: float | None) -> dict[str, float | bool]:
        """Report the case; times are in its unit, `floor` too."""
        unit, median = self.unit, self.median
        row = {f"median_{unit}": median, f"min_{unit}": min(self.samples) * SCALES[unit]}
        if floor is not None:
            row["ratio"] = median / floor
            row[f"over_floor_{unit}"] = median - floor
        if self.ideal is not None:
            row["ratio_to_ideal"] = median / self.ideal
        if self.budget is not None:
            row[f"budget_{unit}"] = self.budget
        if self.most is not None:
            row["budget_ratio"] = self.most
        if self.least is not None:
            row["least_ratio"] = self.least
        rounded: dict[str, float | bool] = {key: round(value, 3) for key, value in row.items()}
        if self.budget is not None or self.most is not None or self.least is not None:
            fast = self.budget is None or median < self.budget
            below = self.most is None or floor is None or median <= self.most * floor
            rounded["met"] = fast and below and (self.least is None or floor is None or median >= self.least * floor)
        return rounded

    def warm(self, runner: asyncio.Runner) -> None:
        """Call once unmeasured, which fills caches and shows whether the function is async."""
        result = self.function()
        self.is_async = inspect.isawaitable(result)
        if inspect.isawaitable(result):
            runner.run(_time_async(lambda: result, 1))

    def sample(self, runner: asyncio.Runner) -> None:
        """Measure `number` calls; a sync function runs outside the event loop."""
        if self.is_async:
            seconds = runner.run(_time_async(self.function, self.number))
        else:
            seconds = _time_sync(self.function, self.number)
        self.samples.append(seconds / self.number)


class Bench:
    """A set of functions measured in one run, and the facts reported beside them."""

    def __init__(self, name: str, *, unit: Unit = "us", argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(description=f"The {name} benchmark.")
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        parser.add_argument("--rounds", type=int, default=None, help="how often each function is measured")
        self.options = parser.parse_args(argv)
        self.name = name
        self.unit: Unit = unit
        self.cases, self.facts = list[Case](), dict[str, Any]()

    def add(
        self,
        name: str,
        function: Measured,
        *,
        number: int = 1,
        unit: Unit | None = None,
        floor: str | None = None,
        budget: float | None = None,
        ideal: float | None = None,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """Add a function to be measured.

        Args:
            name: what it is called in the report.
            function: called `number` times per sample; an async one is awaited, all in one event loop.
            number: how often it is called per sample.
            unit: the bench's unless given.
            floor: the case that it is compared with, in the same unit; that of `run` unless given.
            budget: what its median should stay below, in its unit.
            ideal: the least that it could take, in its unit.
            most: how many times its floor's median its own should take at most.
            least: how many times its floor's median a peer takes at least, if we keep our word.
        """
        self.cases.append(Case(name, function, number, unit or self.unit, floor, budget, ideal, most, least))

    def fact(self, name: str, value: Any) -> None:
        """Report a JSON value that is not a time."""
        self.facts[name] = value

    def run(
        self, *, floor: str | None = None, rounds: int = 20, runner: asyncio.Runner | None = None
    ) -> dict[str, Any]:
        """Measure everything in rounds, print the report with ratios to `floor`, and return it.

        Async functions run in the event loop of `runner`, which stays open, or in one of the report's own.
        """
        with nullcontext(runner) if runner is not None else asyncio.Runner() as runner:
            for case in self.cases:
                case.warm(runner)
            for index in range(max(1, self.options.rounds or rounds)):
                for case in self.cases if index % 2 == 0 else reversed(self.cases):
                    gc.collect()  # nobody pays for what another case has left behind
                    case.sample(runner)
        return self.report(floor)

    def report(self, floor: str | None = None) -> dict[str, Any]:
        """Print the report, and return it."""
        report = self._report(floor)
        print(json.dumps(report) if self.options.json else self._table(report))
        return report

    def _report(self, floor: str | None) -> dict[str, Any]:
        medians = {case.name: case.median for case in self.cases}
        rows: dict[str, dict[str, float | bool]] = {}
        for case in self.cases:
            below = case.floor or floor
            rows[case.name] = case.row(medians[below] if below is not None else None)
        head = {
            "bench": self.name,
            "python": platform.python_version(),
            "rounds": len(self.cases[0].samples) if self.cases else 1,
        }
        return {**head, "floor": floor, "results": rows, **self.facts}

    def _table(self, report: dict[str, Any]) -> str:
        width = max(map(len, report["results"]), default=0)
        lines = [f"{self.name}, Python {report['python']}, {report['rounds']} rounds"]
        for name, row in report["results"].items():
            lines.append(f"  {name:<{width}}  " + "  ".join(_shown(key, value) for key, value in row.items()))
        return "\n".join([*lines, *(f"  {name}: {value}" for name, value in self.facts.items())])


def _shown(key: str, value: float | bool) -> str:
    return f"{key} {str(value).lower()}" if isinstance(value, bool) else f"{key} {value:>10.2f}"


def _time_sync(function: Measured, number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        function()
    return time.perf_counter() - start


async def _time_async(function: Callable[[], Any], number: int) -> float:
    start = time.perf_counter()
    for _ in range(number):
        await function()
    return time.perf_counter() - start
