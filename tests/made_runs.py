"""Journals of runs that never were: the calls of a plan, with latencies that are chosen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from math import inf
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from busyhour.journal import Journal
from busyhour.model import JSON, SECOND, Mark
from busyhour.testing import call, turn

PLAN = Path(__file__).parent / "plans" / "compared.py"


def made(
    path: Path,
    ms: float,
    *,
    at: int = 0,
    calls: int = 40,
    lost: int = 0,
    spread: float = 0.1,
    seed: int = 0,
    end: str = "run.ended",
    died: bool = False,
    phases: tuple[str, ...] = ("steady",),
    plan: Path = PLAN,
    **meta: JSON,
) -> Path:
    """A run whose latencies are spread about `ms`, begun in minute `at` of the day. lost: calls that came to nothing.

    end: the mark it ends with ("" for none: it was killed). died: of its target."""
    told: dict[str, JSON] = {
        "plan": str(plan),
        "options": {},
        "source": plan.read_text(),
        "seed": seed,
        "processes": 1,
        "version": "0.1.0",
        "started_at": f"2026-11-20T{at // 60:02}:{at % 60:02}:00.000+00:00",
        "machine": "Linux x86_64, 2 cores",
        "python": "3.11.7",
        "boot": "b",
        **meta,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_written(json.dumps(told), f"{ms} {at} {seed}", ms, calls, lost, spread, end, died, phases))
    return path


@cache  # many tests begin with the same five runs
def _written(
    meta: str,
    draw: str,
    ms: float,
    calls: int,
    lost: int,
    spread: float,
    end: str,
    died: bool,
    phases: tuple[str, ...],
) -> bytes:
    random = Random(draw)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.journal"
        with Journal.create(path, json.loads(meta)) as journal:
            for mark in (Mark(0, "run.began"), *(Mark(0, "phase.began", phase) for phase in phases)):
                journal.append(mark)
            for number in range(calls):
                journal.append(call(number, outcome="lost" if number < lost else "ok"))
                latency = None if ms == inf else ms * random.lognormvariate(0, spread)
                journal.append(turn(latency, call=f"steady/{number}", at_s=number))
            if died:
                obituary: JSON = "agent ended by itself with status 1"
                journal.append(Mark(90 * SECOND, "service.died", "agent", {"obituary": obituary, "role": "target"}))
            for phase in phases:
                journal.append(Mark(99 * SECOND, "phase.ended", phase))
            if end:
                why: JSON = "stopped by Ctrl-C"
                journal.append(Mark(100 * SECOND, end, "", {"why": why} if end == "run.stopped" else {}))
        return path.read_bytes()


def side(folder: Path, name: str, ms: Sequence[float] | Iterable[float], *, first: int, **more: JSON) -> list[Path]:
    """Runs of one build, each with its seed, begun every second minute from minute `first` on."""
    return [
        made(folder / name / f"{name}{n}.journal", one, at=first + 2 * n, seed=n, **more)  # type: ignore[arg-type]
        for n, one in enumerate(ms)
    ]
