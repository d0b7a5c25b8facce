"""How often `busyhour compare` and `busyhour history` are wrong, on runs whose truth is known, beside usual rules.

    python benchmarks/comparing.py [--trials 4000] [--spread 4]        under a minute

A run has 40 calls of 5 turns. Latencies are log-normal (sigma .35, a third of the variance is the call's); the run has
a factor of its own (`--spread`, in percent), which is what no number of calls in one run can tell. The readings of
`compare` are the runs' P95s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]  # its stubs are a package of their own

from busyhour.comparing.metrics import LARGER, Metric
from busyhour.comparing.reading import Origin, Reading
from busyhour.comparing.weighing import EXIT_CODE, Word, weighed
from busyhour.model import Estimate
from busyhour.statistics.changes import changes
from busyhour.statistics.quantile import Quantile
from busyhour.statistics.shift import Shift, holm, within_runs

Floats: TypeAlias = npt.NDArray[np.float64]
CALLS, TURNS, SIGMA, OF_THE_CALL, Q = 40, 5, 0.35, 1 / 3, 0.95
TOLERANCE, ALPHA = 0.10, 0.05  # the defaults
METRIC = Metric("p95 response latency in steady", "ms", LARGER)
LET = [found for found, code in EXIT_CODE.items() if code == 0]
GROUPS = [call for call in range(CALLS) for _ in range(TURNS)]


def latencies(random: np.random.Generator, runs: int, spread: float, factor: float = 1.0) -> Floats:
    """A row for each run: its latencies in ms."""
    calls = random.normal(0, SIGMA * OF_THE_CALL**0.5, (runs, CALLS, 1))
    turns = random.normal(0, SIGMA * (1 - OF_THE_CALL) ** 0.5, (runs, CALLS, TURNS))
    own = random.normal(0, spread, (runs, 1, 1))
    return np.asarray(600 * factor * np.exp(own + calls + turns).reshape(runs, -1), dtype=np.float64)


def p95(runs: Floats) -> list[float]:
    place = int(np.ceil(runs.shape[1] * Q)) - 1
    return [float(one) for one in np.partition(runs, place, axis=1)[:, place]]


def table(title: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[float]]]) -> None:
    print(f"\n{title}\n{'':44}" + "".join(f"{one:>9}" for one in head))
    for name, cells in rows:
        print(f"{name:44}" + "".join(f"{cell:9.3f}" for cell in cells), flush=True)


# ---------------------------------------------------------------- two builds


def word(before: Floats, after: Floats) -> Word:
    """What `busyhour compare` says of these runs."""
    first, last = ([_reading(value) for value in p95(side)] for side in (before, after))
    (row,) = weighed([METRIC], (first, last), [])
    return row.word


def _reading(value: float) -> Reading:
    return Reading(Origin(Path("run.journal")), {METRIC: Estimate(METRIC.what, METRIC.unit, 1, value, value, value)})


def slower(before: Floats, after: Floats) -> bool:
    """One run each: is the P95 more than 10 % greater?"""
    return p95(after[:1])[0] > (1 + TOLERANCE) * p95(before[:1])[0]


def unlike(before: Floats, after: Floats) -> bool:
    """One run each: Welch's test of the means of their latencies, at 5 %."""
    return bool(stats.ttest_ind(after[0], before[0], equal_var=False, alternative="greater").pvalue < ALPHA)


def unlike_pooled(before: Floats, after: Floats) -> bool:
    """The same of the latencies of all five runs thrown together."""
    return bool(stats.ttest_ind(after.ravel(), before.ravel(), equal_var=False, alternative="greater").pvalue < ALPHA)


def builds(random: np.random.Generator, trials: int, spread: float) -> None:
    factors = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3)
    rules: dict[str, Callable[[Floats, Floats], bool]] = {
        "two P95s, 10 % apart": slower,
        "t-test of the means of two runs": unlike,
        "t-test of the latencies of 5 v 5 runs": lambda a, b: unlike_pooled(a[:5], b[:5]),
    }
    ours = {
        f"compare, {n} v {n} runs: {name}": (n, words)
        for n in (5, 10)
        for name, words in {
            "REGRESSION": [Word.REGRESSION],
            "EQUIVALENT": [Word.EQUIVALENT],
            "exit code 0": LET,
        }.items()
    }
    told = {name: [0.0] * len(factors) for name in (*ours, *rules)}
    for column, factor in enumerate(factors):
        for _ in range(trials):
            before, after = latencies(random, 10, spread), latencies(random, 10, spread, factor)
            said = {n: word(before[:n], after[:n]) for n in (5, 10)}
            for name, (n, words) in ours.items():
                told[name][column] += (said[n] in words) / trials
            for name, rule in rules.items():
                told[name][column] += rule(before, after) / trials
    head = [f"+{round(100 * factor - 100)} %" for factor in factors]
    table(f"Told to be so, when B is truly slower by (run-to-run spread {100 * spread:g} %)", head, told.items())


def intervals(random: np.random.Generator, trials: int) -> None:
    """Either end of the Hodges-Lehmann interval may be wrong in 5 of 100."""
    draws: dict[str, Callable[[int], Floats]] = {
        "normal runs": lambda n: random.normal(0, 1, n),
        "log-normal runs, sigma 0.5": lambda n: random.lognormal(0, 0.5, n),
        "counts, mean 2": lambda n: random.poisson(2, n).astype(np.float64),
    }
    rows = []
    for name, draw in draws.items():
        for side in ("lower", "upper"):
            wrong = []
            for n in range(5, 11):
                ends = (_end(draw(n), draw(n), side) for _ in range(trials))
                wrong.append(sum(end > 0 if side == "lower" else end < 0 for end in ends) / trials)
            rows.append((f"{name}: {side} end wrong", wrong))
    unlike_spread = [
        sum(_end(random.normal(0, 1, n), random.normal(0, 3, n), "lower") > 0 for _ in range(trials)) / trials
        for n in range(5, 11)
    ]
    rows.append(("B's runs spread three times as far: lower", unlike_spread))
    table("Ends of the interval beyond the truth, runs a side", [str(n) for n in range(5, 11)], rows)


def _end(before: Floats, after: Floats, side: str) -> float:
    shift = Shift(before.tolist(), after.tolist())
    return shift.low(ALPHA) if side == "lower" else shift.high(ALPHA)


def many_metrics(random: np.random.Generator, trials: int) -> None:
    """No metric differs and nothing is borne: any REGRESSION is wrong."""
    rows: dict[str, list[float]] = {"Holm": [], "each metric at 5 %": []}
    for metrics in (1, 6, 18):
        found = {"Holm": 0, "each metric at 5 %": 0}
        for _ in range(trials // 4):
            p = [Shift(*random.normal(0, 1, (2, 8)).tolist()).p_above(0) for _ in range(metrics)]
            found["Holm"] += min(holm(p)) <= ALPHA
            found["each metric at 5 %"] += min(p) <= ALPHA
        for name, count in found.items():
            rows[name].append(count / (trials // 4))
    table("Any false REGRESSION, 8 v 8 runs, tolerance 0, metrics", ["1", "6", "18"], rows.items())


def one_run_each(random: np.random.Generator, trials: int) -> None:
    """The interval of one run a side excludes a true shift of 0."""
    spreads = (0.0, 0.02, 0.04, 0.08)
    wrong = []
    for spread in spreads:
        excluded = 0
        for _ in range(trials // 4):
            first, last = (_estimate(latencies(random, 1, spread)[0]) for _ in range(2))
            low, high = within_runs(first, last)
            excluded += low > 0 or high < 0
        wrong.append(excluded / (trials // 4))
    table(
        "One run a side: the interval of calls excludes the truth, run-to-run spread",
        [f"{100 * one:g} %" for one in spreads],
        [("difference of two P95s (10 % are meant)", wrong)],
    )


def _estimate(values: Floats) -> Estimate:
    found = Quantile.of(values.tolist(), Q, GROUPS)
    return Estimate("p95", "ms", found.n, found.value, found.low, found.high)


# ---------------------------------------------------------------- histories


def last_over_mean(series: Floats) -> bool:
    """At any run from the sixth on: more than 10 % over the mean of all before."""
    return any(series[n] > 1.1 * series[:n].mean() for n in range(5, len(series)))


def three_sigma(series: Floats) -> bool:
    return any(abs(series[n] - series[:n].mean()) > 3 * series[:n].std(ddof=1) for n in range(5, len(series)))


def best_division(series: Floats) -> bool:
    """The division with the smallest p of a t-test, taken as if it had been the only one."""
    before = np.arange(3, len(series) - 2)
    after = len(series) - before
    sums, squares = series.cumsum(), (series**2).cumsum()
    first, last = sums[before - 1], sums[-1] - sums[before - 1]
    within = squares[-1] - first**2 / before - last**2 / after
    ratio = np.abs(first / before - last / after) / np.sqrt(within / (len(series) - 2) * (1 / before + 1 / after))
    return bool(ratio.max() > stats.t.ppf(1 - ALPHA / 2, len(series) - 2))


def flat(random: np.random.Generator, kind: str, n: int, spread: float) -> Floats:
    if kind == "correlated":
        noise = random.normal(0, 1, n + 20)
        for at in range(1, n + 20):
            noise[at] = 0.3 * noise[at - 1] + 0.91**0.5 * noise[at]
        own = noise[20:]
    else:
        own = random.normal(0, 1, n) if kind == "normal" else (random.lognormal(0, 0.5, n) - 1.133) / 0.604
    return np.asarray(600 * (1 + spread * own), dtype=np.float64)


def histories(random: np.random.Generator, trials: int, spread: float) -> None:
    lengths = (12, 24, 48)
    rows = []
    for kind in ("normal", "long tail", "correlated"):
        false = [
            sum(bool(changes(flat(random, kind, n, spread).tolist())) for _ in range(trials // 2)) / (trials // 2)
            for n in lengths
        ]
        rows.append((f"history, {kind}", false))
    few = max(20, trials // 4)
    for name, rule in {
        "a run 10 % over the mean before it": last_over_mean,
        "a run beyond three sigma": three_sigma,
        "best of all t-tests at 5 %": best_division,
    }.items():
        rows.append((name, [sum(rule(flat(random, "normal", n, spread)) for _ in range(few)) / few for n in lengths]))
    table("Flat histories said to have changed, runs", [str(n) for n in lengths], rows)
    sizes = (1, 2, 3, 4)
    found = [
        (f"{name}: {said}", [_found(random, trials // 4, before, after, size, near) for size in sizes])
        for name, before, after in (
            ("12 runs, 12 after", 12, 12),
            ("24 runs, 5 after", 24, 5),
            ("12 runs, 3 after", 12, 3),
        )
        for said, near in (("found", 10**6), ("within a run of where it was", 1))
    ]
    table("A step found, its size in run-to-run spreads", [str(size) for size in sizes], found)


def _found(random: np.random.Generator, trials: int, before: int, after: int, size: float, near: int) -> float:
    count = 0
    for _ in range(trials):
        series = random.normal(0, 1, before + after)
        series[before:] += size
        count += any(abs(change.at - before) <= near for change in changes(series.tolist()))
    return count / trials


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=4000, help="(default 4000)")
    parser.add_argument("--spread", type=float, default=4.0, help="from run to run, in percent (default 4)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began, spread = time.process_time(), arguments.spread / 100
    random = np.random.default_rng(arguments.seed)
    builds(random, arguments.trials // 4, spread)
    intervals(random, arguments.trials)
    many_metrics(random, arguments.trials)
    one_run_each(random, arguments.trials)
    histories(random, arguments.trials, spread)
    print(f"\n{arguments.trials} trials, seed {arguments.seed}: {time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
