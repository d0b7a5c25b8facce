"""Defects that can be switched on, so that the tests of a voice agent can be shown to catch them.

`DEFECT=slow_response:900,drop_turn:0.2` adds 900 ms before each reply and ignores one caller's turn in five. The value
lets a defect sit just past, or just inside, the limit of a test. None is on unless asked for; the hooks are one line
each, and do nothing then. Shares are drawn from a generator seeded by DEFECT_SEED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Kind:
    """What a defect does; the unit of its value ("ms", "s", "share" of occasions in [0, 1], "" for none)."""

    about: str
    unit: str
    default: float


KINDS = MappingProxyType(
    {
        "slow_response": Kind("waits before each reply", "ms", 1500),
        "slow_greeting": Kind("waits before the greeting", "ms", 4000),
        "slow_barge_in": Kind("goes on speaking for so long after the caller interrupts", "ms", 2500),
        "no_clear": Kind("goes on speaking when interrupted: neither clears nor drops what is queued", "", 1),
        "interrupts": Kind("cuts in 600 ms after the caller began to speak", "share", 1),
        "drop_turn": Kind("ignores what the caller said", "share", 1),
        "mishears": Kind("loses frames of the caller's sound on their way to speech recognition", "share", 0.5),
        "deaf": Kind("hears nothing any more from so many seconds into the call", "s", 0),
        "gappy_audio": Kind("falls silent for so long in the middle of each reply", "ms", 300),
        "hang_up_early": Kind("hangs up after a reply that was no goodbye", "share", 1),
        "refuse_call": Kind("rejects calls", "share", 1),
    }
)


@dataclass(frozen=True, slots=True)
class Switched:
    """The defects that are on, by name, with their values."""

    values: MappingProxyType[str, float]

    @classmethod
    def parse(cls, text: str) -> Switched:
        """`name` or `name:value`, separated by commas. Raises ValueError with the names that there are."""
        values: dict[str, float] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = item.partition(":")
            if name not in KINDS:
                raise ValueError(f"there is no defect {name!r}; there are: {', '.join(sorted(KINDS))}")
            values[name] = _number(name, value) if value else KINDS[name].default
        return cls(MappingProxyType(values))


def _number(name: str, value: str) -> float:
    unit = KINDS[name].unit
    if not unit:
        raise ValueError(f"defect {name} takes no value, not {value!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"defect {name} takes a number ({unit}), not {value!r}") from None
    if not 0 <= number <= (1 if unit == "share" else 1e9):
        raise ValueError(f"defect {name} takes a {unit} of at least 0{' and at most 1' if unit == 'share' else ''}")
    return number


class Defects:
    """The hooks. `harmed(name)` is called each time a defect does its harm."""

    def __init__(self, switched: Switched, random: Random, harmed: Callable[[str], None]) -> None:
        self._values = switched.values
        self._random = random
        self._harmed = harmed

    def strikes(self, name: str) -> bool:
        """Whether the defect is on and, if it has a share, whether this occasion is one of it."""
        share = self._values.get(name)
        if share is None or (share < 1 and self._random.random() >= share):
            return False
        self._harmed(name)
        return True

    def seconds(self, name: str) -> float:
        """The value of a defect in seconds; 0.0 when it is off."""
        value = self._values.get(name)
        if not value:
            return 0.0
        self._harmed(name)
        return value / 1000 if KINDS[name].unit == "ms" else value

    def deaf(self, into_call_seconds: float) -> bool:
        """Whether the caller is not heard any more."""
        after = self._values.get("deaf")
        deaf = after is not None and into_call_seconds >= after
        if deaf:
            self._harmed("deaf")
        return deaf
