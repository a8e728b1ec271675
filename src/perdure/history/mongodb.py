"""A history adapter for MongoDB.

Each entry is a document whose `_id` is its thread and its own id, so that it is there once; a thread's document counts,
and who appends takes numbers from it, so that each has its place. The client is used in threads, so the adapter belongs
to no event loop, and needs no transactions, which a single server does not have.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.durable.threads import in_thread
from perdure.history.threads import Entry, ThreadStore, shown_address
from perdure.types.errors import ConfigurationError, DefinitionError, HistoryError, HistoryUnavailable, MissingExtra

if TYPE_CHECKING:
    from pymongo import MongoClient

T = TypeVar("T")
ATTEMPTS = 5
_TWICE = 11000


class MongoHistory(ThreadStore):
    """Keeps conversations in MongoDB.

    Args:
        server: an address such as `mongodb://host/app`, or a `MongoClient`, which stays its owner's to close.
        database: the database; the one in the address unless given, else `perdure`.
        collection: what the names of the two collections begin with.

    Raises:
        MissingExtra: the package `pymongo` is not installed.
        ConfigurationError: the address cannot be read.
        DefinitionError: an argument is wrong.
    """

    def __init__(
        self, server: str | MongoClient[Any], *, database: str | None = None, collection: str = "perdure_history"
    ) -> None:
        if not isinstance(collection, str) or not collection or "$" in collection or "\0" in collection:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"MongoHistory(collection={collection!r}): give text without '$'.")
        self._owned = isinstance(server, str)
        self._shown = shown_address(server) if isinstance(server, str) else "a client"
        self._client: Any = _client(server) if isinstance(server, str) else _checked(server)
        try:
            found = self._client[database] if database else self._client.get_default_database("perdure")
        except Exception as error:
            raise DefinitionError(f"MongoHistory(database={database!r}): {error}") from error
        self._threads: Any = found[f"{collection}_threads"]
        self._entries: Any = found[f"{collection}_entries"]
        self._made = False

    def __repr__(self) -> str:
        return f"MongoHistory({self._shown!r})"

    async def close(self) -> None:
        """Close the connections, if they are this adapter's own."""
        if self._owned:
            await in_thread(self._client.close)

    async def put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        """Take numbers for the entries, and insert those that are not there."""
        await self._do(self._put, thread_id, entries, user_id)

    async def texts(self, thread_id: str) -> Sequence[str]:
        """Read the entries by their numbers."""
        return await self._do(self._read, thread_id)

    async def forget(self, thread_id: str) -> bool:
        """Delete the thread's document, then its entries."""
        return await self._do(self._delete, thread_id)

    # -- in a thread -------------------------------------------------------------------------------------------------

    def _put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        from pymongo.errors import BulkWriteError

        if not self._made:
            self._entries.create_index([("thread", 1), ("seq", 1)])
            self._made = True
        last = self._take(thread_id, len(entries), user_id)
        documents = [
            {
                **{"_id": f"{thread_id}/{one.id}", "thread": thread_id, "seq": seq},
                **{"created_at": one.created_at, "text": one.text},
            }
            for seq, one in enumerate(entries, last - len(entries) + 1)
        ]
        if not documents:
            return
        try:
            self._entries.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            told: dict[str, Any] = dict(error.details or {})
            wrong = [one for one in told.get("writeErrors", ()) if one.get("code") != _TWICE]
            if wrong or told.get("writeConcernErrors"):
                raise

    def _take(self, thread_id: str, count: int, user_id: str | None) -> int:
        """Raise the thread's count, which makes it if need be, and give the last number that was taken."""
        from pymongo import ReturnDocument
        from pymongo.errors import DuplicateKeyError

        change = {"$inc": {"length": count}, "$setOnInsert": {"user_id": user_id, "created_at": time.time()}}
        attempt = 0
        while True:
            attempt += 1
            try:
                found: Any = self._threads.find_one_and_update(
                    {"_id": thread_id}, change, upsert=True, return_document=ReturnDocument.AFTER
                )
                return int(found["length"])
            except DuplicateKeyError:  # two have made it at once
                if attempt == ATTEMPTS:
                    raise
                time.sleep(random.uniform(0.005, 0.02))

    def _read(self, thread_id: str) -> Sequence[str]:
        return [one["text"] for one in self._entries.find({"thread": thread_id}, {"text": 1}).sort("seq", 1)]

    def _delete(self, thread_id: str) -> bool:
        gone = self._threads.delete_one({"_id": thread_id}).deleted_count
        self._entries.delete_many({"thread": thread_id})
        return bool(gone)

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        from pymongo import errors as exc

        try:
            return await in_thread(work, *args)
        except (exc.ConnectionFailure, exc.ExecutionTimeout) as error:
            raise HistoryUnavailable(
                f"{self!r} cannot be used now: {type(error).__name__}. Is the server there, and may this user write?"
            ) from error
        except exc.BulkWriteError as error:  # what it says holds the documents
            raise HistoryError(f"{self!r} failed to insert: {_codes(error)}") from None
        except exc.PyMongoError as error:
            raise HistoryError(f"{self!r} failed: {type(error).__name__}: {error}") from error


def _codes(error: Any) -> str:
    told: dict[str, Any] = dict(error.details or {})
    wrong: list[dict[str, Any]] = [*told.get("writeErrors", ()), *told.get("writeConcernErrors", ())]
    return ", ".join(sorted({f"code {one.get('code')}" for one in wrong})) or "no reason was given"


def _client(address: str) -> Any:
    try:
        import pymongo
    except ModuleNotFoundError as error:
        raise MissingExtra("pymongo", "mongodb") from error
    try:
        kind: Any = pymongo.MongoClient
        return kind(
            address, connect=False, serverSelectionTimeoutMS=10_000, connectTimeoutMS=10_000, socketTimeoutMS=20_000
        )
    except Exception as error:
        raise ConfigurationError(
            "The address of the history's MongoDB cannot be read. Write it as mongodb://user:password@host/database, "
            f"with special characters of the password URL-encoded ({type(error).__name__})."
        ) from None  # what it says may show the password


def _checked(client: Any) -> Any:
    if not hasattr(client, "get_default_database") or type(client).__name__ == "AsyncMongoClient":
        raise DefinitionError(
            f"MongoHistory takes an address or a MongoClient, not {type(client).__name__}: commands run in threads."
        )
    return client
