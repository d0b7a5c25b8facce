"""JSON for a schema: it validates whatever the schema, and whatever was said."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busyhour.emulators.receptionist import Said, Tool, Unfillable, check_schema, replies, reply
from busyhour.emulators.receptionist.filling import Known, filled
from busyhour.model import JSON

KNOWN = Known(texts=["My name is Anna Miller, Tuesday at nine please."], spoken="And which phone number?")


def valid(value: Any, schema: Any, root: Any) -> bool:
    """A judge of its own, for the part of JSON Schema that the strategies below make."""
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(valid(value, item, root) for item in schema["anyOf"])
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema["type"]
    return isinstance(value, kinds.get(kind, int if kind == "integer" else int | float)) and fits(value, schema, root)


def fits(value: Any, schema: Any, root: Any) -> bool:
    """Whether a value of the right type keeps to its limits."""
    if isinstance(value, dict):
        inner = schema["properties"]
        return all(name in value and valid(value[name], inner[name], root) for name in inner)
    size = len(value) if isinstance(value, str | list) else value
    least = [schema[name] for name in ("minItems", "minLength", "minimum") if name in schema]
    most = [schema[name] for name in ("maxLength", "maximum") if name in schema]
    items = value if isinstance(value, list) else []
    return (
        all(valid(item, schema["items"], root) for item in items)
        and all(size >= item for item in least)
        and all(size <= item for item in most)
    )


LEAVES: Any = (
    st.fixed_dictionaries({"type": st.sampled_from(["string", "boolean", "null", "number", "integer"])})
    | st.fixed_dictionaries({"type": st.just("integer"), "minimum": st.integers(-50, 50)})
    | st.fixed_dictionaries({"type": st.just("integer"), "maximum": st.integers(-50, 50)})
    | st.fixed_dictionaries({"type": st.just("number"), "minimum": st.integers(-50, 50)})
    | st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 40)})
    | st.fixed_dictionaries({"type": st.just("string"), "maxLength": st.integers(0, 40)})
    | st.fixed_dictionaries({"enum": st.lists(st.text(max_size=5) | st.integers() | st.none(), min_size=1, max_size=3)})
    | st.just({"$ref": "#/$defs/leaf"})
)
NAMES = st.sampled_from(["reply", "day", "time", "name", "phone", "intent", "x", "y"])
SCHEMAS: Any = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(NAMES, inner, max_size=4).map(
            lambda made: {"type": "object", "properties": made, "required": list(made), "additionalProperties": False}
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner, "minItems": st.integers(0, 3)})
        | st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)})
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(schema=SCHEMAS)
def test_what_is_filled_validates(schema: Any) -> None:
    root = {**schema, "$defs": {"leaf": {"type": "string", "maxLength": 3}}}
    check_schema(root, strict=False)
    for known in (Known(), KNOWN):
        assert valid(filled(root, known), root, root)


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "properties", "items", "required", "enum", "anyOf", "$ref", "minItems", "pattern"])
            | st.text(max_size=3),
            inner | st.sampled_from(["object", "array", "string", "integer", "#", "#/properties/x", "(a+)+$"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=80)
@given(
    schema=st.dictionaries(st.sampled_from(["type", "properties", "items", "anyOf", "allOf"]), ANYTHING),
    strict=st.booleans(),
)
def test_no_schema_breaks_it(schema: Any, strict: bool) -> None:
    said = [Said(role="user", text="Book me in on Tuesday.")]
    assert reply(said, [Tool(name="book", parameters=schema)], force_tool="").tool == "book"
    try:
        check_schema(schema, strict=strict)
    except Unfillable:
        return
    answer = replies(said, schema=schema)
    assert json.dumps(json.loads(answer[0].text)) == answer[0].text


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "format": "date"}, "2030-01-08"),
        ({"type": "string", "pattern": r"^\d{2}:\d{2}$"}, "09:00"),
        ({"type": "string", "pattern": r"^\+[1-9]\d{1,14}$"}, "+15550142"),
        ({"const": 7}, 7),
        ({"type": ["string", "null"]}, None),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "minimum": 2, "multipleOf": 5}, 5),
        ({"type": "number", "maximum": 0.25}, 0.25),
        ({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}]}, [1, 2]),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}}, {"required": ["a"]}]}, {"a": 1}),
        ({"type": "object", "properties": {"day": {}, "notes": {}}, "required": ["other"]}, {"other": ""}),
    ],
)
def test_values_without_a_word_said(schema: dict[str, JSON], expected: JSON) -> None:
    assert filled(schema, Known()) == expected


def test_values_come_from_what_was_said() -> None:
    schema: dict[str, JSON] = {
        "type": "object",
        "properties": {
            "reply": {"type": "string"},
            "day": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "time": {"type": "string"},
            "customer_name": {"type": "string"},
            "weekday": {"enum": ["monday", "tuesday"]},
            "comment": {"type": "string"},
        },
        "required": ["reply", "day", "time", "customer_name", "weekday"],
    }
    known = Known.of([Said(role="user", text="Tuesday at nine, my name is Anna Miller")], spoken="All right.")
    assert filled(schema, known) == {
        "reply": "All right.",
        "day": "tuesday",
        "time": "09:00",
        "customer_name": "Anna Miller",
        "weekday": "tuesday",
    }


DEEP: Any = {"type": "string"}
for _ in range(100):
    DEEP = {"type": "object", "properties": {"x": DEEP}, "required": ["x"]}
WIDE = {name: {"$ref": "#"} for name in "abcdefgh"}


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        (DEEP, "nested too deeply"),
        ({"type": "object", "properties": WIDE, "required": list(WIDE)}, "no end"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "https://example.com/schema"}, "does not lead into the schema"),
        ({"type": "string", "minLength": 10**9}, "no string is found"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "no string is found"),
        ({"type": "string", "pattern": "(a+)+$"}, "no string is found"),
        ({"type": "string", "pattern": "("}, "no string is found"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "no number is found"),
        ({"type": "array", "items": {}, "minItems": 10**9}, "no end"),
    ],
)
def test_a_schema_that_cannot_be_filled_says_why(schema: dict[str, JSON], part: str) -> None:
    with pytest.raises(Unfillable, match=part):
        check_schema(schema, strict=False)


class Node(pydantic.BaseModel):
    reply: str
    message: Node | None
    answer: Node | None


def test_a_schema_that_may_go_on_for_ever_ends() -> None:
    schema = Node.model_json_schema()
    check_schema(schema, strict=False)
    said = replies([Said(role="user", text="Where can I park?")], schema=schema)[0].text
    assert Node.model_validate_json(said).reply is not None
