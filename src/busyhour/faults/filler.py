"""A process that holds memory: `python -m busyhour.faults.filler BYTES FLOOR_BYTES`.

It takes BYTES, as far as the machine keeps FLOOR_BYTES available; tells when it has; and gives back as soon as less is.
"""

from __future__ import annotations

import mmap
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
    held: list[mmap.mmap] = []
    block = os.urandom(4096) * (_CHUNK_BYTES // 4096)
    never, told = threading.Event(), False
    while True:
        while (left := wanted_bytes - len(held) * _CHUNK_BYTES) > 0:
            size = min(left, _CHUNK_BYTES)
            if proc.available_bytes() - size < floor_bytes:
                break
            held.append(_filled(size, block))
        if not told:
            sys.stdout.write("HOLDING\n")
            sys.stdout.flush()
            told = True
        while held and proc.available_bytes() < floor_bytes:
            held.pop().close()
        never.wait(_LOOK_SECONDS)


def _filled(size: int, block: bytes) -> mmap.mmap:
    """Memory that is really there, and that no kernel can compress away; in pages of 2 MB, where there are any."""
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        held.madvise(mmap.MADV_HUGEPAGE)
    held[:] = block[:size]
    return held


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
