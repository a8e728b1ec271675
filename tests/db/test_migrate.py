"""Migrations: each part once, in order, whoever opens first, and an older process stops beside a newer one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.db.database import Database, Script, Sql, StoreError, StoreTooNew
from perdure.db.migrate import Migration, migrate
from perdure.db.open import open_database

FIRST = Migration("shop", 1, ("CREATE TABLE goods (id {serial}, name TEXT, price {real}, photo {blob}, stock {int})",))
SECOND = Migration("shop", 2, ("ALTER TABLE goods ADD COLUMN colour TEXT", "UPDATE goods SET colour = 'red'"))
THIRD = Migration("shop", 3, ("ALTER TABLE goods RENAME COLUMN name TO title",), min_writer=2)


def one(text: str, *params: object) -> Script[list[tuple[object, ...]]]:
    return (yield Sql(text, params))


def insert(name: str) -> Script[list[tuple[object, ...]]]:
    return one("INSERT INTO goods (name, price, photo, stock) VALUES (?, 1.5, ?, 3) RETURNING id", name, b"\0")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
async def stores(address: str) -> AsyncIterator[list[Database]]:
    """The same store, opened by several processes."""
    some = [open_database(address) for _ in range(3)]
    for db in some:
        await db.open()
    yield some
    for db in some:
        await db.close()


async def test_each_part_is_applied_once_and_data_stays(stores: list[Database]) -> None:
    old, new, newest = stores
    assert await migrate(old, [FIRST], "store_1") == "store_1"
    assert await old.write(lambda: insert("mug")) == [(1,)]
    assert await migrate(new, [FIRST, SECOND], "store_2") == "store_1", "the id stays the first one"
    assert await migrate(newest, [FIRST, SECOND], "store_3") == "store_1"
    assert await newest.read(lambda: one("SELECT name, price, photo, stock, colour FROM goods")) == [
        ("mug", 1.5, b"\0", 3, "red")
    ]
    assert await old.write(lambda: insert("cup")) == [(2,)], "an older process goes on beside an additive change"


async def test_many_open_a_new_store_at_once(stores: list[Database]) -> None:
    ids = await asyncio.gather(*(migrate(db, [FIRST, SECOND], f"store_{n}") for n, db in enumerate(stores)))
    assert len(set(ids)) == 1


async def test_a_part_that_fails_leaves_nothing(stores: list[Database]) -> None:
    broken = Migration("shop", 2, ("ALTER TABLE goods ADD COLUMN colour TEXT", "UPDATE nowhere SET colour = 'red'"))
    with pytest.raises(StoreError, match="nowhere"):
        await migrate(stores[0], [FIRST, broken], "store_1")
    with pytest.raises(StoreError, match="goods"):
        await stores[1].read(lambda: one("SELECT * FROM goods"))
    await migrate(stores[1], [FIRST, SECOND], "store_1")


async def test_an_older_process_stops_when_a_newer_one_has_changed_the_store(stores: list[Database]) -> None:
    old, new, late = stores
    await migrate(old, [FIRST], "store_1", writer=1)
    await old.write(lambda: insert("mug"))
    await migrate(new, [FIRST, SECOND, THIRD], "store_1", writer=2)
    for _ in range(2):
        with pytest.raises(StoreTooNew, match="needs writer 2, this is 1"):
            await old.write(lambda: one("INSERT INTO goods (title) VALUES ('cup')"))
    with pytest.raises(StoreTooNew, match="Upgrade this installation"):
        await migrate(late, [FIRST], "store_1", writer=1)
    assert await old.read(lambda: one("SELECT COUNT(*) FROM goods")) == [(1,)], "reading is harmless"
    await new.write(lambda: one("INSERT INTO goods (title) VALUES ('cup')"))
    assert await late.read(lambda: one("SELECT title FROM goods ORDER BY id")) == [("mug",), ("cup",)]
