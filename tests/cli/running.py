"""Runs the real command: piped, or in a terminal of its own; and a server of the OpenAI wire to talk to."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "perdure"]
PATIENCE = 60
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "XAI_API_KEY")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(**more: str) -> dict[str, str]:
    """The environment without keys, and without settings that change how output looks."""
    hidden = (*KEYS, "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "PYTHONIOENCODING", "LC_ALL", "LANG", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PYTHONWARNINGS": "error", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8", **more}


def run(*arguments: str, stdin: str = "", cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a pipe."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


class Terminal:
    """The command in a terminal of its own: what it shows is read until something appears."""

    def __init__(self, *arguments: str, columns: int = 60, **more: str) -> None:
        self.master, slave = pty.openpty()
        more = {"TERM": "xterm-256color", "COLUMNS": str(columns), **more}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(**more),
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.raw = ""

    @property
    def shown(self) -> str:
        """What was shown so far, without colours."""
        return _ANSI.sub("", self.raw).replace("\r\n", "\n")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text has been shown."""
        end = time.monotonic() + PATIENCE
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} was not shown: {self.shown!r}"
            if not self._read(1.0):
                raise AssertionError(f"{text!r} was not shown before the end: {self.shown!r}")

    def interrupt(self, until: str) -> None:
        """Press Ctrl-C as a person does: again, if nothing happens.

        Python may miss the first one, if it comes just before it begins to wait for a key.
        """
        for _ in range(PATIENCE // 5):
            self.type("\x03")
            end = time.monotonic() + 5
            while time.monotonic() < end and self._read(0.2):
                if until in self.shown:
                    return
        raise AssertionError(f"{until!r} was not shown: {self.shown!r}")

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read(PATIENCE):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self.master, 65536)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.raw += data.decode("utf-8", errors="replace")
        return bool(data)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who runs the tests in the background has it ignored


@contextmanager
def terminal(*arguments: str, **more: Any) -> Iterator[Terminal]:
    """Run the command in a terminal, and end it if the test does not."""
    found = Terminal(*arguments, **more)
    try:
        yield found
    finally:
        found.close()


class ChatServer(ThreadingHTTPServer):
    """A small server of Chat Completions: each request gets the next answer, a list of deltas or an HTTP status."""

    daemon_threads = True

    def __init__(self, *answers: list[dict[str, Any]] | int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.hang = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "small"}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            self._send(answer, json.dumps({"error": {"message": "Incorrect API key provided"}}).encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta in answer:
            if "hang" in delta:
                self.server.hang.wait(PATIENCE)
                return
            finish = "tool_calls" if "tool_calls" in delta else None
            self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        if not any("tool_calls" in delta for delta in answer):
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._event({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: dict[str, Any]) -> None:
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "small", **value}
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def chat_server(*answers: list[dict[str, Any]] | int) -> Iterator[ChatServer]:
    """Serve answers on loopback while a test runs."""
    with ChatServer(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.hang.set()
            server.shutdown()
            thread.join()


def search(query: str, id: str = "call_1") -> list[dict[str, Any]]:
    """The answer that calls the demo's search."""
    function = {"name": "search_files", "arguments": json.dumps({"query": query})}
    return [{"role": "assistant", "tool_calls": [{"index": 0, "id": id, "type": "function", "function": function}]}]


def text(*pieces: str) -> list[dict[str, Any]]:
    """An answer that is text, in these pieces."""
    return [{"content": piece} for piece in pieces]
