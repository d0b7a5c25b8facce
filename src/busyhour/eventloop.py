"""What a process that paces audio needs of its interpreter: a fast event loop, and a collector that keeps still."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from contextlib import ExitStack


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform != "linux":
        return None
    import uvloop  # noqa: PLC0415  (a dependency on Linux only)

    return uvloop.new_event_loop


def quiet_collector() -> ExitStack:
    """What lives now lives for the run: keep the garbage collector from walking it between two frames."""
    stack = ExitStack()
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    stack.callback(gc.set_threshold, *thresholds)
    stack.callback(gc.unfreeze)
    return stack
