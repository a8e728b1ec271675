"""Tools of MCP servers over stdio: the reference servers, one made with the SDK, one that speaks by hand."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, MissingExtra, Network, RunCancelled, RunFailed, ToolServerError, Toolset, mcp, tool
from perdure import events as ev
from perdure.agents import mcp_connection
from perdure.agents.mcp import MCPServer
from perdure.agents.mcp_endpoint import Trace
from perdure.testing import ScriptedModel, call, calls, context, delay, say
from perdure.types.errors import NotDone, ToolServerUnreachable
from perdure.types.waits import Approve
from tests.agents.mcp_servers import EVERYTHING, FETCH, ODD, TIME, is_alive, rude, why_no_reference_server
from tests.agents.watching import watch

pytestmark = pytest.mark.usefixtures("nothing_left")


def contents(result: Any) -> list[Any]:
    """What the model was told of each call."""
    return [one.content for one in result.messages if type(one).__name__ == "ToolResultMessage"]


async def asked(server: Toolset[Any], *answers: Any, **options: Any) -> tuple[list[Any], ScriptedModel]:
    """Let an agent with the server's tools make scripted calls."""
    model = ScriptedModel(*answers, say("done"))
    result = await Agent("Asker", tools=[server], model=model, **options).run("go")
    assert result.text == "done"
    return contents(result), model


def names(model: ScriptedModel, request: int = -1) -> list[str]:
    """The tools that the model was offered."""
    return [one.name for one in model.requests[request].tools]


@pytest.fixture
def pids(tmp_path: Path) -> Path:
    return tmp_path / "pids"


def odd(pids: Path, **options: Any) -> MCPServer:
    return mcp("odd", command=ODD, env={"ODD_PIDS": str(pids)}, **options)


def quick(pids: Path, **options: Any) -> MCPServer:
    """The server that speaks by hand is there in no time."""
    return mcp("r", command=rude("normal"), env={"RUDE_PIDS": str(pids)}, **options)


def started(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text(encoding="utf-8").split()]


# -- third-party servers ----------------------------------------------------------------------------------------------


async def test_b23_a_reference_server_is_listed_called_and_closed():
    got, model = await asked(
        mcp("time", command=TIME),
        call("time-convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo"),
        call("time-get_current_time", timezone="Nowhere/Land"),
    )
    assert names(model) == ["time-get_current_time", "time-convert_time"]
    assert got[0]["data"]["target"]["datetime"].partition("T")[2].startswith("21:00")
    assert "Nowhere/Land" in got[1]["error"]["message"]
    spec = model.requests[0].tools[1]
    assert spec.parameters["required"] == ["source_timezone", "time", "target_timezone"]
    assert spec.description == "Convert time between timezones"


async def test_b23_another_reference_server_refuses_an_argument_as_a_result():
    got, model = await asked(mcp("web", command=FETCH), call("web-fetch", url="http://127.0.0.1:9/nothing"))
    assert names(model) == ["web-fetch"]
    assert "127.0.0.1:9" in got[0]["error"]["message"]


async def test_b23_the_npm_reference_server_over_stdio():
    reason = why_no_reference_server()
    if reason is not None:
        pytest.skip(reason)
    got, model = await asked(
        mcp("all", command=["node", str(EVERYTHING), "stdio"]),
        call("all-echo", message="hello"),
        call("all-get-tiny-image"),
        call("all-get-structured-content", location="Chicago"),
        call("all-get-resource-reference", resourceType="Text", resourceId=1),
    )
    assert got[0] == {"data": "Echo: hello"}
    picture = got[1]["data"][1]
    assert (picture["type"], picture["media_type"]) == ("image", "image/png") and picture["size"] > 1000
    assert "data" not in picture
    assert got[2]["data"]["conditions"] == "Light rain / drizzle"
    resource = next(part for part in got[3]["data"] if isinstance(part, dict))
    assert resource["type"] == "resource" and resource["uri"].startswith("demo://")
    assert "all-simulate-research-query" not in names(model)  # it answers only to clients that follow tasks


# -- names, schemas, effects ------------------------------------------------------------------------------------------


async def test_b23_names_are_ones_every_provider_takes_and_never_collide():
    got, model = await asked(
        mcp("my files", command=rude("names")), lambda request: call(request.tools[0].name, text="x")
    )
    offered = names(model)
    assert len(set(offered)) == 5
    assert all(len(name) <= 64 and name.isascii() and set(name) <= set(_ALLOWED) for name in offered)
    assert '"name": "with.dots/and spaces"' in got[0]["data"]  # the server is called by its own name


_ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


async def test_b23_odd_schemas_become_plain_objects_and_spoil_no_other_tool():
    got, model = await asked(
        mcp("s", command=rude("schemas")),
        call("s-clash", ctx="1", arguments="2"),
        call("s-choice", b=3),
        call("s-no_type", a=4),
        call("s-bad_output"),
        call("s-missing"),
    )
    schemas = {one.name: one.parameters for one in model.requests[0].tools}
    assert len(schemas) == 8
    for schema in schemas.values():
        assert schema["type"] == "object" and isinstance(schema["properties"], dict)
        assert not schema.keys() & {"$schema", "anyOf", "oneOf", "allOf"}
    assert set(schemas["s-choice"]["properties"]) == {"a", "b"}
    assert '"arguments": {"ctx": "1", "arguments": "2"}' in got[0]["data"]
    assert '"arguments": {"b": 3}' in got[1]["data"]
    assert got[2]["error"]["name"] == "ArgumentsInvalid"
    assert got[3] == {"data": {"any": "thing"}}
    assert "missing" in got[4]["data"]


async def test_b23_all_pages_are_listed():
    _, model = await asked(mcp("p", command=rude("pages")))
    assert names(model) == [f"p-tool_{page}_{n}" for page in range(4) for n in range(2)]


async def test_a_list_without_end_is_an_error():
    with pytest.raises(RunFailed, match="without end") as failed:
        await asked(mcp("p", command=rude("endless")))
    assert isinstance(failed.value.__cause__, ToolServerError)


async def test_a_server_without_tools_has_none():
    _, model = await asked(mcp("none", command=rude("toolless")))
    assert names(model) == []


async def test_effects_follow_the_hints_unless_said_otherwise(pids: Path):
    async with odd(pids) as server:
        effects = {one.name: one.effect for one in await server.list_tools()}
    assert effects["odd-look"] == "pure"
    assert [effect for name, effect in effects.items() if name.startswith("odd-put")] == ["idempotent"]
    assert effects["odd-fail"] == "once"
    async with quick(pids, effect="idempotent") as server:
        assert {one.effect for one in await server.list_tools()} == {"idempotent"}


async def test_tools_can_be_chosen_prefixed_and_filtered(pids: Path):
    _, model = await asked(quick(pids, include=["change", "echo"], exclude=["change"]))
    assert names(model) == ["r-echo"]
    _, model = await asked(quick(pids).filtered(lambda _, one: one.name.endswith("refuse")).prefixed("my-"))
    assert names(model) == ["my-r-refuse"]


# -- results ----------------------------------------------------------------------------------------------------------


async def test_b23_is_error_is_an_error_result_with_the_servers_words(pids: Path):
    got, _ = await asked(odd(pids), call("odd-fail", why="no such shelf"), call("odd-misfit"), strict=True)
    assert got[0]["error"]["name"] == "ModelRetry"
    assert "no such shelf" in got[0]["error"]["message"]
    assert got[1]["error"]["message"] == '{"code":7}'


async def test_an_error_of_the_protocol_is_an_error_result_and_the_server_goes_on():
    got, _ = await asked(
        mcp("r", command=rude("normal")),
        call("r-refuse", text="x"),
        call("r-own_code", text="x"),
        call("r-echo", text="x"),
    )
    assert got[0] == {"error": {"name": "ModelRetry", "message": "the text is too short"}}
    assert got[1] == {"error": {"name": "ModelRetry", "message": "the printer is out of paper"}}
    assert '"lists": 1' in got[2]["data"]  # the same process: it was not taken for a broken connection


async def test_parts_are_described_and_not_repeated(pids: Path):
    got, _ = await asked(odd(pids), call("odd-parts"))
    assert got[0]["data"] == [
        "Look:",
        {"type": "image", "media_type": "image/png", "size": 5},
        {"type": "resource", "uri": "file:///a.txt", "media_type": "text/plain", "text": "words"},
        {"type": "resource", "uri": "file:///a.bin", "size": 5},
        {"type": "resource", "uri": "file:///b.txt", "name": "b", "size": 7},
    ]


async def test_progress_is_shown(pids: Path):
    model = ScriptedModel(call("odd-slow"), say("done"))
    seen = await watch(Agent("Asker", tools=[odd(pids)], model=model))
    assert [one.data for one in seen.of(ev.ToolProgress)] == [
        {"progress": 1.0, "total": 2.0, "message": "half"},
        {"progress": 2.0, "total": 2.0},
    ]


async def test_the_command_gets_the_variables_it_is_given_and_no_others(pids: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "do-not-tell")
    server = mcp("odd", command=ODD, env={"MINE": "told"})
    got, _ = await asked(server, call("odd-environment", name="MINE"), call("odd-environment", name="SOME_API_KEY"))
    assert [one["data"]["result"] for one in got] == ["told", "unset"]


# -- sharing and closing ----------------------------------------------------------------------------------------------


async def test_b23_one_connection_for_all_agents_and_runs_that_use_it(pids: Path):
    server = odd(pids)
    meet = asyncio.Event()
    model = ScriptedModel(call("odd-look", what="a"), say("first"), call("odd-look", what="b"), say("second"))
    network = Network(
        "Desk",
        agents=[Agent("A", tools=[server]), Agent("B", tools=[server])],
        router=lambda r: None if r.call_count == 2 else r.network.agents["AB"[r.call_count]],
        model=model,
    )
    other = Agent("Other", tools=[server], model=ScriptedModel(call("odd-look", what="c"), delay(meet, say("third"))))
    async with server:
        run = other.start("go")
        await network.run("go")
        meet.set()
        assert (await run.result()).text == "third"
        assert [is_alive(pid) for pid in started(pids)] == [True]
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_concurrent_users_connect_once(pids: Path):
    server = odd(pids)
    await asyncio.gather(*(server.acquire() for _ in range(5)))
    for _ in range(4):
        await server.release()
    assert [is_alive(pid) for pid in started(pids)] == [True]
    assert len(await server.list_tools()) > 5
    await server.release()
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_a_run_alone_opens_and_closes(pids: Path):
    server = quick(pids)
    for _ in range(2):
        await asked(server, call("r-echo", text="x"))
    assert [is_alive(pid) for pid in started(pids)] == [False, False]


def test_each_event_loop_has_a_connection_of_its_own(pids: Path):
    server = quick(pids)
    agent = Agent("Asker", tools=[server], model=ScriptedModel(call("r-echo", text="x"), say("one"), say("two")))
    assert [agent.run_sync("go").text for _ in range(2)] == ["one", "two"]
    assert [is_alive(pid) for pid in started(pids)] == [False, False]


async def test_a_call_after_a_wait_connects_again(pids: Path):
    agent = Agent(
        "Asker",
        tools=[quick(pids, requires_approval=lambda **given: given["text"] == "secret")],
        model=ScriptedModel(call("r-echo", text="open"), call("r-echo", text="secret"), say("done")),
    )
    waiting = await agent.run("go")
    assert waiting.status == "waiting"
    assert [is_alive(pid) for pid in started(pids)] == [False]
    done = await waiting.resume({waiting.waits[0].id: Approve()})
    assert ['"text": "secret"' in one["data"] for one in contents(done)] == [False, True]
    assert len(started(pids)) > 1 and not any(is_alive(pid) for pid in started(pids))


async def test_a_server_that_will_not_go_is_gone_also_when_who_closes_it_is_cancelled(pids: Path):
    server = mcp("r", command=rude("stubborn"), env={"RUDE_PIDS": str(pids)})
    await server.acquire()
    closing = asyncio.create_task(server.release())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_cancelling_who_connects_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mcp_connection, "CLOSE_LIMIT", 1000.0)  # it must not take the limit to end
    server = mcp("silent", command=rude("silent"))
    one, two = (asyncio.create_task(server.acquire()) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    assert not two.done()  # the connection is the other's, too
    two.cancel()
    with pytest.raises(asyncio.CancelledError):
        await two


# -- changes ----------------------------------------------------------------------------------------------------------


async def test_b23_tools_are_listed_again_when_the_server_says_so():
    got, model = await asked(
        mcp("r", command=rude("normal")),
        call("r-echo", text="x"),
        call("r-change", text="x"),
        call("r-grown", text="x"),
    )
    assert "r-grown" not in names(model, 1)
    assert names(model, 2)[-1] == "r-grown"
    assert ['"lists": 1' in one["data"] for one in got] == [True, True, False]
    assert '"lists": 2' in got[2]["data"]


async def test_b23_also_when_the_server_must_be_asked_to_say_so(pids: Path):
    got, model = await asked(odd(pids), call("odd-grow"), call("odd-grown"))
    assert names(model, 1)[-1] == "odd-grown"
    assert got[1] == {"data": {"result": "new"}}


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["no-such-program", "--key", "hush-hush-hush"], "No such file"),
        (rude("breaks"), "cannot open the database with …"),
        ([sys.executable, "-c", "print('not json')"], "Connection closed"),
    ],
)
async def test_b23_a_server_that_cannot_be_started_ends_the_run_with_reasons(command: list[str], why: str):
    server = mcp("files", command=command, env={"RUDE_KEY": "hush-hush-hush"})
    seen = await watch(Agent("Asker", tools=[server], model=ScriptedModel("never")))
    assert isinstance(seen.error, RunFailed)
    assert isinstance(seen.error.__cause__, ToolServerUnreachable)
    [failed] = seen.of(ev.RunFailed)
    assert failed.error.type == "ToolServerUnreachable"
    for text in (str(seen.error), failed.error.message):
        assert "'files'" in text and why in text and "Run the command by itself" in text
        assert "hush" not in text
    assert "hush" not in repr(server)


async def test_a_server_that_never_answers_is_given_up():
    with pytest.raises(RunFailed, match=r"no connection within 0\.5 s"):
        await asked(mcp("silent", command=rude("silent"), timeout=0.5))


async def test_a_list_that_never_comes_is_given_up():
    with pytest.raises(RunFailed, match=r"did not list its tools within 2 s"):
        await asked(mcp("r", command=rude("hangs"), timeout=2))


async def test_a_failed_connection_is_tried_again_by_the_next_who_asks(tmp_path: Path):
    here = tmp_path / "later.py"
    server = mcp("later", command=[sys.executable, str(here), "normal"])
    with pytest.raises(ToolServerUnreachable):
        await server.acquire()
    here.write_text(Path(rude("")[1]).read_text(encoding="utf-8"), encoding="utf-8")
    async with server:
        assert len(await server.list_tools()) == 6


async def test_b23_a_server_that_dies_in_mid_call_closes_the_call_and_comes_back(
    pids: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "perdure"):
        got, _ = await asked(odd(pids), call("odd-die"), call("odd-look", what="x"))
    assert got[0]["error"]["name"] == "ToolServerError"
    message = got[0]["error"]["message"]
    assert "'odd'" in message and "'die'" in message and "not known" in message
    assert "terrible" not in message and "odd.py" not in message  # the model needs neither log nor command
    assert "something terrible happened" in caplog.text
    assert got[1] == {"data": {"result": "saw x"}}
    assert [is_alive(pid) for pid in started(pids)] == [False, False]


async def test_a_talkative_server_fills_no_disk_and_its_last_words_are_kept(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    sizes: list[int] = []

    def measured(trace: Trace) -> None:
        trim(trace)
        assert trace.log is not None
        sizes.append(os.fstat(trace.log.fileno()).st_size)

    trim = Trace.trim
    monkeypatch.setattr(Trace, "trim", measured)
    with caplog.at_level(logging.WARNING, "perdure"):
        got, _ = await asked(mcp("r", command=rude("normal")), call("r-shout"), call("r-leave"))
    assert got[0] == {"data": "r-shout successfully executed"}
    assert sizes == [0, 0, 0]
    assert caplog.text.count("goodbye") == 1 and "\0" not in caplog.text and "shouted" not in caplog.text


async def test_calls_beside_the_one_that_kills_the_server_are_closed_too(pids: Path):
    got, _ = await asked(odd(pids), calls(call("odd-hang"), call("odd-die")))
    assert [one["error"]["name"] for one in got] == ["ToolServerError", "ToolServerError"]


async def test_a_server_that_dies_while_listing_is_started_again_once(tmp_path: Path):
    got, _ = await asked(mcp("r", command=rude("dies", tmp_path / "died")), call("r-echo", text="x"))
    assert "echo" in got[0]["data"]
    with pytest.raises(RunFailed, match="broke off"):
        await asked(mcp("r", command=rude("dies", tmp_path / "no" / "such" / "folder")))


async def test_a_call_that_finds_no_server_was_not_done(tmp_path: Path):
    here = tmp_path / "gone.py"
    here.write_text(Path(rude("")[1]).read_text(encoding="utf-8"), encoding="utf-8")
    server = mcp("gone", command=[sys.executable, str(here), "normal"])
    async with server:
        echo = next(one for one in await server.list_tools() if one.name == "gone-echo")
    here.unlink()
    with pytest.raises(NotDone, match=r"'gone' could not be reached, so nothing was done\.$"):
        await echo(context(), {"text": "x"})


async def test_a_hanging_call_is_ended_by_the_time_limit_and_the_server_is_told(pids: Path):
    limited = odd(pids).prepared(lambda _, one: one.replace(timeout=0.3) if one.name == "odd-hang" else one)
    got, _ = await asked(limited, call("odd-hang"), call("odd-look", what="x"))
    assert got[0]["error"]["name"] == "timeout"
    assert got[1] == {"data": {"result": "saw x"}}
    assert pids.with_name("pids.cancelled").exists()


async def test_b23_cancelling_a_run_cancels_its_request(pids: Path):
    server = odd(pids)
    run = Agent("Asker", tools=[server], model=ScriptedModel(call("odd-hang"))).start("go")
    async with server:
        async for event in run.events():
            if isinstance(event, ev.ToolProgress):
                await run.cancel()
        with pytest.raises(RunCancelled):
            await run.result()
        look = next(one for one in await server.list_tools() if one.name == "odd-look")
        assert await look(context(), {"what": "x"}) == {"result": "saw x"}
        assert pids.with_name("pids.cancelled").exists()  # and the server goes on
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_what_else_a_run_holds_is_released_when_a_server_is_not_there(pids: Path):
    agent = Agent("Asker", tools=[odd(pids), mcp("no", command=["no-such-program"])], model=ScriptedModel("never"))
    with pytest.raises(RunFailed, match="'no'"):
        await agent.run("go")
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_a_toolset_that_cannot_be_released_keeps_no_other_open(pids: Path):
    class Broken(Toolset[Any]):
        async def list_tools(self, ctx: Any) -> list[Any]:
            return []

        async def release(self) -> None:
            raise RuntimeError("stuck")

    agent = Agent("Asker", tools=[quick(pids), Broken()], model=ScriptedModel("done"))
    with pytest.raises(RuntimeError, match="stuck"):
        await agent.run("go")
    assert [is_alive(pid) for pid in started(pids)] == [False]


async def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(RunFailed, match=r"pip install 'perdure\[mcp\]'") as failed:
        await asked(mcp("time", command=TIME))
    assert isinstance(failed.value.__cause__, MissingExtra)


async def test_two_servers_of_one_name_are_named_by_the_error():
    with pytest.raises(RunFailed, match=r"two tools are named 'r-change'.*prefixed"):

        @tool
        async def other() -> None: ...

        model = ScriptedModel("never")
        servers = [mcp("r", command=rude("normal")), mcp("r", command=rude("normal"))]
        await Agent("Asker", tools=[*servers, other], model=model).run("go")
