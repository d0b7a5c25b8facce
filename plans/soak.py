"""The soak plan: hours of calls. Does anything grow that should not, and does the agent stay as good as it was?

Two hours idle, then a call every five minutes for six hours, of which every sixth talks over the agent; then batches of
calls, after each of which nothing may be left: of conversations, and of calls that the caller gave up.

    busyhour run plans/soak.py                             8 hours and a few minutes
    busyhour run plans/soak.py --scale 0.05                24 minutes and the batches: certifies less, and says how much
    busyhour run plans/soak.py --scale 0                   the batches alone
    busyhour run plans/soak.py -o hours=2 -o at_once=6 -o idle_hours=0.1    six calls at any time for two hours
    busyhour run plans/soak.py -o mb_per_hour=12           a leak that is worth an alarm
    busyhour run plans/soak.py -o agent='python app.py'    your own agent; see plans/telephone.py for what it is told
    busyhour run plans/soak.py -o defect=leak_native:50    the reference agent with a defect switched on

A batch tells only of what is large: until Python collects its oldest generation, some hundred calls later, the cycles
of an agent's calls may look like 75 KB kept by each, so that the limit is 150 KB. Hours tell of what is small, and many
calls of what is small by the call: at constant concurrency (`at_once`) memory follows neither the clock nor the load.

What a run could have seen is in the sentence of its memory gate: the smallest leak, in MB an hour and KB a call. Growth
is told from warming up by outlasting it: a warm-up may have a time constant of `settling_hours`, by default half of the
soak where calls come one by one (at most 3 h: some 36 calls), and an eighth of it at constant concurrency, where they
come by the hundred. Set it to what you know of your agent: less sees smaller leaks, and takes a slower warm-up for one.
That gate takes hours to be proven able to fail, and is not; the statistics behind it are, by simulation
(docs/reference/leaks.md).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from busyhour.arrivals import Burst, Constant, Hold, Steps
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Deepgram, LogNormal, OpenAI
from busyhour.emulators import Constant as Fixed
from busyhour.errors import PlanError
from busyhour.faults.process import BlockLoop
from busyhour.gates import AtLeast, AtMost, NoLeak, NothingLeft
from busyhour.indicators import (
    call_success,
    dropped,
    kept_per_call,
    log_per_call,
    loop_lag,
    mean_probed,
    probed,
    response_latency,
    second_half_over_first,
    send_lateness,
)
from busyhour.model import CallSetup, Control, Gate, Phase, Plan, Variation
from busyhour.probes.metrics import runtime
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Scenario
from busyhour.workloads.idle import Idle

HOUR = 3600
EVERY_SECONDS = 300
SETTLING_HOURS_MAX = 3.0
REST_SECONDS = 6.5  # after a batch: servers keep idle connections for 5 s

TALKING = Scenario(
    "a conversation",
    [Greeting(), Say("hours.saturday"), Say("hours.parking"), Say("price.cleaning"), Say("goodbye.thanks")],
)
INTERRUPTING = Scenario(
    "talking over the agent", [Greeting(), BargeIn("barge.question", asking="hours.today", after_ms=900)]
)
SHORT = Scenario("one question", [Greeting(), Say("hours.parking")])

llm = OpenAI(name="llm", first_token=LogNormal(150, 0.2), between_tokens=Fixed(6), seed=1)
stt = Deepgram(name="stt", final=LogNormal(40, 0.2), seed=2)
tts = Cartesia(name="tts", first_audio=LogNormal(60, 0.2), seed=3)
carrier = Telnyx(seed=4)


def started_by(command: str, **environment: str) -> Command:
    """The agent, with every vendor's address pointing at its twin."""
    return Command(
        command,
        name="voice-agent",
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
            **environment,
        },
    )


# ---------------------------------------------------------------- phases


def soaked(hours: float, *, idle_hours: float, at_once: int) -> list[Phase]:
    """What takes hours, the soak itself last; nothing if it is to take none. at_once 0: a call every five minutes.

    Before it more calls at once than it has, so that pools are as large as they will be.
    """
    if not hours:
        return []
    seconds = HOUR * hours
    calls = Hold(at_once, seconds) if at_once else Constant(1 / EVERY_SECONDS, seconds)
    most = max(100, at_once)
    phases = [
        Phase("filling", Burst(max(3, round(1.5 * at_once))), Call([SHORT]), at_once=2 * most),
        Phase("soak", calls, Call([*[TALKING] * 5, INTERRUPTING]), at_once=most),
    ]
    if not idle_hours:
        return phases
    seconds = HOUR * idle_hours
    return [Phase("idle", Burst(1), Idle(seconds=seconds), drain_seconds=seconds + 60), *phases]


def talked(batches: int = 3, calls: int = 20) -> list[Phase]:
    """A warm-up with more calls at once than any batch has, so that pools are as large as they will be; batches."""
    warm_up = Phase("warm-up", Burst(round(1.5 * calls)), Call([SHORT]))
    return [warm_up, *(Phase(f"batch {n}", Burst(calls), Call([SHORT])) for n in range(1, batches + 1))]


def given_up(batches: int = 4, calls: int = 20) -> list[Phase]:
    """Callers who hang up while it rings."""
    at_once = Call([SHORT], CallSetup(id="", answer_within_ns=1))
    return [Phase(f"given up {n}", Burst(calls), at_once) for n in range(1, batches + 1)]


def rested(batches: Sequence[Phase]) -> list[Phase]:
    """Each is given time in which what its calls have left can go."""
    rests = [Phase(f"after {batch.name}", Burst(1), Idle(seconds=REST_SECONDS)) for batch in batches]
    return [phase for pair in zip(batches, rests, strict=True) for phase in pair]


# ---------------------------------------------------------------- what is demanded


class Controls:
    """What each gate must tell apart; systems/voice_agent/README.md has the defects: leaks, and habits like one."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._variations: dict[tuple[str, str], Variation] = {}
        self.all: list[Control] = []

    def of_batches(self, kept: Gate, left: Gate, talking: Sequence[Phase]) -> None:
        def defect(named: str) -> Variation:
            return self._defect(named, talking)

        self.all += [
            Control(kept, red=defect("leak_python:400"), benign=defect("cache_warmup:2048")),
            Control(kept, red=defect("leak_native:400"), benign=defect("sawtooth_cache:64")),
            Control(left, red=defect("leak_fd"), benign=defect("pool_high_water:512")),
            Control(left, red=defect("leak_task"), benign=defect("fragmentation:2048")),
        ]

    def of_calls_given_up(self, kept: Gate, giving_up: Sequence[Phase]) -> None:
        leaking = self._defect("leak_on_refused:800", giving_up)
        self.all.append(Control(kept, red=leaking, benign=self._defect("leak_python:400", giving_up)))

    def of_the_harness(self, demands: Sequence[Gate], batch: Phase) -> None:
        """Of the three: dropped arrivals, send lateness, loop lag."""

        def blocked(name: str, milliseconds: int) -> Variation:
            fault = BlockLoop(milliseconds=milliseconds, every_milliseconds=300)
            return Variation(name=name, faults={batch.name: [fault]}, only=[batch.name])

        crowded = Variation(name="no room for calls", phases=[replace(batch, at_once=3)], only=[batch.name])
        late, busy = blocked("harness blocked", 60), blocked("harness busy", 2)
        for gate, red in zip(demands, (crowded, late, late), strict=True):
            self.all.append(Control(gate, red=red, benign=busy))

    def of_the_soak(
        self, soak: Phase, *, success: Gate, latency: Gate, worse: Gate, cpu: Sequence[Gate], log: Gate
    ) -> None:
        """The same kind of calls for a minute: what these gates read of a phase does not take hours to go wrong."""
        short = replace(soak, arrivals=Constant(1, seconds=50), workload=Call([SHORT]))
        crowding = replace(short, arrivals=Steps([0.2, 1], seconds_each=60))

        def defect(named: str, *may_redden: Gate, phase: Phase = short) -> Variation:
            return replace(self._defect(named, [phase]), phases=[phase], may_redden=may_redden)

        def talkative(name: str, bytes_a_second: int) -> Variation:
            chatter = f"while sleep 1; do head -c {bytes_a_second} /dev/zero | tr '\\0' x; echo; done"
            command = f"sh -c {shlex.quote(f'({chatter}) & exec {self._agent}')}"
            return Variation(name=name, services=[started_by(command)], phases=[short], only=[soak.name])

        slow, burning = defect("slow_response:60"), defect("spin_after_hangup:5", latency, success, worse, *cpu)
        self.all += [
            Control(success, red=defect("refuse_call:0.5"), benign=slow),
            Control(latency, red=defect("slow_response:300"), benign=slow),
            Control(
                worse,
                red=defect("gil_contention:5", latency, success, *cpu, phase=crowding),
                benign=defect("slow_response:61", phase=crowding),
            ),
            *(Control(gate, red=burning, benign=slow) for gate in cpu),
            Control(log, red=talkative("200 KB a second logged", 200_000), benign=talkative("1 KB a second", 1000)),
        ]

    def _defect(self, named: str, phases: Sequence[Phase]) -> Variation:
        """One object for one name, so that gates which share a variation share its run."""
        only = [phase.name for phase in phases]
        services = [started_by(self._agent, DEFECT=named)]
        fresh = Variation(name=f"{named} ({only[0]})", services=services, only=only)
        return self._variations.setdefault((named, only[0]), fresh)


def plan(
    agent: str = f"{sys.executable} -m voice_agent",
    scale: float = 1.0,
    hours: float = 6.0,
    idle_hours: float = 2.0,
    at_once: int = 0,
    settling_hours: float = 0.0,
    mb_per_hour: float = 6.0,
    kb_per_call: float = 150.0,
    defect: str = "",
) -> Plan:
    _check(scale=scale, hours=hours, idle_hours=idle_hours, at_once=at_once, settling_hours=settling_hours)
    target = started_by(agent, **({"DEFECT": defect} if defect else {}))
    long, talk, unheard = soaked(hours * scale, idle_hours=idle_hours * scale, at_once=at_once), talked(), given_up()
    talking, giving_up = rested(talk), rested(unheard)
    kept = AtMost(kept_per_call(target, talk), kb_per_call, "KB")
    left = NothingLeft(target, talk)
    kept_of_given_up = AtMost(kept_per_call(target, unheard), kb_per_call, "KB")
    valid_if = [AtMost(dropped(), 0), AtMost(send_lateness(q=0.99), 5, "ms"), AtMost(loop_lag(q=0.99), 20, "ms")]
    controls = Controls(agent)
    controls.of_batches(kept, left, talking)
    controls.of_calls_given_up(kept_of_given_up, giving_up)
    controls.of_the_harness(valid_if, talk[0])
    gates: list[Gate] = [kept, left, kept_of_given_up]
    if long:
        soak = long[-1]
        gates += demanded(target, soak, controls)
        settling = settling_hours or min(SETTLING_HOURS_MAX, hours * scale / (8 if at_once else 2))
        gates.append(NoLeak(target, mb_per_hour, within=[soak], settling_hours=settling))
    held = f"{at_once} calls at once" if at_once else "a call every five minutes"
    return Plan(
        about=f"{hours * scale:g} h of {held}" if long else "batches alone",
        target=target,
        carrier=carrier,
        services=[llm, stt, tts],
        phases=[*long, *talking, *giving_up],
        probes=[Process(target), runtime(target)],
        gates=gates,
        valid_if=valid_if,
        controls=controls.all,
    )


def demanded(target: Command, soak: Phase, controls: Controls) -> list[Gate]:
    """Of the soak, beside its memory: that calls go well, in its second half as in its first, and at what price."""
    success = AtLeast(call_success(soak), 90, "%")
    latency = AtMost(response_latency(soak, q=0.5), 650, "ms")
    worse = AtMost(second_half_over_first(response_latency(soak, q=0.5)), 1.1)
    cpu = [
        AtMost(mean_probed(target, "cpu_pct", soak), 20, "%"),
        AtMost(probed(target.name, "cpu_pct", 0.99, soak), 50, "%"),
    ]
    log = AtMost(log_per_call(target, soak), 50, "KB")
    controls.of_the_soak(soak, success=success, latency=latency, worse=worse, cpu=cpu, log=log)
    return [success, latency, worse, *cpu, log]


def _check(*, scale: float, hours: float, idle_hours: float, at_once: int, settling_hours: float) -> None:
    wrong = [
        f"{name}={value:g}: it must be from {least:g} to {most:g}"
        for name, value, least, most in (
            ("scale", scale, 0, 100),
            ("hours", hours, 0, 1000),
            ("idle_hours", idle_hours, 0, 1000),
            ("at_once", at_once, 0, 10_000),
            ("settling_hours", settling_hours, 0, 1000),
        )
        if not least <= value <= most
    ]
    if wrong:
        raise PlanError(wrong)
