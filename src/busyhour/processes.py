"""A program as a child process whose whole tree ends with us, whatever becomes of us. Linux.

The child runs below a small supervisor (`_supervise.py`) that kills the tree when we ask, or when we are no longer
there to ask.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from busyhour import proc
from busyhour.errors import ServiceError

_SUPERVISOR = Path(__file__).with_name("_supervise.py")
_KEPT_BYTES = 64 * 1024  # of a child's output, for its last lines
_LAST_LINES = 20
_LAST_BREATH_SECONDS = 0.1
_COLLECT_LOOKS = 200
_COLLECT_SECONDS = 0.005
_KILL_SECONDS = 6.0  # the supervisor gives up after 5


@asynccontextmanager
async def child(
    argv: Sequence[str],
    *,
    name: str,
    ready: Callable[[Child], Awaitable[str]],
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    start_within_seconds: float = 20,
    stop_within_seconds: float = 10,
    log: Path | None = None,
    files: int | None = None,
) -> AsyncIterator[Child]:
    """Start a program below a supervisor; yield it once `ready(child)` returned its URL; stop its whole tree.

    env: added to our own. `ready` is cancelled when the program ends or the time is up, which raise ServiceError, as
    its own failures should. On every way out no descendant is left; one that has started is asked first (SIGTERM).
    files: its soft limit of open files, where that is not to be ours.
    """
    environment = {**os.environ, **(env or {})}
    _check_executable(name, argv[0], environment, cwd)
    running = Child(
        name,
        argv,
        environment,
        cwd,
        log,
        files,
        ready=ready,
        start_within_seconds=start_within_seconds,
        stop_within_seconds=stop_within_seconds,
    )
    grace_seconds = 0.0
    try:
        await running._start()
        grace_seconds = stop_within_seconds
        yield running
    finally:
        await running._stop(grace_seconds)


class Child:
    """A program that `child()` started. Its output is always read, so that it never waits for us.

    It may be ended on purpose, which is no death, and started again at the same address: then it is another process,
    with an output of its own, started with `argv`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        cwd: str | None,
        log: Path | None,
        files: int | None,
        *,
        ready: Callable[[Child], Awaitable[str]],
        start_within_seconds: float,
        stop_within_seconds: float,
    ) -> None:
        self.name = name
        self.argv = argv
        self.url = ""
        self._environment, self._cwd, self._log, self._files = environment, cwd, log, files
        self._ready = ready
        self._start_within_seconds = start_within_seconds
        self._stop_within_seconds = stop_within_seconds
        self._excuses = 0
        self._output_bytes = 0  # of what it was before it was started again
        self._spawn()

    def _spawn(self) -> None:
        self.pid = 0
        self.awaiting = "the program to be executed"  # what the start waits for; `ready` may say more
        self._output = _Output(_opened(self._log, self.name))
        self._executed, self._ended, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._told = b""
        self._exit_code: int | None = None
        self._errno = 0
        self._stopped_by_us = False
        self._link, theirs = socket.socketpair()
        try:
            self._supervisor = subprocess.Popen(  # noqa: S603  (the plan's own command)
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(self._files or 0), *self.argv],
                stdin=theirs.fileno(),
                stdout=self._output.pipe(stdout=True),
                stderr=self._output.pipe(stdout=False),
                env=dict(self._environment),
                cwd=self._cwd,
                start_new_session=True,  # the terminal's Ctrl-C is ours to answer
            )
        except OSError as error:
            self._link.close()
            self._output.close()
            self._ended.set()
            self._gone.set()
            raise ServiceError(f"{self.name}: no process could be started: {in_words(error)}") from None
        finally:
            theirs.close()
            self._output.close_writers()
        self._link.setblocking(False)
        asyncio.get_running_loop().add_reader(self._link, self._hear_supervisor)

    @property
    def output_bytes(self) -> int:
        """How much it has written to its stdout and stderr, in all that it was started as."""
        return self._output_bytes + self._output.read_bytes

    def last_lines(self) -> list[str]:
        """The last 20 lines of its stdout and stderr, as they came; also after its end."""
        return self._output.last_lines()

    def obituary(self) -> str | None:
        """What it died of, with its last lines; None while it lives, and when it was we who stopped it."""
        if self._stopped_by_us or not self._ended.is_set():
            return None
        return f"{self.name} {self._how_it_ended()}{self._last_words()}"

    async def over(self) -> int | None:
        """Wait until it has ended. Its exit code, negative of a signal; None if its supervisor was killed with it."""
        await self._ended.wait()
        return self._exit_code

    # ---------------------------------------------------------------- ending on purpose

    @property
    def pids(self) -> tuple[int, ...]:
        """Of what it was last started as, the first of them what we have started; empty while it is down.

        A daemon that has left its parent has become a child of the supervisor: it is still part of the service.
        """
        if not self._executed.is_set() or self._ended.is_set():
            return ()
        return (self.pid, *(pid for pid in proc.children(self._supervisor.pid) if pid != self.pid))

    async def end(self, *, asked: bool) -> str:
        """End its whole tree: by SIGTERM and, after its time, SIGKILL; unless `asked`, by SIGKILL at once.

        Gives how it ended, as a clause that follows its name. Harmless when it is down.
        """
        if self._ended.is_set():
            return "was down already"
        await self._stop(self._stop_within_seconds if asked else 0)
        if not asked:
            return "was killed by SIGKILL"
        if self._exit_code is None:
            return f"did not end within {self._stop_within_seconds:g} s of SIGTERM and was killed"
        return f"{self._how_it_ended()} after SIGTERM"

    async def start_again(self) -> None:
        """Start it as it was started; returns once it answers. Harmless when it is up. Raises ServiceError."""
        if not self._ended.is_set():
            return
        await self._stop(0)  # of the last one, whatever is left
        self._output_bytes = self.output_bytes
        self._spawn()
        try:
            await self._start()
        except BaseException:
            await self._stop(0)
            raise

    @contextmanager
    def excused(self) -> Iterator[None]:
        """Should it die meanwhile, that was meant to be: it has no obituary."""
        self._excuses += 1
        try:
            yield
        finally:
            self._excuses -= 1

    # ---------------------------------------------------------------- starting and stopping

    async def first_line(self) -> str:
        """The first line of its stdout, without the newline; waits until it comes or the start is given up."""
        self.awaiting = "the first line on its stdout"
        return await asyncio.shield(self._output.first_line)

    async def _start(self) -> None:
        within_seconds = self._start_within_seconds
        end = asyncio.ensure_future(self._ended.wait())
        start = asyncio.ensure_future(self._become_ready())
        try:
            await asyncio.wait({end, start}, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.is_set() and not start.done():
                self.last_lines()  # `ready` may know better than the exit code what was said with the last breath
                await asyncio.wait({start}, timeout=_LAST_BREATH_SECONDS)
            if start.done():
                self.url = start.result()
                return
        finally:
            end.cancel()
            start.cancel()
            await asyncio.gather(end, start, return_exceptions=True)
        who = f"{self.name} ({shlex.join(self.argv)})"
        if self._ended.is_set():
            raise ServiceError(f"{who} {self._how_it_ended()} when it was started{self._last_words()}")
        problem = f"did not start within {within_seconds:g} s: still waiting for {self.awaiting}"
        raise ServiceError(f"{who} {problem}{self._last_words()}")

    async def _become_ready(self) -> str:
        await self._executed.wait()
        return await self._ready(self)

    async def _stop(self, grace_seconds: float) -> None:
        """Ask, wait, kill. Whatever interrupts the waiting, the tree is dead and collected afterwards."""
        if self._link.fileno() < 0:  # that was done before
            return
        self._stopped_by_us = self._stopped_by_us or not self._ended.is_set()
        try:
            if grace_seconds > 0 and not self._ended.is_set():
                await self._after(lambda: self._link.send(b"T"), grace_seconds)
            await self._after(lambda: self._link.shutdown(socket.SHUT_WR), _KILL_SECONDS)
            await self._supervisor_gone()
        finally:
            asyncio.get_running_loop().remove_reader(self._link)
            self._link.close()
            try:
                self._supervisor.wait(_KILL_SECONDS)
            except subprocess.TimeoutExpired:
                self._supervisor.kill()
                self._supervisor.wait()
            self._output.close()
            self._ended.set()

    async def _supervisor_gone(self) -> None:
        """Wait for its last milliseconds without holding up the calls of a run that goes on."""
        for _ in range(_COLLECT_LOOKS):
            if self._supervisor.poll() is not None:
                return
            await asyncio.sleep(_COLLECT_SECONDS)

    async def _after(self, request: Callable[[], object], within_seconds: float) -> None:
        if self._gone.is_set():
            return
        with suppress(OSError):  # it is just now going
            request()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._gone.wait()

    def _hear_supervisor(self) -> None:
        try:
            data = self._link.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._link)
            self._is_over()
            self._gone.set()
            return
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            word, _, number = line.decode().partition(" ")
            if word == "started":
                self.pid = int(number)
                self._executed.set()
            elif word == "failed":
                self._errno = int(number)
                self._is_over()
            elif word == "ended":
                self._exit_code = int(number)
                self._is_over()

    def _is_over(self) -> None:
        if not self._ended.is_set():
            self._stopped_by_us = self._stopped_by_us or self._excuses > 0
            self._ended.set()

    def _how_it_ended(self) -> str:
        if self._errno:
            return f"could not be executed: {os.strerror(self._errno)}"
        if self._exit_code is None:
            return "was lost: its supervisor was killed"
        if self._exit_code >= 0:
            return f"exited with {self._exit_code}"
        try:
            return f"was killed by {signal.Signals(-self._exit_code).name}"
        except ValueError:  # a real-time signal has no name
            return f"was killed by signal {-self._exit_code}"

    def _last_words(self) -> str:
        if self._errno:
            return ""
        lines = self.last_lines()
        return "; its last lines:\n" + "\n".join(f"    {line}" for line in lines) if lines else "; it printed nothing"


class _Output:
    """Reads a child's stdout and stderr as they come; keeps the first line and the last 64 KiB, and a log file."""

    def __init__(self, log: BinaryIO | None) -> None:
        self.first_line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.read_bytes = 0
        self._log = log
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._begun = b""  # of stdout's first line
        self._readers: dict[int, bool] = {}
        self._writers: list[int] = []

    def pipe(self, *, stdout: bool) -> int:
        """The descriptor to write to."""
        reader, writer = os.pipe()
        self._writers.append(writer)
        os.set_blocking(reader, False)
        with suppress(OSError):  # wider, where allowed: a busy loop of ours must not make a talkative child wait
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._readers[reader] = stdout
        asyncio.get_running_loop().add_reader(reader, self._read, reader)
        return writer

    def close_writers(self) -> None:
        """Ours, once the child has its own."""
        while self._writers:
            os.close(self._writers.pop())

    def last_lines(self) -> list[str]:
        for reader in list(self._readers):  # what it said with its last breath is still in the pipe
            for _ in range(32):
                if not self._read(reader):
                    break
        return b"".join(self._kept).decode(errors="replace").splitlines()[-_LAST_LINES:]

    def close(self) -> None:
        self.last_lines()
        for reader in list(self._readers):
            self._close_reader(reader)
        self.first_line.cancel()
        if self._log is not None:
            self._log.close()

    def _read(self, reader: int) -> bool:
        """Take what is there; False when there was nothing."""
        try:
            data = os.read(reader, 65536)
        except BlockingIOError:
            return False
        if not data:
            self._close_reader(reader)
            return False
        self._keep(data)
        if self._readers[reader] and not self.first_line.done():
            self._begun += data
            line, newline, _ = self._begun.partition(b"\n")
            if newline or len(line) > _KEPT_BYTES:
                self.first_line.set_result(line.decode(errors="replace").rstrip("\r"))
        return True

    def _keep(self, data: bytes) -> None:
        self.read_bytes += len(data)
        self._kept.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes - len(self._kept[0]) >= _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft())
        if self._log is not None:
            try:
                self._log.write(data)
            except OSError as error:  # its log is a convenience: a full disk ends the log, not the run
                self._log.close()
                self._log = None
                self._kept.append(f"\n(its log ends here: {in_words(error)})\n".encode())

    def _close_reader(self, reader: int) -> None:
        asyncio.get_running_loop().remove_reader(reader)
        del self._readers[reader]
        os.close(reader)


def _check_executable(name: str, program: str, environment: Mapping[str, str], cwd: str | None) -> None:
    if cwd is not None and not Path(cwd).is_dir():
        raise ServiceError(f"{name}: its working directory {cwd} does not exist")
    if "/" in program:
        found = Path(cwd or ".", program).is_file()
        where = f"below {Path(cwd or '.').resolve()}" if not program.startswith("/") else "there"
    else:
        found = shutil.which(program, path=environment.get("PATH")) is not None
        where = "on the PATH"
    if not found:
        raise ServiceError(f"{name}: no program {program!r} {where}; install it, or correct the command")


def _opened(log: Path | None, name: str) -> BinaryIO | None:
    try:
        return None if log is None else open(log, "ab", buffering=0)  # unbuffered: it outlives us to the last line
    except OSError as error:
        raise ServiceError(f"{name}: its log {log} cannot be written: {in_words(error)}") from None


def in_words(error: Exception) -> str:
    """An operating system's error without its number."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
