"""The tools that the model may call: what they are, and their use. What is asked for is checked before it is done.

Once begun, a tool's work is finished even if the caller interrupts: half a booking is none, and one that the model does
not know of is made twice. So the results are kept with the conversation in any case.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from voice_agent.appointments import Appointment, Appointments, Refused, Unavailable, figures
from voice_agent.defects import Defects
from voice_agent.llm.question import Errand, Tool, ToolCall
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.schema import problem, record, text

ROUNDS = 3  # of calls in one turn; then the model has to speak

_CALLS = 3  # at once: each may take as long as the company's API is waited for
_LOGGED_CHARACTERS = 500
_PHONE_FIGURES = (5, 15)  # the most is E.164's
_DAY = text("The day, as agreed with the caller, for example tuesday or 2030-01-08.", at_most=40)
_TIME = text("The time of day, for example 09:00.", at_most=40)
_NAME = text("The caller's first and last name.", at_least=2, at_most=80)
_PHONE = text("The caller's telephone number.", at_least=5, at_most=80)

TRANSFER_CALL = Tool(
    "transfer_call", "Put the caller through to a human, when they ask for one or need what you cannot do."
)
BOOK_APPOINTMENT = Tool(
    "book_appointment",
    "Book an appointment for the caller, who has told day, time, name and telephone number.",
    record({"day": _DAY, "time": _TIME, "name": _NAME, "phone": _PHONE}),
)
CANCEL_APPOINTMENT = Tool(
    "cancel_appointment",
    "Cancel the caller's own appointment. They must have told the name and the telephone number that it is booked "
    "under: ask for both first. Never invent either.",
    record({"name": _NAME, "phone": _PHONE}),
)
_TOOLS = {"transfer": (TRANSFER_CALL,), "appointments": (BOOK_APPOINTMENT, CANCEL_APPOINTMENT)}


class Tools:
    """Of one call. `kinds`: those that TOOLS names; `start` begins work that is to outlive the turn, and the call."""

    def __init__(
        self,
        kinds: Sequence[str],
        appointments: Appointments,
        *,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        metrics: Metrics,
        defects: Defects,
        log: Log,
    ) -> None:
        self.offered: Sequence[Tool] = [tool for kind, tools in _TOOLS.items() if kind in kinds for tool in tools]
        self._appointments, self._start = appointments, start
        self._metrics, self._defects, self._log = metrics, defects, log
        self._running: set[asyncio.Task[None]] = set()

    def transfers(self, errand: Errand) -> bool:
        """Whether the caller is to be put through."""
        return TRANSFER_CALL in self.offered and any(call.name == TRANSFER_CALL.name for call in errand.calls)

    async def use(self, errand: Errand) -> None:
        """Do what was called for, and write the results down. May be cancelled: it is done nevertheless."""
        task = self._start(self._carry_out(errand))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    async def settled(self) -> None:
        """Until nothing is being done any more: a second or so at most for each call."""
        if self._running:
            await asyncio.wait(self._running)

    async def _carry_out(self, errand: Errand) -> None:
        for number, call in enumerate(errand.calls):
            if number < _CALLS:
                result, outcome = await self._used(call)
            else:
                result, outcome = {"error": "too many calls at once"}, "invalid"
            errand.results.append(json.dumps(result))
            known = any(tool.name == call.name for tool in self.offered)
            self._metrics.tool_called(call.name if known else "unknown", outcome)
            self._log.info(
                "tool call",
                tool=call.name[:_LOGGED_CHARACTERS],
                arguments=call.arguments[:_LOGGED_CHARACTERS],
                outcome=outcome,
                result=errand.results[-1][:_LOGGED_CHARACTERS],
            )

    async def _used(self, call: ToolCall) -> tuple[dict[str, Any], str]:
        """What the model is told, and the outcome: "ok", "invalid", "refused", "failed"."""
        tool = next((tool for tool in self.offered if tool.name == call.name), None)
        if tool is None:
            return {"error": "there is no such tool"}, "invalid"
        try:
            arguments = json.loads(call.arguments or "{}")
        except (ValueError, RecursionError):
            return {"error": "the arguments are not JSON"}, "invalid"
        checked = tool is not CANCEL_APPOINTMENT or not self._defects.strikes("tool_unchecked")
        if checked and (wrong := problem(tool.parameters, arguments) or _problem_of_phone(tool, arguments)):
            return {"error": f"{wrong}; ask the caller"}, "invalid"
        try:
            return await self._done(tool, arguments, checked=checked), "ok"
        except Refused as refusal:
            return {"error": str(refusal)}, "refused"
        except Unavailable as failure:
            self._metrics.vendor_failed("company", str(failure))
            return {"error": "our appointment system does not answer, nobody knows whether it was done"}, "failed"

    async def _done(self, tool: Tool, arguments: dict[str, Any], *, checked: bool) -> dict[str, Any]:
        if tool is BOOK_APPOINTMENT:
            return await self._appointments.book(Appointment(**{**arguments, "phone": figures(arguments["phone"])}))
        if tool is CANCEL_APPOINTMENT:
            told = arguments if isinstance(arguments, dict) else {}
            phone = figures(str(told.get("phone", "")))
            return await self._appointments.cancel(str(told.get("name", "")), phone, checked=checked)
        return {"status": "the caller is being put through"}


def _problem_of_phone(tool: Tool, arguments: dict[str, Any]) -> str:
    least, most = _PHONE_FIGURES
    if "phone" not in tool.parameters["properties"] or least <= len(figures(arguments["phone"])) <= most:
        return ""
    return f"phone must have {least} to {most} figures"
