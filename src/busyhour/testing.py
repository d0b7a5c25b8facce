"""Fakes and builders for tests: ours, and those of your own plug-ins.

Doing: `VirtualClock`, and `MemoryCarrier` whose `MemoryLine`s are answered by an agent of known `Manner`;
`check_arrivals` says whether a schedule keeps its contract, `check_carrier` whether a carrier does, `check_fault`
whether a fault does.

Judging: `MemoryRun` is a run from lists; `whole_run` makes one that began and ended in order; `call`, `turn`,
`greeting`, `barge_in`, `speech` and `answered` make what a caller writes down, in seconds and milliseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from busyhour.carriers.checking import check_carrier
from busyhour.carriers.memory import Manner, MemoryCarrier, MemoryLine, MemoryService
from busyhour.clock import SystemClock, VirtualClock
from busyhour.model import (
    JSON,
    MS,
    SECOND,
    Arrivals,
    Clock,
    Due,
    Endpoint,
    Fault,
    Mark,
    Operation,
    Proof,
    Sample,
    Service,
)

__all__ = [
    "Manner",
    "MemoryCarrier",
    "MemoryLine",
    "MemoryRun",
    "MemoryService",
    "VirtualClock",
    "answered",
    "barge_in",
    "call",
    "check_arrivals",
    "check_carrier",
    "check_fault",
    "greeting",
    "speech",
    "transcript",
    "turn",
    "underrun",
    "whole_run",
    "witnessed",
]

# ---------------------------------------------------------------- schedules


def check_arrivals(arrivals: Arrivals, *, within: int = 1_000_000) -> list[int]:
    """Ask an open schedule for all its times; returns them, in ns. Raises AssertionError with what it breaks.

    It must give the same answer to the same question, times in rising order that do not depend on what has finished or
    how late it is, and must end within so many arrivals.
    """
    times: list[int] = []
    while not isinstance(due := arrivals.due_ns(len(times), 0, 0), Due):
        number = len(times)
        assert number < within, f"{arrivals!r} has not ended after {within} arrivals"
        assert due >= (times[-1] if times else 0), f"{arrivals!r}: arrival {number} is due before the one before it"
        again = arrivals.due_ns(number, number, due + SECOND)
        assert again == due, f"{arrivals!r}: arrival {number} is due at {due} or {again}, by what else happens"
        times.append(due)
    assert due is Due.ENDED, f"{arrivals!r} is pending with nothing in progress: it would never end"
    return times


# ---------------------------------------------------------------- faults


async def check_fault(
    make: Callable[[], Fault],
    service: Service,
    *,
    state: Callable[[Endpoint], Awaitable[object]],
    provoke: Callable[[Endpoint], Awaitable[object]] | None = None,
    within_seconds: float = 10.0,
    clock: Clock | None = None,
) -> str:
    """Inject a fault into a running service and leave it in order, by an exception and by cancellation.

    make: a new fault, aimed at `service`, which begins at once. state: whatever of the service the fault changes, and
    must change back. provoke: does what the fault harms, until there is a proof. Returns the proof's sentence. Raises
    AssertionError with what it breaks: each time it must take effect, prove it, go on saying so when it is over, and
    leave the service as it was.
    """
    check = _FaultCheck(state, provoke, within_seconds, clock or SystemClock())
    because = ""
    async with service.running({}) as endpoint:
        for way_out in ("in order", "by an exception", "by cancellation"):
            because = await check.leave(make(), {service.name: endpoint}, way_out)
    return because


class _Left(Exception):
    """The exception by which a fault is left."""


@dataclass(frozen=True)
class _FaultCheck:
    state: Callable[[Endpoint], Awaitable[object]]
    provoke: Callable[[Endpoint], Awaitable[object]] | None
    within_seconds: float
    clock: Clock

    async def leave(self, fault: Fault, endpoints: Mapping[str, Endpoint], way_out: str) -> str:
        """Inject it once and leave it in that way; returns the proof's sentence."""
        endpoint, how = endpoints[next(iter(endpoints))], f"{fault.name}, left {way_out}"
        before = await self.state(endpoint)
        proven = asyncio.Event()
        proofs: list[Proof] = []

        async def use() -> None:
            async with fault.injected(endpoints, self.clock) as proof:
                proofs.append(proof)
                assert await self.state(endpoint) != before, f"{how}: nothing is changed while it is injected"
                await self._proven(proof, endpoint, how)
                proven.set()
                if way_out == "by an exception":
                    raise _Left
                if way_out == "by cancellation":
                    await asyncio.Event().wait()

        using = asyncio.create_task(use())
        effect = asyncio.create_task(proven.wait())
        await asyncio.wait({using, effect}, return_when=asyncio.FIRST_COMPLETED)
        effect.cancel()
        if way_out == "by cancellation":
            using.cancel()
        with suppress(_Left, asyncio.CancelledError):
            await using
        after = await self.state(endpoint)
        assert after == before, f"{how}: it was not undone: {before!r} is {after!r}"
        effective, because = await proofs[0].effect()
        assert effective, f"{how}: its proof is forgotten when it is over: {because}"
        return because

    async def _proven(self, proof: Proof, endpoint: Endpoint, how: str) -> None:
        until_ns = self.clock.now_ns() + round(self.within_seconds * SECOND)
        while not (effect := await proof.effect())[0]:
            assert self.clock.now_ns() < until_ns, f"{how}: no proof in time: {effect[1]}"
            if self.provoke is not None:
                await self.provoke(endpoint)
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- runs


@dataclass(frozen=True)
class MemoryRun:
    """A model.Run from lists, in whatever order. Samples are of the phase whose marks they lie between."""

    recorded: Sequence[Operation] = ()
    sampled: Sequence[Sample] = ()
    marked: Sequence[Mark] = ()
    meta: Mapping[str, JSON] = field(default_factory=dict)

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        found = [o for o in self.recorded if o.kind == kind and phase in {None, o.phase}]
        return sorted(found, key=lambda operation: operation.due_ns)

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        found = [s for s in self.sampled if (s.source, s.name) == (source, name)]
        if phase is not None:
            windows = self._windows(phase)
            found = [s for s in found if any(began <= s.at_ns <= ended for began, ended in windows)]
        return sorted(found, key=lambda sample: sample.at_ns)

    def marks(self, kind: str) -> Sequence[Mark]:
        return sorted((mark for mark in self.marked if mark.kind == kind), key=lambda mark: mark.at_ns)

    def _windows(self, phase: str) -> list[tuple[int, int]]:
        ends = [mark.at_ns for mark in self.marks("phase.ended") if mark.name == phase]
        begins = [mark.at_ns for mark in self.marks("phase.began") if mark.name == phase]
        return [(began, min((end for end in ends if end >= began), default=2**63 - 1)) for began in begins]


def whole_run(
    *operations: Operation | Iterable[Operation],
    phases: Sequence[str] = ("steady",),
    samples: Sequence[Sample] = (),
    marks: Sequence[Mark] = (),
    meta: Mapping[str, JSON] | None = None,
    seconds: float = 3600,
) -> MemoryRun:
    """A run of so many seconds, evenly divided among `phases`, with everything marked that a run marks by itself."""
    each_ns = round(seconds * SECOND) // max(1, len(phases))
    own = [Mark(0, "run.began")]
    for number, phase in enumerate(phases):
        own += [
            Mark(number * each_ns, "phase.began", phase),
            Mark((number + 1) * each_ns, "phase.ended", phase),
        ]
    own.append(Mark(round(seconds * SECOND), "run.ended"))
    flat = [o for part in operations for o in ([part] if isinstance(part, Operation) else part)]
    return MemoryRun(flat, samples, [*own, *marks], meta or {})


# ---------------------------------------------------------------- what a caller writes down


def call(
    number: int, *, phase: str = "steady", outcome: str = "ok", at_s: float = 0, seconds: float = 60, **detail: JSON
) -> Operation:
    """The call `phase/number`, which arrived at `at_s` and was opened at once."""
    at_ns, ended_ns = _ns(at_s), _ns(at_s + seconds)
    return Operation(
        id=f"{phase}/{number}",
        kind="call",
        phase=phase,
        due_ns=at_ns,
        began_ns=at_ns,
        ended_ns=ended_ns,
        outcome=outcome,
        detail={"opened_ns": at_ns, "ended_by": "caller", **detail},
    )


def answered(
    latencies_ms: Sequence[float | None], *, number: int = 1, phase: str = "steady", at_s: float = 0
) -> list[Operation]:
    """A call with one turn for each latency (None: never answered), ten seconds apart."""
    turns = [
        turn(latency_ms, call=f"{phase}/{number}", number=n, at_s=at_s + 10 * n)
        for n, latency_ms in enumerate(latencies_ms, start=1)
    ]
    return [call(number, phase=phase, at_s=at_s, seconds=10 * len(turns) + 20), *turns]


def turn(
    latency_ms: float | None,
    *,
    call: str = "steady/1",
    number: int = 1,
    at_s: float = 10,
    seconds: float = 2,
    text: str = "",
    gave_up_after_s: float = 6,
) -> Operation:
    """The caller speaks from `at_s` on for so many seconds, and is answered after the latency, or never (None)."""
    ended = _ns(at_s + seconds)
    return _part(
        call,
        "turn",
        number,
        _ns(at_s),
        due_ns=ended,
        ended_ns=_later(ended, latency_ms),
        outcome="missed" if latency_ms is None else "ok",
        detail={"text": text, "gave_up_ns": _later(ended, latency_ms) or ended + _ns(gave_up_after_s)},
    )


def greeting(latency_ms: float | None, *, call: str = "steady/1", at_s: float = 0) -> Operation:
    began = _ns(at_s)
    outcome = "missed" if latency_ms is None else "ok"
    return _part(call, "greeting", 1, began, due_ns=began, ended_ns=_later(began, latency_ms), outcome=outcome)


def barge_in(
    stop_ms: float | None, *, call: str = "steady/1", number: int = 1, at_s: float = 20, reached: bool = True
) -> Operation:
    """The caller talks over the agent, which stops after so long, or never (None), or was not speaking at all."""
    began = _ns(at_s)
    outcome = "not reached" if not reached else "not yielded" if stop_ms is None else "ok"
    return _part(call, "barge_in", number, began, due_ns=began, ended_ns=_later(began, stop_ms), outcome=outcome)


def speech(who: str, from_s: float, to_s: float, *, call: str = "steady/1", number: int = 1) -> Operation:
    began = _ns(from_s)
    return _part(call, "speech", number, began, due_ns=began, ended_ns=_ns(to_s), who=who)


def underrun(at_s: float, *, call: str = "steady/1", number: int = 1, ms: float = 60) -> Operation:
    began = _ns(at_s)
    return _part(call, "underrun", number, began, due_ns=began, ended_ns=_later(began, ms), who="agent")


def transcript(connection: str, from_s: float, to_s: float, text: str, *, number: int = 1) -> Operation:
    """What a transcriber's twin witnessed: speech arrived from one instant to another, and was understood as `text`."""
    ended = _ns(to_s)
    return Operation(
        id=f"stt/{connection}/{number}",
        kind="stt",
        phase="",
        due_ns=ended,
        began_ns=_ns(from_s),
        ended_ns=ended + 80 * MS,
        who="stt",
        detail={"connection": connection, "transcript": text},
    )


def witnessed(
    kind: str,
    who: str,
    at_s: float,
    *,
    outcome: str = "ok",
    phase: str = "steady",
    first_ms: float | None = 100,
    seconds: float = 1,
    **detail: JSON,
) -> Operation:
    """A request that a vendor's twin witnessed: asked at `at_s`, first token or sound (None: never) so much later."""
    at_ns = _ns(at_s)
    name = {"llm": "first_token_ns", "tts": "first_audio_ns"}.get(kind)
    first: dict[str, JSON] = {name: _later(at_ns, first_ms)} if name else {}
    return Operation(
        id=f"{who}/{at_ns}",
        kind=kind,
        phase=phase,
        due_ns=at_ns,
        began_ns=at_ns,
        ended_ns=_ns(at_s + seconds),
        outcome=outcome,
        who=who,
        detail={**first, **detail},
    )


def _part(
    call: str,
    kind: str,
    number: int,
    began_ns: int,
    *,
    due_ns: int,
    ended_ns: int | None,
    outcome: str = "ok",
    who: str = "",
    detail: Mapping[str, JSON] | None = None,
) -> Operation:
    return Operation(
        id=f"{call}/{kind}/{number}",
        kind=kind,
        phase=call.rpartition("/")[0],
        due_ns=due_ns,
        began_ns=began_ns,
        ended_ns=ended_ns,
        outcome=outcome,
        parent=call,
        who=who,
        detail=detail or {},
    )


def _ns(seconds: float) -> int:
    return round(seconds * SECOND)


def _later(at_ns: int, ms: float | None) -> int | None:
    return None if ms is None else at_ns + round(ms * MS)
