"""Metadata and the filters on it, as the vector database reads them. Pure.

Source: the vendor's guide to metadata filtering: $eq $ne $gt $gte $lt $lte $in $nin $exists $and $or; a bare value is
$eq, several fields are $and; a list of strings matches when one of its members does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from busyhour.emulators.pinecone.refusal import Refused
from busyhour.model import JSON

Metadata = Mapping[str, JSON]
Holds = Callable[[Metadata], bool]

METADATA_BYTES_AT_MOST = 40 * 1024
_DEPTH_AT_MOST = 32
_CHOICES_AT_MOST = 10_000
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}
_OPERATORS = ("$eq", "$ne", *_ORDER, "$in", "$nin", "$exists")


def checked_metadata(value: Any, where: str) -> dict[str, JSON]:
    """Metadata of one record: strings, numbers, booleans and lists of strings. Raises Refused."""
    if not isinstance(value, dict):
        raise Refused(f"{where}: expected an object, got {_said(value)}")
    for key, item in value.items():
        if key.startswith("$"):
            raise Refused(f"{where}: a metadata key must not begin with '$', got {_said(key)} for key {key[:80]!r}")
        if not _is_scalar(item) and not (isinstance(item, list) and all(isinstance(one, str) for one in item)):
            raise Refused(
                f"Metadata value must be a string, number, boolean or list of strings, got "
                f"{_said(item)} for field '{key[:80]}'"
            )
    return value


def holds(form: Any) -> Holds:
    """Whether a record's metadata passes the filter, as a function. Raises Refused."""
    return _all_of(form, 0)


def _all_of(form: Any, depth: int) -> Holds:
    if not isinstance(form, dict):
        raise Refused(f"filter: expected an object, got {_said(form)}")
    if depth > _DEPTH_AT_MOST:
        raise Refused(f"The filter is nested deeper than {_DEPTH_AT_MOST} levels")
    parts = [_part(key, value, depth) for key, value in form.items()]
    if len(parts) == 1:
        return parts[0]
    return lambda metadata: all(part(metadata) for part in parts)


def _part(key: str, value: Any, depth: int) -> Holds:
    if key in ("$and", "$or"):
        if not isinstance(value, list) or not value:
            raise Refused(f"the {key} operator must be followed by a list of filters, got {_said(value)} instead")
        parts = [_all_of(one, depth + 1) for one in value]
        if key == "$and":
            return lambda metadata: all(part(metadata) for part in parts)
        return lambda metadata: any(part(metadata) for part in parts)
    if key.startswith("$"):
        raise Refused(f"{key[:80]} is not a valid operator at this level")
    if not isinstance(value, dict):
        return _equal(key, value)
    if not value:
        raise Refused(f"the condition on field '{key[:80]}' is empty")
    conditions = [_condition(key, operator, wanted) for operator, wanted in value.items()]
    return lambda metadata: all(condition(metadata) for condition in conditions)


def _condition(field: str, operator: str, wanted: Any) -> Holds:
    if operator == "$eq":
        return _equal(field, wanted)
    if operator == "$ne":
        return _not(_equal(field, wanted))
    if operator in _ORDER:
        return _ordered(field, operator, wanted)
    if operator in ("$in", "$nin"):
        among = _among(field, operator, wanted)
        return among if operator == "$in" else _not(among)
    if operator == "$exists":
        if not isinstance(wanted, bool):
            raise Refused(f"the $exists operator must be followed by a boolean, got {_said(wanted)} instead")
        return lambda metadata: (field in metadata) is wanted
    raise Refused(f"{operator[:80]} is not a valid operator; known are {', '.join(_OPERATORS)}, $and, $or")


def _not(part: Holds) -> Holds:
    return lambda metadata: not part(metadata)


def _equal(field: str, wanted: Any) -> Holds:
    if not _is_scalar(wanted):
        raise Refused(f"the $eq operator must be followed by a string, boolean or number, got {_said(wanted)} instead")
    return lambda metadata: _matches(metadata.get(field), wanted)


def _matches(value: JSON, wanted: Any) -> bool:
    if isinstance(value, list):
        return wanted in value
    # True is 1 to Python; to the vendor a boolean and a number are never equal.
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _ordered(field: str, operator: str, wanted: Any) -> Holds:
    if not _is_number(wanted):
        raise Refused(f"the {operator} operator must be followed by a number, got {_said(wanted)} instead")
    compare = _ORDER[operator]

    def holds(metadata: Metadata) -> bool:
        value = metadata.get(field)
        return isinstance(value, int | float) and not isinstance(value, bool) and compare(value, wanted)

    return holds


def _among(field: str, operator: str, wanted: Any) -> Holds:
    if not isinstance(wanted, list) or not all(_is_scalar(one) for one in wanted):
        raise Refused(
            f"the {operator} operator must be followed by a list of strings, booleans or numbers, "
            f"got {_said(wanted)} instead"
        )
    if len(wanted) > _CHOICES_AT_MOST:
        raise Refused(f"the {operator} operator takes at most {_CHOICES_AT_MOST} values, got {len(wanted)}")
    choices = {(isinstance(one, bool), one) for one in wanted}

    def holds(metadata: Metadata) -> bool:
        value = metadata.get(field)
        if isinstance(value, list):
            return any((False, one) in choices for one in value)
        return _is_scalar(value) and (isinstance(value, bool), value) in choices

    return holds


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool) or _is_number(value)


def _is_number(value: object) -> bool:
    # An integer is always finite, and one that is too long for a float makes isfinite raise.
    return not isinstance(value, bool) and (
        isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    )


def _said(value: object) -> str:
    return f"{value!r:.80}"
