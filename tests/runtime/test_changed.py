"""Code that changes between a crash and the next process: what is finished is used, and what cannot be told parks."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure import RunFailed, Runtime
from perdure.cli.main import main as command
from perdure.types import records as rec
from tests.runtime import desk, written
from tests.runtime.desk import effects

ROOT = Path(__file__).parents[2]
SOURCE = '''
from dataclasses import dataclass
from typing import Any

from perdure import Agent, Context, Hooks, Network, RoutingAgent, tool
from tests.runtime.written import answer, die, do


@dataclass
class Ticket:
    paid: int = 0


@tool(effect="steps")
async def pay(ctx: Context[Any], amount: int) -> str:
    """Pay."""
    first = await ctx.step.run("reserve", do, "reserve", amount, effect="idempotent")
    second = await ctx.step.run("charge", do, "charge", amount, effect="idempotent")
    return f"{first} {second}"


BILLER = Agent("Biller", system="Be exact.", tools=[pay], model=answer("pay", amount=5))
WRITER = Agent("Writer", system="Be brief.", model=answer(name="writer"))


def route(r):
    return (BILLER, WRITER, None)[r.call_count]


DESK = Network("Desk", agents=[BILLER, WRITER], router=route, state=Ticket)
'''
RESERVE = 'first = await ctx.step.run("reserve", do, "reserve", amount, effect="idempotent")'
TWO = ["reserve 5", "charge 5"]


class Story:
    """One application in its versions, on one store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.text = SOURCE
        self._versions = 0

    def write(self, *changes: tuple[str, str], text: str | None = None) -> str:
        """Write another version of the source, and give its name."""
        self.text = text or self.text
        for old, new in changes:
            assert old in self.text
            self.text = self.text.replace(old, new)
        self._versions += 1
        name = f"app{self._versions}"
        (self.folder / f"{name}.py").write_text(self.text)
        return name

    async def dies(self, where: str, *changes: tuple[str, str], text: str | None = None) -> None:
        """Run a version in a process that is killed."""
        name = self.write(*changes, text=text)
        path = os.pathsep.join(str(ROOT / one) for one in ("src", ""))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            written.__file__,
            self.url,
            str(self.folder),
            name,
            env={**os.environ, "PYTHONPATH": path, "DIE": where},
        )
        async with asyncio.timeout(60):
            assert await process.wait() == -signal.SIGKILL

    async def goes_on(self, *changes: tuple[str, str], text: str | None = None, accept: bool = False) -> Any:
        """Let the next version go on with the run, and give its result."""
        module = written.load(self.folder, self.write(*changes, text=text))
        async with written.runtime(self.url, module) as rt:
            if accept:
                await rt.resume("job", accept=True)
            given = getattr(module, "GIVEN", "go")
            return await asyncio.wait_for(rt.run(module.DESK, given, run_id="job", session_id="s"), 60)

    async def parks(self, why: str, *changes: tuple[str, str], text: str | None = None, accept: bool = False) -> None:
        """See that the next version does not go on."""
        with pytest.raises(RunFailed, match=why) as failure:
            await self.goes_on(*changes, text=text, accept=accept)
        assert "perdure runs resume job --accept" in str(failure.value)

    async def records(self) -> list[rec.Record]:
        async with Runtime(self.url, [], workers=False) as rt:
            return await rt.container("default").log.read_run("job")

    async def changes(self) -> tuple[str, ...]:
        """What the owner that went on last has found changed."""
        return [one.payload for one in await self.records() if isinstance(one.payload, rec.Claimed)][-1].changes


@pytest.fixture
def story(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr(desk, "place", tmp_path)
    yield Story(url, tmp_path)
    sys.modules.pop("app", None)


both = pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
file = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


# -- the same, and what is compatible ----------------------------------------------------------------------------------


@both
async def test_d22_the_same_code_goes_on_and_has_nothing_to_say(story: Story):
    await story.dies("charge")
    assert (await story.goes_on()).status == "completed"
    assert effects() == TWO
    assert await story.changes() == ()
    claims = [one.payload for one in await story.records() if isinstance(one.payload, rec.Claimed)]
    assert [one.fingerprints for one in claims] == [None]


@file
async def test_d22_a_body_that_does_something_else_under_the_same_names_is_not_noticed(story: Story):
    await story.dies("charge")
    result = await story.goes_on(('return f"{first} {second}"', 'return f"{second} behind {first}"'))
    assert result.results[0].tool_calls[0].data == "charge behind reserve"
    assert await story.changes() == () and effects() == TWO


@both
async def test_d22_a_step_that_was_inserted_runs_and_finished_ones_do_not_run_again(story: Story):
    await story.dies("charge")
    check = 'await ctx.step.run("check", do, "check", effect="idempotent")'
    assert (await story.goes_on((RESERVE, f"{RESERVE}\n    {check}"))).status == "completed"
    assert effects() == ["reserve 5", "check", "charge 5"]


@file
async def test_d22_a_step_whose_function_gives_another_type_now_gives_what_it_gave(story: Story):
    await story.dies("charge")
    result = await story.goes_on((RESERVE, RESERVE.replace("do,", "number,")), ("@dataclass", NUMBER))
    assert result.results[0].tool_calls[0].content == {"data": "reserve charge"}
    assert effects() == TWO


NUMBER = """
async def number(name: str, amount: int) -> int:
    return amount


@dataclass"""


@file
async def test_d22_what_is_compatible_goes_on_and_says_what_changed(story: Story):
    await story.dies("charge")
    result = await story.goes_on(
        ("Be exact.", "Be kind."),
        ('answer("pay"', 'answer("pay", name="other"'),
        ("def route", "def choose"),
        ("router=route", "router=choose"),
        ("amount: int) -> str", "amount: int = 5, to: str = '') -> str"),
        ("paid: int = 0", "paid: int = 0\n    by: str = ''"),
        ("[BILLER, WRITER]", "[BILLER]"),
        ("BILLER, WRITER, None)", "BILLER, None)"),
    )
    assert result.status == "completed"
    assert result.results[0].text == "Be kind.", "the next inference has the new prompt"
    assert effects() == TWO
    assert await story.changes() == (
        "agent Biller: prompt changed",
        "agent Biller: model changed from test:function to test:other",
        "agent Biller: tool pay: parameter amount changed from integer to integer, optional",
        "agent Biller: tool pay: parameter to is new",
        "agent Writer is gone",
        "router changed from route to choose",
        "state: field by is new",
    )


@file
async def test_d22_an_agent_that_has_had_its_turn_may_be_gone(story: Story):
    await story.dies("model writer")
    result = await story.goes_on(("[BILLER, WRITER]", "[WRITER]"))
    assert [one.agent_name for one in result.results] == ["Biller", "Writer"]
    assert await story.changes() == ("agent Biller is gone",)


@file
async def test_d22_a_difference_is_shown_and_said_once(
    story: Story, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    await story.dies("charge", ("Be exact.", "Be quick."))
    await story.dies("charge", ("Be quick.", "Be kind."))
    assert await story.changes() == ("agent Biller: prompt changed",)
    await story.goes_on()
    assert await story.changes() == (), "the last owner had this code already"
    monkeypatch.setenv("COLUMNS", "200")
    code = await asyncio.to_thread(command, ["runs", "show", "job", "--store", url])
    assert code == 0
    assert "changed since: agent Biller: prompt changed" in " ".join(capsys.readouterr().out.split())


# -- what parks --------------------------------------------------------------------------------------------------------


@both
async def test_d22_a_step_that_was_renamed_parks_and_is_accepted_without_a_second_call(story: Story):
    await story.dies("charge")
    await story.parks(
        "'pay' at agent/0/infer/0/tool/0 has ended and did not ask for 'reserve'",
        (RESERVE, RESERVE.replace('"reserve", do', '"hold", do')),
    )
    assert effects() == ["reserve 5", "reserve 5", "charge 5"], "what has another name is another step"
    assert (await story.goes_on(accept=True)).status == "completed"
    assert effects() == ["reserve 5", "reserve 5", "charge 5"], "known keys are used, nothing runs again"


@file
async def test_d22_a_step_that_was_removed_parks_and_goes_on_when_it_is_back(story: Story):
    await story.dies("charge")
    await story.parks("did not ask for 'reserve'", (RESERVE, 'first = "nothing"'))
    text = story.text
    async with Runtime(story.url, [], workers=False) as rt:
        await rt.resume("job")
    assert (await story.goes_on(text=SOURCE)).results[0].tool_calls[0].data == "reserve charge"
    assert effects() == TWO
    assert text != SOURCE


@file
async def test_d22_a_body_that_fails_before_it_has_asked_for_all_parks_too(story: Story):
    await story.dies("charge")
    await story.parks("ended with ValueError: no.* did not ask for 'reserve'", (RESERVE, 'raise ValueError("no")'))
    assert effects() == ["reserve 5"]


@both
async def test_r07_another_argument_parks_before_anything_is_done_and_accepted_the_kept_result_is_used(story: Story):
    await story.dies("charge")
    await story.parks(
        "step 'agent/0/infer/0/tool/0/reserve' was finished with other arguments",
        ('"reserve", amount', '"reserve", amount + 1'),
    )
    assert effects() == ["reserve 5"]
    kinds = [one.kind for one in await story.records()]
    assert "tool" not in kinds, "the call stays open"
    assert (await story.goes_on(accept=True)).results[0].tool_calls[0].data == "reserve charge"
    assert effects() == TWO
    assert [one.payload.accepted for one in await story.records() if isinstance(one.payload, rec.Unparked)] == [True]


@file
async def test_r07_other_steps_of_the_body_are_finished_before_it_parks(story: Story):
    text = SOURCE.replace(RESERVE, "import asyncio\n    " + BESIDE).replace(
        "from typing", "import asyncio\nfrom typing"
    )
    await story.dies("charge", text=text)
    slow = "async def slow(name):\n    await asyncio.sleep(0.05)\n    return await do(name)\n\n\n@dataclass"
    await story.parks(
        "reserve' was finished with other arguments",
        ('"reserve", amount', '"reserve", amount + 1'),
        ("beside = none()", 'beside = ctx.step.run("beside", slow, "beside")'),
        ("@dataclass", slow),
    )
    assert effects() == ["reserve 5", "beside"]
    places = [one.key for one in await story.records() if one.kind == "step"]
    assert places == ["agent/0/infer/0/tool/0/reserve", "agent/0/infer/0/tool/0/beside"]


BESIDE = """async def none():
        pass
    beside = none()
    first = ctx.step.run("reserve", do, "reserve", amount, effect="idempotent")
    _, first = await asyncio.gather(beside, first, return_exceptions=True)"""


@file
async def test_r07_a_step_in_doubt_is_not_undone_with_other_arguments(story: Story):
    undo = ", undo=undone)"
    text = SOURCE.replace('"charge", amount, effect="idempotent")', f'"charge", amount{undo}')
    text = text.replace("@dataclass", UNDONE)
    await story.dies("charge", text=text)
    await story.parks(
        "charge' was begun with other arguments", (f'"charge", amount{undo}', f'"charge", amount + 1{undo}')
    )
    result = await story.goes_on(accept=True)
    assert result.results[0].tool_calls[0].content["error"]["name"] == "StepInDoubt"
    assert effects() == ["reserve 5"], "nobody knows, and nothing was taken back that was not done"


UNDONE = """
async def undone(name: str, amount: int) -> None:
    await do("undone", amount)


@dataclass"""


@file
async def test_d22_a_tool_that_is_gone_parks_while_its_call_is_open(story: Story):
    await story.dies("charge")
    await story.parks(
        "tool 'pay' of agent Biller is gone, and its call agent/0/infer/0/tool/0 is open",
        ("def pay", "def settle"),
        ("[pay]", "[settle]"),
    )
    result = await story.goes_on(accept=True)
    assert result.results[0].tool_calls[0].content["error"]["name"] == "UnknownTool"
    assert effects() == ["reserve 5"]


@file
async def test_d22_another_effect_parks_while_a_call_is_open(story: Story):
    await story.dies("charge")
    await story.parks("'pay': effect changed from steps to pure", ('@tool(effect="steps")', '@tool(effect="pure")'))
    assert (await story.goes_on(accept=True)).status == "completed"
    assert effects() == TWO


@both
async def test_d22_an_agent_that_is_gone_in_its_turn_parks_until_it_is_back(story: Story):
    await story.dies("charge")
    gone = ('Agent("Biller"', 'Agent("Clerk"')
    await story.parks("agent 'Biller' is gone, and it is in the middle of its turn", gone)
    await story.parks("agent 'Biller' is gone", accept=True)
    assert (await story.goes_on(text=SOURCE, accept=True)).status == "completed"
    assert effects() == TWO


@file
async def test_d22_a_state_that_does_not_fit_parks_until_it_fits(story: Story):
    await story.dies("charge")
    await story.parks(
        r"the state does not fit StateKind\(Ticket\) any more", ("paid: int = 0", "paid: list[int] | None = None")
    )
    assert "state: field paid changed from int to list[int] | None" in await story.changes()
    await story.parks("the state does not fit", accept=True)
    assert (await story.goes_on(text=SOURCE, accept=True)).status == "completed"


@file
async def test_d22_another_kind_of_definition_parks(story: Story):
    await story.dies("charge")
    agent = 'DESK = Agent("Desk", tools=[pay], model=answer("pay", amount=5))'
    await story.parks("'Desk' was a network and is an agent now", text=SOURCE[: SOURCE.index("DESK =")] + agent)
    assert effects() == ["reserve 5"]


ANSWERS = """
from pydantic import BaseModel

from perdure import Agent, Hooks
from perdure.testing import FunctionModel, say
from tests.runtime.written import die


class Bill(BaseModel):
    total: int


hooks = Hooks(on_finish=lambda ctx, result: die("finish"))
model = FunctionModel(lambda request: say('{"total": 5}'))
DESK = Agent("Desk", output_type=Bill, model=model, hooks=hooks)
"""


@file
async def test_d22_an_answer_that_does_not_fit_its_type_parks(story: Story):
    await story.dies("finish", text=ANSWERS)
    await story.parks("the answer of .* does not fit its output type any more", ("total: int", "total: list[int]"))
    assert await story.changes() == ("agent Desk: output type: text changed",)
    assert (await story.goes_on(("total: list[int]", "total: float"), accept=True)).output.total == 5.0


ROUTED = (
    "router=route",
    'router=RoutingAgent("Chooser", tools=[choose], model=answer("choose", name="chooser"), on_route=chosen)',
)
CHOSEN = '''
@tool(effect="steps")
async def choose(ctx: Context[Any]) -> str:
    """Choose."""
    return await ctx.step.run("choose", do, "choose", effect="idempotent")


def chosen(ctx, result):
    return "Biller" if len(ctx.network.state.results) == 0 else None


DESK ='''


@file
async def test_d22_a_routing_agent_goes_on_in_its_turn_unless_the_router_does_not_ask_it_any_more(story: Story):
    await story.dies("choose", ROUTED, ("\nDESK =", CHOSEN))
    asking = story.text
    await story.parks("the router does not ask the routing agent 'Chooser' any more", (ROUTED[1], "router=route"))
    assert (await story.goes_on(text=asking, accept=True)).status == "completed"
    assert effects()[0] == "choose"


CHILDREN = '''
@tool(effect="steps")
async def ask(ctx: Context[Any]) -> str:
    """Ask."""
    await ctx.step.run("look", do, "look", effect="idempotent")
    return (await ctx.run(BILLER, "go")).text


DESK = Agent("Desk", tools=[ask], model=answer("ask", name="desk"))
'''


@both
async def test_r15_d22_a_child_run_whose_code_has_changed_parks_its_parent_and_is_accepted_with_it(story: Story):
    text = SOURCE[: SOURCE.index("DESK =")] + CHILDREN
    await story.dies("charge", text=text)
    await story.parks("other arguments .in its child run run_", ('"reserve", amount', '"reserve", amount + 1'))
    assert effects() == ["look", "reserve 5"]
    assert (await story.goes_on(accept=True)).status == "completed"
    assert effects() == ["look", *TWO]


@file
async def test_d22_what_was_accepted_holds_for_what_was_there_then(story: Story):
    text = SOURCE.replace(
        '    return f"{first}', '    await ctx.step.run("tell", do, "tell", effect="idempotent")\n    return f"{first}'
    )
    await story.dies("charge", text=text)
    await story.parks("reserve' was finished with other arguments", ('"reserve", amount', '"reserve", amount + 1'))
    async with Runtime(story.url, [], workers=False) as rt:
        await rt.resume("job", accept=True)
    await story.dies("tell")
    await story.parks("charge' was finished with other arguments", ('"charge", amount', '"charge", amount + 1'))


@file
async def test_bad_input_only_a_parked_run_is_accepted(story: Story, url: str, capsys: pytest.CaptureFixture[str]):
    await story.dies("charge")
    assert await asyncio.to_thread(command, ["runs", "resume", "job", "--accept", "--store", url]) == 1
    assert "belongs to owner_" in " ".join(capsys.readouterr().err.split())
    await story.parks("did not ask for 'reserve'", (RESERVE, 'first = "nothing"'))
    assert await asyncio.to_thread(command, ["runs", "resume", "job", "--accept", "--store", url]) == 0
    assert (await story.goes_on()).status == "completed"
