"""What the wire tests talk to: the independent mock server, and a small server of our own for what it cannot do."""

import asyncio
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.models import Model, ModelEvent, ModelRequest, ModelSettings
from perdure.types.assemble import Assembler
from perdure.types.chunks import Finished
from perdure.types.messages import Message, user

HERE = Path(__file__).parent
AIMOCK = HERE / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"
# Whatever a test says about the network, it fails within this time instead of waiting.
QUICK = ModelSettings(timeout=20.0)


def why_not() -> str | None:
    """Why the mock server cannot run here, if it cannot."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not AIMOCK.exists():
        return "the mock server is not installed: npm install --prefix tests/wire"
    return None


class Mock:
    """The mock server: tell it what to answer, ask the models, see what they sent.

    One pool of fixtures serves every provider's API; the first that matches answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def answer(self, response: dict[str, Any], match: dict[str, Any] | None = None, **options: Any) -> None:
        """Answer requests that match (all of them, by default) like this.

        Text: `{"content": "Hi"}`; calls: `{"toolCalls": [{"name": ..., "arguments": {...}}]}`; both in order:
        `{"blocks": [...]}`; with thoughts: `"reasoning": "..."`;
        with usage: `"usage": {"prompt_tokens": ...}`; failure:
        `{"error": {"message": ..., "type": ...}, "status": 429, "retryAfter": 7}`. Options such as `chunkSize=4` or
        `truncateAfterChunks=3` (the stream breaks off).
        """
        self._control("POST", "/fixtures", {"fixtures": [{"match": match or {}, "response": response, **options}]})

    def requests(self) -> list[dict[str, Any]]:
        """The requests so far, each with method, path, headers and body (see `bodies`)."""
        return self._control("GET", "/journal")

    def bodies(self) -> list[dict[str, Any]]:
        """What the models sent, as the server understood it: every API's body in the form of Chat Completions."""
        return [one["body"] for one in self.requests()]

    def reset(self) -> None:
        """Forget fixtures and requests."""
        self._control("POST", "/reset")

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/__aimock{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"the mock server refused {path}: {error.read().decode()}") from None


def start() -> tuple[Mock, subprocess.Popen[bytes]]:
    """Start the mock server on a free port and wait until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *("node", str(AIMOCK), "--port", str(port), "--host", "127.0.0.1"),
            *("--fixtures", str(HERE / "fixtures"), "--log-level", "warn"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    mock = Mock(f"http://127.0.0.1:{port}")
    until = time.monotonic() + 30
    while True:
        try:
            mock._control("GET", "/health")
            return mock, process
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                stop(process)
                said = process.communicate()[1].decode()
                raise AssertionError(f"the mock server did not start: {said}") from None
            time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the mock server."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


# -- a server of our own --------------------------------------------------------------------------------------------


@dataclass
class Said:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class RawServer:
    """A real HTTP server that sends just the bytes it was given, and keeps what it was sent."""

    url: str = ""
    answers: list[bytes] = field(default_factory=list)
    requests: list[Said] = field(default_factory=list)
    hang: bool = False  # after the answer, keep the connection open and say nothing more
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the other side has closed such a connection

    def answer(self, body: bytes | str | dict[str, Any] = b"", status: int = 200, **headers: str) -> None:
        """Answer the next request (the last answer is kept for all that follow)."""
        self.answers.append(http(body, status, **headers))

    def stream(self, *pieces: Any, done: bool = True) -> None:
        """Answer the next request with a stream of server-sent events; without `done` it breaks off."""
        self.answers.append(sse(*pieces, done=done))


def http(body: bytes | str | dict[str, Any], status: int, **headers: str) -> bytes:
    if isinstance(body, dict):
        body, headers = json.dumps(body), {"content_type": "application/json", **headers}
    data = body.encode() if isinstance(body, str) else body
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} X\r\n{head}content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data


def sse(*pieces: Any, done: bool = True) -> bytes:
    body = b""
    for piece in pieces:
        data = piece if isinstance(piece, str) else json.dumps(piece)
        kind = f"event: {piece['type']}\n" if isinstance(piece, dict) and isinstance(piece.get("type"), str) else ""
        event = f"{kind}data: {data}\n\n".encode()
        body += f"{len(event):x}\r\n".encode() + event + b"\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    return head + body + (b"0\r\n\r\n" if done else b"")


@asynccontextmanager
async def raw() -> AsyncIterator[RawServer]:
    """Run a server of our own on loopback for the time of a test."""
    served = RawServer()
    open_ones: set[asyncio.StreamWriter] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            data = await reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = first.split(" ", 2)
            served.requests.append(Said(method, path, headers, json.loads(data) if data else None))
            writer.write(served.answers.pop(0) if len(served.answers) > 1 else served.answers[0])
            await writer.drain()
            if served.hang:
                await reader.read()
                served.left.set()
        finally:
            open_ones.discard(writer)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        for writer in list(open_ones):
            writer.close()
        await server.wait_closed()


# -- asking ---------------------------------------------------------------------------------------------------------


@dataclass
class Answered:
    """All pieces of an answer, and what they amount to."""

    events: list[ModelEvent]
    messages: tuple[Message, ...]
    finished: Finished

    @property
    def text(self) -> str:
        return "".join(getattr(one, "content", "") for one in self.messages if getattr(one, "role", "") == "assistant")


async def ask(model: Model, request: ModelRequest | str) -> Answered:
    """Ask a model and collect its answer; the last piece must be `Finished`."""
    if isinstance(request, str):
        request = ModelRequest((user(request),), settings=QUICK)
    assembler = Assembler()
    events = [piece async for piece in model.stream(request)]
    for piece in events:
        assembler.add(piece)
    assert isinstance(events[-1], Finished)
    return Answered(events, assembler.messages(), events[-1])
