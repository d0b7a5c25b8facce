"""How an entry lies in a journal: a row of its table, on the journal's own time axis.

The axis is the monotonic clock of the machine. A run that is continued after the machine was started anew finds that
clock at nought again: its instants are moved, so that they follow those that are there (`shift_ns`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from busyhour import sounds
from busyhour.model import JSON, Mark, Operation, Sample
from busyhour.recording import Recorded, Sound

Cell: TypeAlias = str | int | float | bytes | None
Row: TypeAlias = tuple[Cell, ...]


def row(entry: Operation | Sample | Mark, shift_ns: int = 0) -> tuple[str, Row]:
    """Its table and its cells. Raises TypeError for a detail that is no JSON."""
    match entry:
        case Sample():
            return "samples", (entry.at_ns + shift_ns, text(entry.source), text(entry.name), entry.value, entry.count)
        case Mark():
            detail = as_json(_moved(entry.detail, shift_ns))
            return "marks", (entry.at_ns + shift_ns, text(entry.kind), text(entry.name), detail)
        case Operation():
            return "operations", (
                text(entry.id),
                text(entry.kind),
                text(entry.phase),
                entry.due_ns + shift_ns,
                None if entry.began_ns is None else entry.began_ns + shift_ns,
                None if entry.ended_ns is None else entry.ended_ns + shift_ns,
                text(entry.outcome),
                text(entry.parent),
                text(entry.who),
                as_json(_moved(entry.detail, shift_ns)),
            )


def sound_row(recorded: Recorded, sound: Sound, shift_ns: int = 0) -> Row:
    call, phase, began_ns, ended_ns, *rest = sounds.row(recorded, sound)
    assert isinstance(began_ns, int)
    assert isinstance(ended_ns, int)
    return (call, phase, began_ns + shift_ns, ended_ns + shift_ns, *rest)


def text(said: str) -> str:
    """What the far end sent us may hold half a surrogate pair, which no UTF-8 file can."""
    return said if said.isascii() else said.encode("utf-8", "backslashreplace").decode("utf-8")


def as_json(value: JSON) -> str:
    return json.dumps(value, separators=(",", ":"), default=_plain) if value != {} else "{}"


def _moved(detail: Mapping[str, JSON], shift_ns: int) -> Mapping[str, JSON]:
    """In a detail, all that ends in "_ns" is an instant; 0 is one that never came."""
    if not shift_ns:
        return detail
    return {
        name: value + shift_ns if name.endswith("_ns") and isinstance(value, int) and value else value
        for name, value in detail.items()
    }


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{value!r} is no JSON")
