"""A process that holds memory: `python -m busyhour.faults.filler BYTES FLOOR_BYTES`.

It takes BYTES, as far as the machine keeps FLOOR_BYTES available; tells when it has; and gives back as soon as less is.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from busyhour import proc

_CHUNK_BYTES = 16 << 20
_LOOK_SECONDS = 0.05


def main(wanted_bytes: int, floor_bytes: int) -> None:
    with suppress(OSError):  # what the kernel would kill first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    held: list[bytearray] = []
    never, told = threading.Event(), False
    while True:
        while (left := wanted_bytes - len(held) * _CHUNK_BYTES) > 0:
            size = min(left, _CHUNK_BYTES)
            if proc.available_bytes() - size < floor_bytes:
                break
            held.append(_filled(size))
        if not told:
            sys.stdout.write("HOLDING\n")
            sys.stdout.flush()
            told = True
        while held and proc.available_bytes() < floor_bytes:
            held.pop()
        never.wait(_LOOK_SECONDS)


def _filled(size: int) -> bytearray:
    """Pages that are really there, and that no kernel can merge or compress away."""
    page = os.urandom(4096)
    return bytearray(page * (size // 4096 + 1))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
