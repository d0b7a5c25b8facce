"""Defects that can be switched on, so that the tests of a voice agent can be shown to catch them.

`DEFECT=slow_response:900,drop_turn:0.2` adds 900 ms before each reply and ignores one caller's turn in five;
`slow_response:900@0.1` adds them before one reply in ten. Value and share let a defect sit just past, or just inside,
the limit of a test. Some are benign: a careless test takes them for defects. None is on unless asked for; the hooks are
one line each, and do nothing then. Shares are drawn from a generator seeded by DEFECT_SEED.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Kind:
    """What a defect does on which occasions; the unit of its value ("ms", "s", "KB", "share" of the occasions, ""
    for none).

    `default` is the value that it has unless told; only the `first` so many occasions are any (0: all are).
    """

    about: str
    occasion: str
    unit: str
    default: float
    first: int = 0


KINDS = MappingProxyType(
    {
        "slow_response": Kind("waits before the reply", "reply", "ms", 1500),
        "slow_greeting": Kind("waits before the greeting", "call", "ms", 4000),
        "slow_barge_in": Kind("goes on speaking for so long after the caller interrupts", "interruption", "ms", 2500),
        "no_clear": Kind("goes on speaking: neither clears nor drops what is queued", "interruption", "", 0),
        "interrupts": Kind("cuts in 600 ms after the caller began to speak", "utterance", "share", 1),
        "drop_turn": Kind("ignores what the caller said", "turn", "share", 1),
        "mishears": Kind("loses sound of the caller on its way to speech recognition", "frame of 20 ms", "share", 0.5),
        "deaf": Kind("hears nothing any more from so many seconds into the call", "call", "s", 0),
        "gappy_audio": Kind("falls silent for so long, 0.6 s into what is said", "reply or greeting", "ms", 300),
        "hang_up_early": Kind("hangs up after a reply that was no goodbye", "reply", "share", 1),
        "refuse_call": Kind("rejects the call", "call", "share", 1),
        # What the field reports of vendors that fail.
        "tts_zero_audio_trusted": Kind("takes a synthesis without sound for a success", "synthesis", "", 0),
        "llm_no_token_timeout_off": Kind(
            "waits for the first token for ever, once there are headers", "request", "", 0
        ),
        "truncate_ignored": Kind("takes a reply that broke off for a complete one", "request", "", 0),
        "failover_loses_settings": Kind(
            "forgets the system prompt at a failover, and waits so long before each later turn of the call",
            "turn",
            "s",
            3,
        ),
        "no_failover": Kind("knows of the first vendor of each chain only", "request", "", 0),
        "no_replay": Kind(
            "loses the turn at a failover: only the next one is put to the next vendor", "failover", "", 0
        ),
        "breaker_off": Kind("does not open circuit breakers", "opening", "", 0),
        "breaker_never_closes": Kind("does not close circuit breakers", "look", "", 0),
        # What an agent does that trusts its model.
        "tool_unchecked": Kind("cancels appointments whatever name and number the model gives", "cancellation", "", 0),
        "summary_free_text": Kind("asks for no schema in the summary, and logs what comes", "call", "", 0),
        # What the field reports of calls and processes.
        "zombie_call": Kind("keeps the call open for so long after its end", "call", "s", 60),
        "speaking_mute": Kind("believes to be speaking, and is silent until the caller speaks", "reply", "share", 1),
        "spin_after_hangup": Kind("burns a core for so long after the call", "call", "s", 60),
        "serial_dispatch": Kind("sets calls up one after the other, each in so long", "call", "ms", 1000),
        "gil_contention": Kind(
            "with 3 calls or more, blocks the event loop for so long in each 20 ms, for each call", "call", "ms", 4
        ),
        # Leaks: what a call leaves behind for ever.
        "leak_python": Kind("keeps so much in objects of Python, in a registry of the module's", "call", "KB", 50),
        "leak_native": Kind("keeps so much memory of the C heap that no object of Python knows of", "call", "KB", 50),
        "leak_native_per_second": Kind("the same with time, calls or none", "second", "KB", 4),
        "leak_fd": Kind("leaves a descriptor open", "call", "", 0),
        "leak_task": Kind("leaves a task that waits for ever", "call", "", 0),
        "leak_on_refused": Kind("keeps so much in objects of Python", "call without a conversation", "KB", 50),
        "leak_task_on_refused": Kind("leaves a task that waits for ever", "call without a conversation", "", 0),
        # Benign.
        "cache_warmup": Kind("fills a cache that will have so much, the slower the fuller it is", "call", "KB", 20480),
        "sawtooth_cache": Kind("puts so much into a cache, which is emptied every 20 calls", "call", "KB", 512),
        "fragmentation": Kind("takes so much in small blocks and frees all but one of 32", "call", "KB", 8192),
        "pool_high_water": Kind("keeps so much memory for the next call to use", "call", "KB", 1024),
        "warm_up": Kind("waits before the first 5 replies of the process", "reply", "ms", 150, first=5),
    }
)


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of a defect, in the unit of its kind (0 if it has none), and on what share of the occasions."""

    value: float
    share: float


@dataclass(frozen=True, slots=True)
class Switched:
    """The defects that are on, by name."""

    doses: Mapping[str, Dose]

    @classmethod
    def parse(cls, text: str) -> Switched:
        """`name`, `name:value`, `name@share` or `name:value@share`, separated by commas.

        Raises ValueError: what is wrong, and the names that there are.
        """
        doses: dict[str, Dose] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            named, at, share = item.partition("@")
            name, colon, value = named.partition(":")
            if name not in KINDS:
                raise ValueError(f"there is no defect {name!r}; there are: {', '.join(sorted(KINDS))}")
            doses[name] = _dose(name, value if colon else None, share if at else None)
        return cls(MappingProxyType(doses))


def _dose(name: str, value: str | None, share: str | None) -> Dose:
    kind = KINDS[name]
    if kind.unit == "share":
        if share is not None:
            raise ValueError(f"defect {name} takes no '@': its value is the share already, as in {name}:0.2")
        return Dose(0, kind.default if value is None else _share(f"defect {name}", value))
    if value is not None and not kind.unit:
        raise ValueError(f"defect {name} takes no value, not {value!r}; a share is written {name}@0.2")
    return Dose(
        kind.default
        if value is None
        else _number(f"defect {name}", value, f"a number ({kind.unit}) of at least 0", 1e9),
        1 if share is None else _share(f"after the '@', defect {name}", share),
    )


def _share(subject: str, text: str) -> float:
    return _number(subject, text, "a share of at least 0 and at most 1", 1)


def _number(subject: str, text: str, expected: str, at_most: float) -> float:
    """Raises ValueError, also for "nan"."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= at_most:
        raise ValueError(f"{subject} takes {expected}, not {text!r}")
    return number


class Defects:
    """The hooks. `harmed(name)` is called each time that a defect strikes."""

    def __init__(self, switched: Switched, random: Random, harmed: Callable[[str], None]) -> None:
        self._doses = switched.doses
        self._random = random
        self._harmed = harmed
        self._occasions: Counter[str] = Counter()

    def on(self, name: str) -> bool:
        """Whether the defect is switched on at all."""
        return name in self._doses

    def strikes(self, name: str) -> bool:
        """Whether the defect is on, and this occasion is one of its share."""
        struck = self._drawn(name) is not None
        if struck:
            self._harmed(name)
        return struck

    def seconds(self, name: str) -> float:
        """The value of a defect in seconds; 0.0 when it is off, or this occasion is none of its share."""
        value = self.amount(name)
        return value / 1000 if KINDS[name].unit == "ms" else value

    def amount(self, name: str) -> float:
        """The same in the defect's own unit."""
        dose = self._drawn(name)
        if dose is None or not dose.value:
            return 0.0
        self._harmed(name)
        return dose.value

    def deaf_from(self) -> float:
        """From how many seconds into a new call the caller is not heard; infinity if this call is to have ears."""
        dose = self._drawn("deaf")
        if dose is None:
            return math.inf
        self._harmed("deaf")
        return dose.value

    def _drawn(self, name: str) -> Dose | None:
        dose = self._doses.get(name)
        if dose is None:
            return None
        self._occasions[name] += 1
        if 0 < KINDS[name].first < self._occasions[name]:
            return None
        return dose if dose.share >= 1 or self._random.random() < dose.share else None
