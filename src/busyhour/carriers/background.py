"""Work that goes on beside the calls: webhooks under way, sockets, commands being answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """A task group that ends: at its exit tasks get `settle_seconds` to finish, and are cancelled then.

    An exception in a task is a bug, and cancels whoever is inside the `async with`, as in any task group. An exception
    of the inside comes out as it is, not wrapped in a group, so that expected errors stay recognisable.
    """

    def __init__(self, settle_seconds: float) -> None:
        self._settle_seconds = settle_seconds
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._broken = False

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
        """Start it; None when everything is being cancelled already."""
        if self._broken:
            work.close()
            return None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = True

    async def __aenter__(self) -> Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._tasks:
                await asyncio.wait(self._tasks, timeout=self._settle_seconds)
        except asyncio.CancelledError as cancelled:  # from outside, or because a task just now failed: the group knows
            kind, error, trace = type(cancelled), cancelled, cancelled.__traceback__
        self._broken = True
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as errors:
            if errors.exceptions != (error,):
                raise


class Errands:
    """What one call has under way: tasks that end with the call, and others that it only waits for."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Task[Any]] = set()

    @property
    def awaited(self) -> int:
        """How many there are that the call only waits for."""
        return len(self._awaited)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run it until the call ends; a bug in it ends the run."""
        task = self._background.spawn(work)
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task

    def await_(self, task: asyncio.Task[Any] | None) -> None:
        """Let it go on after the call's end; `settled` waits for it."""
        if task is not None:
            self._awaited.add(task)
            task.add_done_callback(self._awaited.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def settled(self, timeout_seconds: float) -> None:
        """Wait, bounded, for what is still under way."""
        if self._awaited or self._tasks:
            await asyncio.wait(self._awaited | self._tasks, timeout=timeout_seconds)
