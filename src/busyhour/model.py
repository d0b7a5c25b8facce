"""The nouns of busyhour: values and protocols, and nothing that acts. Of ours it imports only `recording`.

Times are integers of nanoseconds on the monotonic clock of the machine (`CLOCK_MONOTONIC`: one clock for every process
on it), named `_ns`. `due` is when the schedule wanted it, `began` when we did it, `ended` when it was over; `None` for
an end that never came: it is infinitely late, not absent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from busyhour.recording import Recording

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Samples: TypeAlias = npt.NDArray[np.int16]

MS = 1_000_000
SECOND = 1_000_000_000


# ---------------------------------------------------------------- what a run leaves behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing asked and what came of it; a call is an operation, its turns are child operations.

    kind: "call", "greeting", "turn", "barge_in", "speech", "underrun", "pause" from the caller's side; "llm", "stt",
    "stt_connection", "tts", "vector" as the twins witnessed them; "witness" where a twin saw more than it could keep.
    outcome: "ok" or the reason in a few words ("no answer", "timed out", "hung up"). `who` is the service or the party
    ("caller", "agent") it speaks of. Ids are paths: `steady/7` is a call, `steady/7/turn/2` its turn.
    """

    id: str
    kind: str
    phase: str
    due_ns: int
    began_ns: int | None = None
    ended_ns: int | None = None
    outcome: str = "ok"
    parent: str = ""
    who: str = ""
    detail: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """A reading. `count` readings of the same value are one sample, so a histogram is a handful of samples."""

    at_ns: int
    source: str  # the service, or "harness"
    name: str  # with its unit last: "send_lateness_ms", "rss_mb"
    value: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an instant: "run.began", "run.resumed", "run.stopping", "run.stopped", "run.failed",
    "run.ended"; "phase.began", ".resumed", ".ended"; "fault.began", ".ended", ".proof", ".unavailable" (its phase had
    no arrivals); "service.started", ".died"; "witness.silent" (a twin did not tell the last), "probe.missing";
    "machine.suspended", "harness.stopped", "clocks.disagree"; "arrival.dropped", "checkpoint", "recordings"."""

    at_ns: int
    kind: str
    name: str = ""
    detail: Mapping[str, JSON] = field(default_factory=dict)


# ---------------------------------------------------------------- what is started


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running service is found, and which processes it is (none: it runs in ours, or elsewhere). `handle` is
    what a fault may take hold of it by: a `processes.Child`, a carrier's `Disturbance`; None if by nothing."""

    url: str
    pids: tuple[int, ...] = ()
    handle: object = field(default=None, compare=False, repr=False)


class Service(Protocol):
    """Target, emulator, carrier and proxy alike: started, addressed, watched, stopped."""

    @property
    def name(self) -> str: ...

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        """Start it, yield once it answers, stop it and all its children on the way out. Raises ServiceError."""
        ...


@runtime_checkable
class Witness(Protocol):
    """A service that can tell what it was asked: the engine drains it into the journal."""

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        """The operations since the last call, each once. `phase` is left "" for the engine to fill by time."""
        ...


@runtime_checkable
class Metered(Protocol):
    """A part of the harness that measures itself; the engine drains it once a second."""

    def drain(self, now_ns: int) -> Sequence[Sample]: ...


# ---------------------------------------------------------------- a call leg


@dataclass(frozen=True, slots=True)
class Word:
    """A word of an utterance and where its sound lies, in samples."""

    text: str
    began: int
    ended: int


@dataclass(frozen=True, eq=False)
class Audio:
    """A caller's utterance: mono int16 samples, and the indices at which speech begins and ends (end exclusive)."""

    name: str
    text: str
    samples: Samples
    rate_hz: int
    speech_began: int
    speech_ended: int
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Spoken:
    """When the first and the last sample of *speech* were on the wire (the ground truth of the caller's speech)."""

    began_ns: int
    ended_ns: int


class HeardKind(StrEnum):
    ONSET = "onset"  # the agent begins to sound
    OFFSET = "offset"  # the agent has stopped to sound; at_ns is the last sample of speech, told after the hangover
    GAP = "gap"  # an underrun inside speech: began at at_ns, lasted until ended_ns
    DTMF = "dtmf"  # the agent pressed a key: detail
    ENDED = "ended"  # the far end hung up, or the media socket broke: detail says which


@dataclass(frozen=True, slots=True)
class Heard:
    """What reached the caller's ear, stamped on the played-out clock."""

    kind: HeardKind
    at_ns: int
    ended_ns: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSetup:
    """How a call is placed. `answer_within_ns` bounds the ringing: after it the line fails with "no answer"."""

    id: str  # the operation's id: carriers put it nowhere on the wire
    from_number: str = "+15550100"
    to_number: str = "+15550199"
    codec: str = "PCMU"
    answer_within_ns: int = 10 * SECOND
    service: str = ""  # that is called, one that stands beside the plan's target; "": the target
    record_ns: int = 0  # how much of the call's sound the line is to keep, if it is `recording.Recordable`


class CallFailed(Exception):
    """A call that was not established or was lost: data, not a crash. `reason` becomes the operation's outcome."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


class Line(Protocol):
    """One call leg: two audio streams on one clock, paced by the media wheel."""

    @property
    def answered_ns(self) -> int:
        """When the agent took the call: from here on the caller listens, and first-audio latency counts."""

    @property
    def opened_ns(self) -> int:
        """When the media stream was open in both directions."""

    @property
    def trail(self) -> Sequence[tuple[int, str]]:
        """What happened on the wire, by time: bounded, for people to read."""

    @property
    def detail(self) -> Mapping[str, JSON]:
        """What the line wants said of the call in its operation ("dropped_frames", ...); empty if nothing."""

    async def say(self, audio: Audio) -> Spoken:
        """Play it to the agent from the next frame on; returns when its last sample is sent. Raises CallFailed."""
        ...

    async def hear(self, until_ns: int) -> Heard | None:
        """The next event of the far end, in order of `at_ns`; None if there was none by then. After ENDED: ENDED."""

    async def press(self, digits: str) -> None:
        """Send DTMF digits. Raises CallFailed."""
        ...

    async def hang_up(self) -> None:
        """End the call from the caller's side; harmless on an ended call."""
        ...


class Carrier(Service, Protocol):
    """A twin of the phone company."""

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[Line]:
        """Call the target: yields the line once media flow both ways, hangs up on the way out. Raises CallFailed."""
        ...


# ---------------------------------------------------------------- when and what


class Due(StrEnum):
    PENDING = "pending"  # none now; ask again when an operation finishes
    ENDED = "ended"  # none ever again


class Arrivals(Protocol):
    """A pure schedule."""

    def due_ns(self, started: int, finished: int, elapsed_ns: int) -> int | Due:
        """When the next operation is due, in ns since the phase began, or PENDING, or ENDED.

        started, finished: operations so far; elapsed_ns: since the phase began. The same answer for the same question.
        """
        ...


class Clock(Protocol):
    def now_ns(self) -> int: ...

    async def sleep_until(self, at_ns: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One arrival and all a workload needs to perform it. `random` is seeded by the phase and the arrival's number."""

    id: str
    phase: str
    due_ns: int
    clock: Clock
    random: Random
    dial: Callable[[CallSetup], AbstractAsyncContextManager[Line]]
    record: Callable[[Operation], None]
    target: Endpoint = Endpoint("")


class Workload(Protocol):
    async def perform(self, arrival: Arrival) -> None:
        """Do one arrival's work and record what came of it, its failure included. A raise is a bug: the run ends."""
        ...


@runtime_checkable
class Checkable(Protocol):
    """A workload that can say what is wrong with it, and make ready what it needs, before anything is started."""

    def problems(self) -> Sequence[str]: ...


class FaultUnavailable(Exception):
    """A fault that cannot be injected here: its phase is not run. `reason` follows the fault's name, with the mend."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Fault(Protocol):
    """A harm with proof of effect, undone and verified on every way out."""

    @property
    def name(self) -> str: ...

    @property
    def service(self) -> str:
        """The name of the service it harms ("harness" for ourselves)."""

    def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AbstractAsyncContextManager[Proof]:
        """Raises FaultUnavailable, before anything is harmed, where it cannot be done."""
        ...


class Proof(Protocol):
    """The reading that shows that a fault really happened."""

    async def effect(self) -> tuple[bool, str]:
        """Whether it took effect so far, and the sentence that says how it is known."""


class Probe(Protocol):
    @property
    def service(self) -> str: ...

    def read(self, endpoint: Endpoint) -> Mapping[str, float] | Awaitable[Mapping[str, float]]:
        """Readings by name, unit last; awaited where they come from elsewhere. Empty when there is nothing to read."""
        ...


# ---------------------------------------------------------------- judging


class Outcome(StrEnum):
    """In the order of badness; the roll-up takes the last that occurs."""

    PASS = "pass"
    NOT_RUN = "not run"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    INVALID = "invalid"


EXIT_CODE = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 2, Outcome.NOT_RUN: 2, Outcome.INVALID: 3}


class Run(Protocol):
    """What a run left behind, read-only: `journal.open_run` reads one from a file, `testing.MemoryRun` from lists."""

    @property
    def meta(self) -> Mapping[str, JSON]:
        """The plan's path, the start in ISO 8601, versions, and "proofs": gate name -> "proven" or "unproven"."""
        ...

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        """In order of `due_ns`; all phases when `phase` is None."""
        ...

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]: ...

    def marks(self, kind: str) -> Sequence[Mark]: ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the evidence says of a limit: PASS, FAIL or INCONCLUSIVE, and the clause that says why ("3 of 59 over")."""

    outcome: Outcome
    because: str


class Evidence(Protocol):
    """The numbers behind an estimate, able to be set against a limit with an error rate of alpha on either side."""

    def at_most(self, limit: float, alpha: float) -> Comparison: ...

    def at_least(self, limit: float, alpha: float) -> Comparison: ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. `value` is None when nothing was measured, inf when what was awaited never came."""

    what: str  # "p95 response latency in steady"
    unit: str  # "ms", "s", "%", "" for a count
    n: int
    value: float | None
    low: float | None
    high: float | None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    gate: str
    outcome: Outcome
    because: str  # the whole sentence; every report prints it verbatim
    estimate: Estimate | None = None
    proof: str = "unproven"  # "proven", "unproven"; "" for a verdict that no control can be made for
    limits: tuple[float | None, float | None] = (None, None)  # at least and at most, in the unit of the estimate


class Indicator(Protocol):
    """Run -> number with interval."""

    @property
    def what(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def phases(self) -> tuple[str, ...]:
        """The names of the phases it reads; empty: the whole run."""
        ...

    def __call__(self, run: Run) -> Estimate: ...


class Gate(Protocol):
    @property
    def name(self) -> str:
        """Says indicator, relation and limit: "p95 response latency in steady <= 800 ms". Proofs are kept by it."""
        ...

    @property
    def phases(self) -> tuple[str, ...]: ...

    def judge(self, run: Run) -> Verdict: ...


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The plan with something changed: services of the same name replaced, faults added to phases by phase name,
    or a phase's own settings replaced by phase name. may_redden: gates that fail under it with cause, besides those
    that it is the red control of: a reply that is 3 s late is dead air, too. only: the phases to run under it (none
    named: those that its gates read)."""

    name: str
    services: Sequence[Service] = ()
    faults: Mapping[str, Sequence[Fault]] = field(default_factory=dict)
    phases: Sequence[Phase] = ()
    may_redden: Sequence[Gate] = ()
    only: Sequence[str] = ()


@dataclass(frozen=True)
class Control:
    """What a gate must tell apart: under `red` it must FAIL, under `benign` it must PASS. A gate may have several."""

    gate: Gate
    red: Variation
    benign: Variation


@dataclass(frozen=True)
class Phase:
    """A stretch of the run: `workload` arrives by `arrivals`, while `faults` are injected.

    At most `at_once` operations are in progress; an arrival that finds no place is counted as dropped. After the last
    arrival the phase waits for what is in progress, at most `drain_seconds`; what is not finished then is cancelled
    and recorded as "cut off".
    """

    name: str
    arrivals: Arrivals
    workload: Workload
    faults: Sequence[Fault] = ()
    at_once: int = 100
    drain_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Table:
    """Indicators side by side for people to read, None where there is none. Nothing is judged by it."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[Indicator | None]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, in order, and what to demand of it."""

    target: Service
    phases: Sequence[Phase]
    gates: Sequence[Gate]
    carrier: Carrier | None = None  # of a plan with calls
    services: Sequence[Service] = ()
    beside: Sequence[Service] = ()  # more targets, which only the calls of a workload that names them reach
    probes: Sequence[Probe] = ()
    valid_if: Sequence[Gate] = ()
    controls: Sequence[Control] = ()
    tables: Sequence[Table] = ()
    about: str = ""
    recording: Recording = field(default_factory=Recording)

    @property
    def everyone(self) -> Sequence[Service]:
        """All that is started, in that order: each may refer to those before it."""
        return [*self.services, *([self.carrier] if self.carrier else []), *self.beside, self.target]
