"""The resilience plan: what does the caller hear when a provider dies, or worse, half dies?

Every fault of the catalogue in turn, a few calls each; between two faults of one provider lies one of another, so that
the time to recover can be seen. One table tells what each fault did to the callers. Last, all providers of a kind fail
at once: the agent is to say so in the carrier's own voice, and to put the caller through to a human.

    busyhour run plans/resilience.py                       about 18 minutes
    busyhour run plans/resilience.py -o only=llm           the faults whose name contains "llm"
    busyhour run plans/resilience.py -o scale=2            twice as many calls under each fault
    busyhour run plans/resilience.py -o agent='python app.py'
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from busyhour.arrivals import Burst, Poisson
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Anthropic, Cartesia, Constant, Deepgram, ElevenLabs, LogNormal, OpenAI
from busyhour.errors import PlanError
from busyhour.faults.carrier import (
    BurstLoss,
    DuplicatedWebhooks,
    FailingCommands,
    Jitter,
    LateWebhooks,
    ReplayedWebhooks,
)
from busyhour.faults.process import BlockLoop, Freeze, Kill
from busyhour.faults.provider import (
    Error,
    Hang,
    HttpError,
    LateFinal,
    Malformed,
    NoFinal,
    NoToken,
    Quota,
    Reset,
    Slow,
    Stall,
    Truncate,
    ZeroAudio,
)
from busyhour.faults.proxy import Blackhole, Latency, Proxy, StallAfter
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import (
    across,
    call_setup,
    call_success,
    cost_per_minute,
    dead_air,
    dropped,
    failover_time,
    loop_lag,
    lowest,
    missed_turns,
    probed,
    recovery_time,
    response_latency,
    said,
    send_lateness,
    sensible_speech,
    transfers,
)
from busyhour.model import Control, Fault, Gate, Indicator, Phase, Plan, Service, Table, Variation
from busyhour.probes.metrics import Metrics
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, Say, Scenario
from busyhour.workloads.idle import Idle

# Patient callers: to one who soon speaks again, a hole in an answer is its end, and nobody hears it filled.
QUESTIONS = Scenario("two questions", [Greeting(), Say("hours.parking"), Say("price.card")], think_ms=(2200, 2600))
GREETED = Scenario("a greeting", [Greeting()])
BREAKER_OPEN_SECONDS = 8
QUIET_SECONDS = 8
SORRY = r"\b(sorry|trouble|putting you through)\b"

# ---------------------------------------------------------------- what is started

llm = OpenAI(name="llm", first_token=LogNormal(150, 0.2), between_tokens=Constant(6), seed=1)
llm2 = Anthropic(name="llm2", first_token=LogNormal(180, 0.2), between_tokens=Constant(6), seed=2)
stt = Deepgram(name="stt", final=LogNormal(40, 0.2), seed=3)
tts = Cartesia(name="tts", first_audio=LogNormal(60, 0.2), seed=4)
tts2 = ElevenLabs(name="tts2", first_audio=LogNormal(80, 0.2), seed=5)
carrier = Telnyx(seed=6)
to_llm, to_tts = Proxy(llm, name="path to llm"), Proxy(tts, name="path to tts")
CHAIN = (llm, llm2, tts, tts2)


def started_by(command: str, **environment: str) -> Command:
    """The agent, with two vendors of each kind that it can do without one of."""
    return Command(
        command,
        name="voice-agent",
        env={
            "TELNYX_API_BASE": carrier,
            "TELNYX_PUBLIC_KEY": carrier.public_key,
            "TELNYX_API_KEY": "KEY-of-the-twin",
            "LLM_CHAIN": "openai,anthropic",
            "OPENAI_BASE_URL": to_llm,
            "OPENAI_API_KEY": "sk-of-the-twin",
            "ANTHROPIC_BASE_URL": llm2,
            "ANTHROPIC_API_KEY": "of-the-twin",
            "DEEPGRAM_URL": stt,
            "DEEPGRAM_API_KEY": "of-the-twin",
            "TTS_CHAIN": "cartesia,elevenlabs",
            "CARTESIA_URL": to_tts,
            "CARTESIA_API_KEY": "of-the-twin",
            "ELEVENLABS_URL": tts2,
            "ELEVENLABS_API_KEY": "of-the-twin",
            "BREAKER_OPEN_SECONDS": f"{BREAKER_OPEN_SECONDS}",
            "TRANSFER_NUMBER": "+15550123",
            **environment,
        },
    )


# ---------------------------------------------------------------- what fails


@dataclass(frozen=True)
class Outage:
    """A fault of one provider, and what the callers went through. `chained`: another provider could take over."""

    name: str
    provider: Service
    fault: Fault

    @property
    def chained(self) -> bool:
        return self.provider in CHAIN


def outages() -> list[Outage]:
    """One provider at a time; those of each are spread over the run, so that none has two in a row."""
    of_llm: list[tuple[str, Fault]] = [
        ("no token", NoToken(llm)),
        ("HTTP 401", HttpError(llm, 401)),
        ("HTTP 429", HttpError(llm, 429)),
        ("HTTP 500", HttpError(llm, 500)),
        ("quota", Quota(llm)),
        ("reset", Reset(llm)),
        ("hang", Hang(llm)),
        ("cut off", Truncate(llm)),
        ("malformed", Malformed(llm)),
        ("stall", Stall(llm)),
        ("half fail", HttpError(llm, 503, share=0.5)),
        ("slow", Slow(llm, first_token=Constant(900))),
        ("path 300 ms longer", Latency(to_llm, 300, jitter_ms=100)),
        ("path swallows all", Blackhole(to_llm)),
        ("path cut in mid-stream", StallAfter(to_llm, events=3)),
        ("frozen", Freeze(llm, 8)),
        ("killed", Kill(llm, after_seconds=4, restart_after_seconds=6)),
    ]
    of_tts: list[tuple[str, Fault]] = [
        ("no audio", ZeroAudio(tts)),
        ("HTTP 401", HttpError(tts, 401)),
        ("HTTP 429", HttpError(tts, 429)),
        ("error", Error(tts)),
        ("quota", Quota(tts)),
        ("reset", Reset(tts)),
        ("hang", Hang(tts)),
        ("stall", Stall(tts)),
        ("half no audio", ZeroAudio(tts, share=0.5)),
        ("slow", Slow(tts, first_audio=Constant(900))),
        ("path 300 ms longer", Latency(to_tts, 300, jitter_ms=100)),
        ("path swallows all", Blackhole(to_tts)),
        ("killed", Kill(tts, after_seconds=4, restart_after_seconds=6)),
    ]
    of_stt: list[tuple[str, Fault]] = [
        ("no final", NoFinal(stt)),
        ("late final", LateFinal(stt)),
        ("HTTP 503", HttpError(stt, 503)),
        ("reset", Reset(stt)),
    ]
    of_carrier: list[tuple[str, Fault]] = [
        ("webhooks twice", DuplicatedWebhooks(carrier)),
        ("webhooks late", LateWebhooks(carrier, 400)),
        ("webhooks replayed", ReplayedWebhooks(carrier, after_ms=1500)),
        ("commands fail once", FailingCommands(carrier)),
        ("jitter of 40 ms", Jitter(carrier, 40)),
        ("1 % of frames lost", BurstLoss(carrier, 0.01, frames=2)),
    ]
    every = ((llm, of_llm), (tts, of_tts), (stt, of_stt), (carrier, of_carrier))
    placed = [
        ((number + 0.5) / len(faults), Outage(f"{provider.name} {name}", provider, fault))
        for provider, faults in every
        for number, (name, fault) in enumerate(faults)
    ]
    return [outage for _, outage in sorted(placed, key=lambda pair: pair[0])]


ALL_FAIL: Mapping[str, Sequence[Fault]] = {
    "every model fails": [HttpError(llm, 503), NoToken(llm2)],
    "every voice fails": [ZeroAudio(tts), Error(tts2)],
}
"""Nobody is left to take over."""

# ---------------------------------------------------------------- phases


@dataclass(frozen=True)
class Phases:
    before: Phase
    burst: Phase
    outages: Mapping[str, tuple[Outage, Phase]]
    after: Phase
    all_fail: Sequence[Phase]
    quiet: Phase

    def in_order(self) -> list[Phase]:
        single = [phase for _, phase in self.outages.values()]
        return [self.before, self.burst, *single, self.after, *self.all_fail, self.quiet]


def phased(scale: float, seed: int, only: str) -> Phases:
    def calls(name: str, count: int, per_second: float, faults: Sequence[Fault] = ()) -> Phase:
        number = max(1, round(count * scale))
        return Phase(name, Poisson(per_second, count=number, seed=100 * seed + count), Call([QUESTIONS]), faults)

    chosen = [outage for outage in outages() if only in outage.name]
    if not chosen:
        names = ", ".join(outage.name for outage in outages())
        raise PlanError(f"only={only}: no fault's name contains it; there are {names}")
    return Phases(
        before=calls("before", 24, 2),
        burst=Phase("burst", Burst(max(1, round(30 * scale))), Call([GREETED])),
        outages={outage.name: (outage, calls(outage.name, 6, 2, [outage.fault])) for outage in chosen},
        after=calls("after", 24, 2),
        all_fail=[calls(name, 8, 2, faults) for name, faults in ALL_FAIL.items()],
        quiet=Phase("quiet", Burst(1), Idle(QUIET_SECONDS)),
    )


# ---------------------------------------------------------------- what is demanded, and how each demand is proven

OPEN_CALLS = "voice_agent_open_calls"
OUTAGES, TOTAL = "all outages", "total outages"
CROWD = 30
"""Calls in a phase by which a gate on many phases is proven: one phase must be evidence enough for it."""


class Demands:
    """The gates, each with the defects of the reference agent that it must tell from a sound one."""

    def __init__(self, agent: str, phases: Phases, target: Service) -> None:
        self._agent, self._phases, self._target = agent, phases, target
        self._by_name = {phase.name: phase for phase in phases.in_order()}
        self._variations: dict[tuple[str, ...], Variation] = {}
        self.gates: list[Gate] = []
        self.valid_if: list[Gate] = []
        self.controls: list[Control] = []
        self._under_outages()
        self._when_all_fail()
        self._otherwise()
        self._of_the_harness()

    def _under_outages(self) -> None:
        outages = list(self._phases.outages.values())
        phases = [phase for _, phase in outages]
        chained = [(outage, phase) for outage, phase in outages if outage.chained]
        worst = AtMost(across(OUTAGES, [dead_air(phase) for phase in phases]), 3, "s")
        common = AtMost(across(OUTAGES, [dead_air(phase, q=0.95) for phase in phases]), 2.5, "s")
        survival = AtLeast(across(OUTAGES, [call_success(phase) for phase in phases]), 95, "%")
        missed = AtMost(across(OUTAGES, [missed_turns(phase) for phase in phases]), 3, "%")
        sensible = AtLeast(across(OUTAGES, [sensible_speech(phase) for phase in phases]), 95, "%")
        each = AtLeast(lowest("any outage", [call_success(phase) for phase in phases]), 80, "%")
        self.gates += [worst, common, survival, each, missed, sensible]
        silent: list[Gate] = [worst, common, missed, survival, each]
        self._told_apart([survival, each], self._defect("hang_up_early:0.3", "llm HTTP 500", may=[missed]))
        self._told_apart([missed], self._defect("speaking_mute:0.2", "llm HTTP 500", may=silent))
        if not chained:
            return
        failover = AtMost(across(OUTAGES, [failover_time(phase, CHAIN) for _, phase in chained]), 3, "s")
        back = [recovery_time(phase, outage.provider) for outage, phase in chained]
        recovery = AtMost(across(OUTAGES, back), 60, "s")
        learned = AtMost(across(OUTAGES, [response_latency(phase, q=0.5) for _, phase in chained]), 1000, "ms")
        self.gates += [failover, recovery, learned]
        endless = self._defect("llm_no_token_timeout_off", "llm no token", may=[*silent, failover, learned])
        self._told_apart([worst, common, missed], endless)
        self._told_apart([worst], self._defect("failover_loses_settings:3", "llm HTTP 500", may=silent))
        trusting = self._defect("tts_zero_audio_trusted", "tts no audio", may=[*silent, sensible, failover, learned])
        self._told_apart([missed], trusting)
        often = {"BREAKER_OPEN_SECONDS": "1"}  # a turn is lost whenever the failing vendor is tried again
        forgetful = self._defect("no_replay", "llm HTTP 500", may=[*silent, failover, learned, recovery], **often)
        self._told_apart([missed], forgetful)
        self._told_apart([sensible], self._defect("truncate_ignored", "llm cut off", may=[failover]))
        self._told_apart([failover], self._defect("no_failover", "llm HTTP 500", may=[*silent, learned]))
        self._told_apart([recovery], self._defect("breaker_never_closes", "llm HTTP 500", "after"))
        self._told_apart([learned], self._defect("breaker_off", "llm no token", may=[common, recovery]))

    def _when_all_fail(self) -> None:
        models, voices = self._phases.all_fail
        every = (models, voices)
        transferred = AtLeast(transfers(models), 65, "%")
        survival = AtLeast(across(TOTAL, [call_success(phase) for phase in every]), 80, "%")
        worst = AtMost(across(TOTAL, [dead_air(phase) for phase in every]), 3, "s")
        sorry = [said(phase, SORRY, "count of spoken apologies") for phase in every]
        spoken = AtLeast(across(TOTAL, sorry), _count_of(models))
        self.gates += [transferred, survival, worst, spoken]
        sound = self._variation("warm_up:150 when all fail", [models.name, voices.name], DEFECT="warm_up:150")
        alone = self._variation("nobody to transfer to", [models.name], TRANSFER_NUMBER="", may=[worst])
        rude = self._variation(
            "hang_up_early:0.9 when all fail", [voices.name], DEFECT="hang_up_early:0.9", may=[spoken]
        )
        self.controls += [Control(transferred, red=alone, benign=sound), Control(survival, red=rude, benign=sound)]
        endless = self._variation(
            "llm_no_token_timeout_off when all fail",
            [models.name],
            DEFECT="llm_no_token_timeout_off",
            may=[transferred, survival],
        )
        self.controls += [Control(worst, red=endless, benign=sound), Control(spoken, red=endless, benign=sound)]

    def _otherwise(self) -> None:
        before, after, burst, quiet = (getattr(self._phases, n) for n in ("before", "after", "burst", "quiet"))
        prompt = AtMost(response_latency(before, q=0.9), 800, "ms")
        again = AtMost(response_latency(after, q=0.9), 800, "ms")
        setup = AtMost(call_setup(burst, q=0.9), 2000, "ms")
        left = AtMost(probed(self._target.name, OPEN_CALLS, q=0.5, phase=quiet), 0)
        idle = AtMost(probed(self._target.name, "cpu_pct", q=0.5, phase=quiet), 20, "%")
        cost = AtMost(cost_per_minute(before), 0.06, "USD")
        self.gates += [prompt, again, setup, left, idle, cost]
        plain = self._variation("warm_up:100", [before.name, after.name], DEFECT="warm_up:100")
        late = self._variation("slow_response:500", [after.name], DEFECT="slow_response:500")
        crowded = self._variation("gil_contention:1.2", [before.name], DEFECT="gil_contention:1.2")
        self.controls += [Control(prompt, red=crowded, benign=plain), Control(again, red=late, benign=plain)]
        serial = self._variation("serial_dispatch:200", [burst.name], DEFECT="serial_dispatch:200")
        brisk = self._variation("serial_dispatch:30", [burst.name], DEFECT="serial_dispatch:30")
        self.controls.append(Control(setup, red=serial, benign=brisk))
        both = [burst.name, quiet.name]
        pool = self._variation("pool_high_water:2048", both, DEFECT="pool_high_water:2048")
        zombie = self._variation("zombie_call:30", both, DEFECT="zombie_call:30")
        spin = self._variation("spin_after_hangup:30", both, DEFECT="spin_after_hangup:30", may=[setup])
        self.controls += [Control(left, red=zombie, benign=pool), Control(idle, red=spin, benign=pool)]
        dear = self._variation(
            "a dear voice",
            [before.name],
            TTS_CHAIN="elevenlabs,cartesia",
            ELEVENLABS_MODEL="eleven_multilingual_v2",
        )
        dearer = self._variation("a dearer model", [before.name], OPENAI_MODEL="gpt-4.1")
        self.controls.append(Control(cost, red=dear, benign=dearer))

    def _of_the_harness(self) -> None:
        burst = self._phases.burst
        blocked = Variation(
            name="harness blocked", faults={burst.name: [BlockLoop(milliseconds=60, every_milliseconds=300)]}
        )
        busy = Variation(name="harness busy", faults={burst.name: [BlockLoop(milliseconds=2, every_milliseconds=300)]})
        crowded = Variation(name="no room for calls", phases=[replace(burst, at_once=3)])
        for gate, red in (
            (AtMost(dropped(), 0), crowded),
            (AtMost(send_lateness(q=0.99), 5, "ms"), blocked),
            (AtMost(loop_lag(q=0.99), 20, "ms"), blocked),
        ):
            self.valid_if.append(gate)
            self.controls.append(Control(gate, red=red, benign=busy))

    # ------------------------------------------------------------ variations

    def _told_apart(self, gates: Sequence[Gate], red: Variation | None) -> None:
        """From a sound agent that is slow to warm up, in three of the outages; not where `only` left them out."""
        benign = self._defect("warm_up:150", "llm no token", "llm HTTP 500", "tts no audio", "after")
        if red is not None and benign is not None:
            self.controls += [Control(gate, red=red, benign=benign) for gate in gates]

    def _defect(self, defect: str, *phases: str, may: Sequence[Gate] = (), **environment: str) -> Variation | None:
        """The defect in these phases, with a crowd of calls; None if one of them is not in the plan."""
        if not self._by_name.keys() >= set(phases):
            return None
        return self._variation(defect, phases, may=tuple(may), crowd=True, DEFECT=defect, **environment)

    def _variation(
        self,
        name: str,
        phases: Sequence[str],
        *,
        may: Sequence[Gate] = (),
        crowd: bool = False,
        **environment: str,
    ) -> Variation:
        """One object for the same phases, so that gates which share a variation share its run."""
        key = (name, *phases, *environment.values())
        if key not in self._variations:
            changed = [_crowded(self._by_name[phase]) for phase in phases] if crowd else []
            agent = started_by(self._agent, **environment)
            self._variations[key] = Variation(
                name=name, services=[agent], phases=changed, may_redden=tuple(may), only=tuple(phases)
            )
        return self._variations[key]


def _crowded(phase: Phase) -> Phase:
    return replace(phase, arrivals=Poisson(2.5, count=CROWD, seed=CROWD))


def _count_of(phase: Phase) -> int:
    assert isinstance(phase.arrivals, Poisson)
    return phase.arrivals.count


def table(phases: Phases) -> Table:
    """What each fault did to the callers."""
    rows: dict[str, Sequence[Indicator | None]] = {}
    for name, (outage, phase) in phases.outages.items():
        services = CHAIN if outage.chained else [outage.provider]
        rows[name] = [
            dead_air(phase),
            dead_air(phase, q=0.95),
            missed_turns(phase),
            call_success(phase),
            failover_time(phase, services) if outage.chained else None,
            None if outage.provider is carrier else recovery_time(phase, outage.provider),
            sensible_speech(phase),
        ]
    for phase in (phases.before, *phases.all_fail, phases.after):
        heard: list[Indicator | None] = [
            dead_air(phase),
            dead_air(phase, q=0.95),
            missed_turns(phase),
            call_success(phase),
        ]
        rows[phase.name] = [*heard, None, None, sensible_speech(phase)]
    return Table(
        title="what the caller heard",
        columns=[
            "worst dead air", "p95 dead air", "turns lost", "calls survived", "failover", "recovery", "sensible",
        ],
        rows=rows,
    )  # fmt: skip


def plan(agent: str = f"{sys.executable} -m voice_agent", scale: float = 1.0, seed: int = 1, only: str = "") -> Plan:
    if not 0 < scale <= 100:
        raise PlanError(f"scale={scale:g}: it must be more than 0 and at most 100")
    phases = phased(scale, seed, only)
    target = started_by(agent)
    demands = Demands(agent, phases, target)
    return Plan(
        about="every provider fails in every way, one at a time, then all of a kind at once",
        target=target,
        carrier=carrier,
        services=[llm, llm2, stt, tts, tts2, to_llm, to_tts],
        phases=phases.in_order(),
        probes=[Process(target), Metrics(target, [OPEN_CALLS])],
        gates=demands.gates,
        valid_if=demands.valid_if,
        controls=demands.controls,
        tables=[table(phases)],
    )
