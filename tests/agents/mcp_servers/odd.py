"""An MCP server made with the SDK whose tools fail, hang, change and die; over stdio, or HTTP with a port."""

import asyncio
import os
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    ToolAnnotations,
)

server = MCPServer("odd")
pid_file = os.environ.get("ODD_PIDS")
if pid_file:
    with open(pid_file, "a", encoding="utf-8") as pids:
        pids.write(f"{os.getpid()}\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def look(what: str) -> str:
    """Look at something."""
    return f"saw {what}"


@server.tool(annotations=ToolAnnotations(idempotent_hint=True), name="put/it away!")
def put(where: str) -> str:
    """Put it somewhere."""
    return f"put into {where}"


@server.tool()
def fail(why: str) -> str:
    """Fail."""
    raise ToolError(why)


@server.tool()
async def hang(ctx: Context) -> str:
    """Say that it has begun, and never end."""
    await ctx.report_progress(0, message="begun")
    try:
        await asyncio.Event().wait()
    finally:
        if pid_file:
            with open(f"{pid_file}.cancelled", "w", encoding="utf-8") as note:
                note.write("yes")
    return "never"


@server.tool()
def die() -> str:
    """Die in the middle of the call."""
    print("something terrible happened", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def grow(ctx: Context) -> str:
    """Get another tool."""

    def grown() -> str:
        """Be new."""
        return "new"

    server.add_tool(grown, name="grown")
    await ctx.notify_tools_changed()
    return "grown"


@server.tool()
async def slow(ctx: Context) -> str:
    """Tell how far it is."""
    await ctx.report_progress(1, 2, "half")
    await ctx.report_progress(2, 2)
    return "done"


@server.tool()
def environment(name: str) -> str:
    """Read an environment variable."""
    return os.environ.get(name, "unset")


@server.tool(structured_output=False)
def parts() -> CallToolResult:
    """Give parts of every kind."""
    return CallToolResult(
        content=[
            TextContent(text="Look:"),
            ImageContent(data="aGVsbG8=", mime_type="image/png"),
            EmbeddedResource(resource=TextResourceContents(uri="file:///a.txt", text="words", mime_type="text/plain")),
            EmbeddedResource(resource=BlobResourceContents(uri="file:///a.bin", blob="aGVsbG8=")),
            ResourceLink(uri="file:///b.txt", name="b", size=7),
        ]
    )


@server.tool(structured_output=False)
def misfit() -> CallToolResult:
    """Give an error with structured content and no text."""
    return CallToolResult(content=[], structured_content={"code": 7}, is_error=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        server.run("stdio")
    else:
        kind, port = sys.argv[1], int(sys.argv[2])
        app = server.sse_app() if kind == "sse" else server.streamable_http_app()
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
