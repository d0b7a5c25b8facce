"""What a plan starts: unmodified programs, and services that somebody else has started."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from busyhour import descriptors
from busyhour.errors import PlanError, ServiceError
from busyhour.model import Endpoint, Service
from busyhour.proc import listener, ports_of
from busyhour.processes import Child, child, in_words

__all__ = ["AlreadyRunning", "Child", "Command", "Mortal", "child", "free_port"]

_POLL_SECONDS = 0.05
_TRY_SECONDS = 1.0
_ANSWER_BYTES = 64 * 1024
_ACCEPTED = "accepted"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "postgresql": 5432, "postgres": 5432, "redis": 6379}


@runtime_checkable
class Mortal(Protocol):
    """A service that can die."""

    def obituary(self) -> str | None:
        """What it died of, as a clause that follows nothing; None while it lives, and when we stopped it ourselves."""
        ...


# ---------------------------------------------------------------- services


@dataclass(kw_only=True, eq=False)
class Command:
    """An unmodified program as a service, at `http://127.0.0.1:PORT`.

    command: words, or a string that is split as a shell would (no shell runs). env: added to our own environment; a
    Service stands for its URL. port_variable: the environment variable that tells the program its port ("" for none);
    port: 0 finds a free one. health: the path that is polled until it answers 2xx; "" for a program that speaks no
    HTTP, which is up when it accepts a connection. On the way out the program gets SIGTERM, and after
    `stop_within_seconds` whatever is left of its tree gets SIGKILL. log: a file its output is appended to.
    """

    command: str | Sequence[str] = field(kw_only=False)
    name: str = "target"
    env: Mapping[str, str | Service] = field(default_factory=dict)
    port_variable: str = "PORT"
    port: int = 0
    health: str = "/health"
    cwd: str | None = None
    start_within_seconds: float = 20
    stop_within_seconds: float = 10
    log: Path | None = None
    _child: Child | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            self._argv = shlex.split(self.command) if isinstance(self.command, str) else list(self.command)
        except ValueError as error:
            raise PlanError(f"{self.name}: the command {self.command!r} cannot be split: {error}") from None
        if not self._argv:
            raise PlanError(f"{self.name}: the command is empty")
        if self.health and not self.health.startswith("/"):
            raise PlanError(
                f"{self.name}: its health path {self.health!r} does not begin with a slash; "
                f'write {"/" + self.health!r}, or "" for a program that speaks no HTTP'
            )
        if strange := [
            f"{self.name}: its environment gives {variable} the value {value!r}; give a text, or a service of the plan"
            for variable, value in self.env.items()
            if not isinstance(value, str) and not hasattr(value, "running")
        ]:
            raise PlanError(strange)

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        """Start it, yield its endpoint once it answers, stop all of it on the way out. Raises ServiceError."""
        environment = self._environment(peers)
        port = self.port or free_port()
        _check_unused(self.name, port)
        if self.port_variable:
            environment[self.port_variable] = str(port)

        starting = child(
            self._argv,
            name=self.name,
            env=environment,
            ready=partial(_healthy, port=port, path=self.health, variable=self.port_variable),
            cwd=self.cwd,
            start_within_seconds=self.start_within_seconds,
            stop_within_seconds=self.stop_within_seconds,
            log=self.log,
            files=descriptors.given(),  # as it has in production, not as many as we have asked for
        )
        async with starting as self._child:
            yield Endpoint(self._child.url, (self._child.pid,), self._child)

    def obituary(self) -> str | None:
        return None if self._child is None else self._child.obituary()

    def last_lines(self) -> list[str]:
        """The end of its output, also after it was stopped."""
        return [] if self._child is None else self._child.last_lines()

    def _environment(self, peers: Mapping[str, Endpoint]) -> dict[str, str]:
        environment: dict[str, str] = {}
        for variable, value in self.env.items():
            if isinstance(value, str):
                environment[variable] = value
            elif value.name in peers:
                environment[variable] = peers[value.name].url
            else:
                known = ", ".join(sorted(peers)) or "none"
                raise ServiceError(
                    f"{self.name}: its environment gives {variable} the URL of the service {value.name!r}, "
                    f"which the plan does not start (it starts: {known}); add it to the plan's services"
                )
        return environment


@dataclass(frozen=True, kw_only=True)
class AlreadyRunning:
    """A service that somebody else started, and that we leave running."""

    name: str
    url: str
    has_processes = False  # that we know of

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        """Yield its endpoint if something accepts a TCP connection there. Raises ServiceError."""
        host, port = self._address()
        try:
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            raise ServiceError(
                f"{self.name} does not answer at {self.url}: {in_words(error)}; start it first"
            ) from None
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        yield Endpoint(self.url)

    def _address(self) -> tuple[str, int]:
        try:
            parts = urlsplit(self.url)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise ServiceError(f"{self.name}: {self.url!r} is no URL: {error}") from None
        if not parts.hostname or not port:
            raise ServiceError(f"{self.name}: {self.url!r} names no host and port; write it as http://host:port")
        return parts.hostname, port


# ---------------------------------------------------------------- looking before leaping


def free_port() -> int:
    """A loopback TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _healthy(child: Child, *, port: int, path: str, variable: str) -> str:
    """The URL, once a GET of `path` is answered with 2xx; where there is no path, once a connection is accepted."""
    url = f"http://127.0.0.1:{port}"
    wanted = f"GET {url}{path} to be answered with 2xx" if path else f"127.0.0.1:{port} to accept a connection"
    last = "nothing asked yet"
    try:
        while True:
            child.awaiting = f"{wanted} (last: {last})"
            try:
                async with asyncio.timeout(_TRY_SECONDS):
                    last = await _asked(port, path)
            except (OSError, TimeoutError) as error:
                last = in_words(error)
            words = last.split()
            if last == _ACCEPTED or (len(words) > 1 and words[0].startswith("HTTP/") and words[1].startswith("2")):
                return url
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:  # it is given up: now there is time to look where it listens instead
        child.awaiting += f"; {_mend(last, port, variable, ports_of(child.pids))}"
        raise


async def _asked(port: int, path: str) -> str:
    """The status line of its answer; where there is no path, that it was there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if not path:
            return _ACCEPTED
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        status = (await reader.read(_ANSWER_BYTES)).partition(b"\r\n")[0]
        return status[:200].decode(errors="replace") or "closed without an answer"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _mend(last: str, port: int, variable: str, ports: Sequence[int]) -> str:
    """What to change of a program that did not get ready: by its last answer, and by where it listens."""
    longer = "give it longer with `start_within_seconds`"
    if last.startswith("HTTP/"):
        if last.split()[1:2] == ["426"]:
            return 'only WebSocket is spoken there: with health="" it is up when it accepts a connection'
        return f"correct its `health` path, or {longer}"
    take = f"in its variable {variable}" if variable else "that `port=` gives it"
    if not ports:
        return f"nobody listens there: have it listen on 127.0.0.1 at the port {take}, or {longer}"
    if port not in ports:
        elsewhere = " and ".join(map(str, ports))
        own = f"give its own with `port={ports[0]}`"
        return f"it listens on {elsewhere}: have it take the port {take}, or {own}; if it is not ready, {longer}"
    if last == os.strerror(errno.ECONNREFUSED):
        return "it listens at that port, but of another address: have it listen on 127.0.0.1"
    return f'it listens there: if it speaks no HTTP, give it health=""; else {longer}'


def _check_unused(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the remains of closed connections do no harm
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            holder = listener(port)
            by = f" by {holder.name} (pid {holder.pid})" if holder else ""
            raise ServiceError(
                f"{name}: port {port} cannot be used: {in_words(error)}{by}; stop that, or use port=0 for a free one"
            ) from None
