"""Inside the target: starts the program as Python would have, and tracks its memory when told to.

Run by the target's own interpreter, before it, as `python [OPTIONS] tracked.py SOCKET -m MODULE ARG...`, or with a
script in place of `-m MODULE`. It connects to the Unix socket, says `hello PID`, and answers each line it is told there
by `ok` or `failed REASON`:

    start PATH NATIVE   collect garbage, then track each allocation from now on into the file; NATIVE: 1 or 0
    mark                leave a block behind that tells this instant from all others
    stop                collect garbage, then complete the file

A child that the program forks connects as well, by itself. Of our own package it imports nothing: the interpreter need
not be ours.
"""

from __future__ import annotations

import gc
import os
import runpy
import socket
import sys
import threading

import memray

INTERVAL_MS = 50
"""How finely the capture tells when a block was allocated."""
MARK_BYTES = 4096
_marks: list[bytearray] = []


def main(argv: list[str]) -> None:
    """Does not return before the program does; its exceptions and its exit are its own."""
    path, *words = argv
    listen(path)
    os.register_at_fork(after_in_child=lambda: listen(path))
    adds_path = not (sys.flags.isolated or sys.flags.safe_path)
    if words[0] == "-m":
        if adds_path:
            sys.path[0] = os.getcwd()
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        if adds_path:
            sys.path[0] = os.path.dirname(os.path.realpath(words[0]))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def listen(path: str) -> None:
    """Connect, and obey in a thread of our own."""
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)
    link.sendall(f"hello {os.getpid()}\n".encode())
    threading.Thread(target=obey, args=(link,), name="memory-tracking", daemon=True).start()


def obey(link: socket.socket) -> None:
    """Until the other end closes."""
    tracker: memray.Tracker | None = None
    with link, link.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            word, *rest = line.split()
            try:
                if word == "start":
                    gc.collect()
                    tracker = memray.Tracker(
                        rest[0], native_traces=rest[1] == "1", memory_interval_ms=INTERVAL_MS, follow_fork=False
                    )
                    tracker.__enter__()
                elif tracker is None:
                    raise RuntimeError("nothing is tracked here")
                elif word == "mark":
                    mark()
                else:
                    gc.collect()
                    tracker.__exit__(None, None, None)
                    tracker = None
            except (OSError, RuntimeError) as error:  # the disk is full; somebody tracks already
                link.sendall(f"failed {str(error).splitlines()[0]}\n".encode())
            else:
                link.sendall(b"ok\n")


def mark() -> None:
    _marks.append(bytearray(MARK_BYTES))


if __name__ == "__main__":
    main(sys.argv[1:])
