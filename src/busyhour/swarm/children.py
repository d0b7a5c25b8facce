"""A program of ours as the child of a process that gevent has taken over: supervised, and spoken to in lines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gevent
from gevent.queue import Queue

from busyhour import _supervise
from busyhour.distributed.lines import Message, decoded, encoded

CONNECT_SECONDS = 60.0
LAST_WORDS_SECONDS = 2.0
WAITING_MAX = 100_000  # messages


class Program:
    """`python -m MODULE SOCKET`, which ends when we do.

    `on_message` is called with each of its lines, and `on_end` once with how it ended, as a clause that follows its
    name; both in a greenlet of ours.
    """

    def __init__(self, module: str, *, on_message: Callable[[Message], None], on_end: Callable[[str], None]) -> None:
        self._on_message, self._on_end = on_message, on_end
        self._out: Queue[Message | None] = Queue(WAITING_MAX)
        self._folder = tempfile.TemporaryDirectory(prefix="busyhour-")
        path = str(Path(self._folder.name, "link"))
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen(1)
        self._server.settimeout(CONNECT_SECONDS)
        self._rope, theirs = socket.socketpair()
        with theirs:
            self._supervisor = subprocess.Popen(  # noqa: S603  (our own program)
                [sys.executable, "-I", "-S", _supervise.__file__, "0", sys.executable, "-P", "-m", module, path],
                stdin=theirs.fileno(),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                start_new_session=True,  # the terminal's Ctrl-C is Locust's to answer
            )
        self._talking = gevent.spawn(self._talk)

    def send(self, message: Message) -> None:
        """Harmless when it is gone."""
        if not self._out.full():
            self._out.put(message)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self._tell_supervisor(b"T")

    def close(self) -> None:
        """It and all below it are gone."""
        with suppress(OSError):  # the supervisor is gone already
            self._rope.shutdown(socket.SHUT_WR)
        try:
            self._supervisor.wait(10)
        except subprocess.TimeoutExpired:
            self._supervisor.send_signal(signal.SIGKILL)
            self._supervisor.wait()
        if gevent.getcurrent() is not self._talking:
            self._talking.kill()
        self._rope.close()
        self._server.close()
        self._folder.cleanup()

    def _talk(self) -> None:
        try:
            link, _ = self._server.accept()
        except OSError:
            self._on_end("did not start")
            return
        link.settimeout(None)
        with link, link.makefile("rb") as lines:
            writing = gevent.spawn(self._write, link)
            try:
                for line in lines:
                    self._on_message(decoded(line))
            except ConnectionError:  # as good as its end
                pass
            writing.kill()
        self._on_end(self._how_it_ended())

    def _write(self, link: socket.socket) -> None:
        """The only writer: two greenlets would mix their lines."""
        while (message := self._out.get()) is not None:
            try:
                link.sendall(encoded(message))
            except OSError:  # it is gone: its end is read elsewhere
                return

    def _how_it_ended(self) -> str:
        told = b""
        self._rope.settimeout(LAST_WORDS_SECONDS)
        try:
            while b"ended " not in told and (more := self._rope.recv(4096)):
                told += more
        except OSError:
            return "has hung up"
        code = int(told.rpartition(b"ended ")[2].split()[0]) if b"ended " in told else None
        if code is None:
            return "was lost: its supervisor was killed"
        return f"exited with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

    def _tell_supervisor(self, what: bytes) -> None:
        with suppress(OSError):  # it is gone
            self._rope.send(what)
