"""Which calls of a run are worth hearing first: the worst to bear, by the rule of `recording.worst`.

What each caller had to bear is told from the operations, of every call: a run that kept no sound has worst calls, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from busyhour.columns import NEVER, Ints, OperationColumns, operations_of
from busyhour.model import MS, SECOND, Run
from busyhour.recording import Figures, badness, unanswered, worst

KINDS = tuple(kind for kind, _ in badness(Figures()))
_LAST_INSTANT = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Borne:
    """A call, and what its caller had to bear in it."""

    phase: str
    since_ns: int
    until_ns: int  # the last that is known of it
    figures: Figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A call of the page. `kind`: for which of `KINDS` it was taken; `peak`: no call of the run is worse by it."""

    number: int
    call: str
    borne: Borne
    kind: str
    peak: bool
    recorded: bool


def chosen(
    calls: Mapping[str, Borne], recorded: Collection[str], *, most: int, phases: Collection[str] = ()
) -> list[Chosen]:
    """The worst calls, at most so many, the first to be heard first; those of `phases` before any other.

    Of those with sound, if there are any. But the worst by each kind is among them whether it has sound or not: at a
    load of more calls than are recorded at once, the worst recorded call is not the worst call.
    """
    known = set(recorded) & calls.keys()
    bad = {name: dict(badness(call.figures)) for name, call in calls.items()}
    taken: dict[str, str] = {}
    for among in ({name for name, call in calls.items() if call.phase in phases}, calls.keys()):
        heard = among & (known | _unheard({name: bad[name] for name in among}, known)) if known else among
        taken |= worst({name: calls[name].figures for name in heard - taken.keys()}, most - len(taken))
    peaks = {kind: max((one[kind] for one in bad.values()), default=0) for kind in KINDS}
    return [
        Chosen(
            number=number,
            call=name,
            borne=calls[name],
            kind=kind,
            peak=bad[name][kind] == peaks[kind],
            recorded=name in known,
        )
        for number, (name, kind) in enumerate(taken.items(), start=1)
    ]


def _unheard(bad: Mapping[str, Mapping[str, int]], known: Set[str]) -> set[str]:
    """The worst by each kind, where no call that bad has sound."""
    found = set[str]()
    for kind in KINDS:
        peak = max((one[kind] for one in bad.values()), default=0)
        as_bad = {name for name, one in bad.items() if one[kind] == peak}
        if peak > 0 and not known & as_bad:
            found.add(min(as_bad))
    return found


def reasons(one: Chosen) -> list[str]:
    """Why it is here, the reason for which it was taken first, then what else was bad: "worst response 2,913 ms"."""
    figures = one.borne.figures
    words = {
        "response": f"response {ms(figures.response_ns)}" if figures.response_ns else "",
        "dead air": f"dead air {seconds(figures.dead_air_ns)}" if figures.dead_air_ns else "",
        "barge-in": f"talked over {figures.talked_over}x" if figures.talked_over else "",
        "unanswered": unanswered(figures),
        "failed": f"failed: {figures.outcome}" if figures.outcome != "ok" else "",
        "early": _counted(figures.cut_ins, "cut-in"),
        "underrun": _counted(figures.holes, "hole", "in speech"),
    }
    telling = ("failed", "unanswered", *(("barge-in",) if figures.talked_over else ()), "early", "underrun", "response")
    return [_first(one, words[one.kind]), *(words[kind] for kind in telling if kind != one.kind and words[kind])]


def _first(one: Chosen, words: str) -> str:
    """Beside the words for how bad it was whether no other call is worse."""
    figures, peak = one.borne.figures, one.peak
    match one.kind:
        case "failed":
            return words
        case "barge-in" if not figures.talked_over:
            return f"slowest to yield, {ms(figures.yield_ns)}" if peak else f"yields in {ms(figures.yield_ns)}"
        case "unanswered":
            only_turns = figures.missed > 1 and not figures.ungreeted
            return f"most unanswered turns: {figures.missed}" if peak and only_turns else words
        case "early":
            most = f"most cut-ins: {figures.cut_ins}" if peak and figures.cut_ins > 1 else words
            return f"{most}, {_up_to(figures.cut_ins, figures.cut_in_ns)} early"
        case "underrun":
            most = f"most holes in speech: {figures.holes}" if peak and figures.holes > 1 else words
            return f"{most}, {_up_to(figures.holes, figures.hole_ns)}"
    return f"worst {words}" if peak else words


def _counted(count: int, noun: str, what: str = "") -> str:
    """ "3 holes in speech"; "" if there are none."""
    return f"{count} {noun}{'' if count == 1 else 's'} {what}".rstrip() if count else ""


def _up_to(count: int, longest_ns: int) -> str:
    return f"{'' if count == 1 else 'up to '}{ms(longest_ns)}"


def ms(ns: int) -> str:
    """For people: "2,913 ms", and seconds from ten on."""
    return f"{ns / MS:,.0f} ms" if abs(ns) < 10 * SECOND else seconds(ns)


def seconds(ns: int) -> str:
    return f"{ns / SECOND:,.1f} s"


# ---------------------------------------------------------------- what was borne


@dataclass(slots=True)
class _Columns:
    """Of every call a number, by its place."""

    names: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    phase: dict[str, str] = field(default_factory=dict)

    def add(self, columns: OperationColumns) -> None:
        calls = columns.call.numbered()
        _, first = np.unique(calls.codes, return_index=True)
        for name, row in zip(calls.words, first.tolist(), strict=True):
            if name not in self.places:
                self.places[name] = len(self.names)
                self.names.append(name)
                self.phase[name] = columns.phase[row]

    def most(self, columns: OperationColumns, values: Ints, *, least: int = 0) -> Ints:
        """The largest of the values of each call, at least `least`."""
        found = np.full(len(self.names), least, dtype=np.int64)
        np.maximum.at(found, self._places(columns), values)
        return found

    def count(self, columns: OperationColumns) -> Ints:
        return np.bincount(self._places(columns), minlength=len(self.names)).astype(np.int64)

    def _places(self, columns: OperationColumns) -> Ints:
        place = np.array([self.places.get(word, -1) for word in columns.call.words], dtype=np.int64)
        return np.asarray(place[columns.call.codes], dtype=np.int64)


def borne(run: Run) -> dict[str, Borne]:
    """What each caller of the run had to bear, in the order of the calls; those in progress when it ended among them.

    The same figures as those that are kept with a recording (`keeping`), from the same operations.
    """
    gave_up = ("gave_up_ns",)
    calls = operations_of(run, "call", texts=("why",))
    turns = operations_of(run, "turn", instants=gave_up)
    greetings = operations_of(run, "greeting", instants=gave_up)
    interruptions = operations_of(run, "barge_in", instants=gave_up)
    pauses = operations_of(run, "pause", instants=gave_up)
    holes = operations_of(run, "underrun", instants=gave_up)
    every = (calls, turns, greetings, interruptions, pauses, holes)
    columns = _Columns()
    for kind in every:
        columns.add(kind)
    answered, stopped = turns.taken(turns.ended), interruptions.taken(interruptions.ended)
    cut_into, ungreeted = turns.taken(_early(turns) > 0), columns.count(greetings.taken(~greetings.ended))
    talked_over = interruptions.taken(~interruptions.ended & ~interruptions.outcome.are("not reached"))
    silence = np.maximum(columns.most(turns, _waited(turns)), columns.most(pauses, _waited(pauses)))
    missed = columns.count(turns.taken(~turns.ended)) + ungreeted
    since = -np.max([columns.most(kind, -kind.since_ns, least=-_LAST_INSTANT) for kind in every], axis=0)
    until = np.max([columns.most(kind, _last(kind), least=NEVER) for kind in every], axis=0)
    borne_by = {
        "response_ns": columns.most(answered, _waited(answered)),
        "dead_air_ns": silence,
        "missed": missed,
        "ungreeted": ungreeted > 0,
        "talked_over": columns.count(talked_over),
        "yield_ns": columns.most(stopped, _waited(stopped)),
        "cut_ins": columns.count(cut_into),
        "cut_in_ns": columns.most(cut_into, _early(cut_into)),
        "holes": columns.count(holes),
        "hole_ns": columns.most(holes, _waited(holes)),
    }
    figures = [
        dict(zip(borne_by, row, strict=True)) for row in zip(*(one.tolist() for one in borne_by.values()), strict=True)
    ]
    ends = _ends(calls)
    return {
        name: Borne(
            phase=columns.phase[name],
            since_ns=since_ns,
            until_ns=max(since_ns, until_ns),
            figures=Figures(outcome=ends.get(name, ("ok", ""))[0], why=ends.get(name, ("ok", ""))[1], **own),
        )
        for name, own, since_ns, until_ns in zip(columns.names, figures, since.tolist(), until.tolist(), strict=True)
    }


def _early(turns: OperationColumns) -> Ints:
    """How long before its caller had ended each was answered; 0 if it was not."""
    return np.where(turns.ended, np.maximum(0, turns.due_ns - turns.ended_ns), 0)


def _waited(columns: OperationColumns) -> Ints:
    """How long each lasted from when it was due: until it ended, or until the caller gave it up."""
    until = _until(columns)
    return np.where(until == NEVER, 0, np.maximum(0, until - columns.due_ns))


def _until(columns: OperationColumns) -> Ints:
    given_up = columns.instants.get("gave_up_ns", np.full(len(columns), NEVER, dtype=np.int64))
    return np.where(columns.ended, columns.ended_ns, given_up)


def _last(columns: OperationColumns) -> Ints:
    return np.maximum(columns.since_ns, _until(columns))


def _ends(calls: OperationColumns) -> Mapping[str, Sequence[str]]:
    why = calls.texts["why"]
    return {calls.call[row]: (calls.outcome[row], why[row]) for row in range(len(calls))}
