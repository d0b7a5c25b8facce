"""The telephone plan: does the agent answer the telephone as people expect?

Greeting, conversation at load, barge-in, and a language model whose stream opens and then says nothing. The vendors are
twins with realistic latencies; the agent is real, and so is every byte between them.

    busyhour run plans/telephone.py
    busyhour run plans/telephone.py -o profile=seed           the limits of the seed profile
    busyhour run plans/telephone.py -o scale=0.5              half as many calls: less time, less evidence
    busyhour run plans/telephone.py -o agent='python app.py'  your own agent; see `started_by` for what it is told

Gates ask for as much evidence as the plan has calls: a P95 needs 59 turns before it can pass at all.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from busyhour.arrivals import Poisson
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Constant, Deepgram, LogNormal, OpenAI
from busyhour.errors import PlanError
from busyhour.faults.process import BlockLoop
from busyhour.faults.provider import NoToken
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import (
    agent_interruptions,
    barge_in_stop,
    call_success,
    dead_air,
    dropped,
    first_audio_latency,
    loop_lag,
    missed_turns,
    response_latency,
    send_lateness,
    underruns,
    word_error_rate,
    yield_rate,
)
from busyhour.model import Control, Gate, Phase, Plan, Service, Variation
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Scenario


@dataclass(frozen=True)
class Profile:
    """What is demanded, in ms unless it says otherwise."""

    first_audio_p90: float
    response_p50: float
    response_p95: float
    barge_in_stop_p90: float
    dead_air_seconds: float


PROFILES = {
    # People leave about 0.2 s between turns (Stivers et al., PNAS 2009); a P95 of 800 ms is the field's usual target.
    "conversational": Profile(1000, 650, 800, 700, 3),
    # 3 s to the first word, 2 s for each turn, an answer within 5 s whatever fails.
    "seed": Profile(3000, 2000, 2000, 2000, 5),
}

# ---------------------------------------------------------------- what callers say

GREETED = Scenario("listen to the greeting", [Greeting()])
BOOKING = Scenario(
    "booking",
    [
        Greeting(),
        Say("booking.appointment"),
        Say("booking.tuesday"),
        Say("booking.nine"),
        Say("booking.name_anna"),
        Say("booking.phone"),
        Say("booking.confirm"),
        Say("goodbye.bye"),
    ],
)
QUESTIONS = Scenario(
    "questions",
    [
        Greeting(),
        Say("hours.saturday"),
        Say("hours.parking"),
        Say("price.cleaning"),
        Say("price.insurance"),
        Say("price.card"),
        Say("smalltalk.thanks"),
        Say("goodbye.thanks"),
    ],
)
TOOTHACHE = Scenario(
    "a toothache",
    [
        Greeting(),
        Say("booking.toothache"),
        Say("booking.thursday"),
        Say("booking.half_past_two"),
        Say("booking.name_fiona"),
        Say("booking.phone"),
        Say("booking.confirm"),
        Say("goodbye.nothing_else"),
    ],
)
INTERRUPTING = Scenario(
    "talking over the agent",
    [
        Greeting(),
        BargeIn("barge.question", asking="hours.today", after_ms=900),
        BargeIn("barge.stop", asking="price.cleaning", after_ms=900),
        BargeIn("barge.interrupt", asking="hours.latest", after_ms=900),
    ],
)
SHORT = Scenario("two questions", [Greeting(), Say("hours.parking"), Say("price.card")])

# ---------------------------------------------------------------- what is started

llm = OpenAI(name="llm", first_token=LogNormal(150, 0.2), between_tokens=Constant(6), seed=1)
stt = Deepgram(name="stt", final=LogNormal(40, 0.2), seed=2)
tts = Cartesia(name="tts", first_audio=LogNormal(60, 0.2), seed=3)
carrier = Telnyx(seed=4)

DUPLICATING = Telnyx(seed=4, duplicate_share=0.5)


def started_by(command: str, **environment: str) -> Command:
    """The agent, with every vendor's address pointing at its twin."""
    return Command(
        command,
        name="voice-agent",
        env={
            "TELNYX_API_BASE": carrier,
            "TELNYX_PUBLIC_KEY": carrier.public_key,
            "TELNYX_API_KEY": "KEY-of-the-twin",
            "LLM_CHAIN": "openai",  # no other vendor, whatever keys are in the environment
            "OPENAI_BASE_URL": llm,
            "OPENAI_API_KEY": "sk-of-the-twin",
            "DEEPGRAM_URL": stt,
            "DEEPGRAM_API_KEY": "of-the-twin",
            "TTS_CHAIN": "cartesia",
            "CARTESIA_URL": tts,
            "CARTESIA_API_KEY": "of-the-twin",
            **environment,
        },
    )


# ---------------------------------------------------------------- phases


@dataclass(frozen=True)
class Phases:
    greeting: Phase
    steady: Phase
    barge_in: Phase
    brown_out: Phase


def phased(scale: float, seed: int) -> Phases:
    def calls(per_second: float, count: int) -> Poisson:
        return Poisson(per_second, count=max(1, round(count * scale)), seed=100 * seed + count)

    return Phases(
        greeting=Phase("greeting", calls(4, 36), Call([GREETED])),
        steady=Phase("steady", calls(1, 20), Call([BOOKING, QUESTIONS, TOOTHACHE])),
        barge_in=Phase("barge-in", calls(1.2, 16), Call([INTERRUPTING])),
        brown_out=Phase("llm brown-out", calls(2, 12), Call([SHORT]), faults=[NoToken(llm)]),
    )


# ---------------------------------------------------------------- what is demanded, and how each demand is proven

# What the reference agent does in this plan when nothing is wrong, in ms: a control adds to it what takes the sum just
# past a limit, or keeps it just inside. (Another agent is judged by the same gates; they are proven with this one.)
OWN_FIRST_AUDIO, OWN_P50, OWN_P95, OWN_STOP = 80, 510, 610, 100


HARMS = {
    "slow_response": ("latency", "dead air", "missed turns", "successful calls"),
    "drop_turn": ("latency", "dead air", "missed turns"),
    "mishears": ("latency", "dead air", "missed turns", "word error"),
    "interrupts": ("latency", "dead air", "missed turns", "underrun"),
    "gappy_audio": ("dead air", "underrun"),
    "hang_up_early": ("latency", "dead air", "missed turns"),
    "no_clear": ("barge-in stop", "yield"),
    "slow_barge_in": ("barge-in stop", "yield"),
    "patient": ("dead air", "missed turns", "successful calls"),
    "refuse_call": ("first-audio",),
    "slow_greeting": ("first-audio", "successful calls"),
}
"""What else a defect harms beside what it is the control of: gates of such names fail under it with cause."""


class Demands:
    """The gates of a profile, each with the control that it must tell apart."""

    def __init__(self, agent: str, limits: Profile, phases: Phases) -> None:
        self._agent, self._phases = agent, phases
        self.gates: list[Gate] = []
        self.valid_if: list[Gate] = []
        self.controls: list[Control] = []
        self._variations: dict[str, Variation] = {}
        self._of_the_greeting(limits)
        self._of_the_conversation(limits)
        self._of_the_barge_in(limits)
        self._of_the_brown_out(limits)
        self._of_the_harness()
        # What is harmless to the one gate may be past the limit of another.
        explained = {id(v): self._explained(v) for c in self.controls for v in (c.red, c.benign)}
        self.controls = [replace(c, red=explained[id(c.red)], benign=explained[id(c.benign)]) for c in self.controls]

    def _explained(self, variation: Variation) -> Variation:
        words = next((words for defect, words in HARMS.items() if variation.name.startswith(defect)), ())
        return replace(variation, may_redden=[gate for gate in self.gates if any(word in gate.name for word in words)])

    def _of_the_greeting(self, limits: Profile) -> None:
        greeting, limit = self._phases.greeting, limits.first_audio_p90
        self._gate(
            AtMost(first_audio_latency(greeting, q=0.9), limit, "ms"),
            red=self._defect("slow_greeting", limit - OWN_FIRST_AUDIO + 100),
            benign=self._defect("slow_greeting", limit - OWN_FIRST_AUDIO - 100),
        )
        self._gate(
            AtLeast(call_success(greeting), 90, "%"),
            red=self._defect("refuse_call", 0.35),
            benign=self._services("duplicate webhooks", DUPLICATING),
        )

    def _of_the_conversation(self, limits: Profile) -> None:
        steady, p50, p95 = self._phases.steady, limits.response_p50, limits.response_p95
        for q, limit, own in ((0.5, p50, OWN_P50), (0.95, p95, OWN_P95)):
            self._gate(
                AtMost(response_latency(steady, q=q), limit, "ms"),
                red=self._defect("slow_response", limit - own + 120),
                benign=self._defect("slow_response", limit - own - 60),
            )
        self._gate(
            AtLeast(call_success(steady), 85, "%"),
            red=self._defect("hang_up_early", 0.2),
            benign=self._services("duplicate webhooks", DUPLICATING),
        )
        silence_ms = 1000 * limits.dead_air_seconds
        self._gate(
            AtMost(dead_air(steady), limits.dead_air_seconds, "s"),
            red=self._defect("slow_response", silence_ms - OWN_P50 + 300),
            benign=self._defect("slow_response", silence_ms - OWN_P50 - 800),
        )
        for indicator, limit, unit, defect, harmful, harmless in (
            (missed_turns(steady), 5, "%", "drop_turn", 0.2, 0.01),
            (agent_interruptions(steady), 5, "%", "interrupts", 0.3, 0.01),
            (underruns(steady), 2, "/min", "gappy_audio", "120@0.4", "120@0.01"),
            (word_error_rate(steady), 5, "%", "mishears", 0.3, 0.01),
        ):
            gate = AtMost(indicator, limit, unit)
            self._gate(gate, red=self._defect(defect, harmful), benign=self._defect(defect, harmless))

    def _of_the_barge_in(self, limits: Profile) -> None:
        barge_in, limit = self._phases.barge_in, limits.barge_in_stop_p90
        late = self._defect("slow_barge_in", limit - OWN_STOP - 100)
        later = self._defect("slow_barge_in", limit - OWN_STOP + 100)
        self._gate(AtMost(barge_in_stop(barge_in, q=0.9), limit, "ms"), red=later, benign=late)
        self._gate(
            AtLeast(yield_rate(barge_in), 90, "%"), red=self._environment("no_clear", DEFECT="no_clear"), benign=late
        )

    def _of_the_brown_out(self, limits: Profile) -> None:
        brown_out = self._phases.brown_out
        patient = self._waits(limits.dead_air_seconds - 0.1)
        too_patient = self._waits(limits.dead_air_seconds + 1)
        for_ever = self._waits(20)
        self._gate(AtMost(dead_air(brown_out), limits.dead_air_seconds, "s"), red=too_patient, benign=patient)
        self._gate(AtMost(missed_turns(brown_out), 12, "%"), red=for_ever, benign=patient)
        self._gate(AtLeast(call_success(brown_out), 75, "%"), red=self._defect("hang_up_early", 0.9), benign=patient)

    def _of_the_harness(self) -> None:
        greeting = self._phases.greeting
        blocked = Variation(
            name="harness blocked", faults={greeting.name: [BlockLoop(milliseconds=60, every_milliseconds=300)]}
        )
        busy = Variation(
            name="harness busy", faults={greeting.name: [BlockLoop(milliseconds=2, every_milliseconds=300)]}
        )
        crowded = Variation(name="no room for calls", phases=[replace(greeting, at_once=3)])
        self._gate(AtMost(dropped(), 0), red=crowded, benign=busy, harness=True)
        self._gate(AtMost(send_lateness(q=0.99), 5, "ms"), red=blocked, benign=busy, harness=True)
        self._gate(AtMost(loop_lag(q=0.99), 20, "ms"), red=blocked, benign=busy, harness=True)

    def _gate(self, gate: Gate, *, red: Variation, benign: Variation, harness: bool = False) -> None:
        (self.valid_if if harness else self.gates).append(gate)
        self.controls.append(Control(gate, red=red, benign=benign))

    def _defect(self, name: str, value: float | str) -> Variation:
        """A defect of the reference agent; systems/voice_agent/README.md has them all."""
        defect = f"{name}:{value}" if isinstance(value, str) else f"{name}:{value:g}"
        return self._environment(defect, DEFECT=defect)

    def _waits(self, seconds: float) -> Variation:
        """For the model's first token; the apology follows in about half a second."""
        limits = {"FIRST_TOKEN_SECONDS": f"{seconds}", "DEAD_AIR_SECONDS": f"{seconds}"}
        return self._environment(f"patient for {seconds:g} s", **limits)

    def _environment(self, name: str, **variables: str) -> Variation:
        return self._services(name, started_by(self._agent, **variables))

    def _services(self, name: str, service: Service) -> Variation:
        """One object for one name, so that gates which share a variation share its run."""
        return self._variations.setdefault(name, Variation(name=name, services=[service]))


def plan(
    profile: str = "conversational",
    agent: str = f"{sys.executable} -m voice_agent",
    scale: float = 1.0,
    seed: int = 1,
) -> Plan:
    if profile not in PROFILES:
        raise PlanError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    if not 0 < scale <= 100:
        raise PlanError(f"scale={scale:g}: it must be more than 0 and at most 100")
    phases = phased(scale, seed)
    demands = Demands(agent, PROFILES[profile], phases)
    target = started_by(agent)
    return Plan(
        about=f"profile {profile}",
        target=target,
        carrier=carrier,
        services=[llm, stt, tts],
        phases=[phases.greeting, phases.steady, phases.barge_in, phases.brown_out],
        probes=[Process(target)],
        gates=demands.gates,
        valid_if=demands.valid_if,
        controls=demands.controls,
    )
