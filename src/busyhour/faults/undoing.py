"""What all faults share: whom they are aimed at, when they act, and an undoing that nothing interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from math import inf
from typing import Protocol, runtime_checkable

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.model import SECOND, Clock, Endpoint

STOPPED = "T"
_AWAKE_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@runtime_checkable
class Restartable(Protocol):
    """The handle of a service whose processes may be ended on purpose, which is no death, and started again.

    `processes.Child` is one, and says what is to be kept.
    """

    @property
    def pids(self) -> tuple[int, ...]: ...

    async def end(self, *, asked: bool) -> str: ...

    async def start_again(self) -> None: ...

    def excused(self) -> AbstractContextManager[None]: ...


class Harm(Protocol):
    """What a fault does. Either may be called again, and after the other has failed half-way."""

    async def begin(self) -> None:
        """Returns once it is seen to be in force. Raises ServiceError."""
        ...

    async def end(self) -> None:
        """Undo it; returns once it is seen to be undone. Raises ServiceError."""
        ...


def aimed_at(fault: str, service: str, endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Where the service is found. Raises PlanError when the plan starts none of that name."""
    if service not in endpoints:
        known = ", ".join(sorted(endpoints)) or "none"
        raise PlanError(
            f"the fault {fault!r} is aimed at the service {service!r}, which the plan does not start "
            f"(it starts: {known}); add it to the plan's services"
        )
    return endpoints[service]


def with_processes(fault: str, service: str, endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Where the service is found, which has processes. Raises PlanError."""
    endpoint = aimed_at(fault, service, endpoints)
    if not endpoint.pids and not isinstance(endpoint.handle, Restartable):
        raise PlanError(
            f"the fault {fault!r} needs processes, and {service} has none that busyhour started: "
            "it runs inside the harness, or elsewhere"
        )
    return endpoint


def roots(endpoint: Endpoint) -> tuple[int, ...]:
    """The processes that the service is at this instant: it may have been started again."""
    return endpoint.handle.pids if isinstance(endpoint.handle, Restartable) else endpoint.pids


async def awake(fault: str, service: str, endpoint: Endpoint) -> None:
    """Returns once a process of the service that stands still goes on, so that it can be spoken to; at once if none is.

    Raises ServiceError when it still does after 10 s.
    """
    for _ in range(round(_AWAKE_SECONDS / _LOOK_SECONDS)):
        still = [one for one in proc.tree(roots(endpoint)) if one.state == STOPPED]
        if not still:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    names = ", ".join(f"{one.name} (pid {one.pid})" for one in still)
    raise ServiceError(
        f"the fault {fault!r} cannot be spoken of with {service}: {names} has stood still (state T) for "
        f"{_AWAKE_SECONDS:g} s; whatever stopped it must let it go on before this fault begins and until it is undone"
    )


def check_times(fault: str, *, after_seconds: float, seconds: float | None) -> None:
    """Raises PlanError for a fault that would end before it begins, and for times that are no numbers of seconds."""
    if not 0 <= after_seconds < inf or (seconds is not None and not 0 < seconds < inf):
        raise PlanError(f"the fault {fault!r} has no duration: give it more than 0 s, after 0 s or more")


@asynccontextmanager
async def in_force(
    harm: Harm, clock: Clock, *, after_seconds: float = 0.0, seconds: float | None = None
) -> AsyncIterator[None]:
    """The harm begins so long after the body, and ends after `seconds`, or with the body; it is always ended.

    What goes wrong with it while the body runs is raised when the body is over.
    """
    try:
        if after_seconds == 0:
            await to_the_end(harm.begin())
        task = asyncio.ensure_future(_begin_and_end(harm, clock, after_seconds, seconds))
        try:
            yield
        finally:
            await to_the_end(ended(task))
    finally:
        await to_the_end(harm.end())


async def _begin_and_end(harm: Harm, clock: Clock, after_seconds: float, seconds: float | None) -> None:
    if after_seconds > 0:
        await clock.sleep_until(clock.now_ns() + round(after_seconds * SECOND))
        await to_the_end(harm.begin())
    if seconds is not None:
        await clock.sleep_until(clock.now_ns() + round(seconds * SECOND))
        await to_the_end(harm.end())


async def ended(task: asyncio.Task[None]) -> None:
    """The task is over; what it failed with is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def to_the_end(undoing: Coroutine[object, object, None]) -> None:
    """Await `undoing` whatever cancels us meanwhile; the cancellation is raised when it is through.

    A run that is stopped must not leave its harm behind. `undoing` bounds its own time.
    """
    task = asyncio.ensure_future(undoing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    task.result()
    if cancelled is not None:
        raise cancelled
