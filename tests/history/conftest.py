"""The servers behind the ready adapters, each started when it is first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest

from tests.servers import MariaServer, RedisServer

Place: TypeAlias = tuple[str, str, str]
"""The kind of a store, its address, and a name of its own in it."""


@pytest.fixture(scope="session")
def maria() -> Iterator[MariaServer]:
    if MariaServer.missing():
        pytest.skip("MariaDB is not installed (Debian: mariadb-server)")
    server = MariaServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def maria_address(maria: MariaServer) -> str:
    return maria.database()


@pytest.fixture(scope="session")
def redis_address() -> Iterator[str]:
    server = RedisServer()
    yield server.address
    server.close()


@pytest.fixture(params=["sqlite", "postgres", "mariadb", "redis", "log"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store."""
    kind = request.param
    name = f"t{uuid4().hex}"  # some share a database
    if kind in ("sqlite", "log"):
        return kind, f"sqlite:///{tmp_path}/threads.db", name
    fixture = {"postgres": "postgres_url", "mariadb": "maria_address", "redis": "redis_address"}[kind]
    return kind, request.getfixturevalue(fixture), name
