"""What all twins share in their own process: its main, the admin paths, what is witnessed.

`run(...)` is the whole main of `python -m busyhour.emulators.<vendor> '<json settings>'`. It binds loopback, prints one
line, `READY <url>` or `FAILED <sentence>`, and serves until SIGTERM or SIGINT. The paths below /_twin/ belong to the
harness; everything else is the vendor's.

    GET  /_twin             its name, and the outcomes it can be told to have
    GET  /_twin/behaviour   the settings, and "served": how many requests met which outcome
    PUT  /_twin/behaviour   change some of them; answers the new whole
    GET  /_twin/witnessed   {"operations": [...], "dropped": n}: what was asked since the last time, each once
    GET  /_twin/witnessed?of=PID&received=N   the same, kept until the next question says that it has come

From the harness, `vendor` starts and stops it, and `busyhour.admin` speaks to it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aiohttp import web

from busyhour import admin
from busyhour.emulators.behaviour import Behaviour, Fate
from busyhour.errors import PlanError, ServiceError
from busyhour.model import JSON, Clock, Operation
from busyhour.timers import PreciseClock, TimerAlarms

WITNESSED_AT_MOST = 100_000
"""Rows kept between two drains; the oldest go first, and are counted."""
BODY_BYTES_AT_MOST = 16 * 1024 * 1024
RETRY_AFTER_SECONDS = 1
"""What a 429 asks the client to wait. Long enough to be seen, short enough for a test."""
HANG_SECONDS = 3600.0


class Twin:
    """The state of one twin: its behaviour, what it has served, and what it has witnessed since the last drain."""

    def __init__(self, name: str, behaviour: Behaviour, clock: Clock) -> None:
        self.name = name
        self.behaviour = behaviour
        self.clock = clock
        self._drawn: Counter[str] = Counter()
        self._served: Counter[str] = Counter()
        self._rows: deque[Operation] = deque(maxlen=WITNESSED_AT_MOST)
        self._dropped = 0
        self._gone = 0  # rows that are not kept any more, of all there were

    def draw(self, stream: str, among: Collection[str]) -> Fate:
        """The fate of the next request of a stream ("request", "connection"); only outcomes of `among` can befall it.

        Streams are numbered apart, so that a connection more does not change what happens to the requests.
        """
        number = self._drawn[stream]
        self._drawn[stream] += 1
        return self.behaviour.draw(stream, number, among)

    def count(self, outcome: str) -> None:
        """A request met this outcome: the proof that a fault had an effect."""
        self._served[outcome] += 1

    def witness(self, operation: Operation) -> None:
        """Keep it for the harness."""
        if len(self._rows) == WITNESSED_AT_MOST:
            self._dropped += 1
            self._gone += 1
        self._rows.append(operation)

    def witness_ended(
        self, which: int | str, *, kind: str, began_ns: int, outcome: str, detail: Mapping[str, JSON]
    ) -> None:
        """Keep the row of a request, or a connection, that ends now; it was due when it was read: when it began."""
        self.witness(
            Operation(
                id=f"{self.name}/{which}",
                kind=kind,
                phase="",
                due_ns=began_ns,
                began_ns=began_ns,
                ended_ns=self.clock.now_ns(),
                outcome=outcome,
                who=self.name,
                detail=detail,
            )
        )

    def drain(self) -> tuple[list[Operation], int]:
        """What was witnessed since the last time, and how many rows found no place."""
        rows, dropped = list(self._rows), self._dropped
        self._gone += len(rows)
        self._rows.clear()
        self._dropped = 0
        return rows, dropped

    def since(self, received: int) -> tuple[int, list[Operation]]:
        """What was witnessed after the first so many rows: how many of these there are no more, and the rows.

        Unlike `drain` it loses nothing with an answer that does not arrive: what has come is forgotten with the next
        question.
        """
        dropped = max(0, self._gone - received)
        while self._rows and self._gone < received:
            self._rows.popleft()
            self._gone += 1
        self._dropped = 0
        return dropped, list(self._rows)

    def as_json(self) -> dict[str, JSON]:
        return {**self.behaviour.as_json(), "served": dict(self._served)}

    def application(self) -> web.Application:
        """A new application with the admin paths; the vendor's are added to it."""
        app = web.Application(client_max_size=BODY_BYTES_AT_MOST)
        app.router.add_get(admin.ROOT, self._get_about)
        app.router.add_get(f"{admin.ROOT}/behaviour", self._get_behaviour)
        app.router.add_put(f"{admin.ROOT}/behaviour", self._put_behaviour)
        app.router.add_get(f"{admin.ROOT}/witnessed", self._get_witnessed)
        app.router.add_route("*", admin.ROOT + "/{rest:.*}", self._unknown)
        return app

    async def _get_about(self, request: web.Request) -> web.Response:
        return web.json_response({"name": self.name, "outcomes": sorted(self.behaviour.possible)})

    async def _get_behaviour(self, request: web.Request) -> web.Response:
        return web.json_response(self.as_json())

    async def _put_behaviour(self, request: web.Request) -> web.Response:
        try:
            change = json.loads(await body_of(request))
        except Unreadable as problem:
            return _refused(problem.status, f"{problem}.")
        except (ValueError, RecursionError) as problem:
            return _refused(400, f"The body is not JSON: {problem}.")
        try:
            self.behaviour = self.behaviour.changed(change)
        except PlanError as problem:
            return _refused(400, " ".join(problem.problems))
        return web.json_response(self.as_json())

    async def _get_witnessed(self, request: web.Request) -> web.Response:
        received = request.query.get("received", "")
        if not received.isdecimal():
            rows, dropped = self.drain()
            return web.json_response({"operations": [asdict(row) for row in rows], "dropped": dropped})
        # A process that was started again has rows of its own, of which nobody has had any.
        dropped, rows = self.since(int(received) if request.query.get("of") == str(os.getpid()) else 0)
        told = {"of": os.getpid(), "received": self._gone + len(rows)}
        return web.json_response({"operations": [asdict(row) for row in rows], "dropped": dropped, **told})

    async def _unknown(self, request: web.Request) -> web.Response:
        paths = f"GET {admin.ROOT}, GET and PUT {admin.ROOT}/behaviour, GET {admin.ROOT}/witnessed"
        return _refused(404, f"There is no {request.method} {request.path}; there are {paths}.")


def _refused(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)


class Unreadable(Exception):
    """A request's body that is too long or not what its headers say; `status` is 413 or 400."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def body_of(request: web.Request) -> bytes:
    """The whole body of a request. Raises Unreadable."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Unreadable(413, f"The body is longer than {BODY_BYTES_AT_MOST} bytes") from None
    except web.RequestPayloadError:
        raise Unreadable(400, "The body is not encoded as its headers say") from None


async def hang() -> None:
    """Never answer: until the client goes away (the handler is cancelled), or an hour is over."""
    await asyncio.sleep(HANG_SECONDS)


def reset(request: web.Request) -> None:
    """Break the connection with a TCP reset, as a crashed load balancer does; harmless on a closed one."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        # Lingering for zero seconds makes close() send RST instead of FIN (RFC 9293, 3.10.5 ABORT).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


@asynccontextmanager
async def listening(app: web.Application, port: int = 0) -> AsyncIterator[int]:
    """Serve `app` on 127.0.0.1 and yield the port. Raises OSError when the port cannot be had.

    A handler is cancelled when its client goes away: that is how a twin sees it, hanging or sleeping.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        # Without SO_REUSEADDR a port in TIME_WAIT after a restart is refused; without SO_REUSEPORT a used one is.
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024, reuse_address=True).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the parent tells the process. `more` is the vendor's own."""

    name: str
    port: int = 0
    behaviour: Mapping[str, JSON] = field(default_factory=dict)
    more: Mapping[str, JSON] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, default_name: str) -> Settings:
        """Read one JSON object. Raises PlanError that names what is wrong."""
        try:
            form = json.loads(text or "{}")
        except (ValueError, RecursionError) as problem:
            raise PlanError(f"The settings are not JSON: {problem}.") from None
        if not isinstance(form, dict):
            raise PlanError(f"The settings are a JSON object, not {type(form).__name__}.")
        expected: dict[str, type] = {"name": str, "port": int, "behaviour": dict, "more": dict}
        problems = [f"Setting {key!r} is unknown; known are {', '.join(expected)}." for key in form.keys() - expected]
        problems += [
            f"Setting {key!r} is {form[key]!r}; it must be of type {kind.__name__}."
            for key, kind in expected.items()
            if key in form and (not isinstance(form[key], kind) or isinstance(form[key], bool))
        ]
        if not problems and not 0 <= form.get("port", 0) <= 65535:
            problems.append(f"Setting 'port' is {form['port']}; it must be from 0 (any free one) to 65535.")
        if problems:
            raise PlanError(problems)
        return Settings(**{"name": default_name, **form})


def text_setting(more: Mapping[str, JSON], name: str) -> str:
    """One of the vendor's own settings that is a string, "" if it is missing. Raises PlanError."""
    value = more.get(name, "")
    if not isinstance(value, str):
        raise PlanError(f"{name} is {value!r}; it must be a string.")
    return value


Build = Callable[[Twin, Mapping[str, JSON]], web.Application]


def run(build: Build, *, default: Behaviour, default_name: str, path: str = "", argv: Sequence[str]) -> int:
    """The main of a twin's process: settings from the first argument, from the file it names as "@FILE", or from a line
    of standard input if it is "-".

    `build` makes the application of a Twin and the vendor's own settings (PlanError if those are wrong); `path` ends
    the printed URL. Returns the exit code: 0 after SIGTERM, else that of the error, whose sentence was printed.
    """
    try:
        settings = Settings.parse(_settings_text("".join(argv[:1])), default_name)
        behaviour = default.changed(settings.behaviour)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings, behaviour, build, path))
    except OSError as problem:
        _say(f"FAILED {_bind_failure(settings.port, problem)}")
        return ServiceError.exit_code
    except PlanError as problem:
        _say(f"FAILED {' '.join(problem.problems)}")
        return PlanError.exit_code
    return 0


def _settings_text(argument: str) -> str:
    if argument == "-":
        return sys.stdin.readline()
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise PlanError(f"The settings in {argument[1:]} cannot be read: {problem}.") from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "linux":
        import uvloop  # noqa: PLC0415  (a dependency on Linux only)

        return uvloop.new_event_loop
    return None


async def _serve(settings: Settings, behaviour: Behaviour, build: Build, path: str) -> None:
    with closing(TimerAlarms()) as alarms:
        app = build(Twin(settings.name, behaviour, PreciseClock(alarms)), settings.more)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, ended.set)
        async with listening(app, settings.port) as bound:
            gc.collect()
            gc.freeze()  # what is there now stays: the collector need not look at it again while it serves
            _say(f"READY http://127.0.0.1:{bound}{path}")
            await ended.wait()


def _bind_failure(port: int, problem: OSError) -> str:
    return (
        f"Port {port} of 127.0.0.1 cannot be had ({problem.strerror or problem}): "
        "stop what holds it, or take any free one: --port 0, in a plan port=0."
    )


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
