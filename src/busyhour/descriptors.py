"""How many files we may have open: as many as the system lets us, and the programs that we start as many as before.

A shell gives a program 1024 and lets it ask for more (RLIMIT_NOFILE, setrlimit(2)). The harness asks: a call costs it
some. A target must not get by because of us: whoever starts it in production gives it what a shell does.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

_ENOUGH = 1 << 20  # a container's limit may be a thousand times that: nobody needs it, and some programs count up to it
_ROOM = 1 << 16
_given: ContextVar[int | None] = ContextVar("given", default=None)


def attainable() -> int:
    """How many we may have open at once, once we have asked for them."""
    soft, hard = map(_counted, resource.getrlimit(resource.RLIMIT_NOFILE))
    return max(soft, min(hard, _ENOUGH))


def given() -> int | None:
    """How many we were given, where we have asked for more."""
    return _given.get()


@contextmanager
def widened() -> Iterator[None]:
    """All that may be had, for us and for what inherits from us, while the body runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (attainable(), hard))
    outermost = _given.get()
    token = _given.set(_counted(soft) if outermost is None else outermost)
    try:
        _make_room(min(attainable(), _ROOM))
        yield
    finally:
        _given.reset(token)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _make_room(files: int) -> None:
    """Linux doubles the table of a process's files when it is full, and holds up a process with threads for 10 ms while
    it does: the 1,024th file would be opened in the middle of the load. So it is made as large as it may get before."""
    if sys.platform == "linux":
        with suppress(OSError), open(os.devnull) as file:  # where it cannot be had, it grows as it always did
            os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, files - 1))


def _counted(limit: int) -> int:
    return _ENOUGH if limit == resource.RLIM_INFINITY else limit
