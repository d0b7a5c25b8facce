"""What leak a soak could see: before the run, by the formula, and by judging traces of memory that only has noise.

    python benchmarks/foresight.py [--journal RUN.journal] [--hours 0.3,1,2,6] [--settling-share 0.125]
    python benchmarks/foresight.py --probability 0.95 --hours 2 --rates 10,12,14,16    how likely such leaks are found

The noise is that of the journal's soak (the service's private memory, a line taken away), or the one that a soak of the
reference agent had. "Told" is what the sentence of `NoLeak` says of a clean run, in the median; "found" the share of
leaks of that size that are called LEAK, of `--traces` each, beside the noise and calls of the journal.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from busyhour.indicators.growth import longest_life
from busyhour.journal import open_run
from busyhour.statistics.leaks import Finding, Trace, judge_trend
from busyhour.statistics.leaks.cause import Sensor
from busyhour.statistics.leaks.foresight import Noise, detectable_per_hour

Floats = npt.NDArray[np.float64]
EVERY_SECONDS = 10.0  # of `Process`: the memory map


@dataclass(frozen=True)
class Soak:
    """What the memory of a service at rest does, and how many calls it completes."""

    deviation_mb: float
    memory_hours: float
    white_mb: float
    calls_per_hour: float
    saw_mb: float = 0.0  # what a collector of garbage finds, each time
    saw_calls: float = 0.0  # from one collection to the next

    def trace(self, hours: float, mb_per_hour: float, random: np.random.Generator) -> Trace:
        """Noise that forgets slowly and noise that forgets at once, about a line that grows with the calls."""
        n = round(hours * 3600 / EVERY_SECONDS)
        at = np.arange(n, dtype=np.float64) * EVERY_SECONDS
        calls = np.floor(at / 3600 * self.calls_per_hour)
        value = np.full(n, 60.0) + self._slow(n, random) + random.normal(0, self.white_mb, n)
        value += mb_per_hour / self.calls_per_hour * calls
        if self.saw_calls:
            value += self.saw_mb * ((calls / self.saw_calls + random.random()) % 1.0)
        return Trace(at, value, completed=calls)

    def _slow(self, n: int, random: np.random.Generator) -> Floats:
        keep = float(np.exp(-EVERY_SECONDS / 3600 / self.memory_hours)) if self.memory_hours else 0.0
        steps, last = random.normal(0, sqrt(1 - keep**2), n), random.normal()
        slow = np.empty(n, dtype=np.float64)
        for i in range(n):
            slow[i] = last = keep * last + steps[i]
        return self.deviation_mb * slow


def of_journal(path: Path, service: str, phase: str) -> Soak:
    """The noise of the first differences and of the whole, as two processes: Raises SystemExit for a run without it."""
    with open_run(path) as run:
        trace = longest_life(run, service, [phase]).traces.get(Sensor.PRIVATE_DIRTY)
    if trace is None or trace.completed is None:
        raise SystemExit(f"{path}: it has no readings of the private memory of {service} in {phase}")
    value, at = np.asarray(trace.value), np.asarray(trace.at_seconds) / 3600
    rest = value - np.polynomial.Polynomial.fit(at, value, 1)(at)
    white = min(float(np.diff(rest).std()) / sqrt(2), float(rest.std()))
    slow = sqrt(max(0.0, float(rest.var()) - white**2))
    done = np.asarray(trace.completed)
    return Soak(slow, _memory(rest, white, at), white, float(done[-1] - done[0]) / float(at[-1]))


def _memory(rest: Floats, white: float, at: Floats) -> float:
    """After how many hours the slow part is alike by 1 / e."""
    power = float(rest.var()) - white**2
    if power <= 0:
        return 0.0
    for lag in range(1, len(rest) // 2):
        if float((rest[lag:] * rest[:-lag]).mean()) < power / np.e:
            return float(at[lag] - at[0])
    return float(at[-1]) / 2


def found(soak: Soak, hours: float, rate: float, *, limit: float, settling: float, traces: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    leaks = (
        judge_trend(soak.trace(hours, rate, random), limit_per_hour=limit, settling_hours=settling).finding
        for _ in range(traces)
    )
    return sum(finding is Finding.LEAK for finding in leaks) / traces


def told(soak: Soak, hours: float, *, limit: float, settling: float, traces: int, seed: int) -> float:
    """In the median of clean runs."""
    random = np.random.default_rng(seed)
    smallest = (
        judge_trend(soak.trace(hours, 0.0, random), limit_per_hour=limit, settling_hours=settling).smallest_detectable
        for _ in range(traces)
    )
    return median([one for one in smallest if one is not None and isfinite(one)] or [float("nan")])


def rows(soak: Soak, asked: argparse.Namespace) -> Iterator[Sequence[str]]:
    noise = Noise(
        sqrt(soak.deviation_mb**2 + soak.white_mb**2),
        float(np.exp(-EVERY_SECONDS / 3600 / soak.memory_hours)) if soak.memory_hours else 0.0,
        EVERY_SECONDS,
    )
    for hours in asked.hours:
        settling = asked.settling_share * hours
        limit, traces = asked.limit, asked.traces
        line = detectable_per_hour(noise, hours, limit_per_hour=limit)
        beside = detectable_per_hour(noise, hours, limit_per_hour=limit, settling_hours=settling)
        says = told(soak, hours, limit=limit, settling=settling, traces=traces, seed=1)
        for rate in asked.rates or [says]:
            share = found(soak, hours, rate, limit=limit, settling=settling, traces=traces, seed=2)
            kb = 1000 * rate / soak.calls_per_hour
            yield (
                *(f"{hours:g}", f"{settling:.2f}", f"{line:.3g}", f"{beside:.3g}", f"{says:.3g}"),
                *(f"{rate:.3g}", f"{kb:.3g}", f"{share:.2f}"),
            )


def main() -> None:
    numbers = lambda text: [float(word) for word in text.split(",")]  # noqa: E731  (a converter, in place)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--service", default="voice-agent")
    parser.add_argument("--phase", default="soak")
    parser.add_argument("--noise", type=numbers, default=[0.5, 0.1, 0.1], help="slow MB, its memory in h, white MB")
    parser.add_argument("--saw", type=numbers, default=[0.0, 0.0], help="a collector's: MB, calls")
    parser.add_argument("--calls", type=float, default=720.0, help="completed an hour")
    parser.add_argument("--hours", type=numbers, default=[0.3, 1.0, 2.0, 6.0, 8.0])
    parser.add_argument("--settling-share", type=float, default=0.125, help="of the hours")
    parser.add_argument("--limit", type=float, default=6.0, help="MB/h")
    parser.add_argument("--rates", type=numbers, default=[], help="MB/h of the leaks; by default what is told")
    parser.add_argument("--traces", type=int, default=60)
    asked = parser.parse_args()
    slow, memory, white = asked.noise
    soak = Soak(slow, memory, white, asked.calls, *asked.saw)
    if asked.journal:
        soak = of_journal(asked.journal, asked.service, asked.phase)
    print(
        f"noise: {soak.deviation_mb:.3g} MB with a memory of {soak.memory_hours:.3g} h, {soak.white_mb:.3g} MB "
        f"without; {soak.calls_per_hour:.0f} calls/h; limit {asked.limit:g} MB/h\n"
    )
    print("| h | settling h | formula MB/h | beside a warm-up | told | leak MB/h | KB a call | found |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows(soak, asked):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
