"""What the tests of the runtime run, here and in processes that are killed.

As a program: `desk.py URL FOLDER VERB [ARGUMENT…]`. Every effect is a line in FOLDER/effects, written at once, so that
it outlasts a kill. In the environment, `KILL=n:before` (`inside`, `after`) kills the process at its n-th write to the
log (`finish:before`: at the one that ends the run, `due:before`: at its first one of that name, `child:after`: at the
first one with such a record, `fork:3`: at the third statement within it), `LIMIT=n` at the byte n of a file that it
writes; `STOP=n` stops it when its n-th write is acknowledged; `CLOCK=1` makes its wall clock jump
an hour back and forth.
"""

import asyncio
import inspect
import itertools
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from perdure import Agent, Budget, Conflict, Context, RunCompleted, Runtime, Usage, tool
from perdure.durable.kernel import SystemClock
from perdure.log.log import Token
from perdure.log.owners import Timing
from perdure.log.sql import SqlLog
from perdure.models.model import Capabilities, ModelRequest
from perdure.testing import FunctionModel, call, calls, say
from perdure.types.chunks import Finished, ModelEvent, TextChunk
from perdure.types.messages import TextMessage, ToolCallMessage
from perdure.types.records import RunFinished, kind_of

QUICK = Timing(death=1.0, beat=0.1, sweep=0.1)
WORDS = 12
place = Path()
gate = "go"


def note(what: str) -> None:
    with (place / "effects").open("a") as file:
        file.write(what + "\n")


def effects() -> list[str]:
    path = place / "effects"
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def until(true: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something that another process does; nothing but looking tells."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(0.01)


@tool(effect="pure")
async def look() -> str:
    """Look."""
    note("look")
    return "seen"


@tool(effect="idempotent")
async def fetch(ctx: Context[Any]) -> str:
    """Fetch."""
    note(f"fetch {ctx.idempotency_key}")
    return "x" * 70_000  # more than a record holds itself


@tool(effect="once")
async def charge() -> str:
    """Charge."""
    note("charge")
    return "charged"


@tool(effect="steps")
async def trip(ctx: Context[Any]) -> str:
    """Make a trip in steps."""

    def step(name: str) -> str:
        note(f"step {name}")
        return name

    first = await ctx.step.run("a", step, "a", effect="idempotent")
    asked = await ctx.run(HELPER, "please")
    return first + asked.output + await ctx.step.run("b", step, "b", effect="idempotent")


@tool(effect="idempotent")
async def slow() -> str:
    """Wait for a file."""
    note("slow")
    await until((place / gate).exists)
    return "at last"


@tool(effect="once")
async def block() -> str:
    """Block the event loop until there is a file."""
    note("block")
    while not (place / gate).exists():
        time.sleep(0.01)
    return "free again"


@tool(effect="idempotent")
async def boom() -> str:
    """Kill the process."""
    note("boom")
    if (place / "poison").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def answer(script: Callable[[str, int], Any], name: str) -> FunctionModel:
    """A model that goes by what was said last and how many answers it has given since."""

    def ask(request: ModelRequest) -> Any:
        asked = max(n for n, one in enumerate(request.messages) if isinstance(one, TextMessage) and one.role == "user")
        number = sum(isinstance(one, ToolCallMessage) for one in request.messages[asked:])
        note(f"model {name} {number}")
        question = request.messages[asked]
        assert isinstance(question, TextMessage)
        return script(question.text, number)

    return FunctionModel(ask)


def desk_says(asked: str, number: int) -> Any:
    if number:
        return call("charge") if asked == "slow" and number == 1 else say(f"done: {asked}")
    if asked == "go":
        return calls(call("look"), call("fetch"), call("charge"), call("trip"))
    return call(asked) if asked in ("slow", "boom", "look", "charge", "block") else say(f"answer to {asked}")


def helper_says(asked: str, number: int) -> Any:
    return say("helped") if number else call("look")


class Words:
    """A model that says numbered words, as many as the file `words` allows."""

    name = "words"
    provider = "test"
    capabilities = Capabilities()

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        note("talk")
        for n in range(WORDS):
            await until(lambda n=n: allowed() > n)
            yield TextChunk(f"w{n} ")
        yield Finished(usage=Usage(7, WORDS))


def allowed() -> int:
    """How many words may be said."""
    path = place / "words"
    text = path.read_text() if path.exists() else ""
    return int(text) if text else 0


def allow(words: int) -> None:
    """Let the model say this many words, wherever it runs."""
    (place / "words.new").write_text(str(words))
    (place / "words.new").replace(place / "words")


HELPER = Agent("Helper", tools=[look], model=answer(helper_says, "helper"))
TALKER = Agent("Talker", model=Words())
DESK = Agent("Desk", tools=[look, fetch, charge, trip, slow, boom, block], model=answer(desk_says, "desk"))


@tool(effect="steps")
async def ask_child(ctx: Context[Any]) -> str:
    """Ask the child."""
    return (await ctx.run(CHILD, "slow")).text


CHILD = Agent("Child", tools=[slow], model=answer(lambda asked, number: say("ok") if number else call("slow"), "child"))
PARENT = Agent(
    "Parent",
    tools=[ask_child],
    model=answer(lambda asked, number: say("ok") if number else call("ask_child"), "parent"),
)
FAMILY = (PARENT, CHILD)


def killing(at: int | str, when: str, how: signal.Signals = signal.SIGKILL) -> None:
    """Kill this process at its n-th write to the log, or at the one that ends the run, is so called, or appends such a
    record first; `when` may say at which statement within it."""
    count = 0

    def has(entries: Any) -> bool:
        return isinstance(entries, list | tuple) and any(kind_of(one.payload) == at for one in entries)

    def ends(token: Any, entries: Any = ()) -> bool:
        return token.run_id == "job" and any(isinstance(one.payload, RunFinished) for one in entries)

    def watched(write: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def written(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            now = at in (count, write.__name__) or (at == "finish" and isinstance(args[1], Token) and ends(*args[1:3]))
            now = now or (write is append and has(args[2]))
            if now and when.isdigit():
                cut_next(args[0].db, int(when), how)
            elif now and when == "inside" and write is transact:  # its effects are done, and not committed
                args = (*args[:-1], lambda _: os.kill(os.getpid(), how))
            elif now and when != "after":
                os.kill(os.getpid(), how)
            result = await write(*args, **options)
            if now and when == "after":
                os.kill(os.getpid(), how)
            return result

        return written

    transact, append = SqlLog.transact, SqlLog.append
    asked = ("start_due",) if at == "start_due" else ()  # else it would count
    for name in ("accept", "claim", "append", "transact", "answer", "send", "due", "fork", "mark", *asked):
        setattr(SqlLog, name, watched(getattr(SqlLog, name)))


def cut_next(db: Any, number: int, how: signal.Signals) -> None:
    """Kill this process at the n-th statement of its next transaction, when those before it are done."""
    write = db.write

    async def written(make: Any, **options: Any) -> Any:
        db.write = write

        def script() -> Any:
            inner, given, count = make(), None, 0
            while True:
                try:
                    statement = inner.send(given)
                except StopIteration as end:
                    note(f"statements {count}")
                    return end.value
                count += 1
                if count == number:
                    os.kill(os.getpid(), how)
                given = yield statement

        return await write(script, **options)

    db.write = written


class Jumping(SystemClock):
    """A clock that somebody sets an hour back and forth all the time."""

    def __init__(self) -> None:
        self._hours = itertools.cycle((0, 1, -1, 1, 0, -1))

    def now(self) -> float:  # type: ignore[override]
        return time.time() + 3600 * next(self._hours)


def noting_refusals() -> None:
    """Note when the log refuses what this process writes."""
    append = SqlLog.append

    async def noted(*args: Any, **options: Any) -> int:
        try:
            return await append(*args, **options)
        except Conflict:
            note("refused")
            raise

    SqlLog.append = noted  # type: ignore[method-assign]


def runtime(url: str, *definitions: Any) -> Runtime:
    return Runtime(url, definitions or [DESK, TALKER], timing=QUICK, durability="normal")


async def nothing_open(rt: Runtime) -> bool:
    return not any(one.status in ("queued", "running") for one in await rt.container("default").log.runs())


async def main(url: str, verb: str, *arguments: str) -> None:
    if "KILL" in os.environ:
        at, _, when = os.environ["KILL"].partition(":")
        killing(int(at) if at.isdigit() else at, when)
    if "STOP" in os.environ:
        killing(int(os.environ["STOP"]), "after", signal.SIGSTOP)
    noting_refusals()
    from tests.runtime.acts import ACTOR, CHAINED
    from tests.runtime.jobs import JOBS
    from tests.runtime.payers import PAYERS
    from tests.runtime.till import CASHIER
    from tests.runtime.waiter import WAITER
    from tests.runtime.whole import WHOLE

    rt = runtime(url, DESK, TALKER, CASHIER, ACTOR, CHAINED, WAITER, WHOLE, *FAMILY, *PAYERS, *JOBS)
    if "CLOCK" in os.environ:
        rt.clock = Jumping()
    async with rt:
        if "LIMIT" in os.environ:  # the kernel kills who writes behind it
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LIMIT"]),) * 2)
        if verb == "run":
            result = await rt.run(DESK, arguments[0], session_id="s", run_id=arguments[1])
            note(f"output {result.output}")
        elif verb == "waits":
            note("waiting")
            await until((place / "go").exists)
            await rt.run(DESK, arguments[0], session_id="s", run_id=arguments[1])
        elif verb == "talk":
            await rt.run(TALKER, "talk", session_id="s", run_id=arguments[0])
        elif verb == "read":
            async for event in rt.events("s", arguments[0] if arguments else None):
                note(f"read {json.dumps([type(event).__name__, event.cursor, getattr(event, 'text', '')])}")
                if isinstance(event, RunCompleted):
                    break
        elif verb == "queue":
            runs = [await rt.start(DESK, one, session_id="s", run_id=f"run_{n}") for n, one in enumerate(arguments)]
            note("queued")
            for one in runs:
                await one.result()
        elif verb == "many":
            names = [f"run_{n}" for n in range(int(arguments[0]))]
            runs = [await rt.start(DESK, "slow", session_id=one, run_id=one) for one in names]
            for one in runs:
                await one.result()
        elif verb == "turns":
            await asyncio.gather(*(rt.run(DESK, one, session_id="s", run_id=f"run_{one}") for one in arguments))
        elif verb == "cancelled":
            run = await rt.start(DESK, arguments[0], session_id="s", run_id=arguments[1])
            async for _ in run.events():
                pass
            note(f"status {run.status}")
        elif verb == "both":
            await rt.start(DESK, "slow", session_id="s", run_id="innocent")
            await until(lambda: "slow" in effects())
            await rt.run(DESK, "boom", session_id="elsewhere", run_id="poison")
        elif verb == "family":
            await rt.run(PARENT, "go", session_id="s", run_id=arguments[0])
        elif verb == "whole":
            await rt.run(WHOLE, arguments[0], session_id="s", run_id=arguments[1])
        elif verb == "pay":
            await rt.run(rt.registry.get("Cashier"), "go", session_id="s", run_id=arguments[0])
        elif verb == "act":
            budget = Budget(model_calls=1) if arguments[0] == "budget 1" else None
            state = {"n": 0, "seen": {}} if arguments[0] == "add" else None
            actor = CHAINED if arguments[0] == "chain" else ACTOR
            await rt.run(actor, arguments[0], session_id="s", run_id="job", budget=budget, state=state)
        elif verb == "deal":
            runs = [await rt.start(WAITER, "go", session_id=one, run_id=one) for one in arguments]
            note("dealing")
            for one in runs:
                await one.result()
        elif verb == "ask":
            await rt.run(rt.registry.get(arguments[0]), "go", session_id="s", run_id="job")
        elif verb == "approve":
            await rt.approve(arguments[0], by="ada")
        elif verb == "answer":
            await rt.answer(arguments[0], arguments[1], by="ada")
        elif verb == "job":
            await rt.run(rt.registry.get(arguments[0]), json.loads(arguments[1]), run_id="job")
        elif verb == "fork":
            await rt.session("s").fork(int(arguments[0]), id="f")
        elif verb == "continue":
            await (await rt.fork(arguments[0], arguments[1], id="again", session_id="f")).result()
        elif verb == "rewind":
            await rt.session("s").rewind(int(arguments[0]), cancel=True)
        elif verb == "drain":
            await until(lambda: nothing_open(rt))
        elif verb == "serve":
            note("serving")
            await until((place / "stop").exists)


if __name__ == "__main__":
    from tests.runtime import desk  # this module under the name that others know it by

    desk.place = Path(sys.argv[2])
    asyncio.run(desk.main(sys.argv[1], *sys.argv[3:]))
