"""A process that does what it is told, so that what is to be read of it is known; and what it takes to read it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busyhour.clock import SystemClock
from busyhour.model import SECOND, Endpoint
from busyhour.services import AlreadyRunning

AGENT = AlreadyRunning(name="voice-agent", url="http://127.0.0.1:1")

_PROGRAM = """
import ast, sys
names = {}
for line in sys.stdin:
    code = ast.parse(ast.literal_eval(line))
    last = code.body.pop() if isinstance(code.body[-1], ast.Expr) else None
    exec(compile(code, "told", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "told", "eval"), names)
    print(repr(value), flush=True)
"""


class Puppet:
    """Does what it is told, statement by statement, and says what the last expression is."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self.pid = self._process.pid
        self.endpoint = Endpoint("http://nowhere", (self.pid,))
        self.do("import array, mmap, os, resource, select, socket, sys, tempfile, threading, time")

    def do(self, code: str) -> Any:
        """Returns once it is done."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(repr(code).encode() + b"\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, f"it has ended over {code!r}"
        return eval(answer)

    def end(self) -> None:
        """It and its children are gone, and waited for."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def puppet() -> Iterator[Puppet]:
    one = Puppet()
    try:
        yield one
    finally:
        one.end()


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = max(self.at_ns, at_ns)

    def move(self, seconds: float) -> None:
        self.at_ns += round(seconds * SECOND)


def eventually(true: Callable[[], bool], what: str, *, within_seconds: float = 20) -> None:
    """What the kernel does in its own time: asked until it is so."""
    clock = SystemClock()
    until_ns = clock.now_ns() + round(within_seconds * SECOND)
    while not true():
        assert clock.now_ns() < until_ns, f"never: {what}"


def crippled(root: Path, *pids: int, without: tuple[str, ...] = ()) -> Path:
    """A /proc with these processes as they are, but for some of their files; without lists of children, too."""
    for pid in pids:
        (root / str(pid)).mkdir(parents=True)
        for name in os.listdir(f"/proc/{pid}"):
            if name not in without:
                (root / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
    return root
