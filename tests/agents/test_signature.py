"""From signatures and docstrings to schemas, and from a model's arguments to calls."""

from __future__ import annotations

import enum
import functools
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest
from inline_snapshot import snapshot
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Doc, TypedDict, Unpack

from perdure.agents.signature import read_signature
from perdure.types.errors import DefinitionError
from tests.agents.reading import Context, Filter, Point, Span, SpecialContext, Support, read, refusal, run

if TYPE_CHECKING:
    from somewhere import Nowhere  # pyright: ignore[reportMissingImports]


# -- schema ---------------------------------------------------------------------------------------------------------


class Unit(enum.Enum):
    C = "C"
    F = "F"


class Place(BaseModel):
    city: str
    country: str = "NO"


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


def test_the_schema_comes_from_the_signature_and_the_docstring():
    def weather(ctx: Context[Support], city: str, days: int = 3, title: str | None = None) -> str:
        """Look up the weather.

        Args:
            city: where to look,
                in English
            days: how many days
        """
        return city

    signature = read(weather)
    assert signature.takes_context
    assert signature.description == "Look up the weather."
    assert signature.parameters == snapshot(
        {
            "additionalProperties": False,
            "properties": {
                "city": {"type": "string", "description": "where to look, in English"},
                "days": {"type": "integer", "default": 3, "description": "how many days"},
                "title": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["city"],
            "type": "object",
        }
    )


def test_a_function_without_parameters_has_an_empty_object():
    assert read(lambda: 1).parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert run(lambda: 1, {}) == 1


def test_kinds_of_types_are_described():
    def f(
        unit: Unit,
        kind: Literal["a", "b"],
        place: Place,
        span: Span,
        only: Filter,
        points: list[Point],
        tree: Tree,
        price: Decimal,
        when: datetime,
        anything,
    ) -> None: ...

    schema = read(f).parameters
    properties = schema["properties"]
    assert properties["kind"] == {"enum": ["a", "b"], "type": "string"}
    assert properties["points"] == {"type": "array", "items": {"$ref": "#/$defs/Point"}}
    assert properties["tree"] == {"$ref": "#/$defs/Tree"}
    assert properties["anything"] == {}
    assert properties["when"] == {"type": "string", "format": "date-time"}
    assert set(schema["$defs"]) == {"Unit", "Place", "Span", "Filter", "Point", "Tree"}
    assert schema["$defs"]["Place"]["required"] == ["city"]
    assert schema["$defs"]["Point"]["required"] == ["x"]
    assert "title" not in json.dumps(schema)


def test_descriptions_given_with_annotated_stand_over_the_docstring():
    def f(
        a: Annotated[str, Field(description="field")],
        b: Annotated[str, "text"],
        c: Annotated[str, Doc("doc")],
        d: str,
        e: Annotated[Point, "a point"],
    ) -> None:
        """F.

        Args:
            a: no
            b: no
            c: no
            d: yes
        """

    properties = read(f).parameters["properties"]
    assert {name: rules["description"] for name, rules in properties.items()} == {
        "a": "field",
        "b": "text",
        "c": "doc",
        "d": "yes",
        "e": "a point",
    }


def test_limits_of_a_field_are_described_and_checked():
    def f(n: Annotated[int, Field(ge=1, le=5)] = 2, m: int = Field(default=7, gt=0)) -> tuple[int, int]:
        return n, m

    assert read(f).parameters["properties"]["n"] == {"type": "integer", "minimum": 1, "maximum": 5, "default": 2}
    assert read(f).parameters["properties"]["m"] == {"type": "integer", "exclusiveMinimum": 0, "default": 7}
    assert run(f, {"n": 5}) == (5, 7)
    assert "n: Input should be less than or equal to 5 (got 6)" in refusal(f, {"n": 6})


def test_a_default_without_a_json_form_is_left_out_of_the_schema():
    marker = object()

    def f(x: Any = marker, unit: Unit = Unit.F, since: date = date(2024, 1, 2)) -> Any:
        return x, unit

    properties = read(f).parameters["properties"]
    assert "default" not in properties["x"]
    assert properties["unit"]["default"] == "F"
    assert properties["since"]["default"] == "2024-01-02"
    assert run(f, {}) == (marker, Unit.F)


def test_reading_a_function_does_not_import_pydantic():
    program = """
import sys
from perdure.agents.signature import read_signature
def f(city: str, days: "int" = 3): "doc"
signature = read_signature(f, context_type=dict)
signature.description
assert "pydantic" not in sys.modules and "pydantic_core" not in sys.modules
signature.bind({"city": "Oslo"})
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# -- the context ----------------------------------------------------------------------------------------------------


def plain_context(ctx: Context, x: int) -> Any: ...
def special_context(ctx: SpecialContext[Support], x: int) -> Any: ...
def annotated_context(ctx: Annotated[Context[Support], "c"], x: int) -> Any: ...
def text_context(ctx: "Context[Nowhere]", x: int) -> Any: ...  # noqa: UP037
def no_context(ctx: dict[str, Any], x: int) -> Any: ...


@pytest.mark.parametrize("fn", [plain_context, special_context, annotated_context, text_context])
def test_the_context_comes_first_and_is_hidden(fn):
    signature = read(fn)
    assert signature.takes_context
    assert list(signature.parameters["properties"]) == ["x"]


def test_something_else_that_is_called_ctx_is_not_the_context():
    signature = read(no_context)
    assert not signature.takes_context
    assert list(signature.parameters["properties"]) == ["ctx", "x"]


def test_a_context_that_only_type_checkers_know_is_known_by_its_name():
    space: dict[str, Any] = {}
    exec("def f(c: 'perdure.Context[Support]', x: int): return c, x", space)
    assert read(space["f"]).takes_context
    assert run(space["f"], {"x": 1}, ctx="C") == ("C", 1)


def test_the_context_elsewhere_is_an_error():
    def second(x: int, ctx: Context[Support]) -> None: ...
    def by_name(*, ctx: Context[Support]) -> None: ...

    with pytest.raises(DefinitionError, match=r"takes its context as 'ctx'\. Make it the first parameter"):
        read(second)
    with pytest.raises(DefinitionError, match=r"by name\. Make it the first positional"):
        read(by_name)


# -- text annotations -----------------------------------------------------------------------------------------------


def before_its_type(late: Late, others: list[Late]) -> Late:
    return late


early_signature = read_signature(before_its_type, context_type=Context)


class Late(BaseModel):
    n: int


def unknown_type(x: Nowhere) -> None: ...


def test_a_type_that_is_defined_later_is_found_at_first_use():
    assert early_signature.bind({"late": {"n": 1}, "others": []}) == {"late": Late(n=1), "others": []}


def test_a_type_of_the_function_around_is_found():
    class Local(BaseModel):
        n: int

    def f(x: Local, y: dict[str, Local]) -> Any:
        return x

    assert run(f, {"x": {"n": 1}, "y": {}}) == Local(n=1)


def test_an_annotation_that_cannot_be_resolved_says_which_and_what_to_do():
    with pytest.raises(DefinitionError) as caught:
        _ = read(unknown_type).parameters
    assert str(caught.value) == snapshot(
        "The annotation 'Nowhere' of parameter 'x' of unknown_type() cannot be resolved: name 'Nowhere' is not "
        "defined. Import the name at run time (not only under TYPE_CHECKING), define it at module level, or pass "
        "parameters=... with a pydantic model or a JSON schema."
    )
    with pytest.raises(DefinitionError, match="Nowhere"):
        read(unknown_type).bind({"x": 1})


def test_a_type_that_is_not_json_says_which_parameter_and_what_to_do():
    class Socket:
        pass

    def f(city: str, socket: Socket) -> None: ...
    def g(callback: Callable[[], None]) -> None: ...

    with pytest.raises(DefinitionError, match=r"Parameter 'socket' of .*f\(\) has a type .*ctx\.use"):
        read(f).bind({})
    with pytest.raises(DefinitionError, match=r"g\(\) has a type without a JSON schema"):
        _ = read(g).parameters


# -- binding --------------------------------------------------------------------------------------------------------


def test_arguments_are_read_as_their_types():
    def f(
        unit: Unit,
        place: Place,
        span: Span,
        only: Filter,
        points: list[Point],
        tree: Tree,
        price: Decimal,
        when: datetime,
        either: int | Place,
        pair: tuple[int, date],
        names: set[str],
        maybe: Point | None = None,
    ) -> Any:
        return locals()

    assert run(
        f,
        {
            "unit": "F",
            "place": {"city": "Oslo"},
            "span": {"since": "2024-05-01"},
            "only": {"limit": "3"},
            "points": [{"x": 1}],
            "tree": {"value": 1, "children": [{"value": 2}]},
            "price": "1.10",
            "when": "2024-05-01T10:00:00",
            "either": {"city": "Bergen"},
            "pair": [1, "2024-05-01"],
            "names": ["a", "a"],
            "maybe": {"x": 2},
        },
    ) == {
        "unit": Unit.F,
        "place": Place(city="Oslo"),
        "span": Span(date(2024, 5, 1)),
        "only": {"limit": 3},
        "points": [Point(1)],
        "tree": Tree(1, [Tree(2)]),
        "price": Decimal("1.10"),
        "when": datetime(2024, 5, 1, 10),  # noqa: DTZ001
        "either": Place(city="Bergen"),
        "pair": (1, date(2024, 5, 1)),
        "names": {"a"},
        "maybe": Point(2),
    }


def test_a_strict_model_reads_json():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        since: date

    def f(s: Strict) -> Any:
        return s.since

    assert run(f, {"s": {"since": "2024-05-01"}}) == date(2024, 5, 1)


def test_a_function_gets_its_own_copy():
    def f(anything, options: dict[str, Any]) -> None:
        anything.append(1)
        options["inner"]["n"] = 2

    given: dict[str, Any] = {"anything": [], "options": {"inner": {"n": 1}}}
    run(f, given)
    assert given == {"anything": [], "options": {"inner": {"n": 1}}}


def test_b16_arguments_that_do_not_fit_are_explained_to_the_model():
    def f(city: str, days: int, when: date | None = None, points: list[Point] | None = None) -> None: ...

    assert refusal(f, {"days": "many", "town": 1, "when": "soon", "points": [{"x": 1}, {"y": 2}]}) == snapshot("""\
The arguments do not fit:
- city: is missing
- days: Input should be a valid integer, unable to parse string as an integer (got 'many')
- when: Input should be a valid date or datetime, input is too short (got 'soon')
- points[1]: Value error, Object missing required field `x` (got {'y': 2})
- town: is not known here
- known arguments: city, days, when, points\
""")


def test_the_explanation_has_no_address_and_shortens_values():
    def f(n: int, m: int) -> None: ...

    text = refusal(f, {"n": "x" * 1_000_000, "m": [list(range(500))]})
    assert "http" not in text
    assert len(text) < 700


def test_many_problems_are_not_all_listed():
    def f(n: list[int]) -> None: ...

    text = refusal(f, {"n": ["x"] * 1000})
    assert "and 980 more" in text
    assert text.count("\n") == 21


def test_a_text_instead_of_an_object_is_explained():
    def f(city: str, days: int = 1) -> None: ...

    assert refusal(f, "Oslo, please") == snapshot(
        "The arguments are not a JSON object: 'Oslo, please'. Send one with: city, days."
    )


def test_an_error_in_a_validator_of_the_user_is_not_the_models_fault():
    class Broken(BaseModel):
        n: int

        def model_post_init(self, context: Any) -> None:
            raise TypeError("a bug")

    def f(x: Broken) -> None: ...

    with pytest.raises(TypeError, match="a bug"):
        read(f).bind({"x": {"n": 1}})


# -- calling --------------------------------------------------------------------------------------------------------


def positional_only(a: int, b: int = 2, /, c: int = 3) -> Any:
    return a, b, c


def many(a: int, b: int = 2, *rest: int, key: str = "k") -> Any:
    return a, b, rest, key


def anything(ctx: Context[Support], a: int, **others: int) -> Any:
    return ctx, a, others


@pytest.mark.parametrize(
    ("fn", "arguments", "expected"),
    [
        (positional_only, {"a": 1}, (1, 2, 3)),
        (positional_only, {"a": 1, "c": 5}, (1, 2, 5)),
        (positional_only, {"a": "1", "b": 4}, (1, 4, 3)),
        (many, {"a": 1}, (1, 2, (), "k")),
        (many, {"a": 1, "rest": ["5", 6]}, (1, 2, (5, 6), "k")),
        (many, {"a": 1, "b": 3, "rest": [5], "key": "z"}, (1, 3, (5,), "z")),
        (anything, {"a": 1}, ("C", 1, {})),
        (anything, {"a": 1, "b": "2"}, ("C", 1, {"b": 2})),
    ],
)
def test_every_kind_of_parameter_is_called_rightly(fn, arguments, expected):
    assert run(fn, arguments, ctx="C") == expected


def test_other_keyword_arguments_are_described_and_checked():
    assert read(anything).parameters["additionalProperties"] == {"type": "integer"}
    assert "b: Input should be a valid integer" in refusal(anything, {"a": 1, "b": "x"})
    assert "ctx: is not known here" in refusal(anything, {"a": 1, "ctx": 5})


def test_unpacked_keyword_arguments_are_arguments():
    class Options(TypedDict, total=False):
        limit: int

    def f(**options: Unpack[Options]) -> Any:
        return options

    assert read(f).parameters["properties"] == {"limit": {"type": "integer"}}
    assert run(f, {"limit": "3"}) == {"limit": 3}
    assert "more: is not known here" in refusal(f, {"more": 1})


def test_what_a_partial_fills_in_is_neither_seen_nor_changed_by_the_model():
    def f(ctx: Context[Support], city: str, key: str, **others: Any) -> Any:
        """Doc of f."""
        return ctx, city, key

    partial = functools.partial(f, key="secret")
    signature = read(partial)
    assert signature.description == "Doc of f."
    assert "secret" not in json.dumps(signature.parameters)
    assert run(partial, {"city": "Oslo"}, ctx="C") == ("C", "Oslo", "secret")
    assert "key: is not known here" in refusal(partial, {"city": "Oslo", "key": "mine"})


class Caller:
    """Doc of the class."""

    async def __call__(self, n: int) -> int:
        return n

    async def method(self, n: int) -> int:
        """Doc of the method."""
        return n

    def sync(self, n: int) -> int:
        return n


async def test_methods_and_callable_objects_are_read():
    caller = Caller()
    for fn in (caller, caller.method, functools.partial(caller), functools.partial(caller.method)):
        signature = read(fn)
        assert signature.is_async
        result: Awaitable[int] = signature.call(fn, None, signature.bind({"n": "3"}))
        assert await result == 3
    assert not read(caller.sync).is_async
    assert read(caller).description == "Doc of the class."
    assert read(caller.method).description == "Doc of the method."


def test_what_cannot_be_called_is_refused():
    with pytest.raises(DefinitionError, match="cannot be called"):
        read("weather")  # type: ignore[arg-type]
