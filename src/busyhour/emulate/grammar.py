"""How a latency and a share of failures are written on the command line, and read back.

350ms  1.5s  0  constant:350ms        always that long; 0 alone needs no unit
lognormal:350ms,0.4                   median, and the deviation of the logarithm
empirical:FILE                        one of the numbers in the file, of milliseconds, one a line
2%:429  0.02:http_429  1%:no_token    a share of the requests, and what befalls them
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from busyhour.emulators.behaviour import HTTP_OUTCOMES, Constant, Empirical, Latency, LogNormal
from busyhour.emulators.profile import spaced
from busyhour.errors import PlanError
from busyhour.model import JSON

T = TypeVar("T")
LATENCY = "350ms, lognormal:350ms,0.4 or empirical:FILE"
SHARE = "2%:429, 0.02:http_429 or 1%:no_token"
SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
NOTHING = "none"
"""What is written for "nothing fails"."""
_LINES_AT_MOST = 1_000_000
_SHOWN = 80


def latency(text: str, flag: str) -> Latency:
    """Raises PlanError that begins with `flag`."""
    kind, colon, rest = text.partition(":")
    if not colon:
        return Constant(_ms(text, flag))
    if kind == "constant":
        return Constant(_ms(rest, flag))
    if kind == "lognormal":
        median, comma, sigma = rest.partition(",")
        if not comma or not _is_number(sigma):
            raise PlanError(f"{flag} {text:.80}: a log-normal has a median and a sigma, like lognormal:350ms,0.4")
        return _made(lambda: LogNormal(_ms(median, flag), float(sigma)), flag)
    if kind == "empirical":
        return _empirical(Path(rest), flag)
    raise PlanError(f"{flag} {text:.80}: {kind!r} is no distribution; write it as {LATENCY}")


def share(text: str) -> tuple[str, float]:
    """The outcome and its share. Raises PlanError."""
    amount, colon, outcome = text.partition(":")
    number = amount.removesuffix("%").strip()
    if not colon or not outcome or not _is_number(number):
        mend = f"; did you mean 100%:{text}?" if re.fullmatch(r"[a-z][a-z_]*(_\d+)?|\d{3}", text) else ""
        raise PlanError(f"--fail {text:.80}: write it as a share and an outcome, like {SHARE}{mend}")
    value = float(number) / 100 if amount.endswith("%") else float(number)
    if not 0 <= value <= 1:
        mend = f"; did you mean {number}%?" if not amount.endswith("%") and value <= 100 else ""
        raise PlanError(f"--fail {text:.80}: {amount} is no share of all requests, 0% to 100%{mend}")
    named = f"http_{outcome}"
    if outcome.isdigit() and named not in HTTP_OUTCOMES:
        known = ", ".join(name.removeprefix("http_") for name in HTTP_OUTCOMES)
        raise PlanError(f"--fail {text:.80}: a twin answers with the statuses {known}, not with {outcome:.20}")
    return (named if outcome.isdigit() else outcome), value


def latency_text(form: Mapping[str, JSON]) -> str:
    """A latency's JSON form as it is written; a list of measured delays only in outline."""
    match form:
        case {"distribution": "constant", "ms": float() | int() as ms}:
            return time_exactly(ms)
        case {
            "distribution": "lognormal",
            "median_ms": float() | int() as median_ms,
            "sigma": float() | int() as sigma,
        }:
            return f"lognormal:{time_exactly(median_ms)},{exactly(sigma)}"
        case {"distribution": "empirical", "ms": list() as delays} if delays:
            ordered = sorted(float(ms) for ms in delays if isinstance(ms, int | float))
            p50, p95 = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.5, 0.95))
            return f"empirical, {len(ordered)} delays: p50 {time_about(p50)}, p95 {time_about(p95)}"
        case _:
            return str(form)[:_SHOWN]


def share_text(outcome: str, value: float) -> str:
    return f"{exactly(100 * value)}%:{outcome.removeprefix('http_')}"


def time_exactly(ms: float) -> str:
    """A time as a setting: "350ms", "1.5s"."""
    return f"{exactly(ms)}ms" if ms < 1000 else f"{exactly(ms / 1000)}s"


def time_about(ms: float) -> str:
    """A measured time to three digits: "0.34 ms", "341 ms", "2.01 s"."""
    value, unit = (ms, "ms") if ms < 1000 else (ms / 1000, "s")
    decimals = 2 - math.floor(math.log10(value)) if value else 0
    return f"{_stripped(f'{value:.{max(0, decimals)}f}')} {unit}"


def exactly(value: float) -> str:
    """A number to nine places, as people write it: never 1e+06."""
    return _stripped(f"{value:.9f}")


def _stripped(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _ms(text: str, flag: str, *, bare: bool = False) -> float:
    """A time of the command line, where other flags are of seconds; in a file of measured delays the unit may be left
    out (`bare`)."""
    written = re.fullmatch(r"\s*([^a-z\s]+)\s*(ms|s|)\s*", text)
    if written is None or not _is_number(written[1]):
        raise PlanError(f"{flag} {text:.80}: no time; write it as {LATENCY}")
    if not written[2] and not bare and float(written[1]):
        raise PlanError(f"{flag} {text:.80}: it has no unit; write {written[1]}s or {written[1]}ms")
    ms = float(written[1]) * (1000 if written[2] == "s" else 1)
    return _made(lambda: Constant(ms), flag).ms


def _made(make: Callable[[], T], flag: str) -> T:
    try:
        return make()
    except PlanError as problem:
        said = str(problem)
        raise PlanError(said if said.startswith(flag) else f"{flag}: {said}") from None


def _empirical(path: Path, flag: str) -> Empirical:
    delays: list[float] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if number > _LINES_AT_MOST:
                    raise PlanError(f"{flag}: {path} has more than {_LINES_AT_MOST} lines; give a sample of them")
                if line.strip():
                    delays.append(_ms(line.strip(), f"{flag}: {path}, line {number}:", bare=True))
    except OSError as problem:
        raise PlanError(f"{flag}: {path} cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise PlanError(f"{flag}: {path} is no text; it has one number of milliseconds a line") from None
    if not delays:
        raise PlanError(f"{flag}: {path} has no number in it; it has one number of milliseconds a line")
    return Empirical(spaced(delays))


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
