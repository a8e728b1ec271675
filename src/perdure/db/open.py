"""Opening a database by its address."""

from __future__ import annotations

from typing import Literal

from perdure.db.database import Database
from perdure.types.errors import DefinitionError


def open_database(url: str, *, durability: Literal["full", "normal"] = "full") -> Database:
    """Make the database that an address names; it is not opened yet.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `postgresql://user@host/name`, or `memory:` for what
            goes when it is closed.
        durability: SQLite only: `"full"` survives a power loss, `"normal"` a killed process.

    Raises:
        DefinitionError: the address names no database that is known.
    """
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"The address of a store is a text such as sqlite:///name.db, not {url!r}.")
    if durability not in ("full", "normal"):
        raise DefinitionError(f'durability={durability!r}: say "full", which survives a power loss, or "normal".')
    if url == "memory:":
        from perdure.db.temporary import TemporaryDatabase

        return TemporaryDatabase()
    kind, separator, rest = url.partition("://")
    if kind == "sqlite" and separator:
        from perdure.db.sqlite import SqliteDatabase

        path = rest.removeprefix("/")
        if not path or "\0" in path or "?" in path or path == ":memory:":
            raise DefinitionError(
                f"The address {url!r} names no file; write sqlite:///name.db or sqlite:////path/name.db, without "
                "options, or memory: for a store that goes when it is closed."
            )
        return SqliteDatabase(path, durability)
    if kind in ("postgresql", "postgres") and separator:
        from perdure.db.postgres import PostgresDatabase

        return PostgresDatabase(url)
    raise DefinitionError(
        f"An address that begins with {kind + '://' if separator else kind.partition(':')[0]!r} is unknown. "
        "Use sqlite:///name.db, sqlite:////path/name.db, postgresql://user@host/name or memory:."
    )
