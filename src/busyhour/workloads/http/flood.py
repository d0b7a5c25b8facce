"""A phase of requests, driven by its schedule over a bounded pool of connections.

No task for an arrival: an alarm takes up all that is due, a callback of the socket ends it. A request that finds no
connection waits for one, and its time runs from when it was due: whatever holds it up, the target, the pool or we
ourselves, is in its latency, so that nothing is omitted when the target stands still.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from urllib.parse import urlsplit

from busyhour.bulk import Stretch
from busyhour.fastlane import Asked, FloodState, Script
from busyhour.model import SECOND, Due, Operation
from busyhour.timers import TimerAlarms
from busyhour.workloads.http.asking import Request
from busyhour.workloads.http.connection import Connection
from busyhour.workloads.tally import Tally

_APART_NS = 100_000  # what is due within this of the last taking up is taken up together: an alarm costs as a request
_SWEEP_SECONDS = 0.05
_WRITE_NS = SECOND
_AT_A_TIME = 64  # arrivals taken up before the sockets have their turn


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> Address:
        """Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        if parts.path not in {"", "/"} or parts.query:
            raise ValueError(f"{url!r} has a path; leave it to the requests, each of which has its whole path")
        secure = parts.scheme == "https"
        context = (tls or _verifying()) if secure else None
        return cls(parts.hostname, parts.port or (443 if secure else 80), context)

    @property
    def named(self) -> str:
        """As a Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@cache
def _verifying() -> ssl.SSLContext:
    """By the machine's authorities, which take 25 ms to load: once, and not for each arrival that comes alone."""
    return ssl.create_default_context()


def _scripted(requests: Sequence[Request], address: Address) -> Script:
    simple = len(requests) == 1 and not requests[0].status and not requests[0].checks
    return Script(tuple(requests), tuple(request.encoded(address.named) for request in requests), simple)


class Flood(FloodState):
    """Performs one phase: `await run()` once. Owns its connections (`connection.Owner`)."""

    def __init__(
        self,
        stretch: Stretch,
        scripts: Sequence[Sequence[Request]],
        address: Address,
        *,
        connections: int,
        timeout_ns: int,
    ) -> None:
        self.now_ns, self._began_ns, self._at_once = stretch.clock.now_ns, stretch.began_ns, stretch.at_once
        self._stretch, self._address = stretch, address
        self._due_ns = stretch.arrivals.due_ns
        self._first = stretch.share.number(0) + 1
        self._every = stretch.share.number(1) + 1 - self._first
        self._scripts = [_scripted(script, address) for script in scripts]
        self._bodies = any(request.checks for request in chain.from_iterable(scripts))
        self._most, self._timeout_ns = connections, timeout_ns
        self._tally = Tally(stretch.phase, stretch.write)
        self._number = self._started = self._finished = self._failed = self._dropped = 0
        self._ended_ns = None
        self._waiting = deque()
        self._idle = []
        self._open: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._pending = self._closing = False
        self._over = asyncio.Event()
        self._bug: BaseException | None = None

    async def run(self) -> None:
        """Until the schedule has ended and the last is answered or cut off. A bug of ours is raised."""
        self._alarms = TimerAlarms()
        try:
            if self._at_once > 1:  # else it is over before that pays
                self.read_directly()
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    self._take_up()
                    await self._until_over()
                    self._cut_off(count=True)
                finally:
                    self._closing = True  # before the group is left: it takes no more tasks
                    self._cut_off(count=False)
                    for task in self._connecting:
                        task.cancel()
        finally:
            self._alarms.close()
            for connection in list(self._open):
                connection.abort()
            self.read_no_more()
            self._tally.write(self.now_ns())
            self._tell()
        if self._bug is not None:
            raise self._bug

    async def _until_over(self) -> None:
        write_ns = self._stretch.began_ns + _WRITE_NS
        while not self._over.is_set():
            try:
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._over.wait()
            except TimeoutError:
                self._sweep()
            if self._pending:  # a schedule may also end while all that it has let in goes on
                self._take_up()
            self._tally.count()
            self._tell()
            now_ns = self.now_ns()
            if now_ns >= write_ns:
                write_ns = now_ns + _WRITE_NS
                self._tally.write(now_ns)
            if self._ended_ns is not None and now_ns - self._ended_ns >= self._stretch.drain_seconds * SECOND:
                return

    def _tell(self) -> None:
        counts = self._stretch.counts
        counts.started, counts.finished = self._started, self._finished
        counts.failed, counts.dropped = self._failed, self._dropped

    # ---------------------------------------------------------------- arrivals

    def _take_up(self) -> None:
        """Start all that is due, and set the alarm for what comes next."""
        if self._closing or self._ended_ns is not None:
            return
        try:
            now_ns = self.now_ns()
            due = self.start_due(now_ns, _AT_A_TIME)
            if isinstance(due, Due):
                self._pending = due is Due.PENDING
                if due is Due.ENDED:
                    self._ended_ns = now_ns
                    self._perhaps_over()
            else:
                at_ns = now_ns if due is None else max(self._began_ns + due, now_ns + _APART_NS)
                self._alarms.at(at_ns, self._take_up)
        except BaseException as error:  # forwarded, not swallowed: an alarm has no caller of ours
            self.crashed(error)

    def _wait(self, asked: Asked) -> None:
        self._waiting.append(asked)
        self._connect_more()

    # ---------------------------------------------------------------- connections

    def _connect_more(self) -> None:
        """As many as there are requests waiting, within the bound."""
        while len(self._connecting) < min(len(self._waiting), self._most - len(self._open)) and not self._closing:
            task = self._tasks.create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._connect_more()

    async def _connect(self) -> None:
        """One connection more, or what the failure means for those that wait for one."""
        loop, address = asyncio.get_running_loop(), self._address
        why = ""
        try:
            async with asyncio.timeout(self._timeout_ns / SECOND):
                await loop.create_connection(
                    lambda: Connection(self, bodies=self._bodies),
                    address.host,
                    address.port,
                    ssl=address.tls,
                    server_hostname=address.host if address.tls else None,
                )
        except TimeoutError:
            why = "timeout"
        except ConnectionRefusedError:
            why = "connect refused"
        except ssl.SSLCertVerificationError as error:
            why = f"certificate refused: {error.verify_message}"
        except ssl.SSLError as error:
            why = f"TLS failed: {error.reason}"
        except OSError as error:
            why = f"connect failed: {error.strerror or type(error).__name__}"
        if why:
            self._speak_for_the_waiting(why)

    def _speak_for_the_waiting(self, why: str) -> None:
        """A failed connect ends the request that has waited longest; all of them, where nobody is there to serve them:
        a dead target at a high rate must not take a connect for each, or we would be late for the living."""
        now_ns = self.now_ns()
        for _ in range(min(len(self._waiting), 1) if self._open else len(self._waiting)):
            self._fail(self._waiting.popleft(), why, now_ns)

    def ready(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._closing:
            connection.abort()
        elif self._waiting:
            asked = self._waiting.popleft()
            connection.ask(asked, self.now_ns())
        elif not connection.closed:
            self._idle.append(connection)

    def gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        while self._waiting and (other := self._idle_one()) is not None:
            self.ready(other)
        self._connect_more()

    def crashed(self, error: BaseException) -> None:
        self._bug = self._bug or error
        self._closing = True
        self._over.set()

    # ---------------------------------------------------------------- what came of it

    def answered(self, asked: Asked, status: int, body: bytes, now_ns: int) -> None:
        script = asked.script
        if not (script.simple and 200 <= status < 400):
            outcome = script.requests[asked.step].judge(status, body)
            if outcome != "ok":
                self._fail(asked, outcome, now_ns, status)
                return
        self._tally.succeeded(now_ns - asked.due_ns, now_ns - asked.began_ns)
        if now_ns >= self._tally.wants_from_ns:
            self._tally.keep(self._operation(asked, "ok", now_ns, status), now_ns)
        if asked.step + 1 < len(script.requests):  # its connection is ready at once, or gone
            self._waiting.append(Asked(script, asked.number, now_ns, asked.step + 1))
        else:
            self._finish()

    def broken(self, asked: Asked, why: str, now_ns: int, *, unread: bool) -> None:
        if unread and not asked.again and asked.script.requests[asked.step].repeatable:
            # The server may have ended it before it knew of the request (RFC 9112, 9.3.1). The time runs on.
            asked.again = True
            self._waiting.appendleft(asked)
        else:
            self._fail(asked, why, now_ns)

    def _fail(self, asked: Asked, why: str, now_ns: int, status: int = 0) -> None:
        self._tally.failed(why)
        if self._tally.wants(why, now_ns):
            self._tally.keep(self._operation(asked, why, now_ns, status), now_ns)
        for _ in range(asked.step + 1, len(asked.script.requests)):
            self._tally.failed("not reached")  # the rest of the arrival's requests are not absent
        self._failed += 1
        self._finish()

    def _finish(self) -> None:
        self._finished += 1
        if self._ended_ns is not None:
            self._perhaps_over()
        elif self._pending:
            self._pending = False
            self._alarms.at(self.now_ns(), self._take_up)  # not here: the connection it frees has first to be back

    def _operation(self, asked: Asked, outcome: str, now_ns: int, status: int) -> Operation:
        request = asked.script.requests[asked.step]
        return Operation(
            id=f"{self._stretch.phase}/{asked.number}" + (f"/{asked.step + 1}" if asked.step else ""),
            kind="request",
            phase=self._stretch.phase,
            due_ns=asked.due_ns,
            began_ns=asked.began_ns or None,
            ended_ns=now_ns if status else None,
            outcome=outcome,
            detail={"method": request.method, "path": request.path, "status": status, "gave_up_ns": now_ns},
        )

    def _perhaps_over(self) -> None:
        if self._started == self._finished:
            self._over.set()

    def _sweep(self) -> None:
        """Give up what has waited too long. All have the same patience, so that the oldest waits in front."""
        now_ns = self.now_ns()
        before_ns = now_ns - self._timeout_ns
        while self._waiting and self._waiting[0].due_ns <= before_ns:
            self._fail(self._waiting.popleft(), "timeout", now_ns)
        for connection in [c for c in self._open if c.asked is not None and c.asked.due_ns <= before_ns]:
            asked = connection.abort()
            if asked is not None:
                self._fail(asked, "timeout", now_ns)

    def _cut_off(self, *, count: bool) -> None:
        """What is in progress. It counts as failed if the phase is over, and says nothing if we were stopped."""
        now_ns = self.now_ns()
        self._closing = True
        under_way = [asked for c in list(self._open) if (asked := c.abort()) is not None]
        for asked in [*under_way, *self._waiting]:
            if count:
                self._fail(asked, "cut off", now_ns)
            elif self._tally.wants("cut off", now_ns):
                self._tally.keep(self._operation(asked, "cut off", now_ns, 0), now_ns)
        self._waiting.clear()
