"""JSON schemas in each provider's dialect, from pydantic and from the schemas that tool servers really send."""

import datetime
import enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from pydantic import BaseModel, Field, TypeAdapter

from perdure.models.object_schema import object_schema
from perdure.models.schema import anthropic_schema, anthropic_strict, gemini_schema, openai_strict, safe_name


class Color(enum.Enum):
    red = "red"
    blue = "blue"


class Point(BaseModel):
    x: int = Field(ge=0, lt=10)
    y: float


class Shape(BaseModel):
    """A shape."""

    kind: Literal["shape"]
    color: Color = Field(description="its colour")
    points: list[Point] = Field(min_length=1, max_length=9)
    since: datetime.date | None = None


class Tree(BaseModel):
    name: str
    children: list["Tree"]


class Leaf(BaseModel):
    name: str
    parent: "Leaf | None" = None


class Loose(BaseModel):
    counts: dict[str, int]


SHAPE = {"kind": "shape", "color": "red", "points": [{"x": 1, "y": 0.5}], "since": None}


def parts(schema: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, with its path; values such as enumerations are not looked into."""
    found = [(path, schema)]
    for key in ("properties", "$defs", "patternProperties"):
        for name, one in schema.get(key, {}).items():
            found += parts(one, f"{path}/{key}/{name}")
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, one in enumerate(schema.get(key, ())):
            found += parts(one, f"{path}/{key}/{number}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += parts(schema[key], f"{path}/{key}")
    return found


def check_refs(schema: dict[str, Any]) -> None:
    for path, part in parts(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"], path


def check_object(schema: dict[str, Any]) -> None:
    """What every provider asks of a tool's parameters."""
    Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert isinstance(schema["properties"], dict)
    assert not schema.keys() & {"$schema", "$ref", "anyOf", "oneOf", "allOf", "not", "enum", "const"}
    check_refs(schema)


def check_openai_strict(schema: dict[str, Any]) -> None:
    check_object(schema)
    for path, part in parts(schema):
        if "properties" in part or part.get("type") == "object":
            assert part["additionalProperties"] is False, path
            assert sorted(part["required"]) == sorted(part["properties"]), path
        assert not part.keys() & {"default", "oneOf", "allOf", "not", "minLength", "prefixItems", "uniqueItems"}, path
        assert "$ref" not in part or part.keys() == {"$ref"}, path
        assert part.keys() & {"type", "anyOf", "$ref"}, path


def check_anthropic_strict(schema: dict[str, Any]) -> None:
    check_object(schema)
    for path, part in parts(schema):
        if "properties" in part:
            assert part["additionalProperties"] is False, path
        assert not part.keys() & {"minimum", "maximum", "maxLength", "pattern", "oneOf", "default", "maxItems"}, path
        assert part.get("minItems", 0) in (0, 1), path


GEMINI = {
    *("$defs", "$ref", "type", "format", "title", "description", "enum", "items", "prefixItems", "minItems"),
    *("maxItems", "minimum", "maximum", "anyOf", "properties", "additionalProperties", "required"),
}


def check_gemini(schema: dict[str, Any]) -> None:
    check_object(schema)
    for path, part in parts(schema):
        assert part.keys() <= GEMINI, path
        assert "$ref" not in part or part.keys() == {"$ref"}, path
        assert all(isinstance(one, (str, int, float)) for one in part.get("enum", ())), path
        assert set(part.get("required", ())) <= set(part.get("properties", ())), path


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["search", "_x", "get-page_2", "A" * 64])
def test_a_good_name_stays(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["files/read file", "2fast", "-x", "", "über", "A" * 65, "a.b", "a:b", "日本", "x\n"])
def test_b23_a_bad_name_becomes_one_that_every_provider_takes(name: str) -> None:
    made = safe_name(name)
    assert made != name
    assert made[0].isalpha() or made[0] == "_"
    assert len(made) <= 64
    assert made.isascii()
    assert made.replace("_", "").replace("-", "").isalnum()


@given(st.lists(st.text(), unique=True, max_size=30))
def test_two_names_never_become_one(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


def test_a_name_made_safe_is_safe_itself() -> None:
    assert safe_name(safe_name("a b")) == safe_name("a b")


# -- any schema as an object ----------------------------------------------------------------------------------------

SERVER_SCHEMAS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no type": {"properties": {"path": {"type": "string"}}, "required": ["path"]},
    "no properties": {"type": "object"},
    "$schema": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"n": {"type": "integer", "exclusiveMinimum": 0}},
        "additionalProperties": False,
    },
    "alternatives at the top": {
        "anyOf": [
            {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
            {"type": "object", "properties": {"name": {"type": "string"}, "id": {"type": "integer"}}},
        ]
    },
    "required alternatives beside properties": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"$ref": "#/definitions/More"},
        ],
        "definitions": {"More": {"properties": {"b": {"type": "number"}}, "required": ["b"]}},
    },
    "old tuple": {"properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}]}}},
    "draft 3 and 4": {
        "type": "object",
        "properties": {
            "q": {"type": "string", "required": True},
            "n": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 9, "exclusiveMaximum": False},
            "any": {"type": "any"},
        },
    },
    "OpenAPI": {"type": "OBJECT", "properties": {"when": {"type": "STRING", "nullable": True, "format": "date"}}},
    "lost reference": {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}, "b": {"$ref": 3}}},
    "reference into itself": {
        "type": "object",
        "properties": {"first": {"type": "string"}, "second": {"$ref": "#/properties/first"}},
    },
    "reference to the whole": {"type": "object", "properties": {"next": {"$ref": "#"}, "name": {"type": "string"}}},
    "circle of references": {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
    "booleans": {"type": "object", "properties": {"any": True, "none": False}},
    "no object": {"type": "string"},
    "nullable object": {"type": ["object", "null"], "properties": {"a": {"type": "string"}}},
    "rubbish": {"type": 7, "properties": [], "required": "all", "enum": [], "anyOf": [], "description": None},
    "a property called $ref": {"type": "object", "properties": {"$ref": {"type": "string"}, "type": {"type": "null"}}},
}


@pytest.mark.parametrize("schema", SERVER_SCHEMAS.values(), ids=SERVER_SCHEMAS.keys())
def test_any_servers_schema_is_taken_by_every_provider(schema: dict[str, Any]) -> None:
    """Issues 66, 103 and 173: no type, no parameters, keywords that a provider refuses."""
    before = repr(schema)
    check_object(object_schema(schema))
    check_object(anthropic_schema(schema))
    check_gemini(gemini_schema(schema))
    for strict, check in ((openai_strict, check_openai_strict), (anthropic_strict, check_anthropic_strict)):
        made = strict(schema)
        if made is not None:
            check(made)
    assert repr(schema) == before, "the schema itself must not be changed"


def test_alternatives_at_the_top_become_one_object() -> None:
    assert object_schema(SERVER_SCHEMAS["alternatives at the top"]) == {
        "type": "object",
        "properties": {"id": {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "name": {"type": "string"}},
    }
    both = object_schema(SERVER_SCHEMAS["all of"])
    assert both["properties"] == {"a": {"type": "string"}, "b": {"type": "number"}}
    assert both["required"] == ["a", "b"]
    beside = object_schema(SERVER_SCHEMAS["required alternatives beside properties"])
    assert beside == {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}


def test_older_drafts_keep_their_meaning() -> None:
    old = object_schema(SERVER_SCHEMAS["draft 3 and 4"])["properties"]
    assert old == {"q": {"type": "string"}, "n": {"type": "number", "exclusiveMinimum": 0, "maximum": 9}, "any": {}}
    assert object_schema(SERVER_SCHEMAS["old tuple"])["properties"]["pair"] == {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
    }
    assert object_schema(SERVER_SCHEMAS["OpenAPI"])["properties"]["when"] == {
        "type": ["string", "null"],
        "format": "date",
    }
    assert object_schema({"properties": {"e": {"type": "string", "enum": ["a"], "nullable": True}}})["properties"] == {
        "e": {"type": ["string", "null"], "enum": ["a", None]}
    }


def test_references_are_kept_and_unused_definitions_dropped() -> None:
    whole = object_schema(SERVER_SCHEMAS["reference to the whole"])
    assert whole["properties"]["next"] == {"$ref": "#/$defs/Root"}
    assert whole["$defs"]["Root"]["properties"]["name"] == {"type": "string"}
    spare = object_schema({"properties": {"a": {"type": "string"}}, "$defs": {"Spare": {"type": "string"}}})
    assert "$defs" not in spare
    twice = object_schema(
        {
            "properties": {"a": {"$ref": "#/$defs/X"}, "b": {"$ref": "#/other/X"}},
            "$defs": {"X": {"type": "string"}},
            "other": {"X": {"type": "integer"}},
        }
    )
    assert twice["$defs"] == {"X": {"type": "string"}, "X2": {"type": "integer"}}


# -- OpenAI ---------------------------------------------------------------------------------------------------------


def test_openai_strict_closes_objects_and_requires_everything() -> None:
    made = openai_strict(Shape.model_json_schema())
    assert made is not None
    check_openai_strict(made)
    assert made["required"] == ["kind", "color", "points", "since"]
    assert made["properties"]["color"] == {
        "title": "Color",
        "type": "string",
        "enum": ["red", "blue"],
        "description": "its colour",
    }
    assert made["properties"]["points"]["minItems"] == 1
    assert made["$defs"]["Point"]["properties"]["x"] == {
        "title": "X",
        "type": "integer",
        "minimum": 0,
        "exclusiveMaximum": 10,
    }
    assert made["properties"]["since"]["anyOf"][0] == {"type": "string", "format": "date"}
    Draft202012Validator(made).validate(SHAPE)
    assert Shape.model_validate(SHAPE).since is None
    with pytest.raises(ValidationError):
        Draft202012Validator(made).validate({key: value for key, value in SHAPE.items() if key != "since"})


def test_openai_strict_says_in_words_what_it_cannot_say() -> None:
    class Named(BaseModel):
        name: Annotated[str, Field(min_length=2, max_length=5, description="who", pattern="^[a-z]+$")]

    made = openai_strict(Named.model_json_schema())
    assert made is not None
    assert made["properties"]["name"] == {
        "title": "Name",
        "type": "string",
        "pattern": "^[a-z]+$",
        "description": "who (maxLength: 5, minLength: 2)",
    }


def test_openai_strict_allows_recursion() -> None:
    made = openai_strict(Tree.model_json_schema())
    assert made is not None
    check_openai_strict(made)
    Draft202012Validator(made).validate({"name": "a", "children": [{"name": "b", "children": []}]})
    leaf = openai_strict(Leaf.model_json_schema())
    assert leaf is not None
    check_openai_strict(leaf)


NOT_STRICT = {
    "a default that is not null": {"properties": {"n": {"type": "integer", "default": 3}}},
    "left out, not null": {"properties": {"n": {"type": "integer"}}},
    "null would override a default": {"properties": {"n": {"type": ["integer", "null"], "default": 3}}},
    "an enumeration without null": {"properties": {"n": {"type": ["string", "null"], "enum": ["a"]}}},
    "any property": {"properties": {}, "additionalProperties": True},
    "a mapping": Loose.model_json_schema(),
    "any value": {"properties": {"x": {}}, "required": ["x"]},
    "an object of anything": {"properties": {"x": {"type": "object"}}, "required": ["x"]},
    "a tuple": TypeAdapter(dict[Literal["t"], tuple[int, str]]).json_schema(),
    "a list of anything": {"properties": {"x": {"type": "array"}}, "required": ["x"]},
    "pattern properties": {"patternProperties": {"^x": {"type": "string"}}},
    "an object in an enumeration": {"properties": {"x": {"enum": [{"a": 1}]}}, "required": ["x"]},
    "properties and alternatives": {
        "properties": {"x": {"type": "object", "properties": {}, "anyOf": [{"type": "object", "properties": {}}]}},
        "required": ["x"],
    },
}


@pytest.mark.parametrize("schema", NOT_STRICT.values(), ids=NOT_STRICT.keys())
def test_openai_strict_refuses_what_would_change_its_meaning(schema: dict[str, Any]) -> None:
    assert openai_strict(schema) is None


def test_a_tool_without_parameters_can_be_strict() -> None:
    assert openai_strict({}) == {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


def test_an_all_of_with_one_part_is_that_part() -> None:
    schema = {
        "properties": {"p": {"allOf": [{"$ref": "#/$defs/P"}], "description": "where"}},
        "required": ["p"],
        "$defs": {"P": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    }
    made = openai_strict(schema)
    assert made is not None
    check_openai_strict(made)
    assert made["properties"]["p"]["description"] == "where"
    assert made["properties"]["p"]["properties"] == {"x": {"type": "integer"}}
    check_gemini(gemini_schema(schema))
    assert gemini_schema(schema)["properties"]["p"]["properties"] == {"x": {"type": "integer"}}


def test_parts_that_go_round_in_a_circle_end() -> None:
    more = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    both = {"properties": {"next": {"allOf": [more, {"$ref": "#/$defs/A"}]}}, "required": ["next"]}
    schema = {**both, "$defs": {"A": {"type": "object", **both}}}
    assert openai_strict(schema) is None
    assert anthropic_strict(schema) is None
    check_gemini(gemini_schema(schema))


def test_an_enumeration_without_a_type_gets_one() -> None:
    schema = {"properties": {"a": {"enum": ["x", "y"]}, "b": {"const": 3}, "c": {"enum": ["x", None]}}}
    made = openai_strict({**schema, "required": ["a", "b", "c"]})
    assert made is not None
    assert [one["type"] for one in made["properties"].values()] == ["string", "integer", ["string", "null"]]


# -- Anthropic ------------------------------------------------------------------------------------------------------


def test_anthropic_tools_keep_their_schema() -> None:
    made = anthropic_schema(Shape.model_json_schema())
    assert made["properties"]["points"]["maxItems"] == 9
    assert made["properties"]["color"] == {"$ref": "#/$defs/Color", "description": "its colour"}
    assert made["required"] == ["kind", "color", "points"]


def test_anthropic_strict_leaves_optional_properties_optional() -> None:
    made = anthropic_strict(Shape.model_json_schema())
    assert made is not None
    check_anthropic_strict(made)
    assert made["required"] == ["kind", "color", "points"]
    assert made["properties"]["points"]["minItems"] == 1
    assert "maxItems: 9" in made["properties"]["points"]["description"]
    assert made["$defs"]["Point"]["properties"]["x"]["description"] == "exclusiveMaximum: 10, minimum: 0"
    assert made["$defs"]["Point"]["additionalProperties"] is False


@pytest.mark.parametrize("model", [Tree, Leaf, Loose])
def test_anthropic_strict_refuses_recursion_and_mappings(model: type[BaseModel]) -> None:
    assert anthropic_strict(model.model_json_schema()) is None


def test_anthropic_strict_refuses_more_than_the_provider_compiles() -> None:
    def optional(count: int) -> dict[str, Any]:
        return {"properties": {f"p{number}": {"type": "string"} for number in range(count)}}

    assert anthropic_strict(optional(24)) is not None
    assert anthropic_strict(optional(25)) is None
    unions = {f"p{number}": {"type": ["string", "null"]} for number in range(17)}
    assert anthropic_strict({"properties": unions, "required": list(unions)}) is None


# -- Gemini ---------------------------------------------------------------------------------------------------------


def test_gemini_keeps_what_it_knows_and_tells_the_rest() -> None:
    made = gemini_schema(Shape.model_json_schema())
    check_gemini(made)
    assert made["properties"]["kind"]["enum"] == ["shape"]
    assert made["properties"]["color"] == {
        "title": "Color",
        "description": "its colour",
        "type": "string",
        "enum": ["red", "blue"],
    }
    x = made["$defs"]["Point"]["properties"]["x"]
    assert (x["minimum"], x["maximum"]) == (0, 9)
    assert made["properties"]["since"]["anyOf"] == [{"type": "string", "format": "date"}, {"type": "null"}]
    told = gemini_schema({"properties": {"n": {"type": "number", "exclusiveMinimum": 0}, "f": {"const": True}}})
    assert told["properties"]["n"] == {"type": "number", "description": "exclusiveMinimum: 0"}
    assert told["properties"]["f"] == {"type": "boolean", "description": "one of: [true]"}


def test_gemini_writes_null_in_an_enumeration_as_a_type() -> None:
    made = gemini_schema({"properties": {"a": {"type": ["string", "null"], "enum": ["x", None]}}})
    assert made["properties"]["a"] == {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "null"}]}


def test_gemini_takes_a_circle_only_in_what_may_be_left_out() -> None:
    made = gemini_schema(Tree.model_json_schema())
    check_gemini(made)
    assert made["required"] == ["name"]
    assert made["$defs"]["Tree"]["required"] == ["name"]


# -- any schema at all ----------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "type", "$ref", "items"])
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "number", "boolean", "null", "any", "STRING", 5])},
        optional={
            "description": st.sampled_from(["text", None]),
            "default": st.one_of(st.none(), st.integers()),
            "format": st.sampled_from(["date", "uri", "int32"]),
            "enum": st.lists(st.one_of(st.none(), st.integers(0, 3), st.sampled_from("xy"), st.booleans()), max_size=3),
            "exclusiveMinimum": st.one_of(st.booleans(), st.integers(0, 5)),
            "minimum": st.integers(0, 5),
            "nullable": st.booleans(),
            "required": st.booleans(),
        },
    ),
    st.fixed_dictionaries({"type": st.lists(st.sampled_from(["string", "object", "null"]), max_size=3)}),
    st.fixed_dictionaries({"$ref": st.sampled_from(["#", "#/$defs/A", "#/$defs/B", "#/nowhere", "http://x.test/y"])}),
    st.fixed_dictionaries({"const": st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.just([1]))}),
    st.sampled_from([{}, True, False]),
)


def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    branches = {
        "type": st.sampled_from(["object", "array", ["object", "null"]]),
        "properties": st.dictionaries(names, inner, max_size=3),
        "required": st.lists(names, max_size=3),
        "additionalProperties": st.one_of(st.booleans(), inner),
        "items": st.one_of(inner, st.lists(inner, max_size=2)),
        "anyOf": st.lists(inner, max_size=3),
        "oneOf": st.lists(inner, max_size=2),
        "allOf": st.lists(inner, max_size=2),
        "prefixItems": st.lists(inner, max_size=2),
        "minItems": st.integers(0, 3),
        "$ref": st.sampled_from(["#/$defs/A", "#"]),
    }
    return st.fixed_dictionaries({}, optional=branches)


schemas = st.fixed_dictionaries(
    {},
    optional={
        **{"type": st.just("object"), "$defs": st.dictionaries(st.sampled_from("AB"), st.recursive(leaves, grow))},
        **{"properties": st.dictionaries(names, st.recursive(leaves, grow), max_size=3)},
        **{"anyOf": st.lists(st.recursive(leaves, grow), max_size=2), "required": st.lists(names, max_size=2)},
        **{"$ref": st.just("#/$defs/A"), "$schema": st.just("http://json-schema.org/draft-07/schema#")},
    },
)


@given(schemas)
def test_whatever_the_schema_every_dialect_is_held(schema: dict[str, Any]) -> None:
    check_object(object_schema(schema))
    check_gemini(gemini_schema(schema))
    openai, anthropic = openai_strict(schema), anthropic_strict(schema)
    if openai is not None:
        check_openai_strict(openai)
    if anthropic is not None:
        check_anthropic_strict(anthropic)
    assert object_schema(object_schema(schema)) == object_schema(schema)
