"""State of every kind: to plain JSON, back, and what cannot make the way."""

import dataclasses
import enum
import operator
import os
import subprocess
import sys
from collections import OrderedDict, defaultdict
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NotRequired, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, computed_field, field_validator

from perdure.agents.patch import add, extend
from perdure.agents.state_kind import StateKind
from perdure.types.errors import DefinitionError, Unserialisable


class Unit(enum.Enum):
    C = "C"
    F = "F"


@dataclass
class Charge:
    amount: Decimal
    day: date


@dataclass
class Account:
    name: str = ""
    total: float = 0
    charges: list[Charge] = field(default_factory=list)
    unit: Unit | None = None
    seen: set[str] = field(default_factory=set)
    by_day: dict[int, Charge] = field(default_factory=dict)
    pair: tuple[int, date] | None = None
    open: bool = field(init=False, default=True)
    anything: Any = None


class Line(BaseModel):
    text: str
    at: datetime | None = None


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("", alias="theName")
    lines: list[Line] = []
    price: Decimal = Decimal(0)
    unit: Unit = Unit.C
    _cache: dict[str, Any] = PrivateAttr(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _tidy(cls, value: str) -> str:
        return value.strip()

    @computed_field
    @property
    def size(self) -> int:
        return len(self.lines)


MODEL: Any = Model


class AnyModel(BaseModel):
    x: Any = None


class Struct(msgspec.Struct, rename="camel"):
    user_name: str = ""
    days: list[date] = []
    count: Annotated[int, add] = 0


class Typed(TypedDict):
    name: str
    days: NotRequired[list[date]]


class PlainTyped(TypedDict, total=False):
    name: str
    tags: list[str]
    inner: dict[str, "PlainTyped"]


class IntKeys(TypedDict, total=False):
    names: dict[int, str]


class Own(dict[str, Any]):
    pass


@attrs.define
class Attrs:
    name: str = ""
    days: list[date] = attrs.field(factory=list)


@pydantic.dataclasses.dataclass
class Checked:
    name: str = ""
    line: Line | None = None


@dataclass
class Mixed:
    line: Line | None = None
    model: Model = field(default_factory=lambda: Model.model_construct())
    either: Charge | Account | None = None


@dataclass
class WithInitVar:
    n: int = 0
    seed: InitVar[int] = 3


DAY = date(2024, 5, 1)
CHARGE = Charge(Decimal("1.10"), DAY)

VALUES: list[tuple[Any, Any, Any]] = [
    (dict, {"a": [1, {"b": None}], "c": 1.5}, {"a": [1, {"b": None}], "c": 1.5}),
    (lambda: {"a": 1}, {"a": 1}, {"a": 1}),
    (PlainTyped, {"name": "x", "inner": {"y": {}}}, {"name": "x", "inner": {"y": {}}}),
    (Typed, {"days": [DAY]}, {"days": ["2024-05-01"]}),
    (Own, Own(a=1), {"a": 1}),
    (OrderedDict, OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (lambda: defaultdict(list), defaultdict(list, a=[1]), {"a": [1]}),
    (lambda: Own(filled=1), Own(a=1), {"a": 1}),
    (IntKeys, {"names": {1: "x"}}, {"names": {"1": "x"}}),
    (Attrs, Attrs("x", [DAY]), {"name": "x", "days": ["2024-05-01"]}),
    (Struct, Struct("x", [DAY], 2), {"userName": "x", "days": ["2024-05-01"], "count": 2}),
    (Checked, Checked("x", Line(text="y")), {"name": "x", "line": {"text": "y", "at": None}}),
    (WithInitVar, WithInitVar(5), {"n": 5}),
]


@pytest.mark.parametrize(("factory", "value", "doc"), VALUES)
def test_a_state_goes_to_json_and_back(factory, value, doc):
    kind = StateKind.of(factory)
    assert kind.check(value) == kind.dump(value) == doc
    back = kind.load(doc)
    assert back == value
    assert type(back) is type(value)


def test_a_dataclass_keeps_every_typed_field():
    account = Account("x", 5, [CHARGE], Unit.F, {"b", "a"}, {3: CHARGE}, (1, DAY), anything=[1, "a"])
    account.open = False
    kind = StateKind.of(Account)
    doc = kind.check(account)
    charge = {"amount": "1.10", "day": "2024-05-01"}
    assert doc == {
        "name": "x",
        "total": 5,
        "charges": [charge],
        "unit": "F",
        "seen": ["a", "b"],
        "by_day": {"3": charge},
        "pair": [1, "2024-05-01"],
        "open": False,
        "anything": [1, "a"],
    }
    assert kind.load(doc) == account


def test_a_pydantic_model_with_alias_validator_private_and_computed_fields():
    model = Model(theName=" x ", lines=[Line(text="a", at=datetime(2024, 5, 1, tzinfo=UTC))], price=Decimal("1.10"))
    model._cache["lines"] = object()
    kind = StateKind.of(MODEL)
    doc = kind.check(model)
    assert doc == {
        "name": "x",
        "lines": [{"text": "a", "at": "2024-05-01T00:00:00Z"}],
        "price": "1.10",
        "unit": "C",
    }
    back = kind.load(doc)
    assert back.model_dump() == model.model_dump()
    assert back._cache == {}


def test_a_strict_model_and_a_model_with_more_fields_are_read():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True, extra="allow")
        day: date = DAY

    kind = StateKind.of(Strict)
    value = Strict(more=[1])  # type: ignore[call-arg]
    assert kind.load(kind.check(value)) == value


def test_models_and_ambiguous_unions_inside_a_dataclass():
    kind = StateKind.of(Mixed)
    for value in (Mixed(Line(text="a"), Model(theName="x"), CHARGE), Mixed(either=Account("x", charges=[CHARGE]))):
        assert kind.load(kind.check(value)) == value


def test_a_model_inside_a_dataclass_that_msgspec_reads():
    @dataclass
    class Holder:
        model: Model | None = None

    kind = StateKind.of(Holder)
    value = Holder(Model(theName="x", lines=[Line(text="a")]))
    assert kind.load(kind.check(value)) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_plain_json_in_a_dict_is_kept_as_it_is(value):
    kind = StateKind.of(dict)
    doc = kind.check({"x": value})
    assert doc == {"x": value}
    assert kind.load(doc) == {"x": value}


def test_each_load_is_a_private_copy():
    for factory in (dict, PlainTyped, Own, Account, lambda: {"tags": []}):
        kind: Any = StateKind.of(factory)
        doc = kind.dump(kind.new())
        if factory is Account:
            first, second = kind.load(doc), kind.load(doc)
            first.charges.append(CHARGE)
            assert second.charges == doc["charges"] == []
        else:
            doc = {"tags": []}
            first, second = kind.load(doc), kind.load(doc)
            first["tags"].append("x")
            assert second["tags"] == doc["tags"] == []


def test_the_order_of_keys_is_kept():
    kind = StateKind.of(Account)
    value = Account(by_day={3: CHARGE, 1: CHARGE}, anything={"b": 1, "a": 2}, seen={"x"})
    back = kind.load(kind.dump(value))
    assert list(back.by_day) == [3, 1]
    assert list(back.anything) == ["b", "a"]


def test_the_same_set_gives_the_same_json():
    program = """
from dataclasses import dataclass, field
from perdure.agents.state_kind import StateKind
@dataclass
class A:
    inner: list[set[str]] = field(default_factory=list)
print(StateKind.of(A).dump(A([{str(n) for n in range(50)}])))
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


# -- what cannot be kept --------------------------------------------------------------------------------------------


@dataclass
class Loose:
    x: Any = None
    n: int = 0
    f: float = 0.0
    inner: "Loose | None" = None


def lost(factory: Any, value: Any) -> str:
    with pytest.raises(Unserialisable) as caught:
        StateKind.of(factory).check(value)
    return caught.value.where


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": {"tags": {1}}}, ".a.tags: a set would come back as a list"),
        ({"a": [0, (1, 2)]}, ".a[1]: a tuple would come back as a list"),
        ({"a": {1: "x"}}, ".a: the key 1 would come back as text"),
        ({"when": DAY}, ".when: a date would come back as a str"),
        ({"price": Decimal("1.1")}, ".price: a Decimal would come back as a str"),
        ({"unit": Unit.C}, ".unit: an Unit would come back as a str"),
        ({"x": Own(a=1)}, ".x: an Own would come back as a dict"),
        ({"x": CHARGE}, ".x: a Charge would come back as a dict"),
        ({"x": Line(text="a")}, ".x: a Line would come back as a dict"),
        ({"x": b"a"}, ".x: a bytes would come back as a str"),
        ({"x": [float("nan")]}, ".x[0]: nan is not a number in JSON"),
        ({"x": float("-inf")}, ".x: -inf is not a number in JSON"),
        ({"x": [{"y": object()}]}, ".x[0].y: object"),
        ({"x": Line}, ".x: ModelMetaclass"),
    ],
)
def test_what_a_plain_dict_would_lose_is_named(value, where):
    assert lost(dict, value) == where


def test_what_typed_state_would_lose_is_named():
    assert lost(Loose, Loose(inner=Loose(x={1}))) == ".inner.x: a set would come back as a list"
    assert lost(Loose, Loose(inner=Loose(x=object()))) == ".inner.x: object"
    assert lost(Loose, Loose(n="many")) == "Expected `int`, got `str` - at `$.n`"  # type: ignore[arg-type]
    assert lost(Loose, Loose(f=float("nan"))) == ".f: nan is not a number in JSON"
    assert lost(Model, Model.model_construct(price="x")) == ".price: Input should be a valid decimal"
    assert lost(PlainTyped, {"tags": ("a",)}) == ".tags: a tuple would come back as a list"
    assert lost(Own, Own(a={1})) == ".a: a set would come back as a list"


def test_what_runs_again_when_a_state_is_read_must_not_change_it():
    @dataclass
    class Counts:
        n: int = 0

        def __post_init__(self) -> None:
            self.n += 1

    assert lost(Counts, Counts()) == ".n: 1 would come back as 2"


def test_a_field_left_out_of_json_is_lost():
    class Hidden(BaseModel):
        note: str = Field("", exclude=True)

    hidden: Any = Hidden
    kind = StateKind.of(hidden)
    assert kind.check(hidden()) == {}
    assert lost(hidden, hidden(note="x")) == ".note: 'x' would come back as ''"


def test_a_secret_is_not_shown_and_not_kept():
    class Secret(BaseModel):
        key: SecretStr = SecretStr("")

    where = lost(Secret, Secret(key=SecretStr("hush")))
    assert where == ".key: SecretStr('**********') would come back as SecretStr('**********')"


def test_a_state_that_refers_to_itself_is_named():
    loop: dict[str, Any] = {}
    loop["me"] = loop
    assert "refers to itself" in lost(dict, loop)


def test_dump_alone_finds_what_has_no_json_form():
    with pytest.raises(Unserialisable, match=r"The state cannot be kept.*\.x: object"):
        StateKind.of(Loose).dump(Loose(x=object()))
    with pytest.raises(Unserialisable, match=r"\.lines\[0\]: nan"):
        StateKind.of(dict).dump({"lines": [float("nan"), None]})
    with pytest.raises(Unserialisable, match=r"\.x\.y: object"):
        StateKind.of(AnyModel).dump(AnyModel(x={"y": object()}))


# -- definitions ----------------------------------------------------------------------------------------------------


def test_the_kind_is_kept_per_factory():
    assert StateKind.of(Account) is StateKind.of(Account)


def test_new_calls_the_factory_each_time_and_nothing_else_does():
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"n": len(made)}

    kind = StateKind.of(make)
    assert kind.load(kind.dump(kind.new())) == {"n": 1}
    assert kind.new() == {"n": 2}
    assert dict(kind.reducers) == {}
    assert made == [1, 1]


@dataclass
class Needs:
    user: str


class NeedsModel(BaseModel):
    user: str


@pytest.mark.parametrize("factory", [Needs, NeedsModel])
def test_a_class_that_needs_arguments_can_be_kept_but_not_made(factory):
    kind = StateKind.of(factory)
    assert kind.load(kind.check(factory(user="ada"))) == factory(user="ada")
    with pytest.raises(
        DefinitionError, match=r"cannot be made without arguments .*user.*state=Needs.*\(…\) to the run"
    ):
        kind.new()


def test_an_error_in_the_factory_is_the_users():
    def make() -> dict[str, Any]:
        raise TypeError("mine")

    @dataclass
    class Broken:
        def __post_init__(self) -> None:
            raise TypeError("mine too")

    with pytest.raises(TypeError, match="mine"):
        StateKind.of(make).new()
    with pytest.raises(TypeError, match="mine too"):
        StateKind.of(Broken).new()


@pytest.mark.parametrize("factory", [object, int, list, set])
def test_a_class_that_cannot_be_kept_is_refused(factory):
    with pytest.raises(DefinitionError, match=r"cannot be kept\. Use a dataclass"):
        StateKind.of(factory)


def test_a_factory_that_makes_something_else_is_refused():
    async def late() -> dict[str, Any]:
        return {}

    with pytest.raises(DefinitionError, match="cannot be kept"):
        StateKind.of(lambda: 5).new()
    with pytest.raises(DefinitionError, match="is async"):
        _ = StateKind.of(late).new()
    with pytest.raises(DefinitionError, match="cannot be called"):
        StateKind.of({"a": 1})  # type: ignore[arg-type]


def test_a_value_of_another_type_is_refused():
    with pytest.raises(DefinitionError, match="The state is 'dict', but 'Account' was declared"):
        StateKind.of(Account).dump({})  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="The state is 'Own', but 'dict' was declared"):
        StateKind.of(dict).dump(Own())


def test_a_document_that_does_not_fit_says_where():
    with pytest.raises(DefinitionError) as caught:
        StateKind.of(Account).load({"name": 5})
    assert str(caught.value) == snapshot(
        "The kept state does not fit Account: Expected `str`, got `int` - at `$.name`. If the type was changed, give "
        "new fields defaults and let old ones be."
    )
    with pytest.raises(DefinitionError, match=r"Model: \.lines\[0\]\.text: Field required"):
        StateKind.of(MODEL).load({"lines": [{}]})


def test_new_fields_with_defaults_and_old_fields_are_no_hindrance():
    assert StateKind.of(Account).load({"name": "x", "gone": 1}) == Account("x")


def test_a_type_that_nobody_can_read_is_refused():
    class Socket:
        pass

    @dataclass
    class Holder:
        a: Socket | None = None

    with pytest.raises(DefinitionError, match="Socket"):
        StateKind.of(Holder).load({"a": {}})


def test_dicts_and_dataclasses_are_kept_without_pydantic():
    program = """
import sys
from dataclasses import dataclass
from perdure.agents.state_kind import StateKind
@dataclass
class A:
    n: int = 0
for factory in (dict, A):
    kind = StateKind.of(factory)
    kind.load(kind.check(kind.new()))
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# -- reducers -------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def last(before: Any, mine: Any, theirs: Any) -> Any:
    return theirs


@dataclass
class Inner:
    n: Annotated[int, add] = 0
    again: "Inner | None" = None


@dataclass
class Outer:
    count: Annotated[int, "how many", add] = 0
    items: Annotated[list[str] | None, extend] = None
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    by: dict[str, Inner] = field(default_factory=dict)
    totals: dict[str, Annotated[int, add]] = field(default_factory=dict)
    many: list[Inner] = field(default_factory=list)
    other: Annotated[int, Field(ge=1)] = 1
    own: Annotated[dict[str, int], last] = field(default_factory=dict)


class ModelReducers(BaseModel):
    count: Annotated[int, add] = Field(0, alias="c")
    inner: dict[str, Inner] = {}


class TypedReducers(TypedDict, total=False):
    count: Annotated[int, add]
    tags: NotRequired[Annotated[list[str], extend]]
    kind: Literal["a"]


def typed() -> TypedReducers:
    return {"count": 1}


@pytest.mark.parametrize(
    ("factory", "reducers"),
    [
        (
            Outer,
            {
                "/count": add,
                "/items": extend,
                "/inner/n": add,
                "/maybe/n": add,
                "/by/*/n": add,
                "/totals/*": add,
                "/own": last,
            },
        ),
        (ModelReducers, {"/count": add, "/inner/*/n": add}),
        (TypedReducers, {"/count": add, "/tags": extend}),
        (typed, {"/count": add, "/tags": extend}),
        (Struct, {"/count": add}),
        (dict, {}),
    ],
)
def test_reducers_are_found_in_the_type(factory, reducers):
    assert StateKind.of(factory).reducers == reducers


def test_the_paths_of_reducers_are_those_of_the_json():
    @dataclass
    class Named:
        value: Struct = dataclasses.field(default_factory=lambda: Struct("x"))

    class Renamed(msgspec.Struct, rename="upper"):
        count: Annotated[int, add] = 0

    for factory in (Named, Renamed):
        kind: Any = StateKind.of(factory)
        (path,) = kind.reducers
        doc = kind.dump(kind.new())
        for key in path[1:].split("/"):
            doc = doc[key]
        assert doc == 0


def test_a_reducer_of_two_values_is_refused():
    @dataclass
    class Two:
        items: Annotated[list[str], operator.add] = field(default_factory=list)

    with pytest.raises(DefinitionError, match=r"reducer add of the state's /items takes two values"):
        _ = StateKind.of(Two).reducers


def test_a_generic_state():
    @dataclass
    class Box(Generic[T]):
        content: Any = None
        count: Annotated[int, add] = 0

    kind: Any = StateKind.of(Box[int])
    assert kind.load(kind.check(Box([1], 2))) == Box([1], 2)
    assert kind.new() == Box()
