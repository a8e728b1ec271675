"""Every log keeps the same rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from perdure.log.memory import MemoryLog
from perdure.testing.conformance import LogConformance, MakeLog
from tests.log.stores import log_of, opened
from tests.servers import PostgresServer


class TestMemoryLog(LogConformance):
    @pytest.fixture
    async def logs(self) -> MakeLog:
        made: dict[str, MemoryLog] = {}
        return lambda container="default", owner="one": made.setdefault(container, MemoryLog())


class TestSqliteFull(LogConformance):
    durability: Literal["full", "normal"] = "full"

    @pytest.fixture
    async def logs(self, tmp_path: Path) -> AsyncIterator[MakeLog]:
        async with opened(f"sqlite:///{tmp_path / 'log.db'}", self.durability) as db:
            yield lambda container="default", owner="one": log_of(db, owner, container)


class TestSqliteNormal(TestSqliteFull):
    durability: Literal["full", "normal"] = "normal"


@pytest.fixture(scope="module")
def address(postgres: PostgresServer) -> str:
    return postgres.database()


class TestPostgres(LogConformance):
    @pytest.fixture
    async def logs(self, address: str) -> AsyncIterator[MakeLog]:
        tenant = uuid4().hex  # the tests share a database, and see that containers are apart
        async with opened(address) as db:
            yield lambda container="default", owner="one": log_of(db, owner, f"{tenant}_{container}")
