"""What faults do to a carrier in our own process while it runs: vices that are set and taken away, and their counts.

A carrier asks at each webhook, command and frame; a vice that is not set costs it one look. What befalls which is
drawn from the vice's seed and the name of the thing, so that it does not depend on what else is under way.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Literal, Protocol, TypeAlias
from weakref import WeakSet

from busyhour.errors import PlanError
from busyhour.fastlane import DisturbanceState
from busyhour.model import MS, CallFailed

Kind: TypeAlias = Literal[
    "webhook.duplicated",
    "webhook.late",
    "webhook.out_of_order",
    "webhook.signature",
    "webhook.replayed",
    "command.failing",
    "command.refused",
    "media.jitter",
    "media.lost",
    "media.reordered",
    "media.gap",
    "media.half_open",
    "stream.broken",
    "stream.refused",
    "dtmf.flood",
]
Direction: TypeAlias = Literal["to agent", "to caller"]

MEDIA: frozenset[Kind] = frozenset(
    {"media.jitter", "media.lost", "media.reordered", "media.gap", "media.half_open", "dtmf.flood"}
)
STREAMS: frozenset[Kind] = frozenset({"stream.broken", "stream.refused"})
COMMANDS: frozenset[Kind] = frozenset({"command.failing", "command.refused"})
WEBHOOKS: frozenset[Kind] = frozenset(
    {"webhook.duplicated", "webhook.late", "webhook.out_of_order", "webhook.signature", "webhook.replayed"}
)

OVERTAKEN_NS = 30 * MS  # so late is a frame that the next one overtakes, but not the one after it
_ATTEMPTS_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Vice:
    """One of them. share: of what it may befall; ms: how late, how long; frames: of a burst, on average; every_ms: from
    one gap to the next; times: how often in a row; how: of a signature; towards: of media, on the way to whom."""

    kind: Kind
    share: float = 1.0
    ms: float = 0.0
    every_ms: float = 0.0
    frames: float = 1.0
    times: int = 1
    how: str = ""
    towards: frozenset[Direction] = frozenset({"to agent"})
    seed: int = 0

    def befalls(self, name: str) -> bool:
        return self.share >= 1 or Random(f"{self.seed}/{self.kind}/{name}").random() < self.share


class Keypad(Protocol):
    """A call whose caller can press a key; `end` is None while it lasts."""

    @property
    def end(self) -> object: ...

    def press(self, digit: str) -> None:
        """Raises CallFailed when it cannot be told."""
        ...


class Disturbance(DisturbanceState):
    """The vices of one carrier; `can` says which it has."""

    def __init__(self, can: Collection[Kind] = MEDIA) -> None:
        self.can = frozenset(can)
        self.counts: Counter[str] = Counter()
        self.lines: WeakSet[Keypad] = WeakSet()
        self.media = False  # whether any vice of media is set
        self._vices: dict[Kind, Vice] = {}
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._paths = 0

    def add(self, vice: Vice) -> None:
        """Raises PlanError for one that the carrier has not, or that is set already."""
        if vice.kind not in self.can:
            raise PlanError(f"it has no {vice.kind}; it has {', '.join(sorted(self.can))}")
        if vice.kind in self._vices:
            raise PlanError(f"its {vice.kind} is set already; set it once in a phase")
        self._vices[vice.kind] = vice
        self._changed()

    def remove(self, kind: Kind) -> None:
        """Harmless when it is not set."""
        self._vices.pop(kind, None)
        self._changed()

    def has(self, kind: Kind) -> bool:
        return kind in self._vices

    def _changed(self) -> None:
        self.media = any(kind.startswith("media.") for kind in self._vices)
        self._attempts.clear()

    # ---------------------------------------------------------------- asked by carriers

    def befalling(self, kind: Kind, name: str) -> Vice | None:
        """The vice, if it is set and befalls the thing of that name. What it then does is to be `count`ed."""
        vice = self._vices.get(kind)
        return vice if vice is not None and vice.befalls(name) else None

    def count(self, kind: Kind) -> None:
        self.counts[kind] += 1

    def fails(self, name: str) -> bool:
        """Whether this attempt at a command is to fail, to succeed when it is tried again."""
        vice = self.befalling("command.failing", name)
        if vice is None:
            return False
        attempt = self._attempts[name] = self._attempts.get(name, 0) + 1
        if len(self._attempts) > _ATTEMPTS_KEPT:
            self._attempts.popitem(last=False)
        if attempt > vice.times:
            self.counts["command.recovered"] += attempt == vice.times + 1
            return False
        self.count("command.failing")
        return True

    def cut(self) -> bool:
        """Whether nothing goes over the media sockets; counts what does not."""
        if "media.half_open" not in self._vices:
            return False
        self.count("media.half_open")
        return True

    def tap(self, digit: str) -> int:
        """Press a key on every line whose call lasts: on how many it could be pressed."""
        taps = 0
        for line in [line for line in self.lines if line.end is None]:
            with suppress(CallFailed):
                line.press(digit)
                taps += 1
        return taps

    def path(self, towards: Direction) -> Path:
        """For one direction of one line."""
        self._paths += 1
        return Path(self, towards, self._paths)

    def vice(self, kind: Kind) -> Vice | None:
        return self._vices.get(kind)


class Path:
    """The way of one line's frames in one direction: how long each takes, and which are lost."""

    def __init__(self, disturbance: Disturbance, towards: Direction, number: int) -> None:
        self._disturbance = disturbance
        self._towards = towards
        self._number = number
        self._randoms: dict[Vice, Random] = {}
        self._offsets_ms: dict[Vice, float] = {}
        self._losing = False
        self._last_ns = 0

    def arrives_ns(self, now_ns: int) -> int | None:
        """When a frame that sets out now arrives; None: never."""
        trouble = self._disturbance
        if trouble.cut():
            return None
        if self._in_gap(now_ns) or self._lost():
            return None
        at_ns = now_ns
        if (jitter := self._vice("media.jitter")) is not None:
            trouble.count("media.jitter")
            at_ns += round(self._random(jitter).uniform(0, jitter.ms) * MS)
        at_ns = self._last_ns = max(at_ns, self._last_ns)
        mixed = self._vice("media.reordered")
        if mixed is not None and self._random(mixed).random() < mixed.share:
            trouble.count("media.reordered")
            at_ns += OVERTAKEN_NS
        return at_ns

    def _in_gap(self, now_ns: int) -> bool:
        gap = self._vice("media.gap")
        if gap is None:
            return False
        if gap not in self._offsets_ms:
            self._offsets_ms[gap] = self._random(gap).uniform(0, gap.every_ms)
        within = (now_ns / MS + self._offsets_ms[gap]) % gap.every_ms < gap.ms
        if within:
            self._disturbance.count("media.gap")
        return within

    def _lost(self) -> bool:
        """In bursts, by Gilbert's model: of two states, one in which everything is lost."""
        loss = self._vice("media.lost")
        if loss is None:
            self._losing = False
            return False
        if loss.share < 1:
            change = 1 / loss.frames if self._losing else loss.share / (loss.frames * (1 - loss.share))
            if self._random(loss).random() < change:
                self._losing = not self._losing
        if self._losing or loss.share >= 1:
            self._disturbance.count("media.lost")
            return True
        return False

    def _vice(self, kind: Kind) -> Vice | None:
        vice = self._disturbance.vice(kind)
        return vice if vice is not None and self._towards in vice.towards else None

    def _random(self, vice: Vice) -> Random:
        if vice not in self._randoms:
            self._randoms[vice] = Random(f"{vice.seed}/{vice.kind}/{self._towards}/{self._number}")
        return self._randoms[vice]
