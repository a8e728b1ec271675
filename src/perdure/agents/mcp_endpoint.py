"""Where an MCP server is: a command to start, or an address. Neither shows a secret in a message.

An endpoint opens a transport of the SDK and says in words why one could not be opened. What helps to explain a failure
(the end of what a command wrote to stderr, the last bad HTTP status) is noted in a `Trace` while the transport is open.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    import httpx2
    from mcp.client import Transport

Streams: TypeAlias = tuple[Any, Any]
"""What the SDK reads from and writes to."""
LARGEST_EVENT = 16 * 1024 * 1024
"""Bytes of one event of a stream; a picture in a tool's result is one."""
_SHORTEST_SECRET = 8
_LONGEST_SHOWN = 20
_MOST_SAID = 600
_LONGEST_LOG = 1024 * 1024
_LAUNCHERS = re.compile(r"(python[\d.]*|pypy[\d.]*|node|npx|bunx|uvx|deno)(\.exe)?\Z")
_PLAIN = re.compile(r"[\w@./\\+-]+\Z")


class Trace:
    """What happened on a transport, for the words of a failure."""

    __slots__ = ("log", "said", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self.said = ""
        self.log: IO[str] | None = None

    def trim(self) -> None:
        """Forget what a process that is open for long wrote long ago."""
        if self.log is not None and os.fstat(self.log.fileno()).st_size > _LONGEST_LOG:
            self.log.truncate(0)


class Endpoint(Protocol):
    """A place where a server is."""

    shown: str

    def open(self, trace: Trace) -> Transport:
        """Open a transport to it."""
        ...

    def hide(self, text: str) -> str:
        """Take the endpoint's secrets out of a text."""
        ...

    def advice(self, trace: Trace) -> str:
        """Say what to do if it cannot be reached."""
        ...


def said_by(error: BaseException) -> BaseException:
    """Find the failure in the groups that task groups put around it."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "…")
    return text


class Command:
    """A server that is started as a process of its own and spoken to over its standard input and output."""

    def __init__(
        self, server: str, command: Sequence[str], env: Mapping[str, str] | None, cwd: str | Path | None
    ) -> None:
        where = f"mcp({server!r})"
        words: Any = command
        if isinstance(words, str):
            raise DefinitionError(f'{where}: command is a list, such as ["npx", "-y", "some-server"], not one text.')
        if not words or not all(isinstance(word, str) and word for word in words):
            raise DefinitionError(f"{where}: command={command!r} must be a program and its arguments, all text.")
        self._command = tuple(command)
        self._env = dict(env) if env is not None else None
        self._cwd = cwd
        known = _told(self._command)
        rest = self._command[len(known) :]
        self.shown = f"command {' '.join((*known, '…') if rest else known)}"
        self._secrets = (*rest, *(self._env or {}).values())

    @asynccontextmanager
    async def open(self, trace: Trace) -> AsyncGenerator[Streams]:
        """Start the process; leaving ends it."""
        from mcp.client.stdio import StdioServerParameters, stdio_client

        program, *args = self._command
        server = StdioServerParameters(command=program, args=args, env=self._env, cwd=self._cwd)
        # A file, because the process writes whenever it likes; a notebook's stderr would be none.
        with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
            trace.log = log
            try:
                async with stdio_client(server, errlog=log) as streams:
                    yield streams
            finally:
                trace.log = None
                trace.said = self.hide(_end_of(log))

    def hide(self, text: str) -> str:
        """Take the values of arguments and environment variables out of a text."""
        return _without(text, self._secrets)

    def advice(self, trace: Trace) -> str:
        """Say what to do, with the last that the process said."""
        advice = "Run the command by itself to see what is wrong."
        return f"{advice} The last that it wrote to stderr: {trace.said}" if trace.said else advice


def _told(command: Sequence[str]) -> Sequence[str]:
    """The part of a command that says what it is; what follows may be secret."""
    program = command[0]
    if not _LAUNCHERS.match(Path(program).name):
        return command[:1]
    for number, word in enumerate(command[1:], 1):
        if not _PLAIN.match(word):
            return command[:number]
        if not word.startswith("-"):
            return command[: number + 1]
    return command


def _end_of(log: IO[str]) -> str:
    size = log.seek(0, 2)
    log.seek(max(0, size - 4 * _MOST_SAID))
    return log.read()[-_MOST_SAID:].strip("\0 \r\n")  # where it was trimmed there are zeros


class Address:
    """A server that runs somewhere and is spoken to over HTTP."""

    def __init__(
        self,
        server: str,
        url: str,
        transport: Literal["http", "sse"],
        headers: Mapping[str, str] | None,
        timeout: float,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DefinitionError(f"mcp({server!r}): url must begin with http:// or https:// and name a host.")
        if transport not in ("http", "sse"):
            raise DefinitionError(
                f"mcp({server!r}): transport={transport!r} is unknown; it is 'http' (streamable HTTP) or 'sse'."
            )
        self._url = url
        self._transport = transport
        self._headers = dict(headers or {})
        self._timeout = timeout
        host = parts.netloc.rpartition("@")[2]
        # Some services put the key into the path.
        path = "/".join("…" if len(part) > _LONGEST_SHOWN else part for part in parts.path.split("/"))
        self.shown = f"{parts.scheme}://{host}{path}"
        self._secrets = (
            *self._headers.values(),
            *(value.split(" ", 1)[-1] for value in self._headers.values()),
            *(part for part in parts.path.split("/") if len(part) > _LONGEST_SHOWN),
            *(value for _, value in parse_qsl(parts.query)),
            *(part for part in (parts.query, parts.password, parts.fragment) if part),
        )

    def open(self, trace: Trace) -> Transport:
        """Connect."""
        if self._transport == "sse":
            return self._open_sse(trace)
        return self._open_http(trace)

    @asynccontextmanager
    async def _open_http(self, trace: Trace) -> AsyncGenerator[Streams]:
        from mcp.client.streamable_http import streamable_http_client

        async with (
            self._client(trace) as client,
            streamable_http_client(self._url, http_client=client, max_sse_event_size=LARGEST_EVENT) as streams,
        ):
            yield streams

    @asynccontextmanager
    async def _open_sse(self, trace: Trace) -> AsyncGenerator[Streams]:
        from mcp.client.sse import sse_client

        def client(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            return self._client(trace)

        async with sse_client(self._url, httpx_client_factory=client) as streams:
            yield streams

    def _client(self, trace: Trace) -> httpx2.AsyncClient:
        import httpx2

        async def note(response: httpx2.Response) -> None:
            if response.status_code >= 400:
                trace.status = response.status_code

        # A stream may be silent for as long as it likes: each request has a time limit of its own.
        timeout = httpx2.Timeout(self._timeout, read=None)
        return httpx2.AsyncClient(headers=self._headers, timeout=timeout, event_hooks={"response": [note]})

    def hide(self, text: str) -> str:
        """Take headers, query and password out of a text."""
        return _without(text.replace(self._url, self.shown), self._secrets)

    def advice(self, trace: Trace) -> str:
        """Say what to do, by the last status."""
        if trace.status in (401, 403):
            return f"It answered HTTP {trace.status}: pass what it asks for as headers=…"
        other = "sse" if self._transport == "http" else "http"
        advice = f'Is it running, is this its whole address, and is it not one for transport="{other}"?'
        return f"It answered HTTP {trace.status}. {advice}" if trace.status else advice
