"""Tools of MCP servers over streamable HTTP and SSE, with the npm reference server and one made with the SDK."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from perdure import Agent, RunFailed, mcp, tool
from perdure.agents.mcp import MCPServer
from perdure.testing import ScriptedModel, call, calls, say
from perdure.types.errors import ToolServerUnreachable
from tests.agents.mcp_servers import EVERYTHING, ODD, Served, free_port, served, why_no_reference_server
from tests.wire.harness import RawServer, raw

pytestmark = pytest.mark.usefixtures("nothing_left")


def contents(result: Any) -> list[Any]:
    return [one.content for one in result.messages if type(one).__name__ == "ToolResultMessage"]


async def listed(server: MCPServer) -> list[str]:
    return [one.name for one in await server.list_tools()]


async def asked(tools: list[Any], *answers: Any) -> list[Any]:
    model = ScriptedModel(*answers, say("done"))
    return contents(await Agent("Asker", tools=tools, model=model).run("go"))


def at(server: Served, kind: str, **options: Any) -> MCPServer:
    path = "sse" if kind == "sse" else "mcp"
    return mcp("web", url=f"http://127.0.0.1:{server.port}/{path}", transport=kind, timeout=10, **options)  # type: ignore[arg-type]


@pytest.fixture(params=["http", "sse"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def reference(kind: str) -> Iterator[Served]:
    """The reference server of npm, which speaks the older protocol with sessions."""
    reason = why_no_reference_server()
    if reason is not None:
        pytest.skip(reason)
    with served("node", str(EVERYTHING), "sse" if kind == "sse" else "streamableHttp") as server:
        yield server


@pytest.fixture
def own(kind: str) -> Iterator[Served]:
    """A server made with the SDK, which speaks the newest protocol."""
    with served(*ODD, kind, "{port}") as server:
        yield server


async def test_b23_the_npm_reference_server_over_http_and_sse(reference: Served, kind: str):
    got = await asked(
        [at(reference, kind)],
        calls(call("web-echo", message="hello"), call("web-get-sum", a=2, b=3)),
        call("web-get-structured-content", location="New York"),
        call("web-trigger-long-running-operation", duration=0.05, steps=1),
    )
    assert got[0] == {"data": "Echo: hello"}
    assert got[1] == {"data": "The sum of 2 and 3 is 5."}
    assert got[2]["data"]["conditions"] == "Cloudy"
    assert got[3]["data"].startswith("Long running operation completed")


async def test_b23_a_server_of_the_newest_protocol_over_http_and_sse(own: Served, kind: str):
    server = at(own, kind)
    async with server:
        got = await asked([server], call("web-look", what="x"), call("web-fail", why="no"), call("web-grow"))
        assert got[0] == {"data": {"result": "saw x"}}
        assert "no" in got[1]["error"]["message"]
        async with asyncio.timeout(20):  # over HTTP, what changed is told on another stream than the result
            while "web-grown" not in await listed(server):  # noqa: ASYNC110  # nothing of ours says when it has come
                await asyncio.sleep(0)
        assert await asked([server], call("web-grown")) == [{"data": {"result": "new"}}]


async def test_a_server_that_was_started_again_is_connected_to_again(reference: Served, kind: str):
    @tool
    def restart() -> str:
        """Start the server again, so that it knows no session."""
        reference.kill()
        reference.start()
        return "restarted"

    echo = call("web-echo", message="hello")
    got = await asked([at(reference, kind), restart], echo, call("restart"), echo, echo)
    assert got == [{"data": "Echo: hello"}, {"data": "restarted"}, {"data": "Echo: hello"}, {"data": "Echo: hello"}]


@pytest.mark.parametrize("kind", ["http"])
async def test_b23_tools_are_listed_each_time_when_nobody_says_that_they_changed(own: Served):
    async with at(own, "http") as server:
        assert "web-grown" not in await listed(server)
        own.kill()  # and with it the stream on which it would tell of changes
        own.start()
        await asked([at(own, "http")], call("web-grow"))
        async with asyncio.timeout(20):
            while "web-grown" not in await listed(server):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0)


async def test_b23_a_server_killed_in_mid_call_closes_the_call(reference: Served, kind: str):
    @tool
    def kill() -> str:
        """Kill the server while it is at work."""
        reference.kill()
        return "killed"

    slow = call("web-trigger-long-running-operation", duration=60, steps=1)
    model = ScriptedModel(calls(slow, call("kill")), say("done"))
    with pytest.raises(RunFailed) as failed:  # at the next inference it is still not there
        await Agent("Asker", tools=[at(reference, kind), kill], model=model).run("go")
    got = contents(failed.value.result)
    assert got[0]["error"]["name"] == "ToolServerError" and "'web' broke off" in got[0]["error"]["message"]
    assert got[1] == {"data": "killed"}
    assert isinstance(failed.value.__cause__, ToolServerUnreachable)


async def test_b23_nobody_at_the_address(kind: str):
    url = f"http://ada:pass-word@127.0.0.1:{free_port()}/{'k' * 30}/mcp?token=hush-hush-hush"
    server = mcp("web", url=url, transport=kind, headers={"Authorization": "Bearer hush-hush-hush"})  # type: ignore[arg-type]
    with pytest.raises(RunFailed, match="All connection attempts failed") as failed:
        await asked([server])
    cause = failed.value.__cause__
    assert isinstance(cause, ToolServerUnreachable)
    assert "Is it running" in str(cause) and "http://127.0.0.1:" in str(cause)
    for text in (str(failed.value), repr(cause), repr(cause.__cause__), repr(server)):
        assert "hush" not in text and "pass-word" not in text and "kkk" not in text


@pytest.fixture
async def refusing() -> Any:
    async with raw() as server:
        yield server


@pytest.mark.parametrize(
    ("status", "said"), [(401, "HTTP 401: pass what it asks for as headers"), (500, "HTTP 500. Is it running")]
)
async def test_b23_a_server_that_refuses_the_connection(kind: str, status: int, said: str, refusing: RawServer):
    refusing.answer("go away", status)
    server = mcp("web", url=f"{refusing.url}/mcp?token=hush-hush-hush", transport=kind, headers={"X-Key": "k" * 20})  # type: ignore[arg-type]
    with pytest.raises(RunFailed) as failed:
        await asked([server])
    assert said in str(failed.value)
    assert "hush" not in f"{failed.value} {failed.value.__cause__!r} {failed.value.__cause__.__cause__!r}"  # type: ignore[union-attr]
    assert refusing.requests[0].headers["x-key"] == "k" * 20


async def test_an_address_that_is_no_mcp_server(kind: str, refusing: RawServer):
    refusing.answer("<html>Welcome</html>", content_type="text/html")
    with pytest.raises(RunFailed, match="could not be reached") as failed:
        await asked([mcp("web", url=refusing.url, transport=kind, timeout=2)])  # type: ignore[arg-type]
    assert isinstance(failed.value.__cause__, ToolServerUnreachable)


async def test_an_address_that_says_nothing_is_given_up(kind: str, refusing: RawServer):
    refusing.answers.append(b"")
    refusing.hang = True
    with pytest.raises(RunFailed, match=r"no connection within 0\.5 s"):
        await asked([mcp("web", url=refusing.url, transport=kind, timeout=0.5)])  # type: ignore[arg-type]


async def test_the_connection_stays_open_as_long_as_somebody_holds_it(own: Served, kind: str):
    server = at(own, kind)
    async with server:
        for what in ("a", "b"):
            assert await asked([server], call("web-look", what=what)) == [{"data": {"result": f"saw {what}"}}]
        assert "web-look" in await listed(server)


def test_the_sdk_is_loaded_on_first_use():
    import subprocess

    code = "import sys; from perdure import mcp; mcp('a', url='http://a/b'); print('mcp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
