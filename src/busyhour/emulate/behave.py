"""`busyhour behave`: how a running twin behaves, and another behaviour for it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import yarl

from busyhour import admin
from busyhour.emulate import flags
from busyhour.emulate.serve import counted
from busyhour.errors import PlanError
from busyhour.model import Endpoint

EXAMPLE = "busyhour behave http://127.0.0.1:8001 --fail 50%:503 --first-token 2s"


def behave(argv: Sequence[str], out: TextIO) -> int:
    """`argv`: the twin's URL, then the flags of what is to change, if anything. Prints the behaviour; returns 0.

    Raises PlanError for what cannot be, ServiceError when no twin answers there.
    """
    if not argv or argv[0].startswith("-"):
        raise PlanError(f"which twin? Give its URL first, like: {EXAMPLE}")
    endpoint = Endpoint(_checked(argv[0]))
    return asyncio.run(_behave(endpoint, argv[1:], out))


def _checked(text: str) -> str:
    try:
        url = yarl.URL(text)
        fine = url.scheme in {"http", "ws"} and bool(url.host)
    except ValueError:
        fine = False
    if not fine:
        raise PlanError(f"{text!r:.200} is no URL of a twin; give one like http://127.0.0.1:8001")
    return text.replace("ws://", "http://", 1)


async def _behave(endpoint: Endpoint, argv: Sequence[str], out: TextIO) -> int:
    about = await admin.about(endpoint)
    name, possible = str(about["name"]), [str(outcome) for outcome in about["outcomes"]]
    now = await admin.behaviour(endpoint, name)
    change = flags.change(flags.parsed(_parser(endpoint.url, now, possible), argv), now)
    if change:
        now = await admin.behave(endpoint, change, name)
    out.write(f"{name} at {endpoint.url} {'now behaves' if change else 'behaves'} like this:\n")
    out.writelines(f"{line}\n" for line in flags.shown(now))
    out.write(f"it has served {counted(now['served'])}; it can be told to fail with {', '.join(possible)}\n")
    return 0


def _parser(url: str, now: Mapping[str, Any], possible: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"busyhour behave {url}",
        description="Show how a running twin behaves; with flags, change it. What is not named stays as it is.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add(parser, now, possible, unless="now")
    return parser
