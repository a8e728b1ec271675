"""What runs cost that wait: memory, tasks and processor time while nothing happens, and how fast they go on.

10,000 runs of one agent wait for an event each; then some of them get theirs, one after the other, and the time counts
from the call that sends it to the end of the run. 10,000 others sleep until one moment. The store is SQLite, which does
not wait for the disk. DBOS stands beside it on SQLite with 1,000 workflows, in a process of its own. `COUNT` in the
environment is another number of runs; BENCH_FOLDER names the folder.
"""

import asyncio
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _harness import Bench
from perdure import Agent, Context, ModelRequest, Runtime, tool
from perdure.db.database import Row, Script, Sql
from perdure.models.model import Capabilities
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk

COUNT = int(os.environ.get("COUNT", "10000"))
PEER = COUNT // 10
ANSWERS = 200
IDLE = 5.0
FAR = datetime(2100, 1, 1, tzinfo=UTC)


class Calls:
    """A model that calls one tool and then says that it is done."""

    name = "calls"
    provider = "bench"
    capabilities = Capabilities()

    def __init__(self, tool: str) -> None:
        self.tool = tool

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer."""
        if len(request.messages) == 1:
            yield ToolCallChunk(0, "call_0", self.tool, "{}")
            yield Finished("tool")
        else:
            yield TextChunk("done")
            yield Finished()


@tool(effect="steps")
async def hold(ctx: Context[Any]) -> str:
    """Wait for an event."""
    await ctx.step.wait_for_event("ok", "app/ok", match={"of": ctx.run_id})
    return "went on"


@tool(effect="steps")
async def rest(ctx: Context[Any]) -> str:
    """Sleep."""
    await ctx.step.sleep_until("end", FAR)
    return "rested"


HOLDS = Agent("Holds", model=Calls("hold"), tools=[hold])
RESTS = Agent("Rests", model=Calls("rest"), tools=[rest])


def memory(process: int | str = "self") -> int:
    """Say how many bytes a process has in memory."""
    gc.collect()
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds_used(process: int) -> float:
    """Say how much processor time a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Say the median and the 99th of a hundred, in milliseconds."""
    ordered = sorted(samples)
    return {
        "median_ms": round(1000 * statistics.median(ordered), 2),
        "p99_ms": round(1000 * ordered[int(len(ordered) * 0.99)], 2),
    }


async def fill(runtime: Runtime, agent: Agent[Any, Any], name: str, count: int) -> None:
    """Let runs come to where they wait."""
    for start in range(0, count, 100):
        some = [runtime.run(agent, "go", run_id=f"{name}_{n}") for n in range(start, min(count, start + 100))]
        for result in await asyncio.gather(*some):
            assert result.status == "waiting"


async def answered(runtime: Runtime, number: int) -> float:
    """Send a waiting run its event, and say how long it took until the run had ended."""
    run = await runtime.start(HOLDS, "go", run_id=f"holds_{number}")
    await run.reached()
    ended = asyncio.create_task(run.result())
    await asyncio.sleep(0.05)  # until somebody follows it
    begun = time.perf_counter()
    await runtime.send_event("app/ok", {"of": f"holds_{number}"})
    assert (await ended).output == "done"
    return time.perf_counter() - begun


async def all_due(runtime: Runtime) -> dict[str, float]:
    """Let the moment come for all that sleep, and say how long it took until all had ended."""

    def now() -> Script[None]:
        yield Sql("UPDATE waiters SET expires = 0 WHERE expires IS NOT NULL")

    def left() -> Script[list[Row]]:
        text = (
            "SELECT (SELECT COUNT(*) FROM waiters WHERE expires IS NOT NULL), (SELECT COUNT(*) FROM runs WHERE "
            "definition = 'Rests' AND status IN ('queued', 'running', 'waiting'))"
        )
        return (yield Sql(text))

    begun = time.perf_counter()
    await runtime.db.write(now)
    woken = 0.0
    while True:
        waiting, running = (await runtime.db.read(left))[0]
        if not waiting and not woken:
            woken = time.perf_counter() - begun
        if not running:
            return {"woken_s": round(woken, 2), "ended_s": round(time.perf_counter() - begun, 2)}
        await asyncio.sleep(0.02)


class Peer:
    """DBOS in its own process."""

    def __init__(self, path: Path) -> None:
        script = str(Path(__file__).with_name("_dbos_waits.py"))
        command = [sys.executable, script, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready", "DBOS did not start"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> Any:
        """Have something done, and give what it says of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def measure(self) -> dict[str, Any]:
        """Do with it what was done with ours."""
        id = self.process.pid
        before = memory(id)
        tasks = self.ask(f"wait {PEER}")
        grown = memory(id) - before
        used = seconds_used(id)
        time.sleep(IDLE)
        idle = (seconds_used(id) - used) / IDLE
        latency = spread(self.ask(f"answer {min(ANSWERS, PEER) // 10}"))
        late = self.ask(f"rest {PEER} {5 + PEER / 100}")
        self.process.communicate(timeout=60)
        return {
            "workflows": PEER,
            "memory_mb": round(grown / 1e6, 1),
            "tasks": tasks,
            "idle_cpu_percent": round(100 * idle, 2),
            "answer_to_end": latency,
            "timers_ended_s": round(late, 2),
        }


async def measure(folder: Path, bench: Bench) -> None:
    """Measure all of ours."""
    async with Runtime(f"sqlite:///{folder}/waits.db", [HOLDS, RESTS], durability="normal") as runtime:
        await fill(runtime, HOLDS, "warm", 500)
        before, tasks, threads = memory(), len(asyncio.all_tasks()), threading.active_count()
        await fill(runtime, HOLDS, "holds", COUNT)
        grown = memory() - before
        more = len(asyncio.all_tasks()) - tasks
        used = time.process_time()
        await asyncio.sleep(IDLE)
        idle = (time.process_time() - used) / IDLE
        bench.fact("waiting_runs", COUNT)
        bench.fact("memory_mb", {"grown": round(grown / 1e6, 2), "budget": 10, "met": grown < 10e6})
        bench.fact("tasks", {"more": more, "met": more <= 2})
        bench.fact("threads_more", threading.active_count() - threads)
        bench.fact("idle_cpu_percent", round(100 * idle, 2))
        bench.fact("answer_to_end", spread([await answered(runtime, n) for n in range(min(ANSWERS, COUNT))]))
        await fill(runtime, RESTS, "rests", COUNT)
        bench.fact("timers_at_once", await all_due(runtime))


def main() -> None:
    """Measure and report."""
    bench = Bench("waits", unit="ms")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name:
        asyncio.run(measure(Path(name), bench))
        bench.fact("dbos", Peer(Path(name) / "dbos.db").measure())
    bench.report()


if __name__ == "__main__":
    main()
