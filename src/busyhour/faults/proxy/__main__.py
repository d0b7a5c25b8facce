"""The proxy's process: `python -m busyhour.faults.proxy '<json settings>'`.

    {"name": "proxy", "port": 0, "seed": 0, "proxies": [{"name": ..., "listen": ..., "upstream": ...}, ...]}

port: of the admin API (Toxiproxy's is 8474), 0 for any free one. It prints one line, `READY <admin url>` or
`FAILED <sentence>`, and serves until SIGTERM or SIGINT. Everything is on loopback.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import uvloop
from aiohttp import web

from busyhour.errors import PlanError, ServiceError
from busyhour.faults.proxy.admin import Admin
from busyhour.faults.proxy.collection import Collection
from busyhour.faults.proxy.lag import LagMeter
from busyhour.faults.proxy.toxic import Refusal
from busyhour.timers import TimerAlarms

_SETTINGS: Mapping[str, type] = {"name": str, "port": int, "seed": int, "proxies": list}
_OUR_BUG = 70


def main(argv: Sequence[str]) -> int:
    """The exit code: 0 after SIGTERM, else that of the error, whose sentence was printed."""
    try:
        settings = parse("".join(argv[:1]))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except PlanError as problem:
        _say(f"FAILED {' '.join(problem.problems)}")
        return PlanError.exit_code
    except Refusal as problem:
        _say(f"FAILED {problem}")
        return PlanError.exit_code
    except ServiceError as problem:
        _say(f"FAILED {problem}")
        return ServiceError.exit_code
    return 0


def parse(text: str) -> Mapping[str, Any]:
    """Raises PlanError."""
    try:
        form = json.loads(text or "{}")
    except (ValueError, RecursionError) as problem:
        raise PlanError(f"The settings are not JSON: {problem}.") from None
    if not isinstance(form, dict):
        raise PlanError(f"The settings are a JSON object, not {type(form).__name__}.")
    problems = [
        f"Setting {key!r} is unknown; known are {', '.join(_SETTINGS)}." for key in form.keys() - _SETTINGS.keys()
    ]
    problems += [
        f"Setting {key!r} is {form[key]!r}; it must be of type {kind.__name__}."
        for key, kind in _SETTINGS.items()
        if key in form and (not isinstance(form[key], kind) or isinstance(form[key], bool))
    ]
    if not problems and not 0 <= form.get("port", 0) <= 65535:
        problems.append(f"Setting 'port' is {form['port']}; it must be from 0 (any free one) to 65535.")
    if problems:
        raise PlanError(problems)
    return {"name": "proxy", "port": 0, "seed": 0, "proxies": [], **form}


async def serve(settings: Mapping[str, Any]) -> None:
    """Serve until a signal. Raises Refusal for impossible proxies, ServiceError when the admin port cannot be had."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, ended.set)
    loop.set_exception_handler(_crash)
    _allow_many_sockets()
    alarms = TimerAlarms()
    meter = LagMeter(alarms)
    collection = Collection(alarms, settings["seed"])
    runner = web.AppRunner(Admin(collection, meter).application(), access_log=None, shutdown_timeout=0.1)
    try:
        await collection.populate(settings["proxies"])
        await runner.setup()
        await _listen(runner, settings["port"])
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        _say(f"READY http://127.0.0.1:{runner.addresses[0][1]}")
        await ended.wait()
    finally:
        await runner.cleanup()
        await collection.close()
        meter.close()
        alarms.close()


async def _listen(runner: web.AppRunner, port: int) -> None:
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    except OSError as problem:
        raise ServiceError(
            f"Port {port} of 127.0.0.1 cannot be had for the admin API ({problem.strerror or problem}): "
            "stop what holds it, or set port=0 for any free one."
        ) from None


def _allow_many_sockets() -> None:
    """A connection needs two, and the customary soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _crash(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A bug in a callback must not go on silently; what a socket does to us is not one."""
    loop.default_exception_handler(context)
    problem = context.get("exception")
    if problem is not None and not isinstance(problem, OSError):
        sys.stderr.flush()
        os._exit(_OUR_BUG)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
