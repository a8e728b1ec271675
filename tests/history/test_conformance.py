"""Every adapter keeps the same rules, each on the real store behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from perdure.history.log import LogHistory
from perdure.history.redis import RedisHistory
from perdure.history.sql import SqlHistory
from perdure.history.threads import ThreadStore
from perdure.testing.history_conformance import HistoryConformance, MakeHistory
from tests.servers import PostgresServer


class TestSqlite(HistoryConformance):
    @pytest.fixture
    async def histories(self, tmp_path: Path) -> AsyncIterator[MakeHistory]:
        async with AsyncExitStack() as opened:
            yield closing(opened, lambda: SqlHistory(f"sqlite:///{tmp_path / 'threads.db'}"))


class TestSqliteInMemory(HistoryConformance):
    @pytest.fixture
    async def histories(self) -> AsyncIterator[MakeHistory]:
        async with SqlHistory("sqlite://") as adapter:
            yield lambda: adapter


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> str:
    return postgres.database()


class TestMariaDB(HistoryConformance):
    @pytest.fixture
    async def histories(self, maria_address: str) -> AsyncIterator[MakeHistory]:
        tables = f"t{uuid4().hex}"
        async with AsyncExitStack() as opened:
            yield closing(opened, lambda: SqlHistory(maria_address, tables=tables))


class TestLog(HistoryConformance):
    @pytest.fixture
    async def histories(self, tmp_path: Path) -> MakeHistory:
        return lambda: LogHistory(f"sqlite:///{tmp_path / 'store.db'}")


class TestLogOnPostgres(HistoryConformance):
    @pytest.fixture
    async def histories(self, address: str) -> MakeHistory:
        container = uuid4().hex
        return lambda: LogHistory(address, container=container)


class TestRedis(HistoryConformance):
    @pytest.fixture
    async def histories(self, redis_address: str) -> AsyncIterator[MakeHistory]:
        prefix = uuid4().hex
        async with AsyncExitStack() as opened:
            yield closing(opened, lambda: RedisHistory(redis_address, prefix=prefix))


class TestPostgres(HistoryConformance):
    @pytest.fixture
    async def histories(self, address: str) -> AsyncIterator[MakeHistory]:
        tables = f"t{uuid4().hex}"  # the tests share a database
        async with AsyncExitStack() as opened:
            yield closing(opened, lambda: SqlHistory(address, tables=tables))


def closing(opened: AsyncExitStack, make: MakeHistory) -> MakeHistory:
    """Make adapters that are closed when the test is over."""

    def made() -> ThreadStore:
        adapter = make()
        assert isinstance(adapter, ThreadStore)
        opened.push_async_callback(adapter.close)
        return adapter

    return made
