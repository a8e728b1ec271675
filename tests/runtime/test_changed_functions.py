"""Functions whose code changes between a crash and the next process: what differs is told, what does not fit parks."""

import asyncio
from typing import Any

import pytest

from perdure import Concurrency, Context, SentEvent, function
from perdure.agents.fingerprints import prints_of
from perdure.cli.main import main as command
from perdure.durable.fingerprint import CODE, differences
from perdure.types import records as rec
from tests.runtime import written
from tests.runtime.desk import effects, until
from tests.runtime.test_changed import Story, both, file, story

__all__ = ["story"]  # a fixture

SOURCE = '''
from typing import Any

from pydantic import BaseModel
from perdure import Context, function
from perdure.testing import FunctionModel, say
from tests.runtime.written import do

MODEL = FunctionModel(lambda request: say('{"cents": 5}'))


class Price(BaseModel):
    cents: int


@function(name="Price of")
async def price_of(ctx: Context[Any], item: str) -> Price:
    return Price(cents=5)


@function(name="Desk")
async def DESK(ctx: Context[Any], item: str) -> str:
    """Sell something."""
    first = await ctx.step.run("reserve", do, "reserve", item, effect="idempotent")
    second = await ctx.step.run("charge", do, "charge", item, effect="idempotent")
    price = await ctx.step.invoke("price", price_of, {"item": item})
    asked = await ctx.step.infer("ask", MODEL, item, output_type=Price)
    third = await ctx.step.run("ship", do, "ship", effect="idempotent")
    return f"{first} {second} {third} {price.cents + asked.cents}"


OTHERS, GIVEN = [price_of], {"item": "boat"}
'''
RESERVE = 'first = await ctx.step.run("reserve", do, "reserve", item, effect="idempotent")'
CHARGE = 'second = await ctx.step.run("charge", do, "charge", item, effect="idempotent")'
ALL = ["reserve boat", "charge boat", "ship"]


async def told(story: Story) -> list[str]:
    """What the owners of the run have found changed."""
    claims = [one.payload for one in await story.records() if isinstance(one.payload, rec.Claimed)]
    return [one for claim in claims for one in claim.changes]


async def why_parked(story: Story, *changes: tuple[str, str], text: str = SOURCE) -> str:
    """Let a version take the run over, which parks it; nobody asks for the run, so that it need not take the input."""
    module = written.load(story.folder, story.write(*changes, text=text))
    async with written.runtime(story.url, module) as rt:
        log = rt.container("default").log
        if (await log.run("job")).status == "parked":
            await rt.resume("job", accept=True)

        async def parked() -> bool:
            return (await log.run("job")).status == "parked"

        await until(parked)
        claims = [one.payload for one in await log.read_run("job") if isinstance(one.payload, rec.Claimed)]
        return claims[-1].parked


@both
async def test_d22_another_order_of_steps_is_told_and_nothing_is_done_again(
    story: Story, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    await story.dies("charge", text=SOURCE)
    result = await story.goes_on((RESERVE, "FIRST"), (CHARGE, RESERVE), ("FIRST", CHARGE))
    assert result.output == "reserve charge ship 10"
    assert effects() == ALL, "what is finished once"
    assert await told(story) == [
        "function Desk: steps changed from run reserve, run charge, invoke price, infer ask, run ship to run charge, "
        "run reserve, invoke price, infer ask, run ship"
    ]
    monkeypatch.setenv("COLUMNS", "300")
    assert await asyncio.to_thread(command, ["runs", "show", "job", "--store", url]) == 0
    assert "changed since: function Desk: steps changed from run reserve, run charge" in capsys.readouterr().out


@file
async def test_d22_r07_what_a_function_needs_and_does_not_find_parks_it_until_the_code_fits(story: Story, url: str):
    await story.dies("ship", text=SOURCE)
    other_input = await why_parked(story, ("item: str) -> str", "thing: str) -> str"))
    assert "Function('Desk') does not take any more what the run was given: The arguments do not fit" in other_input
    agent = ("OTHERS, GIVEN =", 'from perdure import Agent\nDESK = Agent("Desk")\nOTHERS, GIVEN =')
    assert "'Desk' was a function and is an agent now" in await why_parked(story, agent)
    other_child = ("-> Price:\n    return Price(cents=5)", "-> list[int]:\n    return [5]")
    assert "the step 'function/price' gave what does not fit any more" in await why_parked(story, other_child)
    other_answer = ("    cents: int\n", "    cents: int\n    tax: int\n"), ("-> Price:", "-> dict[str, int]:")
    assert "the step 'function/ask' gave what does not fit any more" in await why_parked(story, *other_answer)
    assert effects() == ALL[:2], "before anything is done"

    async with written.runtime(url, written.load(story.folder, story.write(text=SOURCE))) as rt:
        assert (await rt.container("default").log.run("job")).status == "parked", "until somebody says that it goes on"
    assert await asyncio.to_thread(command, ["runs", "resume", "job", "--accept", "--store", url]) == 0
    result = await story.goes_on(
        ('"reserve", item', '"reserve", item * 2'),  # accepted: what it gave is used
        ('@function(name="Desk")', '@function(name="Desk", retries=1, concurrency=3)'),
        ("item: str) -> str", "item: str, more: int = 1) -> str"),
        ("{price.cents + asked.cents}", "{price.cents + asked.cents + more}"),
    )
    assert result.output == "reserve charge ship 11"
    assert effects() == ALL
    found = await told(story)
    for one in ("retries changed from 4 to 1", "parameter more is new", "concurrency is new"):
        assert f"function Desk: {one}" in found


@file
async def test_d22_r07_a_function_that_asks_otherwise_parks_and_is_accepted_without_a_second_call(story: Story):
    await story.dies("charge", text=SOURCE)
    await story.parks(
        "step 'function/reserve' was finished with other arguments", ('"reserve", item', '"reserve", item * 2')
    )
    assert effects() == ALL[:1], "before anything is done"
    assert (await story.goes_on((RESERVE, 'first = "nothing"'), text=SOURCE, accept=True)).output.startswith("nothing")
    assert effects() == ALL


def prints(source: str) -> dict[str, Any]:
    """The prints of a function of some source."""
    found: dict[str, Any] = {"Context": Context}
    exec(source, found)
    return prints_of(function(found["job"], name="Job"))["function Job"]


def test_the_print_of_a_function_does_not_go_by_comments_and_layout():
    one = 'async def job(ctx: Context, n: int = 1) -> int:\n    return await ctx.step.run("a", lambda: 1) + n\n'
    same = one.replace(
        ':\n    return await ctx.step.run("a", lambda: 1)',
        ":\n    'Doc.'\n    # why\n    return await ctx.step.run(\n      'a',\n      lambda: (1),\n    )",
    )
    assert prints(one) == prints(same)
    assert differences(prints(one), prints(one.replace("+ n", "- n"))) == ("code changed",)
    assert differences(prints(one), prints(one.replace("lambda: 1", "lambda: 2"))) == ("code changed",)
    assert differences(prints(one), prints(one.replace('"a"', '"b"'))) == ("steps changed from run a to run b",)


def test_the_print_of_a_function_is_short_and_the_same_in_every_process():
    async def job(ctx: Context[Any], event: SentEvent) -> str:
        async def branch(name: str) -> bool:
            return name in {"a", "b", "c"} and await ctx.step.scope(name).run("one", lambda: True)

        step, id = ctx.step, f"{event.id}"
        await step.sleep("rest", 1)
        await ctx.step.run(id, lambda: None)
        await ctx.approve("Go on?")
        return str(await branch("a"))

    made = function(job, name="Job", event="a/b", concurrency=Concurrency(2, "data.user"))
    known = prints_of(made)["function Job"]
    assert known == {
        "event": "a/b",
        "cron": None,
        "retries": "4",
        "concurrency": "2 by data.user",
        "steps": "scope, sleep rest, run, approve Go on?",
        CODE: known[CODE],
    }
    older = {**known, CODE: "#0123456789ab 3.0"}
    assert differences({"f": older}, {"f": known}) == (), "under another Python the code says nothing"
    assert differences({"f": {**known, CODE: known[CODE].replace("#", "#0")}}, {"f": known}) == ("f: code changed",)
    assert prints_of(function(print_nothing, name="Nothing"))["function Nothing"].keys() == {"retries", CODE}


async def print_nothing() -> None: ...
