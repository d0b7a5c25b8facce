"""The far end of `benchmarks/calls.py`: a process that takes any number of media streams, and what it saw of them.

Speaks Telnyx's media frames on ws://127.0.0.1:PORT/<call number>. To each call it sends 50 frames a second on an exact
schedule of its own (twenty slots of 1 ms), silence unless it answers, and it counts the frames that it gets. When a
caller stops speaking it answers with 2.6 s of tone that begins in the call's first slot `DELAY_NS` or more
later; what was played before is cleared, as agents do. It knows both instants, and tells the delay between them.

    python hatch_build.py benchmarks/calls_far_end.pyx      (`calls.py` does it, too)
    python benchmarks/calls_server.py CPU [CERTIFICATE]     commands on stdin: "reset", "tell"; one line of JSON each
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import resource
import ssl
import sys
from pathlib import Path

import numpy as np
import uvloop
from calls_far_end import Agent, Intake, send_all
from picows import WSUpgradeRequest, ws_create_server

from busyhour.clock import SystemClock
from busyhour.media.codec import FRAME_NS, codec
from busyhour.model import MS, SECOND
from busyhour.timers import KernelTimer

SLOTS = 20
DELAY_NS = 300 * MS
NOW = SystemClock().now_ns
SILENCE = base64.b64encode(b"\xff" * 160)
STREAM_ID = "f2a9b6c1-8a70-4c7e-9d43-0c6f1d0b7e55"


def text(message: dict[str, object]) -> bytes:
    """In a WebSocket frame (RFC 6455, 5.2)."""
    payload = json.dumps({**message, "stream_id": STREAM_ID}).encode()
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2)
    return b"\x81" + size + payload


def frame(octets: bytes) -> bytes:
    return text({"event": "media", "media": {"payload": base64.b64encode(octets).decode()}})


def tone() -> list[bytes]:
    """2.6 s of 440 Hz, at full level from the first sample on."""
    at = np.arange(20_800) / 8000
    octets = codec("PCMU").encode((8000 * np.cos(2 * np.pi * 440 * at)).astype(np.int16))
    return [frame(octets[i : i + 160]) for i in range(0, len(octets), 160)]


SILENT, TONE, CLEAR = frame(b"\xff" * 160), tone(), text({"event": "clear"})


class Server:
    """All the calls, and what came of them since the last reset."""

    def __init__(self) -> None:
        self.delays_ns: list[tuple[int, int]] = []
        self._slots: list[list[Agent]] = [[] for _ in range(SLOTS)]
        self._places: dict[Agent, int] = {}
        self._slot_ns = FRAME_NS // SLOTS
        self._next = 0
        self.intake = Intake()
        asyncio.get_running_loop().add_reader(self.intake.fileno, self.intake.read_all)
        self.reset()

    def join(self, agent: Agent) -> None:
        place = min(range(SLOTS), key=lambda i: len(self._slots[i]))
        self._slots[place].append(agent)
        self._places[agent] = place

    def leave(self, agent: Agent) -> None:
        place = self._places.pop(agent, None)
        if place is not None:
            self._slots[place].remove(agent)
            self._lost += 1

    def begin(self) -> None:
        self._began_ns = (NOW() // self._slot_ns + 2) * self._slot_ns
        KernelTimer(self._advance).set(self._began_ns, every_ns=self._slot_ns)

    def _advance(self) -> None:
        last = (NOW() - self._began_ns) // self._slot_ns
        while self._next <= last:
            due_ns = self._began_ns + self._next * self._slot_ns
            agents = self._slots[self._next % SLOTS]
            self._next += 1
            send_all(agents, due_ns, SILENT, TONE, CLEAR)
            # One stamp for all of a slot: none of its frames was later than this.
            self._late.append((NOW() - due_ns, len(agents)))

    def reset(self) -> None:
        self.delays_ns.clear()
        self._late: list[tuple[int, int]] = []
        self._lost = 0
        self._since_ns, self._cpu = NOW(), cpu_seconds()
        self._received = {agent: agent.received for agent in self._places}

    def tell(self) -> dict[str, object]:
        """lost: calls that ended; slowest, fastest: the frames a second that came of the calls that lasted."""
        seconds = (NOW() - self._since_ns) / SECOND
        came = [agent.received - self._received[agent] for agent in self._places if agent in self._received]
        frames = sum(count for _, count in self._late)
        left, late_ms = 0.01 * frames, 0.0
        for late_ns, count in sorted(self._late, reverse=True):
            late_ms = late_ns / MS
            left -= count
            if left <= 0:
                break
        return {
            "calls": len(self._places),
            "lost": self._lost,
            "received_per_second": sum(came) / seconds,
            "slowest": min(came, default=0) / seconds,
            "sent_per_second": frames / seconds,
            "late_ms_p99": late_ms,
            "cpu": (cpu_seconds() - self._cpu) / seconds,
            "delays_ns": self.delays_ns,
        }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    soft_and_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_and_hard[1], soft_and_hard[1]))
    tls = None
    if len(sys.argv) > 2:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(Path(sys.argv[2]))
    server = Server()

    def accept(request: WSUpgradeRequest) -> Agent:
        number = int(request.path.decode().strip("/") or "0")
        return Agent(server, number, DELAY_NS, SILENCE, server.delays_ns.append)

    listening = await ws_create_server(accept, "127.0.0.1", 0, ssl=tls, backlog=4096)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    server.begin()
    gc.freeze()
    gc.disable()
    print(json.dumps({"port": listening.sockets[0].getsockname()[1]}), flush=True)
    while command := (await commands.readline()).decode().strip():
        if command == "reset":
            server.reset()
            gc.freeze()
            print("{}", flush=True)
        else:
            print(json.dumps(server.tell()), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
