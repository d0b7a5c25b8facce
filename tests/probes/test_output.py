"""How much a service that we have started writes to its stdout and stderr."""

from __future__ import annotations

import asyncio
import sys

from busyhour.model import Endpoint
from busyhour.probes.process import Process
from busyhour.services import Child, child

from .puppet import AGENT

TALK = """
import signal, sys
print("ready", flush=True)
sys.stderr.write("x" * 199_994)
sys.stderr.flush()
signal.pause()
"""


async def _ready(service: Child) -> str:
    assert await service.first_line() == "ready"
    return "http://127.0.0.1:1"


async def _written(service: Child, wanted_bytes: int) -> float:
    """Read until so much has come."""
    probe = Process(AGENT)
    async with asyncio.timeout(30):
        while service.output_bytes < wanted_bytes:  # noqa: ASYNC110  (its pipe is read by the loop, which tells nobody)
            await asyncio.sleep(0.01)
    return probe.read(Endpoint(service.url, service.pids, service))["output_mb"]


async def test_what_it_writes_is_counted_on_across_a_restart() -> None:
    async with child([sys.executable, "-c", TALK], name="talkative", ready=_ready) as service:
        assert await _written(service, 200_000) == 0.2
        await service.end(asked=False)
        await service.start_again()
        assert await _written(service, 400_000) == 0.4


async def test_of_a_service_that_somebody_else_has_started_nothing_is_read_of_its_output() -> None:
    async with child([sys.executable, "-c", TALK], name="talkative", ready=_ready) as service:
        readings = Process(AGENT).read(Endpoint(service.url, service.pids))
        assert readings["processes"] >= 1
        assert "output_mb" not in readings
