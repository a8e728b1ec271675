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


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///a\0b"])
def test_a_sqlite_address_names_a_file(url: str) -> None:
    with pytest.raises(DefinitionError, match="names no file"):
        open_database(url)
