"""What the readings of both APIs share: types, ranges, schemas, and the words of their errors. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from busyhour.emulators.language_model import Refused
from busyhour.emulators.receptionist import Said, Unfillable, check_schema
from busyhour.model import JSON

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def object_of(raw: bytes) -> dict[str, Any]:
    """A request's body. Raises Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Refused(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from None
    if not isinstance(body, dict):
        raise Refused(f"Invalid type for request body: expected an object, but got {kind_of(body)} instead.")
    return body


def typed(body: Mapping[str, Any], name: str, kind: type) -> Any:
    """A value of that type, or None. Raises Refused."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        expected = {bool: "a boolean", str: "a string", dict: "an object", list: "an array"}[kind]
        raise wrong_type(name, expected, value)
    return value


def ranged(body: Mapping[str, Any], name: str, low: float, high: float, *, whole: bool = False) -> float | None:
    """A number from low to high, or None. Raises Refused."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise wrong_type(name, "an integer" if whole else "a number", value)
    if not low <= value <= high:
        raise Refused(
            f"Invalid '{name}': expected a value from {low} to {high}, but got {value} instead.",
            param=name,
            code="integer_below_min_value" if value < low else "integer_above_max_value",
        )
    return float(value)


def schema_of(form: object, where: str, conversation: Sequence[Said]) -> Mapping[str, JSON] | None:
    """The JSON schema an answer must validate against: {} for any object, None for text. Raises Refused.

    form: a format as responses have it, {"type": "json_schema", "name", "schema", "strict"}; where: its place.
    """
    if form is None:
        return None
    if not isinstance(form, dict):
        raise wrong_type(where, "an object", form)
    kind = form.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        if not any("json" in said.text.lower() for said in conversation):
            raise Refused(
                f"'messages' must contain the word 'json' in some form, to use '{where}' of type 'json_object'.",
                param="messages",
            )
        return {}
    if kind != "json_schema":
        raise invalid_value(kind, f"{where}.type", ("text", "json_object", "json_schema"))
    name, schema = form.get("name"), form.get("schema")
    if not isinstance(name, str):
        raise missing(f"{where}.name")
    if not _NAME.fullmatch(name):
        raise Refused(
            f"Invalid '{where}.name': string does not match pattern. Expected '^[a-zA-Z0-9_-]+$', 64 at most.",
            param=f"{where}.name",
            code="invalid_value",
        )
    if schema is None:
        raise missing(f"{where}.schema")
    if not isinstance(schema, dict):
        raise wrong_type(f"{where}.schema", "an object", schema)
    try:
        check_schema(schema, strict=bool(typed(form, "strict", bool)))
    except Unfillable as problem:
        raise Refused(
            f"Invalid schema for response_format '{name}': {problem}", param=where, code="invalid_json_schema"
        ) from None
    return schema


def missing(name: str) -> Refused:
    return Refused(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def invalid_value(value: object, where: str, supported: Sequence[str]) -> Refused:
    return Refused(
        f"Invalid value: {value!r:.80}. Supported values are: {', '.join(map(repr, supported))}.",
        param=where,
        code="invalid_value",
    )


def wrong_type(name: str, expected: str, got: object) -> Refused:
    return Refused(
        f"Invalid type for '{name}': expected {expected}, but got {kind_of(got)} instead.",
        param=name,
        code="invalid_type",
    )


def kind_of(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
