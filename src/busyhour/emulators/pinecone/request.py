"""Reading what the vector database is asked: what is accepted, and the error each mistake is answered with. Pure.

Source: the vendor's API reference and its page of limits. The data plane is a gRPC service behind a JSON translator,
so a field may be written in camelCase or in snake_case, and one that the message does not have is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from busyhour.emulators.pinecone.filters import Holds, checked_metadata, holds
from busyhour.emulators.pinecone.refusal import Refused
from busyhour.emulators.pinecone.store import Floats, Record, measured

BATCH_AT_MOST = 1_000
UPSERT_BYTES_AT_MOST = 2 * 1024 * 1024
TOP_K_AT_MOST = 10_000
LIST_AT_MOST = 100
ID_CHARACTERS_AT_MOST = 512
NAMESPACE_CHARACTERS_AT_MOST = 512
SPARSE_AT_MOST = 2_048
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def parsed(raw: bytes, fields: Collection[str]) -> dict[str, Any]:
    """The body as an object with camelCase keys out of `fields`. Raises Refused."""
    try:
        body = json.loads(raw or b"{}", parse_constant=_no_number)
    except (ValueError, RecursionError) as problem:
        raise Refused(f"Invalid JSON payload received: {problem}") from None
    if not isinstance(body, dict):
        raise Refused(f"Invalid JSON payload received: expected an object, got {_said(body)}")
    return _renamed(body, fields, "")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _renamed(form: Mapping[str, Any], fields: Collection[str], where: str) -> dict[str, Any]:
    known = {name: name for name in fields} | {_snake(name): name for name in fields}
    for key in form:
        if key not in known:
            raise Refused(f"{where}{key[:80]}: Cannot find field.")
    return {known[key]: value for key, value in form.items() if value is not None}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def text(form: Mapping[str, Any], name: str) -> str:
    """A string field, "" when absent. Raises Refused."""
    value = form.get(name, "")
    if not isinstance(value, str):
        raise Refused(f"{name}: expected a string, got {_said(value)}")
    return value


def flag(form: Mapping[str, Any], name: str) -> bool:
    value = form.get(name, False)
    if not isinstance(value, bool):
        raise Refused(f"{name}: expected a boolean, got {_said(value)}")
    return value


def namespace_of(form: Mapping[str, Any], name: str = "namespace") -> str:
    """The namespace asked for; "__default__" is another name of "". Raises Refused."""
    value = text(form, name)
    if len(value) > NAMESPACE_CHARACTERS_AT_MOST or not value.isascii() or "\x00" in value:
        raise Refused(f"Namespace must be at most {NAMESPACE_CHARACTERS_AT_MOST} ASCII characters, got {_said(value)}")
    return "" if value == "__default__" else value


def checked_id(value: Any, where: str = "id") -> str:
    if not isinstance(value, str):
        raise Refused(f"{where}: expected a string, got {_said(value)}")
    if not value:
        raise Refused("Vector ID must not be empty")
    if not value.isascii() or "\x00" in value:
        raise Refused(f"Vector ID must be ASCII, but got {_said(value)}")
    if len(value) > ID_CHARACTERS_AT_MOST:
        raise Refused(f"Vector ID must be at most {ID_CHARACTERS_AT_MOST} characters, got {len(value)}")
    return value


def checked_ids(values: Any) -> list[str]:
    """The ids of a fetch or a delete. Raises Refused."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise Refused(f"ids: expected a list, got {_said(values)}")
    if not values:
        raise Refused("ids must not be empty")
    if len(values) > BATCH_AT_MOST:
        raise Refused(f"The number of ids must be at most {BATCH_AT_MOST}, got {len(values)}")
    return [checked_id(value, f"ids[{index}]") for index, value in enumerate(values)]


def checked_values(values: Any, dimension: int, where: str, what: str = "Vector") -> Floats:
    """Dense values of the right dimension. Raises Refused."""
    if not isinstance(values, list):
        raise Refused(f"{where}: expected a list of numbers, got {_said(values)}")
    if len(values) != dimension:
        raise Refused(f"{what} dimension {len(values)} does not match the dimension of the index {dimension}")
    # Thousands of numbers a request: looked at one by one only to say which is wrong.
    if set(map(type, values)) <= {int, float}:
        with suppress(OverflowError):  # an integer longer than any float
            array = np.array(values, dtype=np.float64)
            if (np.abs(array) <= _FLOAT32_MAX).all():
                return array.astype(np.float32)
    for index, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{where}[{index}]: invalid value {_said(value)} for type TYPE_FLOAT")
        if not abs(value) <= _FLOAT32_MAX:
            raise Refused(f"{where}[{index}]: {value!r:.40} is out of the range of TYPE_FLOAT")
    return np.array(values, dtype=np.float32)


def checked_sparse(form: Any, where: str) -> dict[int, float]:
    """Sparse values as index -> value. Raises Refused."""
    if not isinstance(form, dict):
        raise Refused(f"{where}: expected an object, got {_said(form)}")
    form = _renamed(form, ("indices", "values"), f"{where}.")
    indices, values = form.get("indices", []), form.get("values", [])
    if not isinstance(indices, list) or not isinstance(values, list) or len(indices) != len(values):
        raise Refused(f"{where}: Sparse vector must have as many indices as values")
    if not 0 < len(indices) <= SPARSE_AT_MOST:
        raise Refused(f"{where}: Sparse vector must contain from 1 to {SPARSE_AT_MOST} values, got {len(indices)}")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 2**32:
            raise Refused(f"{where}.indices: invalid value {_said(index)} for type TYPE_UINT32")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _FLOAT32_MAX:
            raise Refused(f"{where}.values: invalid value {_said(value)} for type TYPE_FLOAT")
    if len(set(indices)) != len(indices):
        raise Refused(f"{where}: Sparse vector must not contain an index twice")
    return {index: float(value) for index, value in zip(indices, values, strict=True)}


def checked_record(form: Any, dimension: int, where: str) -> Record:
    """One vector of an upsert. Raises Refused."""
    if not isinstance(form, dict):
        raise Refused(f"{where}: expected an object, got {_said(form)}")
    form = _renamed(form, ("id", "values", "sparseValues", "metadata"), f"{where}.")
    key = checked_id(form.get("id", ""), f"{where}.id")
    values = checked_values(form.get("values", []), dimension, f"{where}.values")
    if not values.any():
        raise Refused(f"Dense vectors must contain at least one non-zero value. Vector ID {key[:80]} has only zeros")
    metadata = checked_metadata(form.get("metadata", {}), f"{where}.metadata")
    sparse = checked_sparse(form["sparseValues"], f"{where}.sparseValues") if form.get("sparseValues") else {}
    return measured(Record(id=key, values=values, metadata=metadata, sparse=sparse))


def checked_batch(form: Any, dimension: int) -> list[Record]:
    """The vectors of an upsert. Raises Refused."""
    if not isinstance(form, list):
        raise Refused(f"vectors: expected a list, got {_said(form)}")
    if not form:
        raise Refused("Empty upsert request: vectors must hold at least one vector")
    if len(form) > BATCH_AT_MOST:
        raise Refused(f"Number of vectors in upsert request {len(form)} exceeds the maximum of {BATCH_AT_MOST}")
    return [checked_record(one, dimension, f"vectors[{index}]") for index, one in enumerate(form)]


def filter_of(form: Mapping[str, Any], *, empty: str = "") -> Holds | None:
    """The filter, None without one; `empty` refuses one without conditions. Raises Refused."""
    asked = form.get("filter")
    if asked is None:
        return None
    if asked == {}:
        if empty:
            raise Refused(empty)
        return None
    return holds(asked)


def whole(form: Mapping[str, Any], name: str, *, default: int, at_most: int) -> int:
    """A positive integer field, from JSON or from a query string. Raises Refused."""
    value = form.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(f"{name}: invalid value {_said(value)} for type TYPE_UINT32")
    if not 1 <= value <= at_most:
        raise Refused(f"{name} must be from 1 to {at_most}, got {_said(value)}")
    return value


def _said(value: object) -> str:
    return f"{value!r:.80}"
