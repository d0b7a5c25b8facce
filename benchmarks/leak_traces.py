"""Traces of memory whose truth is known, for `benchmarks/leaks.py`: 8 h at one reading per 30 s, in MB.

Four sets. On the first the detector was developed. The second and the third were looked at, each when it was thought
done, and it was changed because of them (docs/reference/leaks.md says how). The fourth was looked at last, and nothing
was changed because of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator

EVERY_HOURS = 30 / 3600
HOURS: Floats = np.arange(1, 961, dtype=np.float64) * EVERY_HOURS
N = len(HOURS)


@dataclass(frozen=True, eq=False)
class Made:
    """A trace: the memory, and what else a soak records."""

    value: Floats
    load: Floats | None = None
    completed: Floats | None = None


Maker = Callable[[float, Rng], Made]
"""Of a leak's MB per hour; 0 where the family is benign."""


def ar1(rng: Rng, deviation: float, alike: float) -> Floats:
    """Noise of a standard deviation, each reading like the one before."""
    shocks = rng.normal(0, deviation * sqrt(1 - alike * alike), N)
    shocks[0] = rng.normal(0, deviation)
    found = np.empty(N)
    level = 0.0
    for i, shock in enumerate(shocks):
        level = alike * level + shock
        found[i] = level
    return found


def base(rng: Rng) -> Floats:
    noise = ar1(rng, rng.uniform(1.5, 6), rng.uniform(0.80, 0.97)) + rng.normal(0, 0.5, N)
    return np.asarray(rng.uniform(150, 600) + noise, dtype=np.float64)


def sawtooth(rng: Rng, *, slower: float = 1.0) -> Floats:
    """A collector's: 40 to 180 MB every 4 to 25 minutes; at the end of the trace `slower` times as long."""
    height, usual = rng.uniform(40, 180), rng.uniform(4, 25) / 60
    level, period = rng.uniform(0, 1), usual
    found = np.empty(N)
    for i in range(N):
        level += EVERY_HOURS / period
        if level >= 1:
            level = rng.uniform(0, 0.08)
            period = usual * rng.uniform(0.75, 1.3) * slower ** (i / N)
        found[i] = height * level
    return found


def warm_up(rng: Rng, low: float = 0.15, high: float = 0.9) -> Floats:
    return np.asarray(rng.uniform(50, 250) * (1 - np.exp(-HOURS / rng.uniform(low, high))), dtype=np.float64)


def day_load(rng: Rng) -> Floats:
    """Calls in progress: 8 h of a day of 24, and what comes and goes faster."""
    day = 30 * (1 + np.sin(2 * np.pi * (HOURS + rng.uniform(0, 24)) / 24)) + 3
    return np.maximum(0, day + ar1(rng, 4, 0.9))


# ---------------------------------------------------------------- the first set


def flat(_: float, rng: Rng) -> Made:
    return Made(base(rng))


def plateau(_: float, rng: Rng) -> Made:
    return Made(base(rng) + warm_up(rng))


def slow_plateau(_: float, rng: Rng) -> Made:
    return Made(base(rng) + warm_up(rng, 1.5, 3))


def collected(_: float, rng: Rng) -> Made:
    return Made(base(rng) + sawtooth(rng))


def one_step(_: float, rng: Rng) -> Made:
    return Made(base(rng) + rng.uniform(30, 160) * (rng.uniform(1.2, 7) < HOURS))


def follows_load(_: float, rng: Rng) -> Made:
    load = day_load(rng)
    return Made(base(rng) + rng.uniform(1, 2.5) * load, load)


def sticky(_: float, rng: Rng) -> Made:
    return Made(base(rng) + ar1(rng, rng.uniform(4, 12), 0.995))


def leak(rate: float, rng: Rng) -> Made:
    return Made(base(rng) + rate * HOURS)


def leak_collected(rate: float, rng: Rng) -> Made:
    return Made(base(rng) + rate * HOURS + sawtooth(rng))


def leak_warm(rate: float, rng: Rng) -> Made:
    return Made(base(rng) + rate * HOURS + warm_up(rng))


def leak_load(rate: float, rng: Rng) -> Made:
    load = day_load(rng)
    return Made(base(rng) + rate * HOURS + rng.uniform(1, 2.5) * load, load)


def leak_stairs(rate: float, rng: Rng) -> Made:
    """Steps of half an hour's leak, every half an hour on the average."""
    at = np.cumsum(rng.exponential(0.5, 80))
    return Made(base(rng) + rate * 0.5 * np.searchsorted(at, HOURS))


# ---------------------------------------------------------------- the second set


def random_walk(_: float, rng: Rng) -> Made:
    """Fragmentation without a tendency: 8 to 20 MB from where it began, after 8 h."""
    return Made(base(rng) + np.cumsum(rng.normal(0, rng.uniform(8, 20) / sqrt(N), N)))


def pool_by_day(_: float, rng: Rng) -> Made:
    """Memory with the square root of the load and ten minutes behind it, and a pool as large as the load ever was."""
    load = day_load(rng)
    behind = np.convolve(np.sqrt(load), np.exp(-np.arange(60) / 20) / 20.5)[:N]
    pool = rng.uniform(0.1, 0.6) * np.maximum.accumulate(load)
    return Made(base(rng) + rng.uniform(5, 12) * behind + pool, load)


def drifting_sawtooth(_: float, rng: Rng) -> Made:
    return Made(base(rng) + sawtooth(rng, slower=rng.uniform(1.5, 3)))


def noisier(_: float, rng: Rng) -> Made:
    """Noise that grows fourfold, or shrinks to a quarter."""
    noise = ar1(rng, rng.uniform(2, 5), rng.uniform(0.8, 0.97)) * 4 ** (rng.choice([-1, 1]) * (HOURS / 8 - 0.5))
    return Made(300 + noise)


def arenas(_: float, rng: Rng) -> Made:
    """Whole arenas only, taken at once and given back late."""
    size, wanted, held = rng.choice([4.0, 16.0, 64.0]), ar1(rng, rng.uniform(4, 16), 0.98) + 300, 0.0
    found = np.empty(N)
    for i, want in enumerate(wanted):
        if want > held or want < held - 2 * size:
            held = np.ceil(want / size) * size
        found[i] = held
    return Made(found)


def stretched_warm_up(_: float, rng: Rng) -> Made:
    tau, power = rng.uniform(0.3, 1.2), rng.uniform(0.5, 0.8)
    return Made(base(rng) + rng.uniform(50, 250) * (1 - np.exp(-((HOURS / tau) ** power))))


def spikes(_: float, rng: Rng) -> Made:
    """A reading in a hundred is far too high (Pareto), and what it took is given back within minutes."""
    burst = np.where(rng.random(N) < 0.01, 20 * rng.pareto(1.5, N), 0.0).clip(0, 2000)
    return Made(base(rng) + np.convolve(burst, np.exp(-np.arange(40) / 6))[:N])


def two_warm_ups(_: float, rng: Rng) -> Made:
    """A cache at the start, and another from when its first user comes."""
    began = rng.uniform(1, 5)
    later = np.where(began < HOURS, 1 - np.exp(-np.maximum(0, HOURS - began) / rng.uniform(0.2, 0.8)), 0)
    return Made(base(rng) + warm_up(rng) + rng.uniform(30, 120) * later)


def leak_late(rate: float, rng: Rng) -> Made:
    return Made(base(rng) + rate * np.maximum(0, HOURS - rng.uniform(1, 4)))


def leak_bursty(rate: float, rng: Rng) -> Made:
    """Of completed calls, which come in bursts."""
    load = 20 * np.exp(ar1(rng, 1.0, 0.985))
    completed = np.cumsum(load) * EVERY_HOURS * 20
    return Made(base(rng) + 1.5 * load + rate * 8 * completed / completed[-1], load, completed)


def leak_rare_steps(rate: float, rng: Rng) -> Made:
    """Steps of an hour's leak and a half, at random."""
    at = np.cumsum(rng.exponential(1.5, 40))
    return Made(base(rng) + rate * 1.5 * np.searchsorted(at, HOURS))


def leak_walk(rate: float, rng: Rng) -> Made:
    return Made(random_walk(0, rng).value + rate * HOURS)


def leak_arenas(rate: float, rng: Rng) -> Made:
    size = rng.choice([4.0, 16.0])
    return Made(np.ceil((base(rng) + rate * HOURS) / size) * size)


def leak_stretched(rate: float, rng: Rng) -> Made:
    return Made(stretched_warm_up(0, rng).value + rate * HOURS)


# ---------------------------------------------------------------- the third set


def square_root(_: float, rng: Rng) -> Made:
    """Fragmentation: ever more slowly, but without an end. At the end it still rises by 1 MB an hour or less."""
    return Made(base(rng) + rng.uniform(5, 16) * np.sqrt(HOURS / 8))


def slow_wave(_: float, rng: Rng) -> Made:
    """Something that comes and goes every one to three hours."""
    return Made(base(rng) + rng.uniform(5, 30) * np.sin(2 * np.pi * (HOURS / rng.uniform(1, 3) + rng.uniform(0, 1))))


def slow_sawtooth(_: float, rng: Rng) -> Made:
    """A log that is rotated, or a cache that is emptied, every 40 to 90 minutes."""
    return Made(base(rng) + rng.uniform(20, 80) * ((HOURS / rng.uniform(0.67, 1.5) + rng.uniform(0, 1)) % 1.0))


def two_levels(_: float, rng: Rng) -> Made:
    """Up and down again between two levels, at random."""
    turns = np.cumsum(rng.exponential(rng.uniform(0.3, 1), 200))
    return Made(base(rng) + rng.uniform(10, 50) * (np.searchsorted(turns, HOURS) % 2))


def idle_then_busy(_: float, rng: Rng) -> Made:
    """Two idle hours; then everything is loaded, and warms up."""
    since = np.maximum(0, HOURS - 2)
    risen = rng.uniform(30, 80) * (since > 0) + rng.uniform(50, 150) * (1 - np.exp(-since / rng.uniform(0.15, 0.9)))
    return Made(base(rng) + risen)


def hourly_job(_: float, rng: Rng) -> Made:
    """Ten minutes of something large every hour."""
    return Made(base(rng) + rng.uniform(30, 150) * ((HOURS + rng.uniform(0, 1)) % 1.0 < 1 / 6))


def filled_pool(_: float, rng: Rng) -> Made:
    """Filled evenly until it is full, after one to four hours."""
    full = rng.uniform(1, 4)
    return Made(base(rng) + rng.uniform(30, 150) * np.minimum(1, HOURS / full))


def leak_accelerating(rate: float, rng: Rng) -> Made:
    return Made(base(rng) + rate * HOURS**2 / 8)


def leak_after_idle(rate: float, rng: Rng) -> Made:
    """Nothing for two hours; then a warm-up, and the leak."""
    since = np.maximum(0, HOURS - 2)
    warm = rng.uniform(50, 150) * (1 - np.exp(-since / rng.uniform(0.15, 0.6)))
    return Made(base(rng) + warm + rate * since)


def leak_two_levels(rate: float, rng: Rng) -> Made:
    return Made(two_levels(0, rng).value + rate * HOURS)


def leak_on_and_off(rate: float, rng: Rng) -> Made:
    """At twice the rate, half of the time."""
    on = (HOURS / rng.uniform(0.5, 1.5) + rng.uniform(0, 1)) % 1.0 < 0.5
    return Made(base(rng) + 2 * rate * np.cumsum(on) * EVERY_HOURS)


def leak_hourly_job(rate: float, rng: Rng) -> Made:
    return Made(hourly_job(0, rng).value + rate * HOURS)


# ---------------------------------------------------------------- the fourth set


def reloads(_: float, rng: Rng) -> Made:
    """A cache that is dropped and filled again every two hours or so."""
    found, at = np.zeros(N), -rng.uniform(0, 2)
    height, tau = rng.uniform(20, 100), rng.uniform(0.1, 0.4)
    while at < 8:
        ends = at + rng.uniform(1.5, 2.5)
        within = (at <= HOURS) & (ends > HOURS)
        found[within] = height * (1 - np.exp(-(HOURS[within] - at) / tau))
        at = ends
    return Made(base(rng) + found)


def more_and_more_calls(_: float, rng: Rng) -> Made:
    """The load grows tenfold over the run; memory and a pool follow it."""
    load = np.maximum(1, 5 + 45 * HOURS / 8 + ar1(rng, 3, 0.9))
    pool = rng.uniform(0.2, 0.8) * np.maximum.accumulate(load)
    return Made(base(rng) + rng.uniform(0.5, 2) * load + pool, load)


def uneven_sawtooth(_: float, rng: Rng) -> Made:
    """A collector that runs when it likes: heights of 20 to 300 MB, at a steady pace."""
    pace, level, wanted = rng.uniform(150, 600), 0.0, 100.0
    found = np.empty(N)
    for i in range(N):
        level += pace * EVERY_HOURS
        if level > wanted:
            level, wanted = 0.0, 20 + min(280.0, 40 * rng.exponential())
        found[i] = level
    return Made(base(rng) + found)


def trimmed(_: float, rng: Rng) -> Made:
    """What the start took is given back slowly."""
    return Made(base(rng) + rng.uniform(20, 100) * np.exp(-HOURS / rng.uniform(0.5, 3)))


def hour_missing(_: float, rng: Rng) -> Made:
    """The machine slept for an hour, and was lighter or heavier afterwards."""
    slept = rng.uniform(2, 6)
    value = base(rng) + rng.uniform(-40, 40) * (slept < HOURS)
    return Made(np.where((slept < HOURS) & (slept + 1 > HOURS), np.nan, value))


def warm_up_in_stairs(_: float, rng: Rng) -> Made:
    """Seven to twelve things are loaded when first used, most of them early."""
    used = np.sort(rng.exponential(0.8, rng.integers(7, 13)))
    return Made(base(rng) + rng.uniform(5, 20) * np.searchsorted(used, HOURS))


def leak_reloads(rate: float, rng: Rng) -> Made:
    return Made(reloads(0, rng).value + rate * HOURS)


def leak_of_calls_beside_a_pool(rate: float, rng: Rng) -> Made:
    made = more_and_more_calls(0, rng)
    assert made.load is not None
    completed = np.cumsum(made.load)
    return Made(made.value + rate * 8 * completed / completed[-1], made.load, completed)


def leak_hour_missing(rate: float, rng: Rng) -> Made:
    return Made(hour_missing(0, rng).value + rate * HOURS)


def leak_each_hour(rate: float, rng: Rng) -> Made:
    """An hourly job leaves an hour's leak each time."""
    return Made(base(rng) + rate * np.floor(HOURS + rng.uniform(0, 1)))


def leak_fading(rate: float, rng: Rng) -> Made:
    """From one and a half times the rate down to half of it."""
    return Made(base(rng) + rate * (1.5 * HOURS - HOURS**2 / 16))


FIRST: dict[str, Maker] = {
    "flat": flat,
    "plateau": plateau,
    "slow plateau": slow_plateau,
    "sawtooth": collected,
    "step": one_step,
    "follows load": follows_load,
    "sticky": sticky,
}
FIRST_LEAKS: dict[str, Maker] = {
    "leak": leak,
    "leak, sawtooth": leak_collected,
    "leak, warm-up": leak_warm,
    "leak, load": leak_load,
    "leak in stairs": leak_stairs,
}
SECOND: dict[str, Maker] = {
    "random walk": random_walk,
    "pool by day": pool_by_day,
    "drifting sawtooth": drifting_sawtooth,
    "noise that changes": noisier,
    "arenas": arenas,
    "stretched warm-up": stretched_warm_up,
    "spikes": spikes,
    "two warm-ups": two_warm_ups,
}
SECOND_LEAKS: dict[str, Maker] = {
    "leak, late": leak_late,
    "leak, bursty calls": leak_bursty,
    "leak, rare steps": leak_rare_steps,
    "leak, random walk": leak_walk,
    "leak, arenas": leak_arenas,
    "leak, stretched": leak_stretched,
}
THIRD: dict[str, Maker] = {
    "square root": square_root,
    "slow wave": slow_wave,
    "slow sawtooth": slow_sawtooth,
    "two levels": two_levels,
    "idle, then busy": idle_then_busy,
    "hourly job": hourly_job,
    "filled pool": filled_pool,
}
THIRD_LEAKS: dict[str, Maker] = {
    "leak, accelerating": leak_accelerating,
    "leak, after idle": leak_after_idle,
    "leak, two levels": leak_two_levels,
    "leak, on and off": leak_on_and_off,
    "leak, hourly job": leak_hourly_job,
}
FOURTH: dict[str, Maker] = {
    "reloads": reloads,
    "more and more calls": more_and_more_calls,
    "uneven sawtooth": uneven_sawtooth,
    "trimmed": trimmed,
    "hour missing": hour_missing,
    "warm-up in stairs": warm_up_in_stairs,
}
FOURTH_LEAKS: dict[str, Maker] = {
    "leak, reloads": leak_reloads,
    "leak beside a pool": leak_of_calls_beside_a_pool,
    "leak, hour missing": leak_hour_missing,
    "leak each hour": leak_each_hour,
    "leak, fading": leak_fading,
}
