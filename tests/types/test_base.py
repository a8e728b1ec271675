"""Plain values: what has a JSON form gets it, and what has none is refused with the path to it."""

import collections
import datetime as dt
import decimal
import enum
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from pydantic import BaseModel, ConfigDict

from perdure import PerdureError, Unserialisable
from perdure.types.base import Base, convert, decode_json, encode_json, find_unserialisable, plain
from tests.types.values import plain_values


class Colour(enum.Enum):
    RED = "red"


class Weight(enum.IntEnum):
    HEAVY = 3


@dataclass
class Point:
    x: float
    tags: set[str] = field(default_factory=set)
    inner: Any = None


class Row(msgspec.Struct):
    a: Any = None


class Form(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    day: dt.date = dt.date(2026, 5, 1)
    extra: Any = None


class Lazy(Mapping[str, int]):
    """A mapping that is no dict."""

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


@given(plain_values)
def test_plain_values_stay_as_they_are(value: Any):
    assert plain(value) == value
    assert decode_json(encode_json(value)) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (10**30, 10**30),
        ((1, (2, 3)), [1, [2, 3]]),
        ({"b"}, ["b"]),
        (frozenset({5}), [5]),
        ([{1, 2}], [[1, 2]]),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        (dt.date(2026, 5, 1), "2026-05-01"),
        (dt.datetime(2026, 5, 1, 8, 30, tzinfo=dt.UTC), "2026-05-01T08:30:00Z"),
        (dt.time(8, 30), "08:30:00"),
        (dt.timedelta(seconds=90), "PT90S"),
        (decimal.Decimal("0.10"), "0.10"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"\x00\x01", "AAE="),
        (Colour.RED, "red"),
        (Weight.HEAVY, 3),
        (Point(1.5, {"t"}, Row(1)), {"x": 1.5, "tags": ["t"], "inner": {"a": 1}}),
        (Point(1.5, set(), Form()), {"x": 1.5, "tags": [], "inner": {"day": "2026-05-01", "extra": None}}),
        (Form(extra=[Point(1.0)]), {"day": "2026-05-01", "extra": [{"x": 1.0, "tags": [], "inner": None}]}),
        (Row((Form(),)), {"a": [{"day": "2026-05-01", "extra": None}]}),
        (Lazy(), {"a": 1}),
        ({"x": Lazy()}, {"x": {"a": 1}}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.Counter("aa"), {"a": 2}),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (float("nan"), None),
        ([float("inf"), 1.0], [None, 1.0]),
    ],
)  # fmt: skip
def test_what_has_a_json_form_gets_it(value: Any, shown: Any):
    result = plain(value)
    assert result == shown
    assert json.loads(json.dumps(result)) == result, "just what reading the stored bytes gives"


ITSELF: list[Any] = []
ITSELF.append(ITSELF)
TWICE: dict[str, Any] = {}
TWICE["a"] = {"b": [TWICE, TWICE]}


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (object(), ".: object"),
        ({"a": [1, {"b": object()}]}, ".a[1].b: object"),
        ([1, (2, {3: lambda: None})], "[1][1].3: function"),
        (Point(1.0, inner=[open]), ".inner[0]: builtin_function_or_method"),
        (Point(1.0, inner=Row({"k": object()})), ".inner.a.k: object"),
        ({"form": Form(extra=[object()])}, ".form.extra[0]: object"),
        ({"x": Row(complex(1, 2))}, ".x.a: complex"),
        (ValueError("no"), ".: ValueError"),
        ({"t": Point}, ".t: type"),
        ({"m": Form}, ".m: ModelMetaclass"),
        ({(1, 2): "tuples are no keys"}, ".: dict"),
        ({"s": "half \ud800"}, ".s: str"),
        ({"half \ud800": 1}, ".: dict"),
        ({"i": iter([1])}, ".i: list_iterator"),
        ({"g": (n for n in ())}, ".g: generator"),
        (ITSELF, "refers to itself"),
        ({"a": TWICE}, "refers to itself"),
    ],
)
def test_what_has_no_json_form_is_refused_with_the_path_to_it(value: Any, where: str):
    with pytest.raises(Unserialisable, match="The state cannot be kept") as refused:
        plain(value, "state")
    error = refused.value
    assert isinstance(error, PerdureError) and isinstance(error, TypeError)
    assert where in error.where and where in str(error)
    assert "Return or store plain values, dataclasses, pydantic models or msgspec structs." in str(error)
    assert len(str(error)) < 400
    assert error.__cause__ is not None


@given(plain_values)
def test_nothing_is_found_in_what_has_a_json_form(value: Any):
    assert find_unserialisable(value) is None


class Box(Base):
    size: int
    label: str = ""


def test_values_of_ours_are_frozen_and_leave_defaults_out():
    box = Box(3)
    with pytest.raises(AttributeError):
        box.size = 4  # type: ignore[misc]
    assert encode_json(box) == b'{"size":3}'
    assert repr(box) == "Box(size=3)"
    assert hash(box) == hash(Box(3))
    assert convert({"size": 3}, Box) == box
    with pytest.raises(msgspec.ValidationError, match="size"):
        convert({"size": "three"}, Box)


def test_values_of_ours_in_a_pydantic_model_are_checked_by_it():
    class Shelf(BaseModel):
        boxes: list[Box]

    shelf = Shelf.model_validate({"boxes": [{"size": 3}, Box(4)]})
    assert shelf.boxes == [Box(3), Box(4)]
    assert shelf.model_dump() == {"boxes": [{"size": 3}, {"size": 4}]}
    with pytest.raises(ValueError, match=r"boxes\.1"):
        Shelf.model_validate({"boxes": [{"size": 3}, {"size": "x"}]})
