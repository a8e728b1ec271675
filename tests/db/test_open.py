from typing import Any, cast

import pytest

from perdure.db.open import open_database
from perdure.db.postgres import PostgresDatabase
from perdure.db.sqlite import SqliteDatabase
from perdure.types.errors import DefinitionError


def test_an_address_names_its_database() -> None:
    assert isinstance(open_database("sqlite:///notes.db"), SqliteDatabase)
    assert isinstance(open_database("postgresql://ada@localhost/notes"), PostgresDatabase)
    assert isinstance(open_database("postgres://ada@localhost/notes"), PostgresDatabase)


@pytest.mark.parametrize(
    "url", ["", "notes.db", "sqlite:notes.db", "mysql://ada:s3cret@localhost/notes", "ada:s3cret@h"]
)
def test_an_unknown_address_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(DefinitionError, match=r"sqlite:///name\.db") as error:
        open_database(url)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///a\0b", "sqlite:///:memory:", "sqlite:///a.db?mode=ro"]
)
def test_a_sqlite_address_names_a_file(url: str) -> None:
    with pytest.raises(DefinitionError, match="names no file"):
        open_database(url)


@pytest.mark.parametrize("durability", ["FULL", "ful", "off", None])
def test_what_a_power_loss_takes_is_not_decided_by_a_typing_error(durability: Any) -> None:
    with pytest.raises(DefinitionError, match="survives a power loss"):
        open_database("sqlite:///notes.db", durability=durability)


def test_an_address_is_a_text() -> None:
    with pytest.raises(DefinitionError, match=r"a text such as sqlite:///name\.db, not None"):
        open_database(cast("Any", None))
