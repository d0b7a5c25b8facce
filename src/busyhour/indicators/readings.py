"""From the operations of a phase to single readings, each of a call; what never came is among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from busyhour.indicators.transcripts import Heard, matched, word_errors, words
from busyhour.model import MS, SECOND, Operation, Run

MINUTE = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading: a value, or so many events in an exposure; of the call `group`, whose readings may be alike."""

    value: float
    group: str
    exposure: float = 1.0


def _call_of(operation: Operation) -> str:
    return operation.parent or operation.id


def _late_ms(operation: Operation) -> float:
    # An agent that cut in was not late at all.
    return inf if operation.ended_ns is None else max(0, operation.ended_ns - operation.due_ns) / MS


def response_ms(run: Run, phase: str) -> list[Reading]:
    return [Reading(_late_ms(turn), _call_of(turn)) for turn in run.operations("turn", phase)]


def greeting_ms(run: Run, phase: str) -> list[Reading]:
    return [Reading(_late_ms(greeting), _call_of(greeting)) for greeting in run.operations("greeting", phase)]


def yield_ms(run: Run, phase: str) -> list[Reading]:
    return [
        Reading(_late_ms(barge_in), _call_of(barge_in))
        for barge_in in run.operations("barge_in", phase)
        if barge_in.outcome != "not reached"
    ]


@dataclass(frozen=True)
class YieldedWithin:
    within_ms: float

    def __call__(self, run: Run, phase: str) -> list[Reading]:
        return [Reading(reading.value <= self.within_ms, reading.group) for reading in yield_ms(run, phase)]


def dead_air_s(run: Run, phase: str) -> list[Reading]:
    return [Reading(_owed_s(turn), _call_of(turn)) for turn in run.operations("turn", phase)]


def _owed_s(turn: Operation) -> float:
    until_ns = turn.detail.get("gave_up_ns") if turn.ended_ns is None else turn.ended_ns
    return max(0, until_ns - turn.due_ns) / SECOND if isinstance(until_ns, int) else inf


def missed(run: Run, phase: str) -> list[Reading]:
    return [Reading(turn.ended_ns is None, _call_of(turn)) for turn in run.operations("turn", phase)]


def succeeded(run: Run, phase: str) -> list[Reading]:
    """A call that we cut off because the run was stopped says nothing; one that outlived its phase did not succeed."""
    finished = any(mark.name == phase for mark in run.marks("phase.ended"))
    return [
        Reading(call.outcome == "ok", call.id)
        for call in run.operations("call", phase)
        if finished or call.outcome != "cut off"
    ]


def _speech(run: Run, phase: str, who: str) -> list[Operation]:
    return [speech for speech in run.operations("speech", phase) if speech.who == who]


def interruptions(run: Run, phase: str) -> list[Reading]:
    starts: dict[str, list[int]] = defaultdict(list)
    for speech in _speech(run, phase, "agent"):
        starts[_call_of(speech)].append(_began_ns(speech))
    found = []
    for turn in _speech(run, phase, "caller"):
        began, ended = _began_ns(turn), turn.ended_ns
        inside = [at for at in starts[_call_of(turn)] if began <= at and (ended is None or at < ended)]
        found.append(Reading(len(inside), _call_of(turn)))
    return found


def _began_ns(operation: Operation) -> int:
    return operation.due_ns if operation.began_ns is None else operation.began_ns


def gaps(run: Run, phase: str) -> list[Reading]:
    count: dict[str, int] = defaultdict(int)
    for gap in run.operations("underrun", phase):
        count[_call_of(gap)] += 1
    spoken = _spoken_ns(run, phase)
    return [Reading(count.get(call, 0), call, spoken.get(call, 0) / MINUTE) for call in sorted({*count, *spoken})]


def talk_share(run: Run, phase: str) -> list[Reading]:
    spoken = _spoken_ns(run, phase)
    found = []
    for call in run.operations("call", phase):
        opened_ns = call.detail.get("opened_ns")
        if isinstance(opened_ns, int) and call.ended_ns is not None and call.ended_ns > opened_ns:
            found.append(Reading(100 * spoken.get(call.id, 0) / (call.ended_ns - opened_ns), call.id))
    return found


def _spoken_ns(run: Run, phase: str) -> dict[str, int]:
    """How long the agent spoke, by call."""
    spoken: dict[str, int] = defaultdict(int)
    for speech in _speech(run, phase, "agent"):
        spoken[_call_of(speech)] += 0 if speech.ended_ns is None else speech.ended_ns - _began_ns(speech)
    return spoken


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


def _said(run: Run, phase: str | None) -> dict[str, list[Heard]]:
    """Call -> what its caller said. A turn is due when its speech has ended; an interruption, when it begins."""
    ends = {(_call_of(s), _began_ns(s)): s.ended_ns for s in run.operations("speech", phase) if s.who == "caller"}
    calls: dict[str, list[Heard]] = defaultdict(list)
    for said in (*run.operations("turn", phase), *run.operations("barge_in", phase)):
        began_ns, call = _began_ns(said), _call_of(said)
        ended_ns = said.due_ns if said.kind == "turn" else ends.get((call, began_ns)) or began_ns
        calls[call].append(Heard(began_ns, ended_ns, str(said.detail.get("text", ""))))
    return calls
