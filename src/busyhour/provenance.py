"""Which code ran, and on what: what somebody needs to repeat a run, or to know that two runs cannot be compared."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from busyhour import fastlane

_LIBRARIES = ("aiohttp", "numpy", "picows", "uvloop")  # on the path of a call
_GIT_SECONDS = 5.0
_DETACHED = {"GIT_OPTIONAL_LOCKS": "0"}  # to look must not get in the way of somebody's commit


def machine() -> str:
    """System, architecture, processors and how many: "Linux x86_64, 2 cores, AMD EPYC 7B13"."""
    told = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return ", ".join(filter(None, (told, _processor())))


def libraries() -> dict[str, str]:
    """The versions of what carries a call; of a library that is not installed, nothing. And whether our own fast lane,
    without which a core carries fewer calls, was in use."""
    found = {"fast lane": f"not in use: {fastlane.WHY_NOT}" if fastlane.WHY_NOT else "in use"}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit_of(folder: Path) -> str:
    """The commit that is checked out there, with "+" when files differ from it; "" without git, or outside of it."""
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return ""
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(  # noqa: S603  (fixed words and a folder)
            command, capture_output=True, text=True, timeout=_GIT_SECONDS, env=os.environ | _DETACHED, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    models = (line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name"))
    return next(models, "")
