"""One connection to an MCP server, with a task of its own.

The SDK's scopes must be entered and left in one task, whoever needs the connection and whoever is cancelled meanwhile.
So a task connects, waits until the connection is given up or breaks off, and takes everything down: when it has ended,
the process is gone or the sockets are closed. Requests are made by whoever wants an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import Context as Variables
from typing import TYPE_CHECKING, Any

from perdure.agents.mcp_endpoint import Endpoint, Streams, Trace, said_by
from perdure.agents.mcp_wire import Mended
from perdure.types.errors import ModelRetry, ToolServerError, ToolServerUnreachable

if TYPE_CHECKING:
    from mcp.client.client import Client
    from mcp.client.session import IncomingMessage
    from mcp.shared.dispatcher import ProgressFnT
    from mcp.shared.exceptions import MCPError
    from mcp.types import CallToolResult, Tool

_log = logging.getLogger(__name__)
CLOSE_LIMIT = 15.0
"""Seconds for taking a connection down; the SDK itself gives a process about five."""


class BrokenOff(Exception):
    """The connection ended while a request was on its way."""


class NotTaken(BrokenOff):
    """The server does not know the session any more, so it did not take the request."""


class Connection:
    """A connection, from the attempt to connect until everything is taken down, also the one that it replaces."""

    def __init__(self, server: str, endpoint: Endpoint, timeout: float, before: Connection | None) -> None:
        self._endpoint = endpoint
        self._timeout = timeout
        self._trace = Trace()
        self._client: Client | None = None
        self._failure: BaseException | None = None
        self._ready = asyncio.Event()
        self._over = asyncio.Event()
        self._listing = asyncio.Lock()
        self._listed: Sequence[Tool] | None = None
        self._listed_at = 0
        self._changes = 0
        self._is_told = True
        self._is_closing = False
        self.name = f"MCP server {server!r}"
        self.where = f"{self.name} ({endpoint.shown})"
        self.lost = False
        # What the first run has set in its context is nothing to those that share the connection later.
        self._task = asyncio.create_task(self._live(before), name=self.where, context=Variables())

    # -- its life ----------------------------------------------------------------------------------------------------

    async def _live(self, before: Connection | None) -> None:
        import anyio

        try:
            if before is not None:
                await before.close()
                before = None
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._timeout):
                    client = await stack.enter_async_context(self._make_client())
                self._client = client
                self._trace.status = None
                async with anyio.create_task_group() as tasks:
                    if _must_listen(client):
                        tasks.start_soon(self._listen, client)
                    self._ready.set()
                    await self._over.wait()
                    tasks.cancel_scope.cancel()
        except Exception as error:
            self._failure = said_by(error)
            if self._client is not None and self._is_closing:
                _log.warning("Closing the %s went wrong: %s", self.where, self._words(self._failure))
        finally:
            self.lost = True
            self._ready.set()

    def _make_client(self) -> Client:
        from mcp.client.client import Client
        from mcp.types import Implementation

        from perdure import __version__

        return Client(
            self._streams(),
            message_handler=self._told,
            client_info=Implementation(name="perdure", version=__version__),
            cache=None,  # the list is kept here, until the server says that it changed
        )

    @asynccontextmanager
    async def _streams(self) -> AsyncGenerator[Streams]:
        async with self._endpoint.open(self._trace) as (read, write):
            yield Mended(read, self.give_up), write

    async def _told(self, message: IncomingMessage) -> None:
        """Take what the server says on its own account."""
        from mcp.types import ToolListChangedNotification

        if isinstance(message, ToolListChangedNotification):
            self._changes += 1

    async def _listen(self, client: Client) -> None:
        """Let a server of the newer protocol say when its tools change: it does so only when asked to."""
        from mcp.client.subscriptions import SubscriptionLost
        from mcp.shared.exceptions import MCPError

        try:
            async with client.listen(tools_list_changed=True) as changes:
                self._changes += 1  # what may have changed before was not said
                async for _ in changes:
                    self._changes += 1
        except (SubscriptionLost, MCPError) as error:
            _log.info("The %s does not say when its tools change: %s", self.where, self._endpoint.hide(str(error)))
        self._is_told = False

    def give_up(self) -> None:
        """Let nobody use it any more, and have it taken down."""
        self.lost = True
        self._over.set()

    async def close(self) -> None:
        """Take it down and wait until that is done, also while being cancelled.

        Raises:
            asyncio.CancelledError: the caller was cancelled meanwhile; the connection is down all the same.
        """
        self._is_closing = self._is_closing or not self.lost
        self.give_up()
        if not self._ready.is_set():
            self._task.cancel()
        cancelled = await _ended(self._task)
        if not self._task.done():
            _log.error("The %s could not be closed within %g s.", self.where, 2 * CLOSE_LIMIT)
        if cancelled:
            raise asyncio.CancelledError

    async def ready(self) -> None:
        """Wait until it is connected."""
        await self._ready.wait()
        if self._client is None:
            raise self._unreachable()

    # -- requests ----------------------------------------------------------------------------------------------------

    async def tools(self) -> Sequence[Tool]:
        """The server's tools: listed once, and again when it has said that they changed."""
        self._trace.trim()
        try:
            async with asyncio.timeout(self._timeout), self._listing:
                if self._listed is None or self._listed_at != self._changes or not self._is_told:
                    changes = self._changes  # what changes while the pages come makes the list stale again
                    self._listed = await self._all_pages()
                    self._listed_at = changes
                return self._listed
        except TimeoutError as error:
            raise ToolServerError(
                f"The {self.where} did not list its tools within {self._timeout:g} s. Is it overloaded? "
                "mcp(…, timeout=…) gives it more time."
            ) from error

    async def _all_pages(self) -> Sequence[Tool]:
        from mcp.shared.exceptions import MCPError
        from mcp.types import METHOD_NOT_FOUND
        from pydantic import ValidationError

        assert self._client is not None
        found: dict[str, Tool] = {}
        seen: set[str | None] = set()
        cursor: str | None = None
        try:
            while cursor not in seen:
                seen.add(cursor)
                page = await self._client.list_tools(cursor=cursor)
                for one in page.tools:
                    found.setdefault(one.name, one)
                cursor = page.next_cursor
                if cursor is None:
                    return tuple(found.values())
        except MCPError as error:
            if error.code == METHOD_NOT_FOUND and not found:
                return ()  # a server without tools
            self._check(error)
            raise ToolServerError(f"The {self.where} did not list its tools: {self._words(error)}") from None
        except ValidationError as error:
            raise ToolServerError(
                f"The {self.where} listed its tools in a way that is not MCP: {self._words(error)}"
            ) from error
        raise ToolServerError(f"The {self.where} lists its tools without end: it named the page {cursor!r} twice.")

    async def call(self, tool: str, arguments: dict[str, Any], progress: ProgressFnT) -> CallToolResult:
        """Call a tool.

        Raises:
            BrokenOff: the connection ended meanwhile.
            ModelRetry: the server refused the call; the message says why.
            ToolServerError: the answer is no answer.
        """
        from mcp.shared.exceptions import MCPError
        from pydantic import ValidationError

        assert self._client is not None
        self._trace.status = None
        try:
            return await self._client.call_tool(tool, arguments, progress_callback=progress)
        except MCPError as error:
            self._check(error)
            raise ModelRetry(self._words(error)) from None
        except (ValidationError, RuntimeError) as error:
            raise ToolServerError(
                f"The {self.name} answered the call of {tool!r} in a way that is not MCP: {self._words(error)}"
            ) from error

    def _check(self, error: MCPError) -> None:
        """Say whether an error means that the connection, or the server's side of it, is gone."""
        from mcp.types import CONNECTION_CLOSED, INTERNAL_ERROR, INVALID_REQUEST

        bare = error.code == INTERNAL_ERROR and error.message == _BARE
        if self._trace.status in (400, 404) and (bare or error.code in (CONNECTION_CLOSED, INVALID_REQUEST)):
            self.give_up()
            raise NotTaken(f"{error.message} (HTTP {self._trace.status})") from error
        # A server may use the same code for an error of its own; then the words are its own, too.
        if error.code == CONNECTION_CLOSED and (
            self.lost or error.message.startswith(("Connection closed", "SSE stream"))
        ):
            self.give_up()
            raise BrokenOff(error.message) from error

    # -- words -------------------------------------------------------------------------------------------------------

    def _words(self, error: BaseException) -> str:
        """Say in a line what an exception says, without secrets."""
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:  # what the exception says has the whole URL in it
            return f"HTTP {status}"
        text = self._endpoint.hide(str(error)).strip()
        if text == _BARE and self._trace.status is not None:
            text = f"{text} (HTTP {self._trace.status})"
        return text[:_MOST_WORDS] if text else type(error).__name__

    def _unreachable(self) -> ToolServerUnreachable:
        failure = self._failure
        if isinstance(failure, TimeoutError) and not str(failure):
            why = f"no connection within {self._timeout:g} s"
        elif failure is None:
            why = "connecting was cancelled"
        else:
            why = self._words(failure)
        told = ToolServerUnreachable(
            f"The {self.where} could not be reached: {why.rstrip('.')}. {self._endpoint.advice(self._trace)}"
        )
        if failure is not None and self._words(failure) == str(failure).strip():
            told.__cause__ = failure
        return told

    async def broke_off(self, doing: str) -> ToolServerError:
        """Describe how the connection ended in the middle of something, once it has.

        What a model may read is short; what helps a developer is a note and a warning.
        """
        await asyncio.wait([self._task], timeout=CLOSE_LIMIT)
        told = ToolServerError(
            f"The {self.name} broke off in the middle of {doing!r}. Whether that took effect is not known; "
            "check before repeating it."
        )
        why = f"{self._words(self._failure)}. " if self._failure is not None else ""
        note = f"The {self.where} broke off in the middle of {doing!r}. {why}{self._endpoint.advice(self._trace)}"
        told.add_note(note)
        _log.warning("%s", note)
        return told


_MOST_WORDS = 1000
_BARE = "Server returned an error response"
"""What the SDK says for an HTTP status with nothing of the protocol in it."""


def _must_listen(client: Client) -> bool:
    from mcp.types.version import MODERN_PROTOCOL_VERSIONS

    tools = client.server_capabilities.tools
    return tools is not None and bool(tools.list_changed) and client.protocol_version in MODERN_PROTOCOL_VERSIONS


async def _ended(task: asyncio.Task[None]) -> bool:
    """Wait for a task's end, and cancel it when that takes too long; say whether the caller was cancelled meanwhile."""
    loop = asyncio.get_running_loop()
    cancelled = False
    for is_late in (False, True):
        if is_late and not task.done():
            task.cancel()
        until = loop.time() + CLOSE_LIMIT
        while not task.done() and loop.time() < until:
            try:
                await asyncio.wait([task], timeout=until - loop.time())
            except asyncio.CancelledError:
                cancelled = True
    return cancelled
