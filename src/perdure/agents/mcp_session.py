"""The use of one MCP server in one event loop, shared by all agents and runs that name it.

The first who acquires it connects and the last who releases it closes; those between share the connection. One that
broke off is replaced by the next who asks for it, once; if that fails, too, whoever asked gets the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.agents.mcp_connection import BrokenOff, Connection, NotTaken
from perdure.agents.mcp_endpoint import Endpoint
from perdure.types.errors import ModelRetry

if TYPE_CHECKING:
    from mcp.shared.dispatcher import ProgressFnT
    from mcp.types import CallToolResult, Tool

T = TypeVar("T")


class Session:
    """A server in use."""

    def __init__(self, server: str, endpoint: Endpoint, timeout: float) -> None:
        self._server = server
        self._endpoint = endpoint
        self._timeout = timeout
        self._connection: Connection | None = None
        self._made: tuple[Sequence[Tool] | None, Sequence[Any]] = (None, ())
        self.holders = 0

    async def acquire(self) -> None:
        """Hold it open; connects if nobody did."""
        self.holders += 1
        try:
            await self._connected()
        except BaseException:
            await self.release()
            raise

    async def release(self) -> None:
        """Undo one `acquire`; the last one closes the connection, and waits for that."""
        self.holders -= 1
        if self.holders == 0 and self._connection is not None:
            await self._connection.close()  # it stays here, so that whoever acquires meanwhile waits for its end

    async def _connected(self) -> Connection:
        connection = self._connection
        if connection is None or connection.lost:
            connection = self._connection = Connection(self._server, self._endpoint, self._timeout, connection)
        await connection.ready()
        return connection

    async def tools(self, make: Callable[[Sequence[Tool]], Sequence[T]]) -> Sequence[T]:
        """List the server's tools, from memory unless they have changed; `make` makes ours of each new list."""
        listed = await self._listed()
        if self._made[0] is not listed:
            self._made = listed, make(listed)
        return self._made[1]

    async def _listed(self) -> Sequence[Tool]:
        connection = await self._connected()
        try:
            return await connection.tools()
        except BrokenOff:
            connection = await self._connected()
            try:
                return await connection.tools()
            except BrokenOff as again:
                raise await connection.broke_off("tools/list") from again

    async def call(self, tool: str, arguments: dict[str, Any], progress: ProgressFnT) -> CallToolResult:
        """Call a tool, whatever happens only once.

        Raises:
            ToolServerUnreachable: the server could not be reached, so nothing happened.
            ToolServerError: the connection broke off in the middle, or the answer is no answer.
            ModelRetry: the server refused the call; the message says why.
        """
        connection = await self._connected()
        try:
            try:
                return await connection.call(tool, arguments, progress)
            except NotTaken:
                connection = await self._connected()
            try:
                return await connection.call(tool, arguments, progress)
            except NotTaken as refused:
                raise ModelRetry(f"The MCP server {self._server!r} refused the call: {refused}.") from refused
        except BrokenOff as broken:
            raise await connection.broke_off(tool) from broken
