"""A file system in memory over a folder, for as long as our standard input is open.

Run as `python -I -S _mount.py FOLDER BYTES NAME`. It prints `MOUNTED`, or why not, in a line. Standard input ends when
the harness closes it, and when the harness is killed: so nothing is left of it. It uses nothing but the C library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_MNT_DETACH = 2  # what still has files open there keeps them; nobody else sees it any more


def main(folder: str, size: str, name: str) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its end is the end of its input, and nothing else
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={size},mode=1777".encode()
    if libc.mount(name.encode(), os.fsencode(folder), b"tmpfs", 0, options) != 0:
        _say(os.strerror(ctypes.get_errno()))
        return 1
    try:
        _say("MOUNTED")
        while os.read(0, 4096):
            pass
    finally:
        libc.umount2(os.fsencode(folder), _MNT_DETACH)
    return 0


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
