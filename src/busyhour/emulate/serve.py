"""`busyhour emulate`: one vendor's twin in the foreground, until it is told to end."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import yarl

from busyhour import admin
from busyhour.clock import SystemClock
from busyhour.emulate import flags
from busyhour.emulate.settings import offered
from busyhour.emulate.settings import read as read_settings
from busyhour.emulate.vendors import VENDORS, Emulator, Vendor, vendor
from busyhour.emulators.behaviour import latency_from_json
from busyhour.emulators.deepgram import UNKNOWN_SPEECH
from busyhour.emulators.profile import read
from busyhour.errors import PlanError, ServiceError
from busyhour.model import JSON, SECOND, Endpoint

EXAMPLE = "busyhour emulate openai --port 8001 --first-token lognormal:350ms,0.4 --fail 2%:429"
_LOOK_SECONDS = 0.2
_UNKNOWN = (
    "it has heard speech that it does not know: it knows by ear the utterances that are shipped, like hours.today, "
    "and those that a plan gives it, Deepgram(utterances=[...])"
)


def emulate(argv: Sequence[str], out: TextIO) -> int:
    """`argv`: the vendor, then the flags of its twin. Serves until Ctrl-C or SIGTERM, then 0.

    Raises PlanError for a vendor, flag or setting that cannot be, ServiceError when the twin cannot start or dies.
    """
    if not argv or argv[0].startswith("-"):
        raise PlanError(f"which vendor? Give its name first, one of {', '.join(VENDORS)}, like: {EXAMPLE}")
    chosen = vendor(argv[0])
    default = chosen.make()
    behaviour = default._behaviour.as_json()
    parser = _parser(chosen, default, behaviour)
    arguments = flags.parsed(parser, argv[1:])
    if not 0 <= arguments.port <= 65535:
        raise PlanError(f"--port {arguments.port}: a port is from 0 (any free one) to 65535")
    if not 0 < arguments.every <= 86_400:
        raise PlanError(f"--every {arguments.every:g}: give a number of seconds above 0, up to a day")
    settings: dict[str, object] = {"name": chosen.name, "port": arguments.port}
    if arguments.profile is not None:
        settings |= _from_profile(chosen, Path(arguments.profile))
    settings |= read_settings(chosen, arguments.set, behaviour)
    change, upstream = flags.change(arguments, behaviour), str(settings.get("upstream", ""))
    _check_latencies(upstream, arguments.profile, change, behaviour)
    for name, value in change.items():
        settings[name] = (
            latency_from_json(value, name) if isinstance(behaviour[name], Mapping) and name != "outcomes" else value
        )
    return asyncio.run(_serve(chosen, chosen.make(**settings), upstream, arguments.every, out))


def _parser(chosen: Vendor, default: Emulator, behaviour: Mapping[str, JSON]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"busyhour emulate {chosen.name}",
        description=f"Serve a twin of {chosen.name} on 127.0.0.1 until Ctrl-C.",
        epilog=f"example:\n  {EXAMPLE if chosen.name == 'openai' else f'busyhour emulate {chosen.name} --port 8001'}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default 0: any free one)")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="tell what it served (default 5)")
    parser.add_argument("--profile", metavar="FILE", help="behave as `busyhour learn` saw the vendor behave")
    help_ = f"another setting of the twin's ({', '.join(offered(chosen, behaviour))}); may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help_)
    flags.add(parser, behaviour, sorted(default._behaviour.possible), unless="default")
    return parser


def _from_profile(chosen: Vendor, path: Path) -> dict[str, object]:
    settings = read(path, chosen.name).settings()
    if strange := sorted(settings.keys() - chosen.settings().keys()):
        raise PlanError(f"{path}: it sets {', '.join(strange)}, which {chosen.twin} does not have; learn it again")
    return settings


def _check_latencies(upstream: str, profile: str | None, asked: Collection[str], behaviour: Mapping[str, JSON]) -> None:
    """Raises PlanError for latencies beside an upstream: the real vendor has its own, and the twin adds none."""
    timed = [flags.flag(name) for name in asked if isinstance(behaviour.get(name), Mapping) and name != "outcomes"]
    if profile is not None:
        timed.append("--profile")
    if upstream and timed:
        idle = " and ".join(timed)
        raise PlanError(
            f"{idle} beside --set upstream: the upstream takes its own time, and the twin adds none; "
            "leave one of the two out"
        )


async def _serve(chosen: Vendor, twin: Emulator, upstream: str, every_seconds: float, out: TextIO) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, ended.set)
    async with twin.running({}) as endpoint:
        told = await admin.behaviour(endpoint, twin.name)
        out.writelines(f"{line}\n" for line in _banner(chosen, endpoint.url, upstream, told))
        out.flush()
        served = await _watch(twin, endpoint, every_seconds, ended, out)
    out.write(f"\n{chosen.name} has ended; it served {counted(served)}\n")
    return 0


def _banner(chosen: Vendor, url: str, upstream: str, behaviour: Mapping[str, JSON]) -> list[str]:
    origin = str(yarl.URL(url).origin())
    passes = f", passes requests on to {upstream}" if upstream else ""
    change = json.dumps({"outcomes": {"http_503": 1}})
    return [
        f"{chosen.name} answers at {url} (Ctrl-C ends it){passes} and behaves like this:",
        *flags.shown(behaviour),
        "point your agent at it:",
        *(f"  {line}" for line in chosen.pointed_at(origin)),
        "change it while it runs:",
        f"  busyhour behave {origin} --fail 100%:503",
        f"  curl -X PUT {origin}{admin.ROOT}/behaviour -d '{change}'",
        "",
    ]


async def _watch(
    twin: Emulator, endpoint: Endpoint, every_seconds: float, ended: asyncio.Event, out: TextIO
) -> Mapping[str, int]:
    """Tell what was served, when there is news, until the end; returns the whole. Raises ServiceError if it dies."""
    clock = SystemClock()
    began_ns = told_ns = clock.now_ns()
    told: Mapping[str, int] = {}
    while True:
        over = await within(ended, min(_LOOK_SECONDS, every_seconds))
        if died := twin.obituary():
            raise ServiceError(died)
        if not over and clock.now_ns() - told_ns < every_seconds * SECOND:
            continue
        served: Mapping[str, int] = (await admin.behaviour(endpoint, twin.name))["served"]
        if over:
            return served
        told_ns = clock.now_ns()
        news = {outcome: count - told.get(outcome, 0) for outcome, count in served.items()}
        if any(news.values()):
            out.write(f"{(told_ns - began_ns) / SECOND:8.1f} s  served {counted(news)}\n")
            if news.get(UNKNOWN_SPEECH) and not told.get(UNKNOWN_SPEECH):
                out.write(f"{'':12}{_UNKNOWN}\n")
            out.flush()
        told = served


async def within(ended: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, so long; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    except TimeoutError:
        return False
    return True


def counted(served: Mapping[str, int]) -> str:
    """ "15 requests: 14 ok, 1 http_429"."""
    every = sum(served.values())
    parts = [f"{count} {outcome}" for outcome, count in sorted(served.items(), key=lambda pair: -pair[1]) if count]
    return f"{every} request{'' if every == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")
