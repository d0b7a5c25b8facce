"""The stress plan: what breaks when callers and the machine give no quarter?

A hundred interruptions; callers who talk for five minutes without a pause; many calls at one instant while others are
in progress; memory that others have filled; several agents on one machine; and every way in which a call can end, after
each of which nothing may be left, and the next caller must be served.

    busyhour run plans/stress.py                           about 14 minutes
    busyhour run plans/stress.py -o scale=0.1              a tenth of the load, and all the endings: 8 minutes
    busyhour run plans/stress.py -o memory=0               without filling the machine's memory
    busyhour run plans/stress.py -o agent='python app.py'  your own agent; see plans/telephone.py for what it is told

An agent of yours should take MAX_CALLS calls at once and refuse more, end a call on whose media stream nothing comes
for MEDIA_IDLE_SECONDS, and put callers who want a human through to TRANSFER_NUMBER.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from busyhour.arrivals import Burst, Constant, Schedule
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Deepgram, LogNormal, OpenAI
from busyhour.emulators import Constant as Fixed
from busyhour.errors import PlanError
from busyhour.faults.carrier import BrokenMedia, HalfOpen, RefusedMedia
from busyhour.faults.pressure import MemoryPressure
from busyhour.faults.process import BlockLoop
from busyhour.gates import AtLeast, AtMost, NothingLeft
from busyhour.indicators import (
    across,
    barge_in_stop,
    call_setup,
    call_success,
    dead_air,
    dropped,
    first_audio_latency,
    kept_per_call,
    loop_lag,
    probed,
    response_latency,
    send_lateness,
    yield_rate,
)
from busyhour.media.utterances import repeated, utterance
from busyhour.model import CallSetup, Control, Fault, Gate, Phase, Plan, Variation
from busyhour.probes.metrics import runtime
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Scenario, Silence
from busyhour.workloads.idle import Idle
from busyhour.workloads.in_turn import InTurn

MAX_CALLS, REFUSED_CALLS = 32, 8
MEDIA_IDLE_SECONDS = 4
REST_SECONDS = 6.0  # after a batch: servers keep idle connections for 5 s
KEPT_KB = 30  # by a call: what is small takes hours to be told from noise
BATCHES = 3  # of each ending: so many in a row that leave something are a leak
MONOLOGUES = 8  # of 40 s, without a pause: more than 5 minutes

# ---------------------------------------------------------------- what callers say

GREETED = Scenario("listen to the greeting", [Greeting()])
SHORT = Scenario("one question", [Greeting(), Say("hours.parking")])
AT_ONCE = Scenario("one question, over the greeting", [Silence(0.6), Say("hours.parking")])
TWICE = Scenario("two questions", [Greeting(), Say("hours.parking"), Say("price.card")])
TALKING = Scenario(
    "a conversation",
    [Greeting(), Say("hours.saturday"), Say("hours.parking"), Say("price.insurance"), Say("price.card")],
)
INTERRUPTING = Scenario(
    "talking over the agent",
    [
        Greeting(),
        BargeIn("barge.question", asking="hours.today", after_ms=900),
        BargeIn("barge.stop", asking="price.cleaning", after_ms=900),
        BargeIn("barge.interrupt", asking="hours.latest", after_ms=900),
        BargeIn("barge.hold_on", asking="hours.today", after_ms=900),
    ],
)
LISTENING = Scenario("listening", [Silence(2 * MEDIA_IDLE_SECONDS)])


def talking_on(name: str, times: int) -> Scenario:
    """Says it so many times without a pause, then asks something ordinary."""
    monologue = repeated(utterance(name), times)
    return Scenario("a monologue", [Greeting(), Say(monologue), Say("hours.parking"), Say("goodbye.bye")])


# ---------------------------------------------------------------- what is started

llm = OpenAI(name="llm", first_token=LogNormal(150, 0.2), between_tokens=Fixed(6), seed=1)
stt = Deepgram(name="stt", final=LogNormal(40, 0.2), seed=2)
tts = Cartesia(name="tts", first_audio=LogNormal(60, 0.2), seed=3)
carrier = Telnyx(seed=4)


def started_by(command: str, name: str = "voice-agent", **environment: str) -> Command:
    """The agent, with every vendor's address pointing at its twin."""
    return Command(
        command,
        name=name,
        env={
            "TELNYX_API_BASE": carrier,
            "TELNYX_PUBLIC_KEY": carrier.public_key,
            "TELNYX_API_KEY": "KEY-of-the-twin",
            "LLM_CHAIN": "openai",
            "OPENAI_BASE_URL": llm,
            "OPENAI_API_KEY": "sk-of-the-twin",
            "DEEPGRAM_URL": stt,
            "DEEPGRAM_API_KEY": "of-the-twin",
            "TTS_CHAIN": "cartesia",
            "CARTESIA_URL": tts,
            "CARTESIA_API_KEY": "of-the-twin",
            "TRANSFER_NUMBER": "+15550123",
            "MAX_CALLS": f"{MAX_CALLS}",
            "MEDIA_IDLE_SECONDS": f"{MEDIA_IDLE_SECONDS}",
            **environment,
        },
    )


# ---------------------------------------------------------------- how calls end


@dataclass(frozen=True)
class Ending:
    """A way in which a call can end. heard: whether there was a conversation before. calls: at once, in a batch."""

    name: str
    scenarios: Sequence[Scenario]
    heard: bool = True
    setup: CallSetup = field(default_factory=lambda: CallSetup(id=""))
    faults: Sequence[Fault] = ()
    calls: int = 16

    def batch(self, n: int) -> Phase:
        return Phase(f"{self.name} {n}", Burst(self.calls), Call(self.scenarios, self.setup), self.faults)


ENDINGS = (
    Ending(
        "hung up by the caller",
        [
            GREETED,  # in silence, while the agent speaks, and before it has an answer
            Scenario("hang up on the agent", [Silence(1.5)]),
            Scenario("ask, and hang up", [Greeting(), Say("hours.parking", patience_seconds=0.05)]),
        ],
    ),
    Ending("hung up by the agent", [Scenario("a goodbye", [Greeting(), Say("goodbye.bye")])]),
    Ending("transferred", [Scenario("to a human", [Greeting(), Say("transfer.person")])]),
    Ending("media broken", [LISTENING], faults=[BrokenMedia(carrier, after_ms=1500)]),
    Ending("half open", [LISTENING], faults=[HalfOpen(carrier)]),
    Ending("given up", [LISTENING], heard=False, setup=CallSetup(id="", answer_within_ns=1)),
    Ending("media refused", [LISTENING], heard=False, faults=[RefusedMedia(carrier)]),
    Ending("busy", [Scenario("a moment", [Silence(1.5)])], heard=False, calls=MAX_CALLS + REFUSED_CALLS),
)


@dataclass(frozen=True)
class Endings:
    """Batches of each ending, a rest after each batch, and the next callers after each ending."""

    warm_up: Phase
    batches: Mapping[str, Sequence[Phase]]  # by the ending's name
    rests: Mapping[str, Phase]  # by the batch's name
    next_callers: Mapping[str, Phase]

    @classmethod
    def all_of_them(cls) -> Endings:
        warm_up = Phase("warm-up", Burst(MAX_CALLS), Call([SHORT]))
        batches = {ending.name: [ending.batch(n) for n in range(1, BATCHES + 1)] for ending in ENDINGS}
        every = [warm_up, *(batch for each in batches.values() for batch in each)]
        rests = {batch.name: Phase(f"after {batch.name}", Burst(1), Idle(REST_SECONDS)) for batch in every}
        callers = {name: Phase(f"next callers ({name})", Burst(5), Call([AT_ONCE])) for name in batches}
        return cls(warm_up, batches, rests, callers)

    def in_order(self) -> list[Phase]:
        phases = self.rested([self.warm_up])
        for name, batches in self.batches.items():
            phases += [*self.rested(batches), self.next_callers[name]]
        return phases

    def rested(self, batches: Sequence[Phase]) -> list[Phase]:
        return [phase for batch in batches for phase in (batch, self.rests[batch.name])]

    def all(self, *, heard: bool) -> list[Phase]:
        return [batch for ending in ENDINGS if ending.heard is heard for batch in self.batches[ending.name]]


# ---------------------------------------------------------------- phases


@dataclass(frozen=True)
class Phases:
    interruptions: Phase
    monologue: Phase
    burst: Phase
    parallel: Phase
    pressure: Phase | None
    endings: Endings

    def in_order(self) -> list[Phase]:
        pressure = [self.pressure] if self.pressure else []
        stress = [self.interruptions, self.monologue, self.burst, self.parallel, *pressure]
        return [*stress, *self.endings.in_order()]

    def crowded(self) -> list[Phase]:
        """In which the machine, or the agent, has others to care for."""
        return [self.burst, self.parallel, *([self.pressure] if self.pressure else [])]


def phased(scale: float, memory: float, beside: Sequence[Command]) -> Phases:
    others = [Call([SHORT], CallSetup(id="", service=agent.name)) for agent in beside]
    talkers, comers = _count(8, scale), _count(24, scale)
    filled = MemoryPressure(share=memory) if memory else None
    return Phases(
        interruptions=Phase("interruptions", Constant(1 / 2, 2 * _count(25, scale)), Call([INTERRUPTING])),
        monologue=Phase(
            "monologue",
            Burst(_count(3, scale)),
            Call([talking_on("hostile.monologue", _count(MONOLOGUES, scale))]),
            drain_seconds=60 * MONOLOGUES,
        ),
        burst=Phase(
            "burst",
            Schedule([0.5 * n for n in range(talkers)] + [8.0] * comers),
            InTurn([*[Call([TALKING])] * talkers, *[Call([GREETED])] * comers]),
        ),
        parallel=Phase("parallel agents", Constant(3, _count(30, scale) / 3), InTurn([Call([SHORT]), *others])),
        pressure=Phase("memory pressure", Constant(2, _count(20, scale) / 2), Call([SHORT]), [filled])
        if filled
        else None,
        endings=Endings.all_of_them(),
    )


def _count(number: int, scale: float) -> int:
    return max(1, round(number * scale))


# ---------------------------------------------------------------- what is demanded, and how each demand is proven


class Demands:
    """The gates, each with a defect of the reference agent that it must tell from a sound one, in as few calls as can
    be: the phases of a control are cut down to what is evidence enough."""

    def __init__(self, agent: str, phases: Phases, target: Command) -> None:
        self._agent, self._phases, self._target = agent, phases, target
        self.gates: list[Gate] = []
        self.valid_if: list[Gate] = []
        self.controls: list[Control] = []
        self._of_interruptions()
        self._of_the_monologue()
        self._of_crowds()
        self._of_endings()
        self._of_the_harness()

    def _of_interruptions(self) -> None:
        phase = self._phases.interruptions
        twice = Scenario("talking over the agent twice", INTERRUPTING.steps[:3])
        few = replace(phase, arrivals=Burst(MAX_CALLS), workload=Call([twice]))  # 48 interruptions
        yields, stops = AtLeast(yield_rate(phase), 90, "%"), AtMost(barge_in_stop(phase, q=0.9), 700, "ms")
        prompt = AtMost(response_latency(phase, q=0.9), 800, "ms")
        self.gates += [yields, stops, prompt]
        late = self._defect("slow_barge_in:450", few)
        self.controls += [
            Control(yields, red=self._defect("no_clear", few, may=[stops, prompt]), benign=late),
            Control(stops, red=self._defect("slow_barge_in:900", few, may=[prompt]), benign=late),
            Control(prompt, red=self._defect("slow_response:500", few), benign=self._defect("slow_response:50", few)),
        ]

    def _of_the_monologue(self) -> None:
        phase = self._phases.monologue
        brief = replace(phase, arrivals=Burst(3), workload=Call([talking_on("hostile.husband", 2)]))
        silence = AtMost(dead_air(phase), 4, "s")
        memory = AtMost(probed(self._target, "private_mb", 1.0, phase), 150, "MB")
        self.gates += [silence, memory]
        filled = self._defect("pool_high_water:4096", brief)
        self.controls += [
            Control(silence, red=self._defect("slow_response:4500", brief), benign=filled),
            Control(memory, red=self._defect("leak_native_per_second:8192", brief), benign=filled),
        ]

    def _of_crowds(self) -> None:
        burst, parallel, crowded = self._phases.burst, self._phases.parallel, self._phases.crowded()
        answered = AtMost(call_setup(burst, q=0.9), 3000, "ms")
        greeted = AtMost(first_audio_latency(burst, q=0.9), 3000, "ms")
        prompt = AtMost(across("a crowd", [response_latency(phase, q=0.9) for phase in crowded]), 1000, "ms")
        every = [self._phases.interruptions, self._phases.monologue, *crowded]
        success = AtLeast(across("all stress", [call_success(phase) for phase in every]), 90, "%")
        self.gates += [answered, greeted, prompt, success]
        comers = replace(burst, arrivals=Burst(MAX_CALLS), workload=Call([GREETED]))
        alone = replace(parallel, workload=Call([TWICE]))
        in_time, fine = self._defect("serial_dispatch:60", comers), self._defect("warm_up:100", alone)
        self.controls += [
            Control(answered, red=self._defect("serial_dispatch:250", comers), benign=in_time),
            Control(greeted, red=self._defect("slow_greeting:3500", comers), benign=in_time),
            Control(prompt, red=self._defect("slow_response:800", alone), benign=fine),
            Control(success, red=self._defect("hang_up_early:0.5", alone), benign=fine),
        ]

    def _of_endings(self) -> None:
        endings = self._phases.endings
        heard, unheard = endings.all(heard=True), endings.all(heard=False)
        left = NothingLeft(self._target, [endings.warm_up, *heard, *unheard])
        kept = AtMost(kept_per_call(self._target, [endings.warm_up, *heard]), KEPT_KB, "KB")
        kept_of_unheard = AtMost(kept_per_call(self._target, unheard), KEPT_KB, "KB")
        served = AtLeast(
            across("the next callers", [call_success(phase) for phase in endings.next_callers.values()]), 90, "%"
        )
        self.gates += [left, kept, kept_of_unheard, served]
        broken, half_open, given_up = (endings.batches[name] for name in ("media broken", "half open", "given up"))
        talked, silent = [endings.warm_up, *broken, half_open[0]], [endings.warm_up, *unheard[: BATCHES + 1]]
        pooling = self._left("pool_high_water:512", [endings.warm_up, *broken])
        callers = replace(endings.next_callers["media broken"], arrivals=Burst(30), workload=Call([TWICE]))
        self.controls += [
            Control(left, red=self._left("leak_fd", [endings.warm_up, *broken]), benign=pooling),
            Control(left, red=self._left("leak_task_on_refused", [endings.warm_up, *given_up]), benign=pooling),
            Control(kept, red=self._left("leak_python:400", talked), benign=self._left("cache_warmup:512", talked)),
            Control(
                kept_of_unheard,
                red=self._left("leak_on_refused:400", silent),
                benign=self._left("leak_python:400", silent),
            ),
            Control(served, red=self._defect("hang_up_early:0.5", callers), benign=self._defect("warm_up:50", callers)),
        ]

    def _of_the_harness(self) -> None:
        crowd = replace(self._phases.burst, arrivals=Burst(6), workload=Call([GREETED]))
        blocked, busy = (
            Variation(
                name=name,
                phases=[crowd],
                faults={crowd.name: [BlockLoop(milliseconds=ms, every_milliseconds=300)]},
            )
            for name, ms in (("harness blocked", 60), ("harness busy", 2))
        )
        crowded = Variation(name="no room for calls", phases=[replace(crowd, at_once=3)])
        for gate, red in (
            (AtMost(dropped(), 0), crowded),
            (AtMost(send_lateness(q=0.99), 5, "ms"), blocked),
            (AtMost(loop_lag(q=0.99), 20, "ms"), blocked),
        ):
            self.valid_if.append(gate)
            self.controls.append(Control(gate, red=red, benign=busy))

    def _defect(self, defect: str, phase: Phase, may: Sequence[Gate] = ()) -> Variation:
        """The defect (systems/voice_agent/README.md has them all), seen in one phase, which may be cut down."""
        services = [started_by(self._agent, DEFECT=defect)]
        name = f"{defect} ({phase.name})"
        return Variation(name=name, services=services, phases=[phase], only=[phase.name], may_redden=may)

    def _left(self, defect: str, batches: Sequence[Phase]) -> Variation:
        """The defect, seen by what is left after these batches."""
        only = [phase.name for phase in self._phases.endings.rested(batches)]
        services = [started_by(self._agent, DEFECT=defect)]
        return Variation(name=f"{defect} ({batches[-1].name.rpartition(' ')[0]})", services=services, only=only)


def plan(
    agent: str = f"{sys.executable} -m voice_agent",
    scale: float = 1.0,
    memory: float = 0.9,
) -> Plan:
    if not 0 < scale <= 10:
        raise PlanError(f"scale={scale:g}: it must be more than 0 and at most 10")
    if not 0 <= memory <= 0.95:
        raise PlanError(f"memory={memory:g}: the share of the free memory to be filled; it must be from 0 to 0.95")
    target = started_by(agent)
    beside = [started_by(agent, f"voice-agent {n}") for n in (2, 3)]
    phases = phased(scale, memory, beside)
    demands = Demands(agent, phases, target)
    return Plan(
        about=f"scale {scale:g}",
        target=target,
        beside=beside,
        carrier=carrier,
        services=[llm, stt, tts],
        phases=phases.in_order(),
        probes=[Process(target), runtime(target)],
        gates=demands.gates,
        valid_if=demands.valid_if,
        controls=demands.controls,
    )
