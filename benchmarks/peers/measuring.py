"""What every client of `benchmarks/calls.py` measures, in the same way: how late each frame left, and what it cost.

    python CLIENT.py URL CALLS SECONDS

A client opens `calls` media streams; when it begins and ends to measure, and its result, go to stdout, a line of JSON
each. Only the standard library: the peers live in an environment of their own.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from array import array

FRAME_NS = 20_000_000
SETTLE_SECONDS = 1.5
LINGER_SECONDS = 0.5
PAYLOAD = "/" * 214 + "8="  # 160 octets of silence in mu-law
FRAME = (
    '{"event":"media","sequence_number":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d","payload":"'
    + PAYLOAD
    + '"},"stream_id":"5a2a4c0e-5d1f-4a7b-8f8c-2f1d8f6b7a10"}'
)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_kb() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() // 1024


def raise_limit() -> int:
    """Of open files, to what anybody may raise it to; gives it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Meter:
    """Frames from `begin` to `end`. `sent` right after a frame was handed to the socket, with the time it was due."""

    def __init__(self) -> None:
        self._late = array("q")
        self.received = 0
        self._measuring = False

    def sent(self, due_ns: int) -> None:
        if self._measuring:
            self._late.append(time.monotonic_ns() - due_ns)

    def begin(self) -> None:
        self._measuring = True
        self.received = 0
        self._began, self._cpu = time.monotonic(), cpu_seconds()
        print(json.dumps({"begin": True}), flush=True)

    def end(self) -> None:
        """Print the result. Keep the calls for `LINGER_SECONDS` more: the far end is asked what it saw of them."""
        self._measuring = False
        seconds, cpu = time.monotonic() - self._began, cpu_seconds() - self._cpu
        print(json.dumps({"end": True}), flush=True)
        late = sorted(self._late)
        quantiles = {str(q): late[int(q * len(late))] / 1e6 if late else None for q in (0.5, 0.99, 0.999)}
        told = {
            "late_ms": quantiles,
            "sent_per_second": len(late) / seconds,
            "received_per_second": self.received / seconds,
            "cpu": cpu / seconds,
            "rss_kb": rss_kb(),
        }
        print(json.dumps(told), flush=True)


def arguments() -> tuple[str, int, float]:
    return sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
