"""Verdicts while a run is going on: every hour, say; and the end of a run that is lost.

A gate that fails is lost when all it reads is over, or when it has failed at two checkpoints one after another: a look
every hour is many looks, and one of them may fail by chance.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from busyhour.errors import PlanError
from busyhour.model import JSON, SECOND, Clock, Mark, Operation, Outcome, Sample

_JUDGED_WITHIN_SECONDS = 600.0
_SAID_BYTES_MAX = 4_000


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Every so many seconds of the run; stop_on_fail: a run with a gate that is lost is stopped. Raises PlanError."""

    every_seconds: float = 3600.0
    stop_on_fail: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.every_seconds) and self.every_seconds >= 1):
            raise PlanError(f"checkpoints every {self.every_seconds:g} s: give 1 s or more; 3600 is an hour")


@dataclass
class Checking:
    """One run's. write: where marks go; say: a line for people; stop: ends the run in order."""

    asked: Checkpoints
    journal: Path
    clock: Clock
    write: Callable[[Operation | Sample | Mark], None]
    say: Callable[[str], None]
    stop: Callable[[str], None]
    _failed: frozenset[str] = field(default=frozenset(), init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check until the body ends."""
        checking = asyncio.create_task(self._check())
        try:
            yield
        finally:
            checking.cancel()
            await asyncio.wait({checking})
            if not checking.cancelled():
                checking.result()

    async def _check(self) -> None:
        began_ns = self.clock.now_ns()
        number = 0
        while True:
            number += 1
            await self.clock.sleep_until(began_ns + round(number * self.asked.every_seconds * SECOND))
            after = _duration((self.clock.now_ns() - began_ns) / SECOND)
            try:
                verdicts = await judged(self.journal)
            except CheckFailed as failed:
                self._tell(after, {"why": str(failed)}, f"there are no verdicts: {failed}")
                continue
            self._tell(after, {"verdicts": verdicts}, _summary(verdicts))
            lost = self._lost(verdicts)
            if lost and self.asked.stop_on_fail:
                self.stop(f"stopped at the checkpoint after {after}, for this can no longer pass: {lost[0]}")

    def _tell(self, after: str, detail: Mapping[str, JSON], words: str) -> None:
        self.write(Mark(self.clock.now_ns(), "checkpoint", "", detail))
        self.say(f"checkpoint after {after}: {words}")

    def _lost(self, verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
        """The sentences of the gates that are."""
        failing = {one["gate"]: one for one in verdicts if one["outcome"] == Outcome.FAIL.value}
        before, self._failed = self._failed, frozenset(failing)
        return [one["because"] for gate, one in failing.items() if one["over"] or gate in before]


class CheckFailed(Exception):
    """The judging process did not do its part: said at the checkpoint, and the run goes on."""


async def judged(journal: Path) -> list[dict[str, Any]]:
    """The verdicts so far, by a process of their own. Raises CheckFailed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "busyhour.checkpoint", str(journal)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # the terminal's Ctrl-C is for us
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
    )
    try:
        async with asyncio.timeout(_JUDGED_WITHIN_SECONDS):
            out, err = await process.communicate()
    except TimeoutError:
        raise CheckFailed(f"judging took longer than {_JUDGED_WITHIN_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        said = " ".join(err[-_SAID_BYTES_MAX:].decode(errors="replace").split())
        raise CheckFailed(said or f"judging ended with {process.returncode}")
    verdicts: list[dict[str, Any]] = json.loads(out)
    return verdicts


def _summary(verdicts: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(one["outcome"] for one in verdicts)
    told = ", ".join(f"{counts[outcome.value]} {outcome.value}" for outcome in Outcome if counts[outcome.value])
    failing = [one["because"] for one in verdicts if one["outcome"] == Outcome.FAIL.value]
    return "; ".join([told or "no gates", *failing])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
