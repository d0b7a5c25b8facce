"""How often the leak statistics are wrong, on traces whose truth is known, beside the rules that people use.

    python benchmarks/leaks.py [--traces 120] [--sets first,second,third,fourth] [--rates 12] [--limit 2] [--jobs 1]

Every trace is 8 h of memory at one reading per 30 s (`leak_traces.py`). An alarm is a LEAK at any look until the end.
The figures of the rivals are alarms, too: the first two are asked at the end alone, the third at the same looks.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from math import erfc, inf, sqrt
from pathlib import Path
from sys import path

import numpy as np

path.insert(0, str(Path(__file__).parent))
import leak_traces
from leak_traces import Floats, Made

from busyhour.statistics.leaks import Finding, Trace, judge_trend

LOOKS = (2, 3, 4, 5, 6, 7, 8)
SETS = {
    "first": (leak_traces.FIRST, leak_traces.FIRST_LEAKS),
    "second": (leak_traces.SECOND, leak_traces.SECOND_LEAKS),
    "third": (leak_traces.THIRD, leak_traces.THIRD_LEAKS),
    "fourth": (leak_traces.FOURTH, leak_traces.FOURTH_LEAKS),
}
RIVALS = ("> 100 MB", "3 rules", "Mann-Kendall")


# ---------------------------------------------------------------- the rivals


def grew_100_mb(value: Floats) -> bool:
    return bool(value[-1] - value[0] > 100)


def three_rules(value: Floats) -> bool:
    """Growth over 100 MB; a rise of half an hour's median that is never given back; more at the end than before."""
    if grew_100_mb(value):
        return True
    medians = np.array([np.median(part) for part in np.array_split(value, 16)])
    rises = np.diff(medians)
    unusual = max(10.0, 3 * 1.4826 * float(np.median(np.abs(np.diff(value)))))
    lowest_after = np.minimum.accumulate(medians[::-1])[::-1][1:]
    if ((rises > unusual) & (medians[:-1] + rises - unusual / 2 <= lowest_after)).any():
        return True
    return bool(value[-20:].mean() > value[:20].mean() + 5)


def hamed_rao(value: Floats, limit: float) -> bool:
    """Mann-Kendall's test on means of five minutes without the first hour, its variance corrected for autocorrelation
    (Hamed and Rao 1998), at 1 %, and a slope (Theil and Sen) above the limit."""
    means = value[: len(value) // 10 * 10].reshape(-1, 10).mean(axis=1)[12:]
    n = len(means)
    if n < 12:
        return False
    slope = theil_sen(means) * 12
    apart = np.sign(means[None, :] - means[:, None])
    score = float(np.triu(apart, 1).sum())
    ranks = np.argsort(np.argsort(means - slope / 12 * np.arange(n))).astype(float)
    ranks -= ranks.mean()
    alike = np.array([(ranks[k:] * ranks[:-k]).sum() for k in range(1, n - 1)]) / (ranks * ranks).sum()
    lag = np.arange(1, n - 1)
    counted = np.abs(alike) > 1.96 / sqrt(n)
    weights = ((n - lag) * (n - lag - 1.0) * (n - lag - 2) * alike)[counted]
    longer = 1 + 2 / (n * (n - 1.0) * (n - 2)) * float(weights.sum())
    variance = n * (n - 1) * (2 * n + 5) / 18 * max(longer, 1e-9)
    chance = 0.5 * erfc((score - np.sign(score)) / sqrt(variance) / sqrt(2))
    return bool(chance < 0.005 and slope > limit)


def theil_sen(values: Floats) -> float:
    """The median slope between two of them, per step."""
    first, second = np.triu_indices(len(values), 1)
    return float(np.median((values[second] - values[first]) / (second - first)))


# ---------------------------------------------------------------- one trace, one cell


@dataclass(frozen=True)
class Job:
    """One trace to be made and judged."""

    set_name: str
    family: str
    rate: float
    number: int
    seed: int
    limit: float

    def made(self) -> Made:
        makers = {**SETS[self.set_name][0], **SETS[self.set_name][1]}
        words = [self.seed, int.from_bytes(self.family.encode()) % 2**63, int(self.rate * 10), self.number]
        return makers[self.family](self.rate, np.random.default_rng(words))


@dataclass(frozen=True)
class Outcome:
    finding: Finding
    alarm_hours: float | None
    odds: float
    growth: float
    median_slope: float
    rivals: tuple[bool, ...]
    cpu_seconds: float


def judged(job: Job) -> Outcome:
    made = job.made()
    began = time.process_time()
    trace = Trace(leak_traces.HOURS * 3600, made.value, made.load, made.completed)
    trend = judge_trend(trace, limit_per_hour=job.limit)
    spent = time.process_time() - began
    known = np.isfinite(made.value)
    value = np.interp(leak_traces.HOURS, leak_traces.HOURS[known], made.value[known])
    kendall = any(hamed_rao(value[: hours * 120], job.limit) for hours in LOOKS)
    return Outcome(
        trend.finding,
        trend.alarm_hours,
        trend.odds,
        float(value[-1] - value[0]),
        theil_sen(value[120:].reshape(-1, 10).mean(axis=1)),
        (grew_100_mb(value), three_rules(value), kendall),
        spent,
    )


@dataclass
class Cell:
    """All traces of a family at a rate."""

    set_name: str
    family: str
    rate: float
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def leaks(self) -> bool:
        return self.rate > 0

    @property
    def alarms(self) -> float:
        return float(np.mean([one.alarm_hours is not None for one in self.outcomes]))

    def share(self, finding: Finding) -> float:
        return Counter(one.finding for one in self.outcomes)[finding] / len(self.outcomes)

    def rival(self, number: int) -> float:
        return float(np.mean([one.rivals[number] for one in self.outcomes]))

    @property
    def row(self) -> str:
        hours = [one.alarm_hours for one in self.outcomes if one.alarm_hours is not None]
        shares = [self.share(finding) for finding in FINDINGS]
        rivals = [self.rival(i) for i in range(len(RIVALS))]
        at = f"{np.median(hours):4.1f}" if hours else "   -"
        numbers = "".join(f"{share:8.3f}" for share in shares)
        return f"{self.family:20}{self.rate:5g}{self.alarms:9.3f} {at}{numbers}" + "".join(f"{x:14.3f}" for x in rivals)


FINDINGS = (Finding.LEAK, Finding.NO_LEAK, Finding.STEP, Finding.SUSPECT, Finding.INCONCLUSIVE)
HEADER = (
    f"{'family':20}{'MB/h':>5}{'alarms':>9} {'at h':>4}{'LEAK':>8}{'NO LEAK':>8}{'STEP':>8}{'SUSP.':>8}{'INCONC.':>8}"
    + "".join(f"{name:>14}" for name in RIVALS)
)


# ---------------------------------------------------------------- all of them


def ranked_right(benign: Sequence[float], leaking: Sequence[float]) -> float:
    """The area under the ROC curve: how often a leak ranks above a benign trace, ties by half."""
    ordered = np.sort(np.asarray(benign))
    wanted = np.asarray(leaking)
    below = np.searchsorted(ordered, wanted, "left") + np.searchsorted(ordered, wanted, "right")
    return float(below.mean() / 2 / len(ordered))


def summary(name: str, cells: Sequence[Cell]) -> Iterator[str]:
    benign, leaking = ([cell for cell in cells if cell.leaks is leaks] for leaks in (False, True))
    if not benign or not leaking:
        return
    yield f"{name}: false alarms {np.mean([c.alarms for c in benign]):.4f} of benign traces" + "".join(
        f", {rival} {np.mean([c.rival(i) for c in benign]):.2f}" for i, rival in enumerate(RIVALS)
    )
    for rate in sorted({cell.rate for cell in leaking}):
        own = [cell for cell in leaking if cell.rate == rate]
        hours = [one.alarm_hours for cell in own for one in cell.outcomes]
        median = np.median([inf if at is None else at for at in hours])
        yield (
            f"  {rate:g} MB/h: found {np.mean([c.alarms for c in own]):.3f}"
            + "".join(f", {rival} {np.mean([c.rival(i) for c in own]):.2f}" for i, rival in enumerate(RIVALS))
            + f"; median alarm at {median:.1f} h; NO LEAK {np.mean([c.share(Finding.NO_LEAK) for c in own]):.4f}"
        )
        for what in ("odds", "growth", "median_slope"):
            ranks = [[getattr(one, what) for cell in some for one in cell.outcomes] for some in (benign, own)]
            yield f"    area under the curve by {what.replace('_', ' ')}: {ranked_right(ranks[0], ranks[1]):.3f}"


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    for name in options.sets.split(","):
        benign, leaking = SETS[name]
        rates = [float(rate) for rate in options.rates.split(",")]
        for family, rate in [*((f, 0.0) for f in benign), *((f, rate) for f in leaking for rate in rates)]:
            for number in range(options.traces):
                yield Job(name, family, rate, number, options.seed, options.limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=120, help="of each family and rate")
    parser.add_argument("--sets", default="first,second,third,fourth")
    parser.add_argument("--rates", default="12", help="of the leaks, MB an hour")
    parser.add_argument("--limit", type=float, default=2.0, help="MB an hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    cells: list[Cell] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        asked = list(jobs(options))
        done = zip(asked, pool.map(judged, asked, chunksize=4), strict=True)
        for (name, family, rate), own in groupby(done, key=lambda one: (one[0].set_name, one[0].family, one[0].rate)):
            if not cells or cells[-1].set_name != name:
                print(f"\n{name} set\n{HEADER}")
            cells.append(Cell(name, family, rate, [outcome for _, outcome in own]))
            print(cells[-1].row, flush=True)
    print()
    for name in options.sets.split(","):
        for line in summary(f"{name} set", [cell for cell in cells if cell.set_name == name]):
            print(line)
    spent = [outcome.cpu_seconds for cell in cells for outcome in cell.outcomes]
    print(f"one verdict with all looks: median {np.median(spent):.2f} s of processor time, at most {max(spent):.2f} s")


if __name__ == "__main__":
    main()
