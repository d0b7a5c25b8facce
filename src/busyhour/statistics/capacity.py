"""The search for a capacity: which concurrency to try next, given what was tried, and what it all comes to. Pure.

Near its knee a system passes once and fails the next time, so nothing is believed that was seen once: the ends of the
bracket are confirmed, a level that did both is tried again and decided by the majority. A level that can be decided
neither way bounds the capacity from above all the same, because it was not shown to pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from busyhour.errors import PlanError
from busyhour.model import Outcome

INVALID_TRIES = 2
"""One late harness may be the machine's whim; two at the same level are its limit."""
EFFORT_MOST = 4
_BAD = (Outcome.FAIL, Outcome.INVALID, Outcome.INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class Try:
    """What to try next. open_loop: by arrivals that do not wait for the system; otherwise so many are held in progress.
    effort: how many times the usual evidence to gather, for what was inconclusive."""

    at_once: int
    open_loop: bool = False
    effort: int = 1


@dataclass(frozen=True, slots=True)
class Tried:
    at_once: int
    outcome: Outcome
    open_loop: bool = False


class Limit(StrEnum):
    """What ended the search upwards."""

    TARGET = "target"  # a gate failed
    HARNESS = "harness"  # the harness, and not the target, could not do more
    EVIDENCE = "evidence"  # the next level could not be decided
    ASKED = "asked"  # nothing failed up to the most that was asked for, or there is room for
    UNFINISHED = "unfinished"  # stopped, or out of runs, before the bracket was as narrow as was asked


@dataclass(frozen=True, slots=True)
class Answer:
    """passed: the largest level that passed with none below it that did not; 0: none. bound: the smallest level above
    it that did not pass, and failed: the smallest that failed; None where there is none. shaky: the levels that both
    passed and failed."""

    passed: int
    bound: int | None
    failed: int | None
    limit: Limit
    shaky: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """An open-loop ramp by doubling, then bisection by levels that are held, until the bracket is `resolution` of its
    lower end wide (at least 1), then confirmation of both ends.

    What the ramp says only steers: every end of the answer was held. A level that stays inconclusive, or does not agree
    with itself, is run `tries` times, and all of them together `runs` times. Raises PlanError for wrong settings.
    """

    most: int
    start: int = 4
    resolution: float = 0.05
    confirm: int = 2
    tries: int = 3
    runs: int = 40

    def __post_init__(self) -> None:
        for name in ("most", "start", "confirm", "tries", "runs"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name}={getattr(self, name)}: a capacity search needs at least 1")
        if not 0 <= self.resolution < 1:
            raise PlanError(f"resolution={self.resolution:g}: it is a share of the capacity, at least 0 and below 1")

    def next(self, tried: Sequence[Tried]) -> Try | Answer:
        """The same answer for the same history."""
        if len(tried) >= self.runs:
            return self.answer(tried, Limit.UNFINISHED)
        if all(one.at_once == 1 and not one.open_loop for one in tried):
            first = self._first([one.outcome for one in tried])
            if first is not None:
                return first
        if (ramp := self._ramp(tried)) is not None:
            return ramp
        held = _outcomes(tried)
        bracket = _Bracket.of({n: self._standing(outcomes) for n, outcomes in held.items()})
        return self._retried(held, bracket) or self._bisected(tried, held, bracket)

    def answer(self, tried: Sequence[Tried], limit: Limit) -> Answer:
        """What is known so far."""
        held = _outcomes(tried)
        bracket = _Bracket.of({n: self._standing(outcomes) for n, outcomes in held.items()})
        failed = [n for n, outcomes in held.items() if self._standing(outcomes) is Outcome.FAIL]
        shaky = sorted(n for n, outcomes in held.items() if {Outcome.PASS, Outcome.FAIL} <= set(outcomes))
        return Answer(bracket.low, bracket.high, min(failed, default=None), limit, tuple(shaky))

    # ---------------------------------------------------------------- its parts

    def _first(self, outcomes: Sequence[Outcome]) -> Try | Answer | None:
        """One call: what fails with one fails with any."""
        if not outcomes:
            return Try(1)
        if outcomes[-1] is Outcome.FAIL:
            return Answer(0, 1, 1, Limit.TARGET)
        if outcomes[-1] is Outcome.INVALID:
            return Answer(0, 1, None, Limit.HARNESS) if len(outcomes) >= INVALID_TRIES else Try(1)
        return None

    def _ramp(self, tried: Sequence[Tried]) -> Try | None:
        """The next step up; None when the ramp is over: something broke, or there is no more to ask for."""
        steps = [one for one in tried if one.open_loop]
        if self.most == 1 or (steps and (_broke(steps[-1]) or steps[-1].at_once >= self.most)):
            return None
        following = 2 * steps[-1].at_once if steps else max(2, self.start)
        return Try(min(self.most, following), open_loop=True)

    def _retried(self, held: Mapping[int, Sequence[Outcome]], bracket: _Bracket) -> Try | None:
        """A level inside the bracket that was tried and not decided. One call alone decides little, and is not pressed
        for more unless the search comes down to it."""
        high = self.most + 1 if bracket.high is None else bracket.high
        undecided = [n for n, outcomes in held.items() if bracket.low < n < high and n > 1]
        return self._more(min(undecided), held) if undecided else None

    def _bisected(
        self, tried: Sequence[Tried], held: Mapping[int, Sequence[Outcome]], bracket: _Bracket
    ) -> Try | Answer:
        low, high = bracket.low, bracket.high
        steps = [one for one in tried if one.open_loop]
        fine = max((one.at_once for one in steps if not _broke(one)), default=1)
        broke = next((one.at_once for one in steps if _broke(one) and one.at_once > low), None)
        ceiling = min((n for n in (high, broke) if n is not None), default=None)
        if ceiling is None:
            if low >= self.most:
                return self._confirmed(tried, held, bracket)
            return self._more(self.most if not steps or fine >= self.most else min(self.most, 2 * low), held)
        if ceiling - low <= max(1, int(self.resolution * low)):
            return self._confirmed(tried, held, bracket) if ceiling == high else self._more(ceiling, held)
        return self._more(fine if low < fine < ceiling else (low + ceiling) // 2, held)

    def _confirmed(
        self, tried: Sequence[Tried], held: Mapping[int, Sequence[Outcome]], bracket: _Bracket
    ) -> Try | Answer:
        """The ends are believed when they were seen `confirm` times."""
        for end in (bracket.low, bracket.high):
            outcomes = held.get(end or 0, ())
            standing = self._standing(outcomes)
            decided = standing in {Outcome.PASS, Outcome.FAIL}
            if decided and outcomes.count(standing) < self.confirm and not self._exhausted(outcomes):
                return self._more(end or 0, held)
        limit = Limit.ASKED
        if bracket.high is not None:
            standing = self._standing(held[bracket.high])
            limit = {Outcome.FAIL: Limit.TARGET, Outcome.INVALID: Limit.HARNESS}.get(
                standing or Outcome.INCONCLUSIVE, Limit.EVIDENCE
            )
        return self.answer(tried, limit)

    def _more(self, at_once: int, held: Mapping[int, Sequence[Outcome]]) -> Try:
        return Try(at_once, effort=min(EFFORT_MOST, 2 ** _unclear(held.get(at_once, ()))))

    def _exhausted(self, outcomes: Sequence[Outcome]) -> bool:
        """Runs that said too little are one budget, and those that said something another."""
        unclear = _unclear(outcomes)
        return unclear >= self.tries or len(outcomes) - unclear >= max(self.tries, self.confirm + 1)

    def _standing(self, outcomes: Sequence[Outcome]) -> Outcome | None:
        """What a level comes to; None while it was not tried, or is to be tried again."""
        passes, fails, invalid = (outcomes.count(one) for one in (Outcome.PASS, Outcome.FAIL, Outcome.INVALID))
        exhausted = self._exhausted(outcomes)
        if passes != fails and not (exhausted and max(passes, fails) < self.confirm):
            return Outcome.PASS if passes > fails else Outcome.FAIL
        if invalid >= INVALID_TRIES and invalid > passes + fails:
            return Outcome.INVALID
        return Outcome.INCONCLUSIVE if exhausted else None


@dataclass(frozen=True, slots=True)
class _Bracket:
    """low: the largest level that passed below `high`, the smallest that was decided otherwise."""

    low: int
    high: int | None

    @classmethod
    def of(cls, standings: Mapping[int, Outcome | None]) -> _Bracket:
        high = min((n for n, standing in standings.items() if standing in _BAD), default=None)
        good = [n for n, standing in standings.items() if standing is Outcome.PASS and (high is None or n < high)]
        return cls(max(good, default=0), high)


def _outcomes(tried: Sequence[Tried]) -> Mapping[int, list[Outcome]]:
    held: dict[int, list[Outcome]] = defaultdict(list)
    for one in tried:
        if not one.open_loop:
            held[one.at_once].append(one.outcome)
    return held


def _unclear(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome in {Outcome.INCONCLUSIVE, Outcome.NOT_RUN} for outcome in outcomes)


def _broke(step: Tried) -> bool:
    return step.outcome in {Outcome.FAIL, Outcome.INVALID}
