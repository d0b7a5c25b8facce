"""The soak plan: hours of calls. Does anything grow that should not, and does the agent stay as good as it was?

Two hours idle, then a call every five minutes for six hours, of which every sixth talks over the agent; then batches of
calls, after each of which nothing may be left: of conversations, and of calls that the caller gave up.

    busyhour run plans/soak.py                             8 hours and a few minutes
    busyhour run plans/soak.py -o scale=0.05               24 minutes and the batches: certifies less, and says how much
    busyhour run plans/soak.py -o scale=0                  the batches alone
    busyhour run plans/soak.py -o mb_per_hour=12           a leak that is worth an alarm
    busyhour run plans/soak.py -o agent='python app.py'    your own agent; see plans/telephone.py for what it is told

A batch tells only of what is large: until Python collects its oldest generation, some hundred calls later, the cycles
of the reference agent's calls look like 75 KB kept by each, so that the limit is 150 KB. Hours tell of what is small.

What a run could have seen is in the sentence of its memory gate: the smallest leak, in MB an hour. A run of less than
an hour cannot tell growth from warming up; there the batches alone speak, by the call. That gate takes hours to be
proven able to fail, and is not; the statistics behind it are, by simulation (docs/reference/leaks.md).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from busyhour.arrivals import Burst, Constant
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Deepgram, LogNormal, OpenAI
from busyhour.emulators import Constant as Fixed
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost, NoLeak, NothingLeft
from busyhour.indicators import (
    call_success,
    dropped,
    kept_per_call,
    loop_lag,
    probed,
    response_latency,
    send_lateness,
)
from busyhour.model import CallSetup, Control, Gate, Phase, Plan, Variation
from busyhour.probes.metrics import runtime
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import BargeIn, Call, Greeting, Say, Scenario
from busyhour.workloads.idle import Idle

HOUR = 3600
IDLE_HOURS, SOAK_HOURS, EVERY_SECONDS = 2.0, 6.0, 300
LEAST_HOURS = 1.0  # of soaking, for a trend to be looked for
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


def soaked(scale: float) -> list[Phase]:
    """What takes hours; nothing at scale 0."""
    if not scale:
        return []
    calls = Constant(1 / EVERY_SECONDS, seconds=SOAK_HOURS * HOUR * scale)
    return [
        Phase("idle", Burst(1), Idle(seconds=IDLE_HOURS * HOUR * scale), drain_seconds=IDLE_HOURS * HOUR * scale + 60),
        Phase("soak", calls, Call([*[TALKING] * 5, INTERRUPTING])),
    ]


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


def controls(
    agent: str,
    *,
    kept: Gate,
    left: Gate,
    kept_of_given_up: Gate,
    talking: Sequence[Phase],
    giving_up: Sequence[Phase],
) -> list[Control]:
    """systems/voice_agent/README.md has the defects: five leaks, and four habits that look like one."""

    def defect(named: str, phases: Sequence[Phase], *may_redden: Gate) -> Variation:
        only = [phase.name for phase in phases]
        services = [started_by(agent, DEFECT=named)]
        return Variation(name=f"{named} ({only[0]})", services=services, only=only, may_redden=may_redden)

    warming, sawtooth = defect("cache_warmup:2048", talking), defect("sawtooth_cache:64", talking)
    pooling, fragmented = defect("pool_high_water:512", talking), defect("fragmentation:2048", talking)
    return [
        Control(kept, red=defect("leak_python:400", talking), benign=warming),
        Control(kept, red=defect("leak_native:400", talking), benign=sawtooth),
        Control(left, red=defect("leak_fd", talking), benign=pooling),
        Control(left, red=defect("leak_task", talking), benign=fragmented),
        Control(
            kept_of_given_up, red=defect("leak_on_refused:400", giving_up), benign=defect("leak_python:400", giving_up)
        ),
    ]


def plan(
    agent: str = f"{sys.executable} -m voice_agent",
    scale: float = 1.0,
    mb_per_hour: float = 6.0,
    kb_per_call: float = 150.0,
) -> Plan:
    if not 0 <= scale <= 100:
        raise PlanError(f"scale={scale:g}: it must be from 0 to 100")
    target = started_by(agent)
    long, talk, unheard = soaked(scale), talked(), given_up()
    talking, giving_up = rested(talk), rested(unheard)
    kept = AtMost(kept_per_call(target, talk), kb_per_call, "KB")
    left = NothingLeft(target, talk)
    kept_of_given_up = AtMost(kept_per_call(target, unheard), kb_per_call, "KB")
    gates: list[Gate] = [kept, left, kept_of_given_up]
    if long:
        soak = long[-1]
        gates += [AtLeast(call_success(soak), 90, "%"), AtMost(response_latency(soak, q=0.5), 650, "ms")]
        gates += [AtMost(probed(target.name, "cpu_pct", 0.99, soak), 50, "%")]
    if SOAK_HOURS * scale >= LEAST_HOURS:
        gates.append(NoLeak(target, mb_per_hour, within=["soak"]))
    return Plan(
        about=f"scale {scale:g}",
        target=target,
        carrier=carrier,
        services=[llm, stt, tts],
        phases=[*long, *talking, *giving_up],
        probes=[Process(target), runtime(target)],
        gates=gates,
        valid_if=[AtMost(dropped(), 0), AtMost(send_lateness(q=0.99), 5, "ms"), AtMost(loop_lag(q=0.99), 20, "ms")],
        controls=controls(
            agent,
            kept=kept,
            left=left,
            kept_of_given_up=kept_of_given_up,
            talking=talking,
            giving_up=giving_up,
        ),
    )
