"""From the operations of a phase to single readings, each of a call; what never came is among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import overload

import numpy as np

from busyhour.columns import NEVER, Floats, OperationColumns, Words, operations_of
from busyhour.indicators.transcripts import Heard, matched, word_errors, words
from busyhour.model import MS, SECOND, Operation, Run
from busyhour.statistics.clusters import Groups

MINUTE = 60 * SECOND
REASONS_TOLD = 3
FEW_FRAMES_NS = 100 * MS


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: a value, or so many events in an exposure; of the call `group`, whose readings may be alike."""

    value: float
    group: str
    exposure: float = 1.0


@dataclass(frozen=True, eq=False, slots=True)
class Readings(Sequence[Reading]):
    """Many readings as columns: a Sequence of `Reading` that has none of them."""

    value: Floats
    group: Words
    exposure: Floats | None = None  # 1 each

    def __len__(self) -> int:
        return len(self.value)

    @property
    def groups(self) -> Groups:
        """The calls as numbers from 0, in the order in which they first come."""
        return self.group.numbered().codes.astype(np.intp)

    @overload
    def __getitem__(self, index: int) -> Reading: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Reading]: ...
    def __getitem__(self, index: int | slice) -> Reading | Sequence[Reading]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        exposure = 1.0 if self.exposure is None else float(self.exposure[index])
        return Reading(float(self.value[index]), self.group[index], exposure)

    def __iter__(self) -> Iterator[Reading]:
        return (self[i] for i in range(len(self)))


def columns_of(readings: Sequence[Reading]) -> Readings:
    """Readings that are there already, as columns."""
    if isinstance(readings, Readings):
        return readings
    return Readings(
        np.array([reading.value for reading in readings], dtype=np.float64),
        Words.of(reading.group for reading in readings),
        np.array([reading.exposure for reading in readings], dtype=np.float64),
    )


def joined(parts: Sequence[Sequence[Reading]]) -> Sequence[Reading]:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    many = [columns_of(part) for part in parts]
    groups = [part.group.numbered() for part in many]
    known: dict[str, int] = {}
    places = [np.array([known.setdefault(word, len(known)) for word in own.words], dtype=np.int32) for own in groups]
    codes = [place[own.codes] for place, own in zip(places, groups, strict=True)]
    exposures = [np.ones(len(one)) if one.exposure is None else one.exposure for one in many]
    return Readings(
        np.concatenate([np.empty(0), *(one.value for one in many)]),
        Words(np.concatenate([np.empty(0, dtype=np.int32), *codes]), list(known)),
        np.concatenate([np.empty(0), *exposures]),
    )


# ---------------------------------------------------------------- how late


def _late_ms(operations: OperationColumns) -> Floats:
    # An agent that cut in was not late at all.
    return np.where(operations.ended, np.maximum(0, operations.ended_ns - operations.due_ns) / MS, inf)


def response_ms(run: Run, phase: str) -> Readings:
    turns = operations_of(run, "turn", phase)
    return Readings(_late_ms(turns), turns.call)


def setup_ms(run: Run, phase: str) -> Readings:
    """From when the call was due until the agent took it; a call that it never took is infinitely late."""
    calls = operations_of(run, "call", phase, instants=("answered_ns",))
    answered_ns = calls.instants["answered_ns"]
    taken = (answered_ns != NEVER) & (answered_ns != 0)
    return Readings(np.where(taken, (answered_ns - calls.due_ns) / MS, inf), calls.call)


def greeting_ms(run: Run, phase: str) -> Readings:
    greetings = operations_of(run, "greeting", phase)
    return Readings(_late_ms(greetings), greetings.call)


def yield_ms(run: Run, phase: str) -> Readings:
    barge_ins = operations_of(run, "barge_in", phase)
    reached = barge_ins.taken(~barge_ins.outcome.are("not reached"))
    return Readings(_late_ms(reached), reached.call)


@dataclass(frozen=True)
class YieldedWithin:
    within_ms: float

    def __call__(self, run: Run, phase: str) -> Readings:
        found = yield_ms(run, phase)
        return Readings((found.value <= self.within_ms).astype(np.float64), found.group)


def dead_air_s(run: Run, phase: str) -> Readings:
    """The longest silence that the agent owed in each turn: before its answer, or within it."""
    turns = _given_up(run, "turn", phase)
    calls = turns.call.numbered()
    order = np.argsort(calls.codes, kind="stable")  # call by call, as they first come; in each by when it was due
    turns, codes = turns.taken(order), calls.codes[order]
    owed = _owed_s(turns)
    pauses = _given_up(run, "pause", phase)
    first, beyond = (np.searchsorted(codes, np.arange(len(calls.words)), side=side) for side in ("left", "right"))
    places = {word: code for code, word in enumerate(calls.words)}
    of_pauses = _owed_s(pauses)
    for i in range(len(pauses)):
        if (code := places.get(pauses.call[i])) is not None:
            its = turns.due_ns[first[code] : beyond[code]]
            within = int(np.searchsorted(its, pauses.due_ns[i], side="right")) - 1
            if within >= 0:
                owed[first[code] + within] = max(owed[first[code] + within], of_pauses[i])
    return Readings(owed, Words(codes, calls.words))


def _given_up(run: Run, kind: str, phase: str) -> OperationColumns:
    """With when the caller gave up, where there is any need to know."""
    silent = operations_of(run, kind, phase)
    return silent if silent.ended.all() else operations_of(run, kind, phase, instants=("gave_up_ns",))


def _owed_s(silent: OperationColumns) -> Floats:
    until_ns = np.where(silent.ended, silent.ended_ns, silent.instants.get("gave_up_ns", NEVER))
    return np.where(until_ns == NEVER, inf, np.maximum(0, until_ns - silent.due_ns) / SECOND)


# ---------------------------------------------------------------- whether at all


def missed(run: Run, phase: str) -> Readings:
    turns = operations_of(run, "turn", phase)
    return Readings((~turns.ended).astype(np.float64), turns.call)


def succeeded(run: Run, phase: str) -> Readings:
    """A call that we cut off because the run was stopped says nothing; one that outlived its phase did not succeed."""
    calls = _concluded(run, phase)
    return Readings(calls.outcome.are("ok").astype(np.float64), calls.call)


def transferred(run: Run, phase: str) -> Readings:
    calls = _concluded(run, phase, "why")
    return Readings(calls.texts["why"].are("transferred").astype(np.float64), calls.call)


def _concluded(run: Run, phase: str, *texts: str) -> OperationColumns:
    calls = operations_of(run, "call", phase, texts=texts)
    finished = any(mark.name == phase for mark in run.marks("phase.ended"))
    return calls if finished else calls.taken(~calls.outcome.are("cut off"))


def why_failed(run: Run, phase: str) -> str:
    """The commonest reasons of the calls that failed, each with the first call of it and what was seen there."""
    calls = _concluded(run, phase, "why")
    failed = calls.taken(~calls.outcome.are("ok"))
    reasons = failed.outcome.counts()
    told = []
    for reason, count in reasons[:REASONS_TOLD]:
        first = failed.outcome.first(reason)
        why = failed.texts["why"][first].removeprefix(f"{reason}: ")
        told.append(f"{count} {reason} ({failed.call[first]}{f': {why}' if why else ''})")
    others = sum(count for _, count in reasons[REASONS_TOLD:])
    return ", ".join([*told, *([f"{others} for other reasons"] if others else [])])


def no_frame_due(run: Run) -> str:
    """Says so if there were calls, but none with media for long enough that a frame had to be sent; else ""."""
    calls = operations_of(run, "call", instants=("opened_ns",))
    opened_ns = calls.instants["opened_ns"]
    media_ns = np.where(
        calls.ended, calls.ended_ns - np.where(opened_ns == NEVER, 0, opened_ns), np.iinfo(np.int64).max
    )
    if not len(calls) or np.any((opened_ns != NEVER) & (media_ns > FEW_FRAMES_NS)):
        return ""
    return f"no call had media for longer than {FEW_FRAMES_NS // MS} ms, so no frame was due"


# ---------------------------------------------------------------- who spoke when


def _speech(run: Run, phase: str, who: str) -> OperationColumns:
    speech = operations_of(run, "speech", phase)
    return speech.taken(speech.who.are(who))


def interruptions(run: Run, phase: str) -> Readings:
    """How often the agent began to speak during each of the caller's stretches of speech."""
    starts, turns = _speech(run, phase, "agent"), _speech(run, phase, "caller")
    # Among starts in order of call and time, those of a stretch lie between its own ends; instants are told by their
    # rank, so that both fit into one number.
    starts_ns = np.unique(starts.since_ns)
    most = len(starts_ns) + 1
    places = {word: code for code, word in enumerate(starts.call.words)}
    codes = np.array([places.get(word, len(places)) for word in turns.call.words], dtype=np.int64)
    own = codes[turns.call.codes] * most if len(turns) else np.empty(0, dtype=np.int64)
    keys = np.sort(starts.call.codes.astype(np.int64) * most + np.searchsorted(starts_ns, starts.since_ns))
    until_ns = np.where(turns.ended, turns.ended_ns, np.iinfo(np.int64).max)
    before, within = (
        np.searchsorted(keys, own + np.searchsorted(starts_ns, at_ns)) for at_ns in (turns.since_ns, until_ns)
    )
    return Readings(np.maximum(0, within - before).astype(np.float64), turns.call)


def gaps(run: Run, phase: str) -> Readings:
    found = operations_of(run, "underrun", phase).call
    count: dict[str, int] = dict(found.counts())
    spoken = _spoken_ns(run, phase)
    calls = sorted({*count, *spoken})
    return Readings(
        np.array([count.get(call, 0) for call in calls], dtype=np.float64),
        Words(np.arange(len(calls), dtype=np.int32), calls),
        np.array([spoken.get(call, 0) / MINUTE for call in calls], dtype=np.float64),
    )


def talk_share(run: Run, phase: str) -> Readings:
    spoken = _spoken_ns(run, phase)
    calls = operations_of(run, "call", phase, instants=("opened_ns",))
    opened_ns = calls.instants["opened_ns"]
    calls = calls.taken((opened_ns != NEVER) & calls.ended & (calls.ended_ns > opened_ns))
    talked_ns = np.array([spoken.get(calls.call[i], 0) for i in range(len(calls))], dtype=np.int64)
    return Readings(100 * talked_ns / (calls.ended_ns - calls.instants["opened_ns"]), calls.call)


def _spoken_ns(run: Run, phase: str) -> dict[str, int]:
    """How long the agent spoke, by call."""
    speech = _speech(run, phase, "agent")
    calls = speech.call.numbered()
    spoken = np.zeros(len(calls.words), dtype=np.int64)
    np.add.at(spoken, calls.codes, np.where(speech.ended, speech.ended_ns - speech.since_ns, 0))
    return dict(zip(calls.words, spoken.tolist(), strict=True))


# ---------------------------------------------------------------- what was understood


def misheard(run: Run, phase: str) -> list[Reading]:
    understood = _understood(run)
    if not understood:
        return []  # nothing transcribed in the whole run: there is no ear to speak of
    said = _said(run, None)
    by_call: dict[str, list[Heard]] = defaultdict(list)
    for connection, call in matched(said, understood).items():
        by_call[call] += understood[connection]
    found = []
    for call, utterances in _said(run, phase).items():
        reference = _words(utterances)
        found.append(Reading(word_errors(reference, _words(by_call[call])), call, len(reference)))
    return found


def _words(heard: Sequence[Heard]) -> list[str]:
    return [word for part in sorted(heard, key=lambda h: h.began_ns) for word in words(part.text)]


def _understood(run: Run) -> dict[str, list[Heard]]:
    connections: dict[str, list[Heard]] = defaultdict(list)
    for final in run.operations("stt"):
        transcript, connection = final.detail.get("transcript", ""), final.detail.get("connection", "")
        heard = Heard(_began_ns(final), max(final.due_ns, _began_ns(final)), str(transcript))
        connections[str(connection)].append(heard)
    return connections


def _call_of(operation: Operation) -> str:
    return operation.parent or operation.id


def _began_ns(operation: Operation) -> int:
    return operation.due_ns if operation.began_ns is None else operation.began_ns


def _said(run: Run, phase: str | None) -> dict[str, list[Heard]]:
    """Call -> what its caller said, each utterance once.

    A turn is due when its speech has ended; an interruption, when it begins. One that was heard is a turn too.
    """
    ends = {(_call_of(s), _began_ns(s)): s.ended_ns for s in run.operations("speech", phase) if s.who == "caller"}
    calls: dict[str, dict[int, Heard]] = defaultdict(dict)
    for said in (*run.operations("barge_in", phase), *run.operations("turn", phase)):
        began_ns, call = _began_ns(said), _call_of(said)
        ended_ns = said.due_ns if said.kind == "turn" else ends.get((call, began_ns)) or began_ns
        calls[call][began_ns] = Heard(began_ns, ended_ns, str(said.detail.get("text", "")))
    return {call: list(utterances.values()) for call, utterances in calls.items()}
