"""Records to begin with: a list in the plan, or a file of them. Pure but for reading the file.

A file is JSON (a list of records, or an object whose "vectors" is one) or JSON Lines (a record on each line). A record
is what an upsert takes, {"id", "values", "metadata", "sparseValues"}, and may name its "namespace".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from busyhour.emulators.pinecone.refusal import Refused
from busyhour.emulators.pinecone.request import checked_record, namespace_of
from busyhour.emulators.pinecone.store import Record
from busyhour.errors import PlanError

FILE_BYTES_AT_MOST = 1 << 29


def read(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """The records of a file, each with where it stands. Raises PlanError."""
    try:
        if path.stat().st_size > FILE_BYTES_AT_MOST:
            raise PlanError(f"records: {path} is longer than {FILE_BYTES_AT_MOST >> 20} MB; give fewer records.")
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise PlanError(
            f"records: {path} cannot be read ({problem.strerror or problem}); give an existing file."
        ) from None
    except UnicodeDecodeError:
        raise PlanError(f"records: {path} is not text in UTF-8; give JSON or JSON Lines.") from None
    return list(_from_text(text, str(path)))


def _from_text(text: str, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > 1 and _parses(lines[0][1]):
        for number, line in lines:
            yield f"{path}, line {number}", _loaded(line, f"{path}, line {number}")
        return
    whole = _loaded(text, path)
    records = whole.get("vectors", [whole] if "id" in whole else None) if isinstance(whole, dict) else whole
    if not isinstance(records, list):
        raise PlanError(f"records: {path} holds no list of records; give a list, or one record on each line.")
    for index, record in enumerate(records):
        yield f"{path}, record {index}", record


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise PlanError(f"records: {where} is not JSON: {problem}.") from None


def dimension_of(records: Sequence[tuple[str, Any]]) -> int | None:
    """The length of the first record's values, None without one."""
    values = records[0][1].get("values") if records and isinstance(records[0][1], dict) else None
    return len(values) if isinstance(values, list) and values else None


def checked(records: Sequence[tuple[str, Any]], dimension: int) -> list[tuple[str, Record]]:
    """The records with their namespaces. Raises PlanError at the first that an upsert would refuse."""
    kept = []
    for where, form in records:
        try:
            if not isinstance(form, dict):
                raise Refused(f"expected an object, got {form!r:.80}")
            rest = {key: value for key, value in form.items() if key != "namespace"}
            kept.append((namespace_of(form), checked_record(rest, dimension, "record")))
        except Refused as problem:
            raise PlanError(f"records: {where}: {problem.message.rstrip('.')}.") from None
    return kept
