"""What all faults share: whom they are aimed at, and an undoing that nothing interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping

from busyhour.errors import PlanError
from busyhour.model import Endpoint


def aimed_at(fault: str, service: str, endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Where the service is found. Raises PlanError when the plan starts none of that name."""
    if service not in endpoints:
        known = ", ".join(sorted(endpoints)) or "none"
        raise PlanError(
            f"the fault {fault!r} is aimed at the service {service!r}, which the plan does not start "
            f"(it starts: {known}); add it to the plan's services"
        )
    return endpoints[service]


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
