"""How servers are defined, and what becomes of what they say: without a server."""

from typing import Any

import pytest
from mcp.types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    JSONRPCResponse,
    TextContent,
    TextResourceContents,
)

from perdure import Agent, DefinitionError, Toolset, mcp
from perdure.agents.mcp_endpoint import Address, Command, Trace
from perdure.agents.mcp_wire import read_error, read_result

COMMAND = ["server"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"name": "", "command": COMMAND}, "needs a name"),
        ({}, r"either command=\[…\], a program to start, or url="),
        ({"command": COMMAND, "url": "http://a/mcp"}, "either command"),
        ({"command": "npx some-server"}, "is a list"),
        ({"command": []}, "a program and its arguments"),
        ({"command": ["server", 3]}, "all text"),
        ({"command": COMMAND, "headers": {"a": "b"}}, "headers and transport go with url"),
        ({"command": COMMAND, "transport": "sse"}, "headers and transport go with url"),
        ({"url": "http://a/mcp", "env": {"a": "b"}}, "env and cwd go with command"),
        ({"url": "files"}, "must begin with http"),
        ({"url": "http://"}, "name a host"),
        ({"url": "http://a/mcp", "transport": "ws"}, "it is 'http' .* or 'sse'"),
        ({"command": COMMAND, "timeout": 0}, "seconds above 0"),
        ({"command": COMMAND, "timeout": "30"}, "seconds above 0"),
        ({"command": COMMAND, "effect": "steps"}, "it is 'pure', 'idempotent' or 'once'"),
        ({"command": COMMAND, "include": "read"}, "list of tool names"),
    ],
)
def test_a_wrong_definition_is_refused_when_it_is_made(options: dict[str, Any], why: str):
    with pytest.raises(DefinitionError, match=why):
        mcp(**{"name": "s", **options})


def test_a_server_is_a_toolset_of_an_agent():
    server = mcp("s", command=COMMAND)
    assert isinstance(server, Toolset) and server.name == "s"
    assert Agent("A", tools=[server]).tools == (server,)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["server"], "server"),
        (["server", "--token", "sk-123456789"], "server …"),
        (
            ["/usr/bin/python3.12", "-u", "-m", "files.server", "postgres://ada:pw@db"],
            "…python3.12 -u -m files.server …",
        ),
        (["npx", "-y", "@scope/server-files", "sk-123456789"], "npx -y @scope/server-files …"),
        (["uvx", "--from", "git+https://sk@host/x", "server"], "uvx --from …"),
    ],
)
def test_a_command_is_shown_without_what_may_be_secret(command: list[str], shown: str):
    endpoint = Command("s", command, {"KEY": "secret-in-env"}, None)
    assert endpoint.shown.replace("/usr/bin/", "…") == f"command {shown}"
    assert endpoint.hide("sk-123456789 and secret-in-env").count("…") >= 1
    assert "secret-in-env" not in endpoint.hide("secret-in-env")


def test_an_address_is_shown_without_what_may_be_secret():
    url = "https://ada:pass-word@host:8443/s/0123456789abcdef0123456789/mcp?key=query-secret#frag"
    endpoint = Address("s", url, "http", {"Authorization": "Bearer token-secret"}, 30)
    assert endpoint.shown == "https://host:8443/s/…/mcp"
    told = endpoint.hide(f"{url} pass-word query-secret token-secret 0123456789abcdef0123456789 Bearer token-secret")
    for secret in ("pass-word", "query-secret", "token-secret", "0123456789"):
        assert secret not in told
    trace = Trace()
    assert 'transport="sse"' in endpoint.advice(trace)
    trace.status = 403
    assert "headers=" in endpoint.advice(trace)


def test_a_result_is_its_structured_content_else_its_text_else_its_parts():
    text = TextContent(text="a")
    picture = ImageContent(data="aGVsbG8hIQ==", mime_type="image/png")
    described = {"type": "image", "media_type": "image/png", "size": 7}
    assert read_result(CallToolResult(content=[text], structured_content={"b": 1})) == {"b": 1}
    assert read_result(CallToolResult(content=[text, picture], structured_content={"b": 1})) == {
        "result": {"b": 1},
        "content": [described],
    }
    assert read_result(CallToolResult(content=[text, text])) == "a\na"
    assert read_result(CallToolResult(content=[text, picture])) == ["a", described]
    assert read_result(CallToolResult(content=[])) is None
    sound = AudioContent(data="", mime_type="audio/wav")
    assert read_result(CallToolResult(content=[sound])) == [{"type": "audio", "media_type": "audio/wav", "size": 0}]


def test_a_long_resource_is_described_and_not_repeated():
    long = EmbeddedResource(resource=TextResourceContents(uri="file:///a", text="ä" * 100_001))
    assert read_result(CallToolResult(content=[long])) == [{"type": "resource", "uri": "file:///a", "size": 200_002}]


def test_an_error_says_what_the_server_said_or_that_it_said_nothing():
    assert read_error(CallToolResult(content=[TextContent(text="no"), TextContent(text="way")])) == "no\nway"
    assert "did not say why" in read_error(CallToolResult(content=[]))
    assert len(read_error(CallToolResult(content=[TextContent(text="x" * 1_000_000)]))) == 10_000


def test_what_is_no_list_of_tools_passes_unchanged():
    from mcp.shared.message import SessionMessage

    from perdure.agents.mcp_wire import mend

    for result in ({"tools": "many"}, {"tools": [7]}, {"content": []}):
        message = SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=1, result=dict(result)))
        assert mend(message).message.result == result
    broken = ValueError("no JSON")
    assert mend(broken) is broken
