"""The one harness of all benchmarks.

A benchmark names functions, sync or async. They are measured in turns, a little of each per round, so that a noisy
machine hurts all of them alike. What counts is the ratio to a named floor of the same run: absolute times belong to
one machine. With `--json` the last line of the output is one JSON object; without it there is a table.

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
from dataclasses import dataclass, field
from typing import Any, Literal

Measured = Callable[[], object]


@dataclass
class Case:
    """One measured function; `samples` holds seconds per call, one sample a round."""

    name: str
    function: Measured
    number: int
    is_async: bool = False
    samples: list[float] = field(default_factory=list[float])

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

    def __init__(self, name: str, *, unit: Literal["us", "ms"] = "us", argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(description=f"The {name} benchmark.")
        parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
        parser.add_argument("--rounds", type=int, default=None, help="how often each function is measured")
        self.options = parser.parse_args(argv)
        self.name = name
        self.unit = unit
        self.cases, self.facts = list[Case](), dict[str, Any]()

    def add(self, name: str, function: Measured, *, number: int = 1) -> None:
        """Add a function, called `number` times per sample; an async one is awaited, all in one event loop."""
        self.cases.append(Case(name, function, number))

    def fact(self, name: str, value: Any) -> None:
        """Report a JSON value that is not a time."""
        self.facts[name] = value

    def run(self, *, floor: str | None = None, rounds: int = 20) -> dict[str, Any]:
        """Measure everything in rounds, print the report with ratios to `floor`, and return it."""
        with asyncio.Runner() as runner:
            for case in self.cases:
                case.warm(runner)
            for index in range(max(1, self.options.rounds or rounds)):
                gc.collect()
                for case in self.cases if index % 2 == 0 else reversed(self.cases):
                    case.sample(runner)
        report = self._report(floor)
        print(json.dumps(report) if self.options.json else self._table(report))
        return report

    def _report(self, floor: str | None) -> dict[str, Any]:
        scale = 1e6 if self.unit == "us" else 1e3
        medians = {case.name: statistics.median(case.samples) * scale for case in self.cases}
        results: dict[str, dict[str, float]] = {}
        for case in self.cases:
            row = {f"median_{self.unit}": medians[case.name], f"min_{self.unit}": min(case.samples) * scale}
            if floor is not None:
                row["ratio"] = medians[case.name] / medians[floor]
                row[f"over_floor_{self.unit}"] = medians[case.name] - medians[floor]
            results[case.name] = {key: round(value, 3) for key, value in row.items()}
        head = {"bench": self.name, "python": platform.python_version(), "rounds": len(self.cases[0].samples)}
        return {**head, "floor": floor, "results": results, **self.facts}

    def _table(self, report: dict[str, Any]) -> str:
        width = max(map(len, report["results"]), default=0)
        lines = [f"{self.name}, Python {report['python']}, {report['rounds']} rounds"]
        for name, row in report["results"].items():
            lines.append(f"  {name:<{width}}  " + "  ".join(f"{key} {value:>10.2f}" for key, value in row.items()))
        return "\n".join([*lines, *(f"  {name}: {value}" for name, value in self.facts.items())])


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
