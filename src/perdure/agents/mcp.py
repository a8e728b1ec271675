"""Tools of MCP servers: `mcp("files", command=[...])` or `mcp("web", url=...)` among an agent's tools.

A run connects when it first needs the tools and lets go when it ends; runs that go on at the same time share one
connection, and `async with server:` keeps it open between runs. The tools are named `<server>-<tool>`, listed again
when the server says that they changed, and their effect follows the server's hints. What a server reports as an error
is a result that the model can read; a server that cannot be reached ends the run.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from perdure.agents.context import Context
from perdure.agents.mcp_endpoint import Address, Command, Endpoint
from perdure.agents.mcp_session import Session
from perdure.agents.mcp_wire import read_error, read_result
from perdure.agents.tool import Effect, Predicate, Tool
from perdure.agents.toolsets import AnyTool, Toolset
from perdure.models.call import load_sdk
from perdure.models.schema import safe_name
from perdure.types.errors import DefinitionError, ModelRetry, ToolServerUnreachable

if TYPE_CHECKING:
    from mcp.types import Tool as Listed


_log = logging.getLogger(__name__)


class MCPServer(Toolset[Any]):
    """The tools of one MCP server; made by `mcp`, which says what its options mean."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        timeout: float = 30.0,
        effect: Effect | None = None,
        requires_approval: bool | Predicate = False,
        include: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._timeout = timeout
        self._effect: Effect | None = effect
        self._requires_approval = requires_approval
        self._include = include
        self._exclude = exclude
        self._sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"MCPServer({self.name!r}, {self._endpoint.shown})"

    # -- holding it --------------------------------------------------------------------------------------------------

    async def acquire(self) -> None:
        """Hold the connection open; opens it if nobody does.

        Raises:
            MissingExtra: the package `mcp` is not installed.
            ToolServerUnreachable: the server could not be reached; the message says why and what to do.
        """
        if sys.modules.get("mcp") is None:
            await asyncio.to_thread(load_sdk, "mcp", "mcp")  # a second in which other runs go on
        loop = asyncio.get_running_loop()
        session = self._session(loop)
        try:
            await session.acquire()
        except BaseException:
            self._forget(loop, session)
            raise

    async def release(self) -> None:
        """Undo one `acquire`; the last one closes the connection."""
        loop = asyncio.get_running_loop()
        session = self._session(loop)
        try:
            await session.release()
        finally:
            self._forget(loop, session)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def _session(self, loop: asyncio.AbstractEventLoop) -> Session:
        with self._lock:  # several threads, each with a loop of its own, may share the server
            for old in [one for one in self._sessions if one.is_closed()]:
                del self._sessions[old]
            return self._sessions.setdefault(loop, Session(self.name, self._endpoint, self._timeout))

    def _forget(self, loop: asyncio.AbstractEventLoop, session: Session) -> None:
        with self._lock:
            if session.holders == 0 and self._sessions.get(loop) is session:
                del self._sessions[loop]

    @asynccontextmanager
    async def _held(self) -> AsyncGenerator[Session]:
        """Hold the connection for one request: who lists or calls may have let go meanwhile, as after a wait."""
        await self.acquire()
        try:
            yield self._session(asyncio.get_running_loop())
        finally:
            await self.release()

    # -- its tools ---------------------------------------------------------------------------------------------------

    async def list_tools(self, ctx: Context[Any] | None = None) -> Sequence[AnyTool]:
        """Say which tools the server has now."""
        async with self._held() as session:
            return await session.tools(self._tools)

    def _tools(self, listed: Sequence[Listed]) -> Sequence[AnyTool]:
        return [self._tool(one) for one in listed if self._takes(one)]

    def _takes(self, one: Listed) -> bool:
        if one.execution is not None and one.execution.task_support == "required":
            return False  # it answers only to clients that follow a task, and would refuse every call
        return (self._include is None or one.name in self._include) and one.name not in self._exclude

    def _tool(self, listed: Listed) -> AnyTool:
        name = listed.name

        async def call(ctx: Context[Any], arguments: dict[str, Any], /) -> Any:
            """Call the server's tool."""
            return await self._call(ctx, name, arguments)

        return Tool(
            call,
            name=safe_name(f"{self.name}-{name}"),
            description=listed.description or listed.title or "",
            effect=self._effect or _hinted(listed),
            requires_approval=self._requires_approval,
            timeout=self._timeout,
            parameters=listed.input_schema,
        )

    async def _call(self, ctx: Context[Any], name: str, arguments: dict[str, Any]) -> Any:
        is_over = False

        async def report(progress: float, total: float | None, message: str | None) -> None:
            if not is_over:  # what the server says afterwards belongs to no call
                said = {"progress": progress, "total": total, "message": message}
                ctx.emit({key: value for key, value in said.items() if value is not None})

        try:
            async with self._held() as session:
                result = await session.call(name, arguments, report)
        except ToolServerUnreachable as error:
            # The whole message is for a developer; a model needs to know no command or address.
            _log.warning("%s", error)
            raise ToolServerUnreachable(
                f"The MCP server {self.name!r} could not be reached, so nothing was done."
            ) from error
        finally:
            is_over = True
        if result.is_error:
            raise ModelRetry(read_error(result))
        return read_result(result)


def _hinted(listed: Listed) -> Effect:
    """Read a tool's effect from the server's hints; without any, it must not be repeated."""
    hints = listed.annotations
    if hints is not None and hints.read_only_hint:
        return "pure"
    return "idempotent" if hints is not None and hints.idempotent_hint else "once"


def mcp(
    name: str,
    *,
    command: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    url: str | None = None,
    transport: Literal["http", "sse"] = "http",
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    effect: Effect | None = None,
    requires_approval: bool | Predicate = False,
    include: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> MCPServer:
    """Use the tools of an MCP server; needs the extra `perdure[mcp]`.

    Args:
        name: the server's name; its tools are named `<name>-<tool>`.
        command: the program that is the server, and its arguments; it is started as a process of its own.
        env: environment variables for the command, beside those that every program needs (PATH, HOME and the like).
        cwd: the folder the command is started in.
        url: the address of a server that runs already.
        transport: how the address is spoken to: `"http"` (streamable HTTP) or the older `"sse"`.
        headers: HTTP headers for the address, such as `{"Authorization": "Bearer …"}`; never shown.
        timeout: seconds for connecting and for each request.
        effect: what a repetition of any of its tools would do, for a server without hints or with wrong ones; see
            `tool`. Unless given, a tool with the hint read-only is `"pure"`, with idempotent `"idempotent"`, else
            `"once"`.
        requires_approval: whether a person must allow each call; a predicate gets the arguments by name.
        include: the only tools to take, by the server's names.
        exclude: tools to leave out, by the server's names.

    Raises:
        DefinitionError: an option has a wrong value, or does not go with the others.
    """
    where = f"mcp({name!r})"
    if not isinstance(name, str) or not name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"mcp(…): the server needs a name, not {name!r}; its tools are named after it.")
    if (command is None) == (url is None):
        raise DefinitionError(f"{where} takes either command=[…], a program to start, or url=…, an address.")
    if not isinstance(timeout, (int, float)) or timeout <= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"{where}: timeout={timeout!r} must be a number of seconds above 0.")
    if effect not in (None, "pure", "idempotent", "once"):
        raise DefinitionError(f"{where}: effect={effect!r} is unknown; it is 'pure', 'idempotent' or 'once'.")
    for option, names in (("include", include), ("exclude", exclude)):
        if isinstance(names, str):
            raise DefinitionError(f"{where}: {option}={names!r} must be a list of tool names.")
    endpoint: Endpoint
    if command is not None:
        if headers is not None or transport != "http":
            raise DefinitionError(f"{where}: headers and transport go with url=…, not with a command.")
        endpoint = Command(name, command, env, cwd)
    else:
        assert url is not None
        if env is not None or cwd is not None:
            raise DefinitionError(f"{where}: env and cwd go with command=[…], not with an address.")
        endpoint = Address(name, url, transport, headers, timeout)
    return MCPServer(
        name,
        endpoint,
        timeout=timeout,
        effect=effect,
        requires_approval=requires_approval,
        include=include,
        exclude=exclude,
    )
