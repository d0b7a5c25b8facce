"""A plan without a carrier: calls are requests to a small server that leaks at known lines."""

import asyncio
import sys
from pathlib import Path
from urllib.parse import urlsplit

from busyhour.arrivals import Constant
from busyhour.gates import AtMost
from busyhour.indicators import dropped
from busyhour.model import Arrival, Operation, Phase, Plan
from busyhour.services import Command
from busyhour.workloads.idle import Idle

LEAKY = Path(__file__).with_name("leaky.py")


class Get:
    async def perform(self, arrival: Arrival) -> None:
        began_ns = arrival.clock.now_ns()
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(arrival.target.url).port)
        writer.write(b"GET /call HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        arrival.record(
            Operation(
                id=arrival.id,
                kind="call",
                phase=arrival.phase,
                due_ns=arrival.due_ns,
                began_ns=began_ns,
                ended_ns=arrival.clock.now_ns(),
                outcome="ok" if answer.startswith(b"HTTP/1.1 200") else "failed",
            )
        )


def plan(command: str = "", words: str = "", idle: bool = False) -> Plan:
    target = Command(command or [sys.executable, "-u", str(LEAKY), *words.split()], name="leaky")
    phase = Phase("requests", Constant(per_second=10, seconds=1), Idle(0.01) if idle else Get())
    return Plan(target=target, phases=[phase], gates=[AtMost(dropped(), 0)])
