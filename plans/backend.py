"""The backend plan: do the HTTP doors of the service keep their promises under the load of so many users?

Four profiles, all of them run by busyhour alone; a user is half a request a second (`per_user`), whether the last was
answered or not, so that a service that stands still is seen to:

    -o profile=light     10 users, who come at  2 a second and stay for  2 minutes:   5 requests/s (without -o: this)
    -o profile=medium    50 users, who come at  5 a second and stay for  5 minutes:  25 requests/s
    -o profile=heavy    100 users, who come at 10 a second and stay for 10 minutes:  50 requests/s
    -o profile=stress   200 users, who come at 20 a second and stay for 10 minutes: 100 requests/s

    busyhour locust plans/backend.py --shape heavy -o profile=heavy -- --headless     on Locust, users shown

    busyhour run plans/backend.py                             light, against the reference agent
    busyhour run plans/backend.py -o profile=heavy
    busyhour run plans/backend.py -o scale=0.2                a fifth of the time: less evidence, of errors too little
    busyhour run plans/backend.py -o per_user=5               users in ten times the hurry
    busyhour run plans/backend.py -o agent='python app.py'    your own program; it is told its PORT
    busyhour run plans/backend.py -o url=http://10.0.0.7:8000 -o paths=/health,/items -o p90=100
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from busyhour.arrivals import Ramp, Schedule
from busyhour.errors import PlanError
from busyhour.faults.process import BlockLoop, Freeze, Kill
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import dropped, error_rate, loop_lag, request_latency, request_rate, send_lateness
from busyhour.model import Control, Gate, Phase, Plan, Service, Variation
from busyhour.probes.process import Process
from busyhour.services import AlreadyRunning, Command
from busyhour.workloads.http import Contains, Get, Http, JSONEquals, Request

NAME = "backend"
CONNECTIONS = 200  # a user is not kept waiting for another's connection


@dataclass(frozen=True)
class Profile:
    users: int
    spawned_per_second: float
    minutes: float


PROFILES = {
    "light": Profile(10, 2, 2),
    "medium": Profile(50, 5, 5),
    "heavy": Profile(100, 10, 10),
    "stress": Profile(200, 20, 10),
}
ERRORS_PERCENT = 1.0
CARRIED = 0.9  # of the offered load, at least

OWN_DOORS = (Get("/health", checks=[JSONEquals("status", "ok")]), Get("/metrics", checks=[Contains("# TYPE ")]))


def started_by(command: str) -> Command:
    """The agent, which needs no vendor as long as nobody calls."""
    keys = {f"{vendor}_API_KEY": "unused" for vendor in ("TELNYX", "OPENAI", "DEEPGRAM", "CARTESIA")}
    chains = {"LLM_CHAIN": "openai", "TTS_CHAIN": "cartesia"}
    return Command(command, name=NAME, env={"TELNYX_VERIFY": "off", **chains, **keys})


@dataclass(frozen=True)
class Load:
    """The users come, and then they are there."""

    coming: Phase
    steady: Phase
    per_second: float
    seconds: float

    @classmethod
    def of(cls, profile: Profile, requests: Sequence[Request], *, per_user: float, scale: float, seed: int) -> Load:
        workload = Http(requests, connections=CONNECTIONS)
        per_second = profile.users * per_user
        seconds = max(10, 60 * profile.minutes * scale)
        coming = Ramp(0, per_second, max(1, profile.users / profile.spawned_per_second * min(1, scale)))
        room = max(100, round(per_second * 20))  # what piles up while the target stands still for as long
        return cls(
            Phase("users come", coming, workload, at_once=room),
            Phase("steady", drawn(per_second, seconds, seed), workload, at_once=room),
            per_second,
            seconds,
        )


def drawn(per_second: float, seconds: float, seed: int) -> Schedule:
    """Poisson arrivals whose number is not left to chance: of few there would be a quarter more or fewer, and whether
    the service carries what is offered could not be told from it."""
    random = Random(seed)
    return Schedule(sorted(random.uniform(0, seconds) for _ in range(max(1, round(per_second * seconds)))))


class Demands:
    """The gates, each with the control that it must tell apart where we may do the service harm."""

    def __init__(self, target: Service, load: Load, p90_ms: float) -> None:
        self.gates: list[Gate] = []
        self.valid_if: list[Gate] = []
        self.controls: list[Control] = []
        steady, only = load.steady.name, [load.steady.name]
        latency = AtMost(request_latency(load.steady, q=0.9), p90_ms, "ms")
        errors = AtMost(error_rate(load.steady), ERRORS_PERCENT, "%")
        carried = AtLeast(request_rate(load.steady), round(CARRIED * load.per_second, 3), "/s")
        long = Variation(
            name="stands still for half the time",
            faults={steady: [Freeze(target, seconds=load.seconds / 2)]},
            may_redden=[errors, carried],
            only=only,
        )
        short = Variation(
            name="stands still, shorter than the limit",
            faults={steady: [Freeze(target, seconds=p90_ms / 2000)]},
            only=only,
        )
        dead = Variation(
            name="dead for a third of the time",
            faults={steady: [Kill(target, restart_after_seconds=load.seconds / 3)]},
            may_redden=[latency, errors, carried],
            only=only,
        )
        self._gate(latency, red=long, benign=short)
        self._gate(errors, red=dead, benign=short)
        self._gate(carried, red=dead, benign=short)
        self._of_the_harness(load.steady)

    def _of_the_harness(self, steady: Phase) -> None:
        blocked, busy = (
            Variation(
                name=f"harness blocked for {blocked_ms} ms",
                faults={steady.name: [BlockLoop(milliseconds=blocked_ms, every_milliseconds=300)]},
                may_redden=self.gates,
            )
            for blocked_ms in (60, 2)
        )
        crowded = Variation(
            name="no room for requests",
            phases=[replace(steady, at_once=1)],
            faults={steady.name: [BlockLoop(milliseconds=60, every_milliseconds=300)]},
            may_redden=self.gates,
        )
        self._gate(AtMost(dropped(), 0), red=crowded, benign=busy, harness=True)
        self._gate(AtMost(send_lateness(q=0.99), 5, "ms"), red=blocked, benign=busy, harness=True)
        self._gate(AtMost(loop_lag(q=0.99), 20, "ms"), red=blocked, benign=busy, harness=True)

    def _gate(self, gate: Gate, *, red: Variation, benign: Variation, harness: bool = False) -> None:
        (self.valid_if if harness else self.gates).append(gate)
        self.controls.append(Control(gate, red=red, benign=benign))


def plan(
    profile: str = "light",
    agent: str = f"{sys.executable} -m voice_agent",
    url: str = "",
    paths: str = "",
    p90: float = 50,
    per_user: float = 0.5,
    scale: float = 1.0,
    seed: int = 1,
) -> Plan:
    """p90: in ms; 50 is what a company's API is allowed, 500 an end-to-end answer. per_user: requests a second."""
    if profile not in PROFILES:
        raise PlanError(f"there is no profile {profile!r}; there are {', '.join(PROFILES)}")
    if not (0 < scale <= 100 and 0 < per_user <= 1000 and p90 > 0):
        raise PlanError(f"scale={scale:g}, per_user={per_user:g}, p90={p90:g}: at most 100, 1000; all more than 0")
    requests = [Get(path) for path in paths.split(",")] if paths else OWN_DOORS
    load = Load.of(PROFILES[profile], requests, per_user=per_user, scale=scale, seed=seed)
    started = None if url else started_by(agent)
    target = started or AlreadyRunning(name=NAME, url=url)
    demands = Demands(target, load, p90)
    return Plan(
        about=f"profile {profile}, {load.per_second:g} requests a second",
        target=target,
        phases=[load.coming, load.steady],
        probes=[] if started is None else [Process(started)],
        gates=demands.gates,
        valid_if=demands.valid_if,
        controls=[] if started is None else demands.controls,
    )
