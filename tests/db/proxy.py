"""A proxy before a PostgreSQL server that cuts the line at the moment that matters."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal


class CommitProxy:
    """Listens on a port of this machine; when `cut` is set, it cuts the line at the next COMMIT.

    `before` the server hears of it, or `after`: then the server commits, and only the answer is lost. `skip` is how
    many it lets pass before, `on_cut` what is done at the moment of the cut.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self.cut: Literal["before", "after"] | None = None
        self.cuts = 0
        self.skip = 0
        self.on_cut: Callable[[], object] = lambda: None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> CommitProxy:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in (self._listener, *self._sockets):
            _close(one)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()

    def _start(self, target: object, *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(self._target)
                self._sockets += (ours, theirs)
                self._start(self._asked, ours, theirs)
                self._start(self._answered, theirs, ours)

    def _asked(self, ours: socket.socket, theirs: socket.socket) -> None:
        commit = re.compile(b"COMMIT")
        with suppress(OSError):
            while data := ours.recv(65_536):
                prepared = re.search(rb"(_pg3_\d+)\0COMMIT\0", data)
                if prepared is not None:  # the driver prepares what it often says, and then calls it by a name
                    commit = re.compile(b"COMMIT|" + prepared[1] + b"\\0")
                if self.cut == "before" and commit.search(data) and self._is_it():
                    break
                theirs.sendall(data)
        _close(ours)
        _close(theirs)

    def _answered(self, theirs: socket.socket, ours: socket.socket) -> None:
        with suppress(OSError):
            while data := theirs.recv(65_536):
                if self.cut == "after" and b"COMMIT" in data and self._is_it():
                    break
                ours.sendall(data)
        _close(ours)

    def _is_it(self) -> bool:
        """Whether this is the one to cut at."""
        if self.skip > 0:
            self.skip -= 1
            return False
        self.cut, self.cuts = None, self.cuts + 1
        self.on_cut()
        return True


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
