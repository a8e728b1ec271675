"""The MongoDB adapter: what the real client sends, and what is made of the answers. No real server is asked."""

from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest

from perdure import HistoryError, HistoryUnavailable, MongoHistory
from perdure.history.threads import to_entry
from perdure.testing.history_conformance import HistoryConformance, MakeHistory
from tests.history.keeping import result
from tests.history.mongo_wire import Wire
from tests.history.test_conformance import closing


@pytest.fixture
def wire() -> Iterator[Wire]:
    server = Wire()
    yield server
    server.close()


class TestOnTheWire(HistoryConformance):
    @pytest.fixture
    async def histories(self, wire: Wire) -> AsyncIterator[MakeHistory]:
        name = uuid4().hex
        async with AsyncExitStack() as opened:
            yield closing(opened, lambda: MongoHistory(wire.address, collection=name))


async def test_what_is_sent(wire: Wire):
    one, other = to_entry(result("ada", 0)), to_entry(result("ada", 1))
    async with MongoHistory(wire.address) as history:
        await history.append("t", [result("ada", 0), result("ada", 1)], user_id="ada")
        assert await history.read("t") == [result("ada", 0), result("ada", 1)]
        assert await history.delete("t")
        assert await history.read("t") == []
    indexes, take, insert, find, threads, entries, _ = wire.commands[:7]
    assert indexes == (
        "createIndexes",
        {
            "createIndexes": "perdure_history_entries",
            "indexes": [{"name": "thread_1_seq_1", "key": {"thread": 1, "seq": 1}}],
        },
    )
    created: Any = take[1]["update"]["$setOnInsert"].pop("created_at")
    assert created > 1_700_000_000
    assert take == (
        "findAndModify",
        {
            "findAndModify": "perdure_history_threads",
            "query": {"_id": "t"},
            "update": {"$inc": {"length": 2}, "$setOnInsert": {"user_id": "ada"}},
            "new": True,
            "upsert": True,
        },
    )
    assert insert == (
        "insert",
        {
            "insert": "perdure_history_entries",
            "ordered": False,
            "documents": [
                {"_id": f"t/{entry.id}", "thread": "t", "seq": seq, "created_at": entry.created_at, "text": entry.text}
                for seq, entry in enumerate((one, other), 1)
            ],
        },
    )
    assert find == (
        "find",
        {
            "find": "perdure_history_entries",
            "filter": {"thread": "t"},
            "projection": {"text": 1},
            "sort": {"seq": 1},
        },
    )
    assert threads == (
        "delete",
        {"delete": "perdure_history_threads", "ordered": True, "deletes": [{"q": {"_id": "t"}, "limit": 1}]},
    )
    assert entries == (
        "delete",
        {"delete": "perdure_history_entries", "ordered": True, "deletes": [{"q": {"thread": "t"}, "limit": 0}]},
    )


async def test_a_refusal_is_an_error_that_shows_nothing_of_what_was_said(wire: Wire):
    refusal = {"ok": 1, "n": 0, "writeErrors": [{"index": 0, "code": 121, "errmsg": "Document failed validation"}]}
    async with MongoHistory(wire.address) as history:
        wire.fails = {"insert": refusal}
        with pytest.raises(HistoryError, match="failed to insert: code 121") as caught:
            await history.append("t", [result("ada", 0)])
        assert "ada 0" not in "".join(traceback.format_exception(caught.value))
        wire.fails = {"find": {"ok": 0, "code": 13, "errmsg": "not authorized on app"}}
        with pytest.raises(HistoryError, match="OperationFailure: not authorized on app"):
            await history.read("t")


async def test_a_thread_that_two_make_at_once_is_asked_for_again(wire: Wire):
    async with MongoHistory(wire.address) as history:
        wire.fails = {"findAndModify": {"ok": 0, "code": 11000, "errmsg": "E11000 duplicate key"}}
        with pytest.raises(HistoryError, match="DuplicateKeyError"):
            await history.append("t", [result("ada", 0)])
    assert sum(name == "findAndModify" for name, _ in wire.commands) == 5


async def test_a_server_that_is_away_says_so_and_shows_no_password():
    import pymongo

    with pymongo.MongoClient("mongodb://ada:s3cret@127.0.0.1:1/app", serverSelectionTimeoutMS=50) as client:
        history = MongoHistory(client)
        with pytest.raises(HistoryUnavailable, match="cannot be used now") as caught:
            await history.read("t")
        assert "s3cret" not in "".join(traceback.format_exception(caught.value)) + repr(history)
