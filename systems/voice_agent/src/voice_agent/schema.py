"""As much of JSON Schema as our tools and forms need: types, choices, lengths, properties, alternatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TYPES: Mapping[str, type] = {"string": str, "boolean": bool, "object": dict, "null": type(None)}


def record(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An object that has all these properties and no other, as strict modes want it."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def text(about: str, *, at_least: int = 1, at_most: int) -> dict[str, Any]:
    """A string of so many characters."""
    return {"type": "string", "description": about, "minLength": at_least, "maxLength": at_most}


def or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [dict(schema), {"type": "null"}]}


def problem(schema: Mapping[str, Any], value: object, where: str = "") -> str:
    """Why the value is not valid, in a few words that begin with the place; "" if it is."""
    if options := schema.get("anyOf"):
        problems = [problem(option, value, where) for option in options]
        return "" if "" in problems else problems[0]
    kind = schema.get("type", "")
    place = where or "it"
    if kind and not isinstance(value, _TYPES[kind]):
        return f"{place} must be of the type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place} must be one of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, str):
        return _problem_of_length(schema, value, place)
    return _problem_of_object(schema, value, where) if isinstance(value, dict) else ""


def _problem_of_length(schema: Mapping[str, Any], value: str, place: str) -> str:
    at_least, at_most = schema.get("minLength", 0), schema.get("maxLength", len(value))
    if len(value.strip()) < at_least:
        return f"{place} must have {at_least} characters at least"
    return f"{place} must have {at_most} characters at most" if len(value) > at_most else ""


def _problem_of_object(schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> str:
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{where}.{name}".lstrip(".") + " is missing"
    if schema.get("additionalProperties") is False and (unknown := sorted(value.keys() - properties.keys())):
        return f"{where}.{unknown[0][:40]}".lstrip(".") + " is not known"
    told = [name for name in properties if name in value]
    problems = (problem(properties[name], value[name], f"{where}.{name}".lstrip(".")) for name in told)
    return next(filter(None, problems), "")


def without(schema: Mapping[str, Any], keywords: Sequence[str]) -> dict[str, Any]:
    """The same schema for a vendor who does not take these keywords."""
    kept = {key: value for key, value in schema.items() if key not in keywords}
    if "properties" in kept:
        kept["properties"] = {name: without(inner, keywords) for name, inner in kept["properties"].items()}
    if "anyOf" in kept:
        kept["anyOf"] = [without(option, keywords) for option in kept["anyOf"]]
    return kept
