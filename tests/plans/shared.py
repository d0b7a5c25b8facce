"""Plans to be carried out by one process and by several; `kind` says what of."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from busyhour.arrivals import Burst, Constant, Hold, Poisson
from busyhour.carriers import Telnyx, TeXML, Twilio
from busyhour.carriers.memory import Manner, MemoryCarrier, MemoryService
from busyhour.clock import SystemClock
from busyhour.faults.carrier import DuplicatedWebhooks
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped
from busyhour.model import SECOND, Arrival, Audio, CallSetup, Phase, Plan, Service
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, Say, Scenario, Silence
from busyhour.workloads.http import Get, Http

AGENT = Path(__file__).with_name("commanding.py")
WORD = Audio("word", "word", np.zeros(400, np.int16), 8000, 0, 400)
MANNER = Manner(greets_after_ms=10, answers_after_ms=30, speaks_ms=20, hangover_ms=20)
GREETED = Scenario("greeted", [Greeting()], think_ms=(10, 20))
TALK = Scenario("talk", [Greeting(), Say(WORD, patience_seconds=30)], think_ms=(10, 20))
HEARD_OUT = Scenario("heard out", [Greeting(patience_seconds=30), Silence(30)])
SETUP = CallSetup(id="", answer_within_ns=30 * SECOND)
WAITING = 30.0  # seconds that the twins have patience for: nothing here is about lateness


def calls(phase: Phase) -> Plan:
    carrier = MemoryCarrier(clock=SystemClock(), manner=MANNER)
    gates = [AtLeast(call_success(phase), 50, "%")]
    return Plan(
        target=MemoryService("agent"), carrier=carrier, phases=[phase], gates=gates, valid_if=[AtMost(dropped(), 0)]
    )


def called(carrier: Telnyx | TeXML | Twilio, **environment: str | Service) -> Plan:
    """Twelve calls that the agent ends, by a command."""
    agent = Command([sys.executable, str(AGENT)], name="agent", env={"API": carrier, **environment})
    faults = [DuplicatedWebhooks(carrier)] if "TWICE" in environment else []
    phase = Phase("talk", Constant(40, 0.3), Call([HEARD_OUT], SETUP), faults=faults)
    return Plan(target=agent, carrier=carrier, phases=[phase], gates=[AtMost(dropped(), 0)])


def telnyx() -> Telnyx:
    return Telnyx(webhook_timeout_seconds=WAITING, media_within_seconds=WAITING, hangup_within_seconds=WAITING)


@dataclass(frozen=True)
class Broken:
    """A workload with a bug, which shows at the fourth arrival."""

    async def perform(self, arrival: Arrival) -> None:
        if arrival.id.endswith("/4"):
            raise ZeroDivisionError("the fourth")


def commanded(carrier: str) -> Plan:
    if carrier == "telnyx":
        return called(telnyx())
    if carrier == "texml":
        texml = TeXML(webhook_timeout_seconds=WAITING, media_within_seconds=WAITING)
        return called(texml, ACCOUNT=texml.account_sid)
    twilio = Twilio(media_within_seconds=WAITING)
    return called(twilio, ACCOUNT=twilio.account_sid, TOKEN=twilio.auth_token)


def requests() -> Plan:
    agent = Command([sys.executable, str(AGENT)], name="agent", env={"API": "none"})
    ask = Phase("ask", Constant(60, 1), Http([Get("/health"), Get("/health?again")], connections=4))
    return Plan(target=agent, phases=[ask], gates=[AtMost(dropped(), 0)])


def plan(kind: str = "calls", carrier: str = "telnyx") -> Plan:
    made = {
        "calls": lambda: calls(Phase("talk", Poisson(40, count=40, seed=7), Call([GREETED, TALK]))),
        "held": lambda: calls(Phase("talk", Hold(4, 0.8), Call([TALK]), at_once=4)),
        "broken": lambda: calls(Phase("talk", Burst(6), Broken())),
        "disturbed": lambda: called(telnyx(), TWICE="yes"),
        "commands": lambda: commanded(carrier),
        "requests": requests,
    }
    return made[kind]()
