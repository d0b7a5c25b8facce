"""Work done in a thread of its own, on an event loop of its own: whether or not a test has a loop running, and which.

The test waits for it. Whatever ends the waiting before the work is done, Ctrl-C or a time limit of pytest's, cancels
the work, and is raised when all that the work had begun is undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

from busyhour.descriptors import widened
from busyhour.eventloop import loop_factory

UNDONE_SECONDS = 60.0  # within this, work that was cancelled has hung up, undone its faults and stopped its services

T = TypeVar("T")


class Asides:
    """The work that one test, be it from several threads of its own, waits for."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._going: set[_Aside[Any]] = set()

    def do(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait until it is done; raises what it raises, and asyncio.CancelledError once it was stopped."""
        aside = _Aside(work)
        try:
            with self._lock:
                self._going.add(aside)
            aside.thread.start()
            return aside.done.result()
        except BaseException:
            self._end([aside])
            raise
        finally:
            with self._lock:
                self._going.discard(aside)

    def stop(self) -> None:
        """Cancel what is going on; returns when it is undone. From any thread."""
        with self._lock:
            going = list(self._going)
        self._end(going)

    # A test that waits by `asyncio.to_thread` is interrupted, and given up, in another thread than the one that waits
    # here; and its event loop, which ends with the test's fixtures, waits for that one.

    def pytest_keyboard_interrupt(self) -> None:
        self.stop()

    def pytest_runtest_teardown(self) -> None:
        self.stop()

    def _end(self, asides: list[_Aside[Any]]) -> None:
        for aside in asides:
            aside.stop()
        for aside in asides:
            if aside.thread.ident is not None:
                aside.thread.join(UNDONE_SECONDS)


class _Aside(Generic[T]):
    """One piece of work and its thread, which is not waited for when the interpreter ends: the second Ctrl-C."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.done: Future[T] = Future()
        self.thread = Thread(target=self._run, name="busyhour", daemon=True)
        self._work = work
        self._lock = Lock()
        self._stopped = False
        self._cancel: Callable[[], object] | None = None

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._cancel is not None:
                self._cancel()

    def _run(self) -> None:
        """Whatever ends it is handed out: nobody looks into a thread."""
        try:
            with widened(), asyncio.Runner(loop_factory=loop_factory()) as runner:
                result = runner.run(self._stoppable())
        except BaseException as error:  # forwarded, not swallowed: `do` raises it
            self.done.set_exception(error)
        else:
            self.done.set_result(result)

    async def _stoppable(self) -> T:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._work())
        with self._lock:
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._stopped:
                self._cancel()
        try:
            return await task
        finally:
            with self._lock:
                self._cancel = None
