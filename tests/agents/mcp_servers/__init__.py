"""MCP servers to test against, as commands and addresses."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
EVERYTHING = (
    HERE.parents[1] / "wire/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
)  # the reference server, from npm
ODD = [sys.executable, str(HERE / "odd.py")]
TIME = [sys.executable, "-m", "mcp_server_time"]
FETCH = [sys.executable, "-m", "mcp_server_fetch"]


def rude(mode: str, *args: object) -> list[str]:
    """The server that speaks by hand, in one of its modes."""
    return [sys.executable, str(HERE / "rude.py"), mode, *map(str, args)]


def why_no_reference_server() -> str | None:
    """Why the reference server cannot run here, if it cannot."""
    if shutil.which("node") is None:
        return "node is not installed"
    if not EVERYTHING.exists():
        return "the reference server is not installed: npm install --prefix tests/wire"
    return None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Served:
    """A server that listens on a port, and can be killed and started again."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command = command
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, "PORT": str(self.port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.kill()
                    raise AssertionError(f"{self.command} did not start") from None
                time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


@contextmanager
def served(*command: str) -> Iterator[Served]:
    """Run a server on a free port, `{port}` in its arguments or PORT in its environment."""
    port = free_port()
    server = Served([word.format(port=port) for word in command], port)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
