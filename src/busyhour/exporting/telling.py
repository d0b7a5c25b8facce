"""`busyhour run --metrics PORT --otlp URL`: the flags, and what they set going while a run goes on."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from busyhour.errors import PlanError
from busyhour.exporting.counting import Tally
from busyhour.exporting.metrics import served
from busyhour.exporting.otlp import Collector, pushed
from busyhour.model import Clock

_PORT_MAX = 65_535


@dataclass(frozen=True)
class Exports:
    """Where the figures of a run are told while it goes on. port: of the page, on loopback; 0 for any that is free."""

    port: int | None = None
    collector: Collector | None = None


def arguments(sub: argparse.ArgumentParser) -> None:
    """The flags."""
    sub.add_argument(
        "--metrics", type=int, metavar="PORT", help="serve live figures for Prometheus at 127.0.0.1:PORT/metrics"
    )
    sub.add_argument("--otlp", metavar="URL", help="push live figures to this OpenTelemetry collector (HTTP)")


def exports(chosen: argparse.Namespace, environment: Mapping[str, str]) -> Exports | None:
    """What the flags ask for; None if nothing. Raises PlanError."""
    if chosen.metrics is None and chosen.otlp is None:
        return None
    if chosen.metrics is not None and not 0 <= chosen.metrics <= _PORT_MAX:
        raise PlanError(f"--metrics {chosen.metrics}: give a port, or 0 for any that is free")
    return Exports(chosen.metrics, None if chosen.otlp is None else Collector.at(chosen.otlp, environment))


@asynccontextmanager
async def exported(
    asked: Exports | None, tally: Tally | None, *, clock: Clock, say: Callable[[str], object]
) -> AsyncIterator[None]:
    """Tell the figures until the body ends. `say` is given the page's address, and what a collector did not take.

    Raises PlanError, before the body, where the page cannot be served; of a collector it raises nothing.
    """
    if asked is None or tally is None:
        yield
        return
    async with AsyncExitStack() as stack:
        if asked.port is not None:
            say(f"metrics: {await stack.enter_async_context(served(tally, asked.port, clock=clock))}")
        if asked.collector is None:
            yield
            return
        try:
            async with pushed(tally, asked.collector, clock=clock) as pushing:
                yield
        finally:
            if trouble := pushing.told():
                say(trouble)
