"""Faults that cannot be meant are found before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from busyhour.arrivals import Burst
from busyhour.carriers import PlainWebSocket, Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream, vonage
from busyhour.faults import carrier as carriers
from busyhour.faults import contradictions
from busyhour.faults.carrier import DtmfFlood
from busyhour.faults.claims import Claim
from busyhour.faults.disk import DiskFull
from busyhour.faults.limits import FdLimit, FileSizeLimit, MemoryLimit
from busyhour.faults.pressure import CpuHog, MemoryPressure
from busyhour.faults.process import BlockLoop, Freeze, Kill, Restart
from busyhour.faults.provider import NoToken, Reset, Slow
from busyhour.faults.proxy import Down, Latency, Proxy, ResetPeer
from busyhour.faults.quotas import CpuLimit, OutOfMemory
from busyhour.gates import Holds
from busyhour.model import Carrier, Comparison, Control, Fault, Outcome, Phase, Plan, Service, Variation
from busyhour.planfile import check
from busyhour.services import AlreadyRunning, Command
from busyhour.workloads.call import Call

AGENT = Command("true", name="agent")
LLM = Command("true", name="llm")
ELSEWHERE = AlreadyRunning(name="db", url="http://127.0.0.1:1")
PROXY = Proxy(LLM, name="link")
CARRIER = Telnyx()
TMP = Path("/tmp")


class Milliseconds:
    def as_json(self) -> int:
        return 1


def found(*faults: Fault, carrier: Carrier = CARRIER) -> list[str]:
    return contradictions(planned(faults, carrier=carrier))


def planned(faults: Sequence[Fault], controls: Sequence[Control] = (), *, carrier: Carrier = CARRIER) -> Plan:
    return Plan(
        target=AGENT,
        carrier=carrier,
        services=[LLM, ELSEWHERE, PROXY],
        phases=[Phase("p", Burst(1), Call([]), faults=faults)],
        gates=[],
        controls=controls,
    )


TOGETHER: list[tuple[Fault, Fault]] = [
    (NoToken(LLM, share=0.5), Reset(LLM, share=0.5)),
    (NoToken(LLM), Slow(LLM, first_token=Milliseconds())),
    (Slow(LLM, first_token=Milliseconds()), Freeze(AGENT, 5)),
    (Freeze(AGENT, 5), Freeze(LLM, 6)),
    (Freeze(AGENT, 5), Kill(AGENT, after_seconds=5)),
    (Kill(AGENT, restart_after_seconds=2), Freeze(AGENT, 5, after_seconds=4)),
    (FdLimit(AGENT, 9), MemoryLimit(AGENT, 9)),
    (FdLimit(AGENT, 9), CpuLimit(AGENT, 0.5)),
    (DiskFull(AGENT, TMP), FileSizeLimit(AGENT, 9)),
    (CpuHog(processes=1), MemoryPressure(share=0.5)),
    (CpuHog(processes=1), BlockLoop(milliseconds=1, every_milliseconds=9)),
    (Latency(PROXY, 50), ResetPeer(PROXY)),
    (Latency(PROXY, 50), Latency(PROXY, 60, stream="upstream")),
    (Down(PROXY), Freeze(AGENT, 5)),
    (carriers.Jitter(CARRIER, 9), carriers.BurstLoss(CARRIER, 0.1)),
    (carriers.UnsignedWebhooks(CARRIER), carriers.DuplicatedWebhooks(CARRIER)),
    (carriers.HalfOpen(CARRIER, seconds=3), carriers.Jitter(CARRIER, 9, after_seconds=3)),
]
APART: list[tuple[Fault, Fault, str]] = [
    (NoToken(LLM, share=0.6), Reset(LLM, share=0.5), "together they take more than all of the outcomes of llm"),
    (NoToken(LLM), Reset(LLM), "both take the outcomes of llm"),
    (NoToken(LLM, share=0.3), NoToken(LLM, share=0.2), "both take the outcome no_token of llm"),
    (NoToken(LLM), Kill(LLM, after_seconds=9), "together they take more than all of the behaviour of llm"),
    (Slow(LLM, a=Milliseconds()), Restart(LLM), "together they take more than all of the behaviour of llm"),
    (Slow(LLM, a=Milliseconds()), NoToken(LLM), ""),
    (Freeze(AGENT, 5), Kill(AGENT), "both take the processes of agent"),
    (Freeze(AGENT, 5), Freeze(AGENT, 6), "both take the processes of agent"),
    (Freeze(AGENT, 5), CpuLimit(AGENT, 0.5), "both take the processes of agent"),
    (Restart(AGENT), FdLimit(AGENT, 9), "both take the open files of agent"),
    (OutOfMemory(AGENT, 9), MemoryLimit(AGENT, 9), "both take the memory of agent"),
    (Kill(AGENT, stays_dead=True), Freeze(AGENT, 5, after_seconds=100), "both take the processes of agent"),
    (FdLimit(AGENT, 9), FdLimit(AGENT, 10), "both take the open files of agent"),
    (DiskFull(AGENT, TMP), DiskFull(LLM, TMP), "both take the folder /tmp"),
    (CpuHog(processes=1), CpuHog(processes=2), "both take the idle processors"),
    (Latency(PROXY, 50), Latency(PROXY, 60), "both take the latency downstream of link"),
    (Down(PROXY), Latency(PROXY, 50), "together they take more than all of the connections of link"),
    (carriers.UnsignedWebhooks(CARRIER), carriers.ForgedWebhooks(CARRIER), "the webhook signature of telnyx"),
    (carriers.HalfOpen(CARRIER), carriers.Jitter(CARRIER, 9), "both take the media jitter of telnyx"),
    (DtmfFlood(CARRIER), DtmfFlood(CARRIER, per_second=9), "both take the keys of telnyx"),
]


@pytest.mark.parametrize("pair", TOGETHER, ids=lambda pair: f"{pair[0].name} + {pair[1].name}")
def test_what_goes_together(pair: tuple[Fault, Fault]) -> None:
    assert found(*pair) == []


@pytest.mark.parametrize(("one", "other", "words"), APART, ids=lambda it: getattr(it, "name", None))
def test_what_contradicts(one: Fault, other: Fault, words: str) -> None:
    if not words:
        assert found(one, other) == []
        return
    for pair in ((one, other), (other, one)):
        (problem,) = found(*pair)
        assert problem.startswith(
            f"the faults {pair[0].name!r} and {pair[1].name!r} in phase 'p' contradict each other: "
        )
        assert words in problem
        assert problem.endswith("at the same time; put them into two phases, or one after the other")


def test_the_same_fault_twice() -> None:
    assert found(Kill(AGENT), Kill(AGENT)) == ["the fault 'agent killed' is in phase 'p' twice; give it once"]


def test_a_fault_without_a_victim() -> None:
    (problem,) = found(NoToken(Command("true", name="stt")))
    assert problem.startswith("the fault 'stt no_token' in phase 'p' harms 'stt', which is not in the plan (its serv")
    assert problem.endswith("(its services: agent, db, link, llm, telnyx)")
    words = "has none that busyhour starts: it runs inside the harness, or elsewhere"
    assert found(Freeze(ELSEWHERE, 1)) == [
        f"the fault 'db frozen for 1 s' in phase 'p' needs processes, and db {words}"
    ]
    assert found(Kill(CARRIER)) == [f"the fault 'telnyx killed' in phase 'p' needs processes, and telnyx {words}"]


@pytest.mark.parametrize("make", [Kill, Restart, lambda victim: OutOfMemory(victim, 9)])
def test_a_proxy_cannot_be_started_again(make: Callable[[Service], Fault]) -> None:
    fault = make(PROXY)
    words = "needs a service that busyhour can start again, and link is none"
    assert found(fault) == [f"the fault {fault.name!r} in phase 'p' {words}"]
    assert found(make(AGENT)) == found(Freeze(PROXY, 1)) == []


def test_a_vice_that_the_carrier_does_not_have() -> None:
    plain = PlainWebSocket()
    (problem,) = found(DtmfFlood(plain), carrier=plain)
    assert problem.startswith("the fault 'websocket keys 10 a second' in phase 'p' needs dtmf flood, which websocket ")
    assert problem.endswith("media reordered; give its wire a `digit`, the message for a key")
    keys = PlainWebSocket(wire=vonage())
    assert found(DtmfFlood(keys), carriers.HalfOpen(keys), carrier=keys) == []
    for carrier in (keys, TelnyxStream(), Twilio()):
        (problem,) = found(carriers.ReplayedWebhooks(carrier), carrier=carrier)
        assert f"needs webhook replayed, which {carrier.name} does not have; it has " in problem
    assert found(carriers.HalfOpen(LLM)) == [
        "the fault 'llm media half open' in phase 'p' needs a carrier's twin, and llm is none that can be disturbed"
    ]


@pytest.mark.parametrize("make", [Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream, PlainWebSocket])
async def test_what_a_carrier_says_that_it_has_is_what_it_has(make: Callable[[], Any]) -> None:
    carrier = make()
    async with carrier.running({}) as endpoint:
        assert endpoint.handle.can == carrier.vices


def test_the_plan_is_checked_for_it_and_so_are_its_variations() -> None:
    assert any("contradict each other" in problem for problem in check(planned([Freeze(AGENT, 5), Kill(AGENT)])))
    red = Variation(name="red", faults={"p": [Kill(AGENT)]})
    gate = Holds("it holds", lambda run: Comparison(Outcome.PASS, ""))
    control = Control(gate=gate, red=red, benign=Variation(name="benign"))
    plan = planned([Freeze(AGENT, 5)], [control])
    problems = check(replace(plan, gates=[gate]))
    assert [problem for problem in problems if "contradict" in problem] == [
        (
            "the faults 'agent frozen for 5 s' and 'agent killed' in phase 'p' contradict each other: both take "
            "the processes of agent at the same time; put them into two phases, or one after the other"
        )
    ]


def test_claims_meet_when_they_overlap_and_exceed_the_whole() -> None:
    half = Claim(of="x", share=0.5, from_seconds=1, to_seconds=2)
    assert not half.meets(half)
    assert half.meets(Claim(of="x", share=0.6, from_seconds=1.9))
    assert not half.meets(Claim(of="x", from_seconds=2))
    assert not half.meets(Claim(of="y"))
