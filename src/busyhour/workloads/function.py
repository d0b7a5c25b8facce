"""Any async callable as a workload: a component in process, or a client that speaks for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from inspect import iscoroutinefunction

from busyhour.model import SECOND, Arrival, Operation


class Failed(Exception):
    """Raised by a function for an expected failure; `reason`, in a few words, becomes the operation's outcome."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Function:
    """Each arrival awaits `call(arrival)`, at most until `timeout_seconds` after it was due.

    Leaves an operation of the kind "function" for each: "ok", "timeout", the reason of a Failed, or of what `expected`
    names ("ConnectionResetError"). Whatever else is raised is a bug and ends the run.
    """

    call: Callable[[Arrival], Awaitable[object]]
    name: str = field(default="", kw_only=True)
    timeout_seconds: float = field(default=60, kw_only=True)
    expected: tuple[type[Exception], ...] = field(default=(OSError,), kw_only=True)

    def problems(self) -> Sequence[str]:
        problems = []
        if not 0 < self.timeout_seconds <= 86_400:
            problems.append(
                f"Function: timeout_seconds={self.timeout_seconds:g}: it must be more than 0, at most a day"
            )
        if not iscoroutinefunction(self.call) and not iscoroutinefunction(getattr(self.call, "__call__", None)):  # noqa: B004  (an object whose call is async is as good)
            problems.append(f"Function: {self._name} is not async; define it with `async def`")
        return problems

    @property
    def _name(self) -> str:
        return self.name or str(getattr(self.call, "__name__", type(self.call).__name__))

    async def perform(self, arrival: Arrival) -> None:
        clock = arrival.clock
        began_ns = clock.now_ns()
        outcome = "cut off"
        try:
            left = (arrival.due_ns - began_ns) / SECOND + self.timeout_seconds
            outcome = await self._outcome(arrival, max(0.0, left))
        finally:
            ended_ns = clock.now_ns()
            arrival.record(
                Operation(
                    id=arrival.id,
                    kind="function",
                    phase=arrival.phase,
                    due_ns=arrival.due_ns,
                    began_ns=began_ns,
                    ended_ns=None if outcome in {"timeout", "cut off"} else ended_ns,
                    outcome=outcome,
                    who=self._name,
                    detail={"gave_up_ns": ended_ns},
                )
            )

    async def _outcome(self, arrival: Arrival, seconds: float) -> str:
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await self.call(arrival)
        except Failed as failed:
            return failed.reason
        except TimeoutError as error:
            if not deadline.expired() and not isinstance(error, self.expected):
                raise
            return "timeout"
        except self.expected as error:
            return type(error).__name__
        return "ok"
