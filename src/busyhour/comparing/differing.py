"""What differs between runs besides the build: what forbids to compare them, and what has to be known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import chain

from busyhour.comparing.reading import Origin
from busyhour.errors import PlanError

_TOLD_AT_MOST = 3
Sides = tuple[Sequence[Origin], Sequence[Origin]]


def twice(sides: Sides) -> None:
    """Each run counts once. Raises PlanError for a journal that is named twice, or is a copy of another."""
    problems, known = [], dict[object, Origin]()
    for origin in chain(*sides):
        itself: object = origin.path.resolve()
        run = (origin.started_at, origin.boot, origin.plan, origin.seeds) if origin.started_at else itself
        if (other := known.get(itself) or known.get(run)) is not None:
            how = "it is named twice" if other.path.resolve() == itself else f"it is the same run as {other.path}"
            problems.append(f"{origin.path}: {how}; each run counts once")
        known[itself] = known[run] = origin
    if problems:
        raise PlanError(problems)


def forbidding(sides: Sides) -> list[str]:
    """What makes a difference between the runs that is not the build's; a sentence for each."""
    told = [
        _plans(sides),
        _differs("the plan's options differ", sides, lambda one: _pairs(one.options)),
        _differs("the machine differs", sides, lambda one: one.machine),
        _differs("the number of processes of the harness differs", sides, lambda one: str(one.processes)),
        _seeds(sides),
    ]
    return [one for one in told if one]


def phases(sides: Sides) -> str:
    """Of runs that came to their end; "" if all carried out the same phases."""
    return _differs("the list of phases carried out differs", sides, lambda one: ", ".join(one.phases))


def worth_knowing(sides: Sides) -> list[str]:
    """What may make a difference, or narrows what is shown; a sentence for each."""
    told = [
        _differs("the version of busyhour differs", sides, lambda one: one.version),
        _differs("the harness's Python differs", sides, lambda one: one.python),
        _differs("a library of the harness differs", sides, lambda one: _pairs(one.libraries)),
        *(_commits(name, side) for name, side in zip("AB", sides, strict=True)),
        _order(sides),
        _same_callers(sides),
    ]
    return [one for one in told if one]


def _differs(what: str, sides: Sides, of: Callable[[Origin], str]) -> str:
    """ "the machine differs: X in A; Y in B", or which runs of a side are unlike the others; "" if all are alike."""
    if len({of(origin) for origin in chain(*sides)}) < 2:
        return ""
    return f"{what}: {'; '.join(_within(name, side, of) for name, side in zip('AB', sides, strict=True))}"


def _within(name: str, side: Sequence[Origin], of: Callable[[Origin], str]) -> str:
    counts = Counter(of(origin) or "not told" for origin in side)
    if len(counts) < 2:
        return f"{next(iter(counts), 'no run')} in {name}"
    told = [f"{value} in {count} of {name}" for value, count in counts.most_common(_TOLD_AT_MOST)]
    return ", ".join(told) + (f" and {len(counts) - len(told)} more" if len(counts) > len(told) else "")


def _pairs(options: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(options.items())) or "none"


def _plans(sides: Sides) -> str:
    """By its text, wherever it lies."""
    sources = list(dict.fromkeys(origin.source for origin in chain(*sides)))
    if len(sources) < 2:
        return ""
    first, other = (source.splitlines() for source in sources[:2])
    changes = [one for one in SequenceMatcher(None, first, other, autojunk=False).get_opcodes() if one[0] != "equal"]
    lines = sum(max(ended - began, until - since) for _, began, ended, since, until in changes)
    where = f" ({lines} line{'' if lines == 1 else 's'}, the first is line {changes[0][1] + 1})" if changes else ""
    names = {source: f"plan {place}" for place, source in enumerate(sources, start=1)}
    return f"{_differs('the plan differs', sides, lambda one: names[one.source])}{where}"


def _seeds(sides: Sides) -> str:
    """A side with one seed has one set of callers: the other must have had them too, or a difference may be theirs."""
    seeds = [{origin.seeds for origin in side} for side in sides]
    if seeds[0] == seeds[1] or min(map(len, seeds)) > 1:
        return ""
    told = _differs("the seed differs", sides, lambda one: one.seeds)
    return f"{told}: other callers, so that a difference may be theirs; give each run its own seed, or all the same"


def _commits(name: str, side: Sequence[Origin]) -> str:
    commits = dict.fromkeys(origin.commit for origin in side if origin.commit)
    return f"the runs of {name} are of {len(commits)} commits: {', '.join(commits)}" if len(commits) > 1 else ""


def _order(sides: Sides) -> str:
    """What drifts with time is in the difference, unless the runs of the two took turns."""
    if min(map(len, sides)) < 2 or not all(origin.started_at for origin in chain(*sides)):
        return ""
    (first_a, last_a), (first_b, last_b) = (
        (min(origin.started_at for origin in side), max(origin.started_at for origin in side)) for side in sides
    )
    if last_a >= first_b and last_b >= first_a:
        return ""
    first, later = ("A", "B") if last_a < first_b else ("B", "A")
    return (
        f"all runs of {first} were made before those of {later}: whatever else changed on the machine meanwhile is in "
        "the difference; let them take turns"
    )


def _same_callers(sides: Sides) -> str:
    seeds = {origin.seeds for origin in chain(*sides)}
    if len(seeds) > 1 or min(map(len, sides)) < 2:
        return ""
    return f"all runs have the seed {seeds.pop() or 'that is not told'}: the same callers in each, of whom this holds"
