"""A plan on real sockets and processes: an agent of a few lines, perhaps a twin of OpenAI, Telnyx.

`mischief` is what the agent does wrong; `hold` is how many seconds a caller stays on the line after the greeting.
"""

import sys
from pathlib import Path

from busyhour.arrivals import Burst, Constant
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import OpenAI
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import call_success, dropped, loop_lag, send_lateness
from busyhour.model import MS, SECOND, CallSetup, Phase, Plan
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, Scenario, Silence

AGENT = Path(__file__).with_name("agent.py")
WAITING = 30.0  # seconds that everybody has patience for who is not kept waiting on purpose
EXHAUSTED = {
    "never answers": "answer",
    "hangs in the webhook": "webhook",
    "starts no stream": "media",
    "gives a wrong path": "media",
    "gives another machine": "media",
    "hangs in the handshake": "media",
    "slams the door": "media",
}
"""Whose patience a mischief exhausts: that one is short."""


def plan(
    mischief: str = "",
    command: str = "",
    port: int = 0,
    carrier_port: int = 0,
    calls: int = 5,
    per_second: float = 25,
    hold: float = 1,
    model: str = "",
    start_within: float = 60,
    stop_within: float = 10,
    late_ms: float = 30 * SECOND / MS,
) -> Plan:
    def patience(what: str, short_seconds: float) -> float:
        return short_seconds if EXHAUSTED.get(mischief) == what else WAITING

    carrier = Telnyx(
        port=carrier_port,
        webhook_retries=1,
        webhook_retry_ms=50,
        webhook_timeout_seconds=patience("webhook", 0.5),
        media_within_seconds=patience("media", 1.5),
        hangup_within_seconds=0.3,
    )
    llm = [OpenAI()] if model else []
    agent = Command(
        command or [sys.executable, str(AGENT), *mischief.split()],
        name="agent",
        env={"TELNYX_API_BASE": carrier, **({"OPENAI_BASE_URL": llm[0]} if llm else {})},
        port=port,
        start_within_seconds=start_within,
        stop_within_seconds=stop_within,
    )
    talk = Scenario("talk", [Greeting(patience_seconds=WAITING), Silence(hold)], think_ms=(50, 100))
    arrivals = Constant(per_second, calls / per_second) if per_second else Burst(calls)
    setup = CallSetup(id="", answer_within_ns=round(patience("answer", 1.5) * SECOND))
    phase = Phase("talk", arrivals, Call([talk], setup), drain_seconds=hold + 10)
    return Plan(
        target=agent,
        carrier=carrier,
        services=llm,
        phases=[phase],
        gates=[AtLeast(call_success(phase), 50, "%")],
        valid_if=[
            AtMost(dropped(), 0),
            AtMost(send_lateness(q=0.8), late_ms, "ms"),
            AtMost(loop_lag(q=0.8), late_ms, "ms"),
        ],
    )
