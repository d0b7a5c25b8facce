"""Pre-production verification for real-time voice agents.

The public names, found lazily: a twin's process imports this package and needs almost nothing of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from busyhour.arrivals import Burst, Constant, Hold, Poisson, Ramp, Schedule, Steps
    from busyhour.carriers import PlainWebSocket, Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream
    from busyhour.clock import SystemClock, VirtualClock
    from busyhour.errors import BusyhourError, JournalError, PlanError, ProtocolError, ServiceError
    from busyhour.gates import AtLeast, AtMost, Between, Holds, Judgement, judge
    from busyhour.journal import Journal, open_run
    from busyhour.model import (
        Audio,
        Control,
        FaultUnavailable,
        Operation,
        Outcome,
        Phase,
        Plan,
        Table,
        Variation,
        Verdict,
    )
    from busyhour.recording import Recording
    from busyhour.services import AlreadyRunning, Command
    from busyhour.workloads.call import BargeIn, Call, Greeting, HangUp, Press, Say, Scenario, Silence
    from busyhour.workloads.function import Function
    from busyhour.workloads.http import Get, Http, Post
    from busyhour.workloads.in_turn import InTurn

_HOME = {
    "arrivals": ("Burst", "Constant", "Hold", "Poisson", "Ramp", "Schedule", "Steps"),
    "carriers": ("PlainWebSocket", "TeXML", "Telnyx", "TelnyxStream", "Twilio", "TwilioStream"),
    "clock": ("SystemClock", "VirtualClock"),
    "errors": ("BusyhourError", "JournalError", "PlanError", "ProtocolError", "ServiceError"),
    "gates": ("AtLeast", "AtMost", "Between", "Holds", "Judgement", "judge"),
    "journal": ("Journal", "open_run"),
    "model": (
        "Audio",
        "Control",
        "FaultUnavailable",
        "Operation",
        "Outcome",
        "Phase",
        "Plan",
        "Table",
        "Variation",
        "Verdict",
    ),
    "recording": ("Recording",),
    "services": ("AlreadyRunning", "Command"),
    "workloads.call": ("BargeIn", "Call", "Greeting", "HangUp", "Press", "Say", "Scenario", "Silence"),
    "workloads.function": ("Function",),
    "workloads.http": ("Get", "Http", "Post"),
    "workloads.in_turn": ("InTurn",),
}

__all__ = [
    "AlreadyRunning",
    "AtLeast",
    "AtMost",
    "Audio",
    "BargeIn",
    "Between",
    "Burst",
    "BusyhourError",
    "Call",
    "Command",
    "Constant",
    "Control",
    "FaultUnavailable",
    "Function",
    "Get",
    "Greeting",
    "HangUp",
    "Hold",
    "Holds",
    "Http",
    "InTurn",
    "Journal",
    "JournalError",
    "Judgement",
    "Operation",
    "Outcome",
    "Phase",
    "PlainWebSocket",
    "Plan",
    "PlanError",
    "Poisson",
    "Post",
    "Press",
    "ProtocolError",
    "Ramp",
    "Recording",
    "Say",
    "Scenario",
    "Schedule",
    "ServiceError",
    "Silence",
    "Steps",
    "SystemClock",
    "Table",
    "TeXML",
    "Telnyx",
    "TelnyxStream",
    "Twilio",
    "TwilioStream",
    "Variation",
    "Verdict",
    "VirtualClock",
    "__version__",
    "judge",
    "open_run",
]


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"busyhour has no {name!r}")
