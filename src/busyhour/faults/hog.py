"""A process that keeps a processor busy for a share of the time: `python -m busyhour.faults.hog SHARE NICE SEED`.

Ended by whoever started it. Its slices are drawn from the seed, so that it keeps step with nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from random import Random

from busyhour.clock import SystemClock
from busyhour.model import MS, SECOND

_SLICE_MS = (20.0, 100.0)


def main(share: float, nice: int, seed: str) -> None:
    os.nice(nice)
    random, never, clock = Random(seed), threading.Event(), SystemClock()
    sys.stdout.write("BUSY\n")
    sys.stdout.flush()
    while True:
        slice_ns = round(random.uniform(*_SLICE_MS) * MS)
        until_ns = clock.now_ns() + round(share * slice_ns)
        while clock.now_ns() < until_ns:
            pass
        never.wait((1 - share) * slice_ns / SECOND)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
