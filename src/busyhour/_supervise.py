"""The supervisor: a small process that stands between the harness and one program, and outlives neither.

Run as `python -I -S _supervise.py FILES ARGV...` with a socket as its stdin. It starts ARGV with the stdout and stderr
it was given, and with FILES as its soft limit of open files (0: with that of the supervisor). It tells over the socket,
a line each: `started PID`, `failed ERRNO` (the program could not be executed), `ended CODE` (negative: the signal). It
is told `T`: ask the program to end (SIGTERM). When the socket is closed, which the kernel does even for a harness that
was SIGKILLed, it kills every descendant: it is their "subreaper" (prctl(2), Linux 3.4), so daemons that double-forked
or called setsid() come back to it and cannot hide.

It imports nothing but the standard library, and little of that: it has to start in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_ROUNDS = 500  # of 10 ms each: a process in uninterruptible sleep must not keep us for ever


def main(files: int, argv: list[str]) -> int:
    link = socket.socket(fileno=os.dup(0))
    link.set_inheritable(False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A second rope: should another process have inherited the far end of the socket, it would not close.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    wakeup = _signals_as_bytes()
    child = _start(files, argv, link, libc)
    if child is not None:
        try:
            _watch(link, wakeup, child)
        finally:
            _kill_descendants()
    return 0


def _signals_as_bytes() -> int:
    """SIGCHLD and SIGTERM arrive as bytes on the descriptor returned, so one select() waits for everything."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return reader


def _start(files: int, argv: list[str], link: socket.socket, libc: ctypes.CDLL) -> int | None:
    """The pid of the started program; None when it could not be executed, which was told."""
    # Closed by a successful exec, written to by a failed one: no guessing how long an exec takes.
    reader, writer = os.pipe()
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        _become(files, argv, writer, supervisor, libc)
    os.close(writer)
    failure = os.read(reader, 16)
    os.close(reader)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # the program's output is the program's: its end must be seen by the harness
        os.dup2(null, fd)
    if failure:
        os.waitpid(child, 0)
        _tell(link, f"failed {failure.decode()}")
        return None
    _tell(link, f"started {child}")
    return child


def _become(files: int, argv: list[str], failure: int, supervisor: int, libc: ctypes.CDLL) -> None:
    """In the forked child: become the program, or tell why not. Does not return."""
    try:
        os.setsid()  # its own group: a `kill 0` in a shell script must not reach the supervisor
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        signal.set_wakeup_fd(-1)
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        for ours in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ours, signal.SIG_DFL)  # what is ignored stays ignored through an exec
        os.execvp(argv[0], argv)  # noqa: S606  (no shell: that is the point)
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    finally:
        os._exit(127)


def _watch(link: socket.socket, wakeup: int, child: int) -> None:
    """Until the harness is gone, or until all descendants have ended after a request to end."""
    ending, running = False, True
    while True:
        readable, _, _ = select.select([link.fileno(), wakeup], [], [])
        if wakeup in readable and signal.SIGTERM in os.read(wakeup, 4096):
            return
        if link.fileno() in readable:
            if not _asked(link):
                return
            ending = True
            # The program passes it on as it likes; what it leaves behind is asked when it has ended. Once reaped, its
            # pid may be anybody's.
            _ask_to_end([child] if running else _descendants())
        child_ended, any_left = _reap(link, child)
        if child_ended:
            running = False
            if ending:
                _ask_to_end(_descendants())
        if ending and not any_left:
            return


def _asked(link: socket.socket) -> bool:
    try:
        return bool(link.recv(64))
    except OSError:  # closed with unread lines in it
        return False


def _reap(link: socket.socket, child: int) -> tuple[bool, bool]:
    """Collect what has ended. Whether the program itself was among it, and whether any descendant is left."""
    child_ended = False
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return child_ended, False
        if pid == 0:
            return child_ended, True
        if pid == child:
            child_ended = True
            _tell(link, f"ended {os.waitstatus_to_exitcode(status)}")


def _ask_to_end(pids: list[int]) -> None:
    for pid in pids:
        _send(pid, signal.SIGTERM)
        _send(pid, signal.SIGCONT)  # a stopped process would never see it


def _kill_descendants() -> None:
    """SIGKILL until none is left: those that fork while we look are found in the next round."""
    for _ in range(_KILL_ROUNDS):
        for pid in _descendants():
            _send(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            return
        select.select([], [], [], 0.01)


def _descendants() -> list[int]:
    """All processes below this one, whatever their session or group."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except OSError:  # it ended while we looked
                continue
            children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended by itself; it became another user's
        os.kill(pid, number)


def _tell(link: socket.socket, line: str) -> None:
    with contextlib.suppress(OSError):  # the harness is gone: the next select() says so
        link.sendall(f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
