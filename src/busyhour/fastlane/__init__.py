"""The fast lane: what is done for each of the hundred frames a second of a call, and for each HTTP request, compiled.

A frame of 20 ms that is as nearly all are takes the fast lane, in which no Python is run: numbered, masked and handed
to the kernel on the way out; stamped, recognised, decoded and judged on the way in. Any other (a mark, a frame of
another length, one of a call that is recorded or disturbed, the first after silence) goes the long way, in Python, in
the same order. So the lane is a short cut and nothing else: without it everything is the same, but for the number of
calls that a core carries (docs/decisions/0021-a-compiled-lane.md) and for when a frame came, which is when it is read
and not when the kernel had it (docs/decisions/0022-when-a-frame-arrived.md). So with requests: a plain answer is taken.

It is compiled when busyhour is installed, where there is a C compiler. `WHY_NOT` says why it is not in use, "" if it
is; BUSYHOUR_PLAIN=1 in the environment leaves it out.
"""

from __future__ import annotations

import os
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

NO_TAIL = -1
LEAST_GAP_NS = 10_000_000  # a shorter hole in what plays is concealed by any receiver
UNREAD_NS_MAX = 100_000_000  # what has arrived is taken for read after that time, though it be not
NO_CHUNK = -1

if TYPE_CHECKING:
    from busyhour.fastlane.plain import (
        Asked,
        ConnectionState,
        DisturbanceState,
        Ear,
        FloodState,
        InboxState,
        LegState,
        Meter,
        PlayoutState,
        Script,
        Slot,
        SpeakingState,
        StreamState,
        TallyState,
        WheelState,
        decimal_edges,
        ear_of,
        meter_of,
        tick_all,
        upper_edges,
    )

__all__ = [
    "LEAST_GAP_NS",
    "NO_CHUNK",
    "NO_TAIL",
    "UNREAD_NS_MAX",
    "WHY_NOT",
    "Asked",
    "ConnectionState",
    "DisturbanceState",
    "Ear",
    "FloodState",
    "InboxState",
    "LegState",
    "Meter",
    "PlayoutState",
    "Script",
    "Slot",
    "SpeakingState",
    "StreamState",
    "TallyState",
    "WheelState",
    "decimal_edges",
    "ear_of",
    "meter_of",
    "tick_all",
    "upper_edges",
]


def _compiled() -> ModuleType:
    """Raises ImportError if it is of another source, and whatever modules raise that do not fit together."""
    found = import_module("busyhour.fastlane._compiled")
    source = Path(__file__).with_name("_compiled.pyx")
    if source.exists() and sha256(_sources(source)).hexdigest() != found.SOURCE_SHA256:
        raise ImportError("its source has changed since it was compiled: run make, or python hatch_build.py")
    return found


def _sources(first: Path) -> bytes:
    """As hatch_build.py reads them."""
    return b"".join(path.read_bytes() for path in (first, *sorted(first.parent.glob("*.pxi"))))


def _lane() -> tuple[ModuleType, str]:
    if os.environ.get("BUSYHOUR_PLAIN"):
        why_not = "BUSYHOUR_PLAIN is set"
    else:
        try:
            return _compiled(), ""
        except Exception as problem:
            why_not = str(problem)
    return import_module("busyhour.fastlane.plain"), why_not


_LANE, WHY_NOT = _lane()
globals().update({name: getattr(_LANE, name) for name in __all__ if name not in globals()})
