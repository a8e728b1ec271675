"""Opened stores for tests of the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from perdure.db.database import Database
from perdure.db.migrate import migrate
from perdure.db.open import open_database
from perdure.log.schema import MIGRATIONS
from perdure.log.sql import SqlLog


@asynccontextmanager
async def opened(url: str, durability: Literal["full", "normal"] = "full") -> AsyncIterator[Database]:
    """Open a database, with the log's tables."""
    db = open_database(url, durability=durability)
    await db.open()
    try:
        await migrate(db, MIGRATIONS, "store_test")
        yield db
    finally:
        await db.close()


def log_of(db: Database, owner: str = "one", container: str = "default") -> SqlLog:
    """Make a log over a database."""
    return SqlLog(db, time.time, owner, container)
