"""Answers what the MongoDB adapter asks, on MongoDB's wire, and keeps the commands that it was sent.

This is no MongoDB: it knows the few commands and forms of them that the adapter uses, and refuses all others. What it
shows is that the real client sends just these, and what the adapter makes of the answers.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import bson

BATCH = 3
"""So few documents come with one answer, so that a longer thread takes several."""


class Wire:
    """A server in threads on a free port; `commands` are those that were sent, `fails` what is refused, by name."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.fails: dict[str, dict[str, Any]] = {}
        self._collections: dict[str, dict[Any, dict[str, Any]]] = {}
        self._cursors: dict[int, tuple[str, list[dict[str, Any]]]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._threads: list[threading.Thread] = []
        self._thread.start()

    @property
    def address(self) -> str:
        return f"mongodb://127.0.0.1:{self._server.getsockname()[1]}/app"

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for one in self._threads:
            one.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            while True:
                length, request, _, code = struct.unpack("<iiii", _read(connection, 16))
                body = _read(connection, length - 16)
                if code == 2004:  # the greeting of old, which clients still begin with
                    at = body.index(b"\0", 4) + 1 + 8
                    answer = struct.pack("<iqii", 0, 0, 0, 1) + bson.encode(self._do(bson.decode(body[at:])))
                    kind = 1
                else:
                    flags, asked = _message(body)
                    said = self._do(asked)
                    if flags & 2:  # nobody waits for an answer
                        continue
                    answer, kind = struct.pack("<iB", 0, 0) + bson.encode(said), 2013
                connection.sendall(struct.pack("<iiii", 16 + len(answer), next(self._numbers), request, kind) + answer)

    def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(asked))
        with self._lock:
            if name in ("hello", "isMaster", "ismaster"):
                return {
                    **{"ok": 1, "helloOk": True, "isWritablePrimary": True, "ismaster": True, "minWireVersion": 0},
                    **{"maxWireVersion": 21, "maxBsonObjectSize": 16 << 20, "maxMessageSizeBytes": 48_000_000},
                    **{"maxWriteBatchSize": 100_000},
                }
            self.commands.append((name, {one: value for one, value in asked.items() if one not in ("lsid", "$db")}))
            if name in self.fails:
                return self.fails[name]
            return getattr(self, f"_{name}", self._unknown)(asked)

    def _unknown(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"ok": 0, "code": 59, "codeName": "CommandNotFound", "errmsg": f"no such command: {next(iter(asked))}"}

    def _rows(self, name: str) -> dict[Any, dict[str, Any]]:
        return self._collections.setdefault(name, {})

    def _endSessions(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"ok": 1}

    def _createIndexes(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"ok": 1, "numIndexesBefore": 1, "numIndexesAfter": 2}

    def _findAndModify(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert (set(asked["update"]), asked["upsert"], asked["new"]) == ({"$inc", "$setOnInsert"}, True, True)
        rows = self._rows(asked["findAndModify"])
        key = asked["query"]["_id"]
        row = rows.setdefault(key, {"_id": key, **asked["update"]["$setOnInsert"]})
        for field, count in asked["update"]["$inc"].items():
            row[field] = row.get(field, 0) + count
        return {"ok": 1, "value": dict(row)}

    def _insert(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["ordered"] is False
        rows = self._rows(asked["insert"])
        wrong: list[dict[str, Any]] = []
        for index, row in enumerate(asked["documents"]):
            if row["_id"] in rows:
                wrong.append({"index": index, "code": 11000, "errmsg": f"E11000 duplicate key: {row['_id']}"})
            else:
                rows[row["_id"]] = row
        return {"ok": 1, "n": len(asked["documents"]) - len(wrong), **({"writeErrors": wrong} if wrong else {})}

    def _find(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert (asked["sort"], asked["projection"]) == ({"seq": 1}, {"text": 1})
        rows = [one for one in self._rows(asked["find"]).values() if one["thread"] == asked["filter"]["thread"]]
        rows.sort(key=lambda one: one["seq"])
        number = next(self._numbers)
        self._cursors[number] = (
            f"{asked['$db']}.{asked['find']}",
            [{"_id": one["_id"], "text": one["text"]} for one in rows],
        )
        return self._batch(number, "firstBatch")

    def _getMore(self, asked: dict[str, Any]) -> dict[str, Any]:
        return self._batch(asked["getMore"], "nextBatch")

    def _batch(self, number: int, name: str) -> dict[str, Any]:
        space, rows = self._cursors.pop(number)
        if len(rows) > BATCH:
            self._cursors[number] = (space, rows[BATCH:])
        return {"ok": 1, "cursor": {"id": number if len(rows) > BATCH else 0, "ns": space, name: rows[:BATCH]}}

    def _delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        rows = self._rows(asked["delete"])
        gone = 0
        for one in asked["deletes"]:
            ((field, value),) = one["q"].items()
            found = [key for key, row in rows.items() if row[field] == value]
            for key in found[: one["limit"] or None]:
                del rows[key]
                gone += 1
        return {"ok": 1, "n": gone}


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = connection.recv(count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def _message(body: bytes) -> tuple[int, dict[str, Any]]:
    """Read a message: its flags, and its command with the sequences of documents that follow it."""
    (flags,) = struct.unpack("<I", body[:4])
    at, asked = 4, dict[str, Any]()
    while at < len(body) - (4 if flags & 1 else 0):
        kind, at = body[at], at + 1
        (size,) = struct.unpack("<i", body[at : at + 4])
        part = body[at : at + size]
        at += size
        if kind == 0:
            asked = {**bson.decode(part), **asked}
        else:
            end = part.index(b"\0", 4)
            asked[part[4:end].decode()] = bson.decode_all(part[end + 1 :])
    return flags, asked
