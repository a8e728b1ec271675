"""Parameters that are declared apart from the function: by a type, or by a JSON schema."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from perdure.agents.signature import ArgumentsInvalid
from perdure.types.errors import DefinitionError
from tests.agents.reading import Context, Filter, Point, Span, Support, read, refusal, run


class Query(BaseModel):
    """What to look for."""

    text: str = Field(description="the words")
    limit: int = 10
    parent: Query | None = None


def test_a_model_as_parameters_gives_the_function_one_instance():
    def f(ctx: Context[Support], query: Query) -> Any:
        return ctx, query

    signature = read(f, Query)
    assert signature.parameters["type"] == "object"
    assert signature.parameters["properties"]["text"] == {"type": "string", "description": "the words"}
    assert run(f, {"text": "a", "limit": "3"}, Query, ctx="C") == ("C", Query(text="a", limit=3))
    assert "text: is missing" in refusal(f, {}, Query)


@pytest.mark.parametrize("kind", [Span, Point, Filter])
def test_other_types_as_parameters(kind):
    assert read(lambda one: one, kind).parameters["type"] == "object"


def test_parameters_that_do_not_fit_the_function_are_refused():
    def none() -> None: ...
    def two(a: int, b: int) -> None: ...

    for fn in (none, two):
        with pytest.raises(DefinitionError, match="exactly one parameter"):
            read(fn, Query)
    with pytest.raises(DefinitionError, match="not an object in JSON"):
        _ = read(lambda one: one, int).parameters
    with pytest.raises(DefinitionError, match="pass a pydantic model or a JSON schema"):
        read(lambda one: one, 5)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7},
        "unit": {"enum": ["C", "F"]},
        "tags": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Tag"}]}},
    },
    "required": ["city"],
    "$defs": {"Tag": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def by_name(city: str, days: int | None = 1, unit: str = "C", tags: Any = ()) -> Any:
    """Look.

    Args:
        city: where
    """
    return city, days, unit, tags


def test_b21_a_schema_as_parameters_gives_keyword_arguments():
    assert read(by_name, SCHEMA).parameters["properties"]["city"]["description"] == "where"
    assert "description" not in SCHEMA["properties"]["city"]
    assert run(by_name, {"city": "Oslo", "days": 2}, SCHEMA) == ("Oslo", 2, "C", ())
    assert run(lambda **all: all, {"city": "Oslo"}, SCHEMA) == {"city": "Oslo"}


def test_a_schema_as_parameters_gives_one_dict_to_a_function_without_the_names():
    assert run(lambda options: options, {"city": "Oslo"}, SCHEMA) == {"city": "Oslo"}
    assert run(plain_dict, {"city": "Oslo"}, SCHEMA, ctx="C") == ("C", {"city": "Oslo"})


def plain_dict(ctx: Context[Support], options: dict[str, Any]) -> Any:
    return ctx, options


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "city: is missing"),
        ({"city": 5}, "city: must be of type string (got 5)"),
        ({"city": "x"}, "city: must have at least 2 characters (got 'x')"),
        ({"city": "xy", "days": True}, "days: must be of type integer or null (got True)"),
        ({"city": "xy", "days": 8}, "days: must be at most 7 (got 8)"),
        ({"city": "xy", "unit": "K"}, "unit: must be one of ['C', 'F'] (got 'K')"),
        ({"city": "xy", "tags": "a"}, "tags: must be of type array (got 'a')"),
        ({"city": "xy", "tags": ["a", {"nam": 1}]}, "tags[1].name: is missing"),
        ({"city": "xy", "tags": [1]}, "tags[0]: fits none of the 2 allowed forms (got 1)"),
        ({"city": "xy", "more": 1}, "more: is not known here"),
        ("text", "not a JSON object"),
    ],
)
def test_values_that_do_not_fit_a_schema_are_explained(arguments, expected):
    assert expected in refusal(by_name, arguments, SCHEMA)


def test_more_rules_of_a_schema():
    def problem(value: Any, rules: Any) -> bool:
        try:
            run(lambda **all: all, {"x": value}, {"type": "object", "properties": {"x": rules}})
        except ArgumentsInvalid:
            return True
        return False

    for value, rules, is_wrong in [
        (1.0, {"type": "integer"}, False),
        (1.5, {"type": "integer"}, True),
        (1, {"const": True}, True),
        (1, {"allOf": [{"type": "integer"}, {"minimum": 2}]}, True),
        (2, {"exclusiveMinimum": 2}, True),
        (2, {"exclusiveMinimum": True, "minimum": 2}, False),
        (2, {"not": {"type": "integer"}}, True),
        ([1, "a"], {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, False),
        ([1, 2], {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}}, True),
        ([], {"minItems": 1}, True),
        ({"a": 1}, {"type": "object", "additionalProperties": {"type": "string"}}, True),
        ({"a": 1}, {"type": "object", "additionalProperties": False}, True),
        ({"a": 1}, {"type": "object"}, False),
        (5, {"type": "some-day"}, False),
        (5, True, False),
        (5, False, True),
    ]:
        assert problem(value, rules) is is_wrong, (value, rules)


def test_a_schema_that_refers_to_itself_is_followed_and_ends():
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    assert run(lambda **all: all, {"next": {"next": {}}}, node) == {"next": {"next": {}}}
    assert "next.next.x: is not known here" in refusal(lambda **all: all, {"next": {"next": {"x": 1}}}, node)
    loop = {"type": "object", "$ref": "#"}
    assert "nested too deeply" in refusal(lambda **all: all, {}, loop)


def test_a_schema_that_is_wrong_is_refused():
    def two(a: int, b: int) -> None: ...

    with pytest.raises(DefinitionError, match="top level must be an object"):
        read(by_name, {"type": "string"})
    with pytest.raises(DefinitionError, match="it has no parameter for c"):
        read(two, {"type": "object", "properties": {"a": {}, "c": {}}})
    with pytest.raises(DefinitionError, match="Put the definition under its '\\$defs'"):
        read(by_name, {"properties": {"city": {"$ref": "#/nowhere"}}}).bind({"city": 1})
