"""Faults of the phone company: its webhooks, its answers to commands, its media, and keys that somebody holds down.

They are vices of the carrier's twin in our own process (`busyhour.disturbance`), which counts what it did by them: a
fault of webhooks in a phase without a call proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from math import inf
from random import Random
from typing import ClassVar, Literal, TypeAlias, TypedDict, Unpack, cast

from busyhour.disturbance import Direction, Disturbance, Kind, Vice
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim, without_vice
from busyhour.faults.undoing import aimed_at, check_times, ended, in_force
from busyhour.model import SECOND, Clock, Endpoint, Proof, Service

Forgery: TypeAlias = Literal["wrong", "tampered", "stale"]
Towards: TypeAlias = Literal["to agent", "to caller", "both"]

_TAPS_PER_SECOND_MAX = 50
_KEYS = "0123456789*#ABCD"
_BY_TIME: tuple[Kind, ...] = ("media.jitter", "media.gap", "webhook.late", "webhook.out_of_order")
_MEDIA: tuple[Kind, ...] = ("media.jitter", "media.lost", "media.reordered", "media.gap", "media.half_open")


class When(TypedDict, total=False):
    """What all of them take; seconds None: to the end of the phase."""

    seed: int
    after_seconds: float
    seconds: float | None


class Some(When, total=False):
    """For those that befall a share of the webhooks, commands or frames; all, unless told."""

    share: float


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """A carrier with a vice. did: what it counts, as a clause that follows the number."""

    carrier: Service = field(kw_only=False)
    name: str
    vice: Vice
    did: str
    after_seconds: float = 0.0
    seconds: float | None = None

    def __post_init__(self) -> None:
        vice = self.vice
        numbers = (vice.ms, vice.every_ms, vice.frames, vice.times)
        nothing = vice.times < 1 or (vice.ms == 0 and vice.kind in _BY_TIME)
        if nothing or not 0 < vice.share <= 1 or not all(0 <= number < inf for number in numbers):
            raise PlanError(
                f"the fault {self.name!r} makes no sense: give it a share of more than 0 and at most 1, and durations "
                "and numbers of more than 0"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def kind(self) -> Kind:
        return self.vice.kind

    @property
    def service(self) -> str:
        return self.carrier.name

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        # Where nothing flows, nothing is left to be disturbed.
        kinds = _MEDIA if self.vice.kind == "media.half_open" else (self.vice.kind,)
        names = [f"the {kind.replace('.', ' ').replace('_', ' ')} of {self.service}" for kind in kinds]
        return [Claim(of=name, from_seconds=self.after_seconds, to_seconds=until) for name in names]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for what is no carrier of ours, or one that has no such vice."""
        trouble = _disturbance(self.name, self.service, endpoints, self.kind)
        misconduct = _Misconduct(self, trouble)
        async with in_force(misconduct, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield misconduct


def _disturbance(fault: str, service: str, endpoints: Mapping[str, Endpoint], kind: Kind) -> Disturbance:
    handle = aimed_at(fault, service, endpoints).handle
    if not isinstance(handle, Disturbance):
        raise PlanError(f"the fault {fault!r} needs a carrier's twin, and {service} is none that can be disturbed")
    if kind not in handle.can:
        raise PlanError(f"the fault {fault!r} {without_vice(kind, service, handle.can)}")
    return handle


class _Misconduct:
    """A vice that is set, and the proof of it: what the carrier did by it, by its own count."""

    def __init__(self, fault: Disturbed, trouble: Disturbance) -> None:
        self._fault = fault
        self._trouble = trouble
        self._before: dict[str, int] | None = None
        self._told: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._told or self._now()

    def _now(self) -> tuple[bool, str]:
        if self._before is None:
            return False, f"{self._fault.service} has not been disturbed"
        kind = self._fault.vice.kind
        count = self._since(kind)
        told = f"{count} {self._fault.did} at {self._fault.service} while it was injected"
        if kind == "command.failing" and count:
            told += f"; {self._since('command.recovered')} were sent again and then done"
        return count > 0, told

    def _since(self, kind: str) -> int:
        assert self._before is not None
        return self._trouble.counts[kind] - self._before.get(kind, 0)

    async def begin(self) -> None:
        if self._before is not None:
            return
        self._trouble.add(self._fault.vice)
        self._before = dict(self._trouble.counts)

    async def end(self) -> None:
        if self._before is None:
            return
        if self._told is None:
            self._told = self._now()
            self._trouble.remove(self._fault.vice.kind)
            if self._trouble.has(self._fault.vice.kind):
                raise ServiceError(
                    f"the fault {self._fault.name!r} could not be undone: {self._fault.service} has it still"
                )


@dataclass(frozen=True, kw_only=True)
class DtmfFlood:
    """Every caller holds down keys: so many a second on each line, drawn by `seed` from `keys`."""

    carrier: Service = field(kw_only=False)
    per_second: float = 10.0
    keys: str = "0123456789*#"
    seed: int = 0
    after_seconds: float = 0.0
    seconds: float | None = None
    kind: ClassVar[Kind] = "dtmf.flood"

    def __post_init__(self) -> None:
        if not 0 < self.per_second <= _TAPS_PER_SECOND_MAX or not self.keys or set(self.keys) - set(_KEYS):
            raise PlanError(
                f"the fault {self.name!r} makes no sense: give it more than 0 and at most {_TAPS_PER_SECOND_MAX} keys "
                f"a second, of {_KEYS}"
            )
        check_times(self.name, after_seconds=self.after_seconds, seconds=self.seconds)

    @property
    def name(self) -> str:
        return f"{self.carrier.name} keys {self.per_second:g} a second"

    @property
    def service(self) -> str:
        return self.carrier.name

    @property
    def claims(self) -> Sequence[Claim]:
        until = inf if self.seconds is None else self.after_seconds + self.seconds
        return [Claim(of=f"the keys of {self.service}", from_seconds=self.after_seconds, to_seconds=until)]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError for what is no carrier of ours, or one whose lines have no keys."""
        trouble = _disturbance(self.name, self.service, endpoints, self.kind)
        flood = _Flood(self, trouble, clock)
        async with in_force(flood, clock, after_seconds=self.after_seconds, seconds=self.seconds):
            yield flood


class _Flood:
    """Keys that are being pressed on every line, and the proof of it."""

    def __init__(self, fault: DtmfFlood, trouble: Disturbance, clock: Clock) -> None:
        self._fault = fault
        self._trouble = trouble
        self._clock = clock
        self._taps = 0
        self._task: asyncio.Task[None] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._taps > 0, f"{self._taps} keys were pressed on the lines of {self._fault.service}"

    async def begin(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._tap())

    async def end(self) -> None:
        if self._task is not None:
            await ended(self._task)

    async def _tap(self) -> None:
        random, next_ns = Random(self._fault.seed), self._clock.now_ns()
        while True:
            digit = random.choice(self._fault.keys)
            self._taps += self._trouble.tap(digit)
            next_ns = max(next_ns + round(SECOND / self._fault.per_second), self._clock.now_ns())
            await self._clock.sleep_until(next_ns)


# ---------------------------------------------------------------- the catalogue: webhooks


def DuplicatedWebhooks(carrier: Service, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """Webhooks are delivered twice at the same time, as "at least once" allows."""
    return _vice(carrier, "duplicated webhooks", Vice(kind="webhook.duplicated"), "webhooks delivered twice", when)


def LateWebhooks(carrier: Service, ms: float, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """Webhooks come so much later."""
    did = f"webhooks delivered {ms:g} ms late"
    return _vice(carrier, f"webhooks {ms:g} ms late", Vice(kind="webhook.late", ms=ms), did, when)


def OutOfOrderWebhooks(  # noqa: N802  (a noun in a plan)
    carrier: Service, *, within_ms: float = 1000, **when: Unpack[Some]
) -> Disturbed:
    """A webhook is held back until the next one of its call was delivered, for so long at most."""
    vice = Vice(kind="webhook.out_of_order", ms=within_ms)
    return _vice(carrier, "webhooks out of order", vice, "webhooks overtaken by later ones", when)


def UnsignedWebhooks(carrier: Service, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """Webhooks bear no signature: an agent that acts on them would act on anybody's."""
    vice = Vice(kind="webhook.signature", how="missing")
    return _vice(carrier, "unsigned webhooks", vice, "webhooks sent without a signature", when)


def ForgedWebhooks(  # noqa: N802  (a noun in a plan)
    carrier: Service, how: Forgery = "wrong", **when: Unpack[Some]
) -> Disturbed:
    """Webhooks bear a signature that is not good: by another key ("wrong"), of another body ("tampered"), or too old
    ("stale")."""
    if how not in ("wrong", "tampered", "stale"):
        raise PlanError(f"a forged signature is wrong, tampered or stale, not {how!r}")
    vice = Vice(kind="webhook.signature", how=how)
    return _vice(carrier, f"webhooks with a {how} signature", vice, f"webhooks sent with a {how} signature", when)


def ReplayedWebhooks(  # noqa: N802  (a noun in a plan)
    carrier: Service, *, after_ms: float = 1000, **when: Unpack[Some]
) -> Disturbed:
    """What was delivered is delivered again so much later, to the letter: the same event id, the same signature."""
    vice = Vice(kind="webhook.replayed", ms=after_ms)
    return _vice(carrier, "replayed webhooks", vice, "webhooks replayed", when)


# ---------------------------------------------------------------- commands


def FailingCommands(carrier: Service, *, times: int = 1, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun)
    """The first attempts at each command of a call are answered with 500; the same command sent again is done."""
    vice = Vice(kind="command.failing", times=times)
    return _vice(carrier, f"commands failing {times} times", vice, "commands answered with 500", when)


def RefusedCommands(carrier: Service, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """Commands are refused, as of a call that has ended (422, at Telnyx 90018), though it has not."""
    return _vice(carrier, "commands refused", Vice(kind="command.refused"), "commands refused", when)


# ---------------------------------------------------------------- media


def Jitter(carrier: Service, ms: float, **when: Unpack[When]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """Each frame to the agent comes up to so much later, in order. What was said is heard that much later: the caller's
    words are stamped when they are spoken, and the agent's latency includes it."""
    vice = Vice(kind="media.jitter", ms=ms)
    return _vice(carrier, f"media jitter of {ms:g} ms", vice, "frames delayed", _whole(when))


def BurstLoss(  # noqa: N802  (a noun in a plan)
    carrier: Service, share: float, *, frames: float = 5, towards: Towards = "to agent", **when: Unpack[When]
) -> Disturbed:
    """A share of the frames is lost, in bursts of so many on average (Gilbert's model)."""
    if not 1 <= frames < inf:
        raise PlanError(f"a burst loses one frame or more on average, not {frames:g}")
    if 0 < share < 1 and share > frames * (1 - share) * (1 + 1e-9):
        # Between two bursts at least one frame arrives.
        raise PlanError(
            f"bursts of {frames:g} frames lose at most {frames / (frames + 1):.3g} of all, not {share:g}; "
            "make them longer"
        )
    vice = Vice(kind="media.lost", frames=frames, towards=_directions(towards))
    return _vice(carrier, f"media loss {towards}", vice, "frames lost", {**when, "share": share})


def ReorderedMedia(carrier: Service, share: float, **when: Unpack[When]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """A share of the frames to the agent is overtaken by the next one."""
    return _vice(carrier, "media reordered", Vice(kind="media.reordered"), "frames overtaken", {**when, "share": share})


def Gaps(  # noqa: N802  (a noun in a plan)
    carrier: Service, ms: float, *, every_ms: float, towards: Towards = "to agent", **when: Unpack[When]
) -> Disturbed:
    """For so long nothing comes, again and again."""
    if not 0 < ms < every_ms:
        raise PlanError(f"gaps of {ms:g} ms every {every_ms:g} ms leave nothing between them; make them shorter")
    vice = Vice(kind="media.gap", ms=ms, every_ms=every_ms, towards=_directions(towards))
    return _vice(carrier, f"media gaps of {ms:g} ms {towards}", vice, "frames lost in gaps", _whole(when))


def HalfOpen(carrier: Service, **when: Unpack[When]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """The media sockets stay open, and nothing flows in either direction."""
    vice = Vice(kind="media.half_open", towards=_directions("both"))
    return _vice(carrier, "media half open", vice, "frames and marks that did not flow", _whole(when))


def BrokenMedia(carrier: Service, after_ms: float = 2000, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun)
    """The media socket of a call breaks so long after it was opened: the connection is gone, and nobody took his leave.
    Which calls it befalls is drawn when their sockets open."""
    vice = Vice(kind="stream.broken", ms=after_ms)
    return _vice(carrier, f"media broken after {after_ms:g} ms", vice, "media sockets broken off", when)


def RefusedMedia(carrier: Service, **when: Unpack[Some]) -> Disturbed:  # noqa: N802  (a noun in a plan)
    """The carrier does not get through to the agent's media socket, and tells the agent so (`streaming.failed`)."""
    return _vice(carrier, "media refused", Vice(kind="stream.refused"), "media streams that were not opened", when)


def _directions(towards: Towards) -> frozenset[Direction]:
    if towards not in ("to agent", "to caller", "both"):
        raise PlanError(f"media flow to agent, to caller or both, not {towards!r}")
    return frozenset(("to agent", "to caller")) if towards == "both" else frozenset((towards,))


def _whole(when: When) -> Some:
    """Raises PlanError for a share of what can only be whole."""
    if "share" in when:
        raise PlanError("jitter, gaps and half-open sockets befall every line and frame: leave out the share")
    return cast(Some, dict(when))


def _vice(carrier: Service, name: str, vice: Vice, did: str, when: Some) -> Disturbed:
    share = when.get("share", 1.0)
    at = "" if share == 1 else f" at {share:.3g}"
    return Disturbed(
        carrier,
        name=f"{carrier.name} {name}{at}",
        vice=replace(vice, share=share, seed=when.get("seed", 0)),
        did=did,
        after_seconds=when.get("after_seconds", 0.0),
        seconds=when.get("seconds"),
    )
