"""How the sound of calls lies in a journal: one row for each, silence left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busyhour.recording import Figures, Recorded, Sound, Track

# The columns with the sound are last: SQLite reads what stands before them without them. `runs` are pairs of
# little-endian 64-bit integers, as `Track` has them.
SCHEMA = """
CREATE TABLE recordings (
    call TEXT PRIMARY KEY, phase TEXT NOT NULL, began_ns INTEGER NOT NULL, ended_ns INTEGER NOT NULL,
    codec TEXT NOT NULL, rate_hz INTEGER NOT NULL, bytes INTEGER NOT NULL, detail TEXT NOT NULL,
    silence BLOB NOT NULL, caller_runs BLOB NOT NULL, agent_runs BLOB NOT NULL,
    caller BLOB NOT NULL, agent BLOB NOT NULL
);
"""
INSERT = "INSERT OR REPLACE INTO recordings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
DELETE = "DELETE FROM recordings WHERE call = ?"
EXISTS = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'recordings'"
SELECT_RECORDED = (
    "SELECT call, phase, began_ns, ended_ns, codec, rate_hz, bytes, detail FROM recordings"
    " WHERE ?1 IS NULL OR phase = ?1 ORDER BY began_ns, call"
)
SELECT_SOUND = (
    "SELECT began_ns, ended_ns, codec, rate_hz, silence, caller_runs, agent_runs, caller, agent, detail"
    " FROM recordings WHERE call = ?1"
)
_BYTES = 6  # the place of that column


def row(recorded: Recorded, sound: Sound) -> tuple[str | int | bytes, ...]:
    detail = {
        "figures": asdict(recorded.figures),
        # From the beginning, so that who moves a row to another clock need not know of them.
        "clears": [at_ns - recorded.began_ns for at_ns in recorded.clears_ns],
        "marks": [(at_ns - recorded.began_ns, name) for at_ns, name in recorded.marks],
        "cut": recorded.cut,
    }
    return (
        _text(recorded.call),
        _text(recorded.phase),
        recorded.began_ns,
        recorded.ended_ns,
        recorded.codec,
        recorded.rate_hz,
        recorded.bytes,
        dumps(detail, separators=(",", ":")),
        sound.silence,
        sound.caller.runs.astype("<i8").tobytes(),
        sound.agent.runs.astype("<i8").tobytes(),
        sound.caller.octets,
        sound.agent.octets,
    )


def bytes_of(row: Sequence[object]) -> int:
    """How much sound there is in a row."""
    size = row[_BYTES]
    assert isinstance(size, int)
    return size


def recorded(columns: Sequence[Any], detail: Mapping[str, Any]) -> Recorded:
    call, phase, began_ns, ended_ns, codec, rate_hz, size = columns
    return Recorded(
        call=call,
        phase=phase,
        began_ns=began_ns,
        ended_ns=ended_ns,
        codec=codec,
        rate_hz=rate_hz,
        bytes=size,
        figures=Figures(**detail["figures"]),
        **_events(detail, began_ns),
    )


def sound(columns: Sequence[Any], detail: Mapping[str, Any]) -> Sound:
    began_ns, ended_ns, codec, rate_hz, silence, caller_runs, agent_runs, caller, agent = columns
    return Sound(
        began_ns=began_ns,
        ended_ns=ended_ns,
        codec=codec,
        rate_hz=rate_hz,
        silence=silence,
        caller=Track(caller, _runs(caller_runs)),
        agent=Track(agent, _runs(agent_runs)),
        **_events(detail, began_ns),
    )


def not_there(path: Path, call: str, recorded: Sequence[str], *, happened: bool) -> str:
    """Why there is no sound of this call, and what to ask for instead."""
    if not recorded:
        return (
            f"{path}: it has no recordings: its run had no calls with media, or they were switched off; "
            "run the plan with --record all, or --record 20"
        )
    if happened:
        return f"{path}: the call {call} was not kept as sound; run the plan with --record all to keep every call"
    near = get_close_matches(call, recorded, n=3, cutoff=0.3) or recorded[:3]
    return f"{path}: there is no call {call!r} with sound; there is {', '.join(near)} ({len(recorded)} in all)"


def _events(detail: Mapping[str, Any], began_ns: int) -> dict[str, Any]:
    return {
        "cut": detail["cut"],
        "clears_ns": tuple(began_ns + ns for ns in detail["clears"]),
        "marks": tuple((began_ns + ns, name) for ns, name in detail["marks"]),
    }


def _runs(octets: bytes) -> npt.NDArray[np.int64]:
    return np.frombuffer(octets, "<i8").reshape(-1, 2).astype(np.int64)


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
