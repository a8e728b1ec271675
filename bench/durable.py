"""What it costs that nothing finished is ever done twice, beside the least that a disk allows and beside a peer.

The floor is a plain `sqlite3` insert of the same row on a writer thread of the plainest kind (`_raw`), awaited: as many
of them as a case has commits. Nothing is subtracted. `append` cases are one commit of the log: fenced, numbered, safe
to repeat. `turn` cases are whole turns of an agent over a model that answers at once. "Turn n" is the n-th turn of one
session with a request that is mapped for OpenAI's wire each time, on a store that does not wait for the disk. DBOS runs
beside it on SQLite as it is shipped, in a process of its own. BENCH_FOLDER names the folder, and with that the disk.
"""

import asyncio
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from _harness import Bench
from _raw import RESULT, Mode, Raw
from perdure import Agent, ModelRequest, Runtime, ToolCall, ToolResultMessage, tool
from perdure.agents.running import Running
from perdure.db.migrate import migrate
from perdure.db.sqlite import SqliteDatabase
from perdure.log.log import Entry, NewRun, Token
from perdure.log.schema import MIGRATIONS
from perdure.log.sql import SqlLog
from perdure.models.model import Capabilities
from perdure.models.openai_chat import encode
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.messages import ToolCallMessage
from perdure.types.records import InferenceDone, Record, RunStarted, StepDone, ToolDone, decode_payload, encode_payload
from perdure.types.usage import Usage

RUNS, STEPS, MANY, TURNS = 200, 3, 1_000, (10, 100, 1_000)
SPENT = Usage(input_tokens=20, output_tokens=10)
ANSWER = "The order 4711 was paid twice; the second charge is refunded. " * 4


@tool(effect="pure")
async def look_up(order: int) -> str:
    """Look an order up."""
    return RESULT


@tool(effect="once")
async def refund(order: int) -> str:
    """Refund an order."""
    return RESULT


class Instant:
    """A model that answers at once; it calls a tool in each of its first inferences of a turn.

    `wire` maps every request for OpenAI's Chat Completions, as its adapter would do before it sends it.
    """

    name = "instant"
    provider = "bench"
    capabilities = Capabilities()

    def __init__(self, name: str = "", calls: int = 0, *, wire: bool = False) -> None:
        self.answer: tuple[ModelEvent, ...] = (TextChunk(ANSWER), Finished("stop", SPENT, "instant", "bench"))
        self.tool = name
        self.calls = calls
        self.wire = wire

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer."""
        if self.wire:
            encode(self.name, request)
        called = len(request.messages) // 2
        if called < self.calls:
            yield ToolCallChunk(0, f"call_{called}", self.tool, '{"order":4711}')
            yield Finished("tool", SPENT, "instant", "bench")
            return
        for piece in self.answer:
            yield piece


TEXT = Agent("Text", model=Instant())
PURE = Agent("Pure", model=Instant("look_up", 10), tools=[look_up])
ONCE = Agent("Once", model=Instant("refund", 10), tools=[refund])
ONE = Agent("One", model=Instant("look_up", 1), tools=[look_up])
DESK = Agent("Desk", model=Instant(wire=True), system="You answer questions about orders.")


class Appends:
    """Appends to the log, in as many sessions as needed."""

    def __init__(self, path: Path, mode: Mode) -> None:
        self.db = SqliteDatabase(str(path), mode)
        self.log = SqlLog(self.db, time.time, "bench")
        self.tokens: dict[int, Token] = {}
        self.seq = 0

    async def open(self, runs: int = RUNS) -> None:
        """Open the store, and take the runs in."""
        await self.db.open()
        await migrate(self.db, MIGRATIONS, "store_bench")
        for run in range(runs):
            new = NewRun(f"run_{run:028}", f"ses_{run:028}", "A")
            accepted = await self.log.accept(new, RunStarted("A", "agent", ()))
            assert accepted.token is not None
            self.tokens[run] = accepted.token

    async def one(self, run: int = 0) -> None:
        """Append one record."""
        self.seq += 1
        await self.log.append(self.tokens[run], [Entry(f"agent/0/infer/{self.seq}", StepDone("charge", RESULT))])

    async def accept(self) -> None:
        """Take a run in, in a session of its own."""
        self.seq += 1
        new = NewRun(f"run_a{self.seq:027}", f"ses_a{self.seq:027}", "A")
        await self.log.accept(new, RunStarted("A", "agent", ()))


class Peer:
    """DBOS in its own process."""

    def __init__(self, path: Path) -> None:
        script = str(Path(__file__).with_name("_dbos.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "DBOS did not start"

    def ask(self, line: str) -> None:
        """Have something done, and wait for it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n", "DBOS failed"

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)


async def at_once(one: Callable[[int], Awaitable[None]]) -> None:
    """Let many runs write at the same time, each one record after the other."""

    async def run(n: int) -> None:
        for _ in range(STEPS):
            await one(n)

    await asyncio.gather(*(run(n) for n in range(RUNS)))


async def runs_at_once(runtime: Runtime) -> None:
    """Let many runs of three steps go on at the same time: an inference, a tool, an inference."""
    await asyncio.gather(*(runtime.run(ONE, "What of 4711?") for _ in range(RUNS)))


def finished_steps() -> Sequence[tuple[str | None, bytes]]:
    """The records of a run with a thousand finished steps, as they lie in the log."""
    rows: list[tuple[str | None, bytes]] = [(None, encode_payload(RunStarted("Pure", "agent", ())))]
    for number in range(MANY // 2):
        call = ToolCall(f"call_{number}", "look_up", {"order": number})
        key = f"agent/0/infer/{number}"
        rows.append((key, encode_payload(InferenceDone("Pure", (ToolCallMessage((call,)),), "tool", usage=SPENT))))
        done = ToolDone("Pure", ToolResultMessage(call, {"data": RESULT}))
        rows.append((f"{key}/tool/0", encode_payload(done)))
    return rows


def fold(rows: Sequence[tuple[str | None, bytes]]) -> None:
    """Read the payloads of a run and fold them."""
    running = Running(PURE, None, {"max_iter": None})
    id, session = running.env.run_id, running.env.session_id
    running.recall(
        [Record(seq, id, session, key, decode_payload(data), 0.0) for seq, (key, data) in enumerate(rows, 1)]
    )
    assert running.loop.current[0].inferences == MANY // 2


async def bytes_on_disk(path: Path) -> int:
    """Write a thousand steps with half a megabyte of results, and weigh the files."""
    store = Appends(path, "normal")
    await store.open(1)
    for _ in range(MANY):
        await store.one()
    await store.db.close()
    return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*"))


def add_commits(bench: Bench, mode: Mode, single: Raw, grouped: Raw, ours: Appends) -> None:
    """Single commits, and many at once, each beside its floor."""
    floor = f"raw insert, {mode}"
    bench.add(floor, single.insert, number=100)
    bench.add(f"append, {mode}", ours.one, number=100, floor=floor, most=1.4)
    bench.add(f"accept, {mode}", ours.accept, number=100, floor=floor, most=1.4)
    for count in (2, 22, 32):
        bench.add(f"{count} raw inserts, {mode}", functools.partial(single.inserts, count), number=200 // count)
    floor = f"raw, {RUNS} at once × {STEPS}, {mode}"
    bench.add(floor, functools.partial(at_once, grouped.insert), unit="ms")
    many = functools.partial(at_once, ours.one)
    bench.add(f"append, {RUNS} at once × {STEPS}, {mode}", many, unit="ms", floor=floor, most=4.0)


async def one_by_one(raw: Raw, ours: Appends) -> dict[str, dict[str, float | bool]]:
    """Single commits in turns, each timed on its own: what a busy machine does to some of them is not in the median."""
    cases = {"raw insert": raw.insert, "append": ours.one, "accept": ours.accept}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(MANY):
        for name, commit in cases.items():
            start = time.perf_counter()
            await commit()
            taken[name].append((time.perf_counter() - start) * 1e6)
    floor = statistics.median(taken["raw insert"])
    rows: dict[str, dict[str, float | bool]] = {}
    for name, times in taken.items():
        median = statistics.median(times)
        row = {"median_us": round(median, 1), "tenth_us": round(statistics.quantiles(times, n=10)[0], 1)}
        rows[name] = {**row, "ratio": round(median / floor, 2), "met": median <= 1.4 * floor}
    return rows


async def open_runtime(path: Path, mode: Mode) -> Runtime:
    """Open a runtime for all the agents."""
    return await Runtime(f"sqlite:///{path}", [TEXT, PURE, ONCE, ONE, DESK], durability=mode).__aenter__()


async def talk(runtime: Runtime) -> None:
    """Make the sessions whose next turn is measured."""
    for turns in TURNS:
        session = runtime.session(f"after-{turns}")
        for _ in range(turns - 1):
            await session.run(DESK, "What of the order 4711?")


def add_turns(bench: Bench, runtime: Runtime, mode: Mode) -> None:
    """Whole turns, each beside as many raw inserts as it has commits."""
    for name, agent, commits in (("text turn", TEXT, 2), ("ten pure tools", PURE, 22), ("ten once tools", ONCE, 32)):
        turn = functools.partial(runtime.run, agent, "What of the order 4711?")
        bench.add(f"{name}, {mode}", turn, number=200 // commits, floor=f"{commits} raw inserts, {mode}")
    floor = f"raw, {RUNS} at once × {STEPS}, {mode}"
    many = functools.partial(runs_at_once, runtime)
    bench.add(f"runs, {RUNS} at once × {STEPS}, {mode}", many, unit="ms", floor=floor)


async def one_after_the_other(one: Callable[[], Awaitable[None]]) -> None:
    """Write a hundred records of one run."""
    for _ in range(100):
        await one()


def add_peer(bench: Bench, peer: Peer, ours: Appends) -> None:
    """DBOS beside appends and beside whole runs."""
    bench.add("100 appends, full", functools.partial(one_after_the_other, ours.one), unit="ms")
    steps = functools.partial(peer.ask, "sequential 100")
    bench.add("DBOS, 100 steps", steps, unit="ms", floor="100 appends, full")
    many = functools.partial(peer.ask, f"concurrent {RUNS} {STEPS}")
    at_once = f"{RUNS} at once × {STEPS}"
    bench.add(f"DBOS, {at_once}", many, unit="ms", floor=f"append, {at_once}, full", least=50.0)
    bench.add(f"DBOS, {at_once}, to runs", many, unit="ms", floor=f"runs, {at_once}, full", least=50.0)


def add_length(bench: Bench, runtime: Runtime) -> None:
    """The n-th turn of a session."""
    first, last = f"turn {TURNS[0]}", TURNS[-1]
    for turns in TURNS:
        turn = functools.partial(runtime.session(f"after-{turns}").run, DESK, "And of the order 4711?")
        if turns == last:
            bench.add(f"turn {turns}", turn, number=5, floor=first, budget=1000.0, most=2.0)
        else:
            bench.add(f"turn {turns}", turn, number=5)


def main() -> None:
    """Measure and report."""
    bench = Bench("durable")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_FOLDER")) as name, asyncio.Runner() as runner:
        folder = Path(name)
        size = runner.run(bytes_on_disk(folder / "size.db"))
        bench.fact("bytes_1000_steps", {"bytes": size, "budget": 1_000_000, "met": size < 1_000_000})
        rows = finished_steps()
        bench.add(f"fold {MANY:,} steps", lambda: fold(rows), unit="ms", budget=10.0)
        modes: tuple[Mode, ...] = ("full", "normal")
        raws: list[Raw] = []
        appends: list[Appends] = []
        runtimes: list[Runtime] = []
        for mode in modes:
            raws += [single := Raw(folder / f"{mode}-1.db", mode), grouped := Raw(folder / f"{mode}-256.db", mode, 256)]
            appends.append(ours := Appends(folder / f"{mode}.db", mode))
            runner.run(ours.open())
            runtimes.append(runtime := runner.run(open_runtime(folder / f"runtime-{mode}.db", mode)))
            bench.fact(f"commits_one_by_one_{mode}", runner.run(one_by_one(single, ours)))
            add_commits(bench, mode, single, grouped, ours)
            add_turns(bench, runtime, mode)
        runner.run(talk(runtimes[1]))
        add_length(bench, runtimes[1])
        peer = Peer(folder / "dbos.db")
        add_peer(bench, peer, appends[0])
        bench.run(rounds=10, runner=runner)
        peer.close()
        for raw in raws:
            raw.close()
        for ours, runtime in zip(appends, runtimes, strict=True):
            runner.run(ours.db.close())
            runner.run(runtime.__aexit__(None, None, None))


if __name__ == "__main__":
    main()
