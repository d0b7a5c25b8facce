"""From the operations of a phase to single readings, each of a call; what never came is among them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import inf

from busyhour.indicators.transcripts import Heard, matched, word_errors, words
from busyhour.model import MS, SECOND, Operation, Run

MINUTE = 60 * SECOND
REASONS_TOLD = 3
FEW_FRAMES_NS = 100 * MS


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


def setup_ms(run: Run, phase: str) -> list[Reading]:
    """From when the call was due until the agent took it; a call that it never took is infinitely late."""
    found = []
    for call in run.operations("call", phase):
        answered_ns = call.detail.get("answered_ns")
        late = (answered_ns - call.due_ns) / MS if isinstance(answered_ns, int) and answered_ns else inf
        found.append(Reading(late, call.id))
    return found


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
    """The longest silence that the agent owed in each turn: before its answer, or within it."""
    pauses: dict[str, list[Operation]] = defaultdict(list)
    for pause in run.operations("pause", phase):
        pauses[_call_of(pause)].append(pause)
    turns: dict[str, list[Operation]] = defaultdict(list)
    for turn in run.operations("turn", phase):
        turns[_call_of(turn)].append(turn)
    found = []
    for call, its_turns in turns.items():
        for turn, following in zip_longest(its_turns, its_turns[1:]):
            until_ns = inf if following is None else following.due_ns
            within = [pause for pause in pauses[call] if turn.due_ns <= pause.due_ns < until_ns]
            found.append(Reading(max([_owed_s(turn), *map(_owed_s, within)]), call))
    return found


def _owed_s(turn: Operation) -> float:
    until_ns = turn.detail.get("gave_up_ns") if turn.ended_ns is None else turn.ended_ns
    return max(0, until_ns - turn.due_ns) / SECOND if isinstance(until_ns, int) else inf


def missed(run: Run, phase: str) -> list[Reading]:
    return [Reading(turn.ended_ns is None, _call_of(turn)) for turn in run.operations("turn", phase)]


def succeeded(run: Run, phase: str) -> list[Reading]:
    """A call that we cut off because the run was stopped says nothing; one that outlived its phase did not succeed."""
    return [Reading(call.outcome == "ok", call.id) for call in _concluded(run, phase)]


def transferred(run: Run, phase: str) -> list[Reading]:
    return [Reading(call.detail.get("why") == "transferred", call.id) for call in _concluded(run, phase)]


def _concluded(run: Run, phase: str) -> list[Operation]:
    finished = any(mark.name == phase for mark in run.marks("phase.ended"))
    return [call for call in run.operations("call", phase) if finished or call.outcome != "cut off"]


def why_failed(run: Run, phase: str) -> str:
    """The commonest reasons of the calls that failed, each with the first call of it and what was seen there."""
    failed = [call for call in _concluded(run, phase) if call.outcome != "ok"]
    reasons = Counter(call.outcome for call in failed).most_common()
    told = []
    for reason, count in reasons[:REASONS_TOLD]:
        first = next(call for call in failed if call.outcome == reason)
        why = str(first.detail.get("why") or "").removeprefix(f"{reason}: ")
        told.append(f"{count} {reason} ({first.id}{f': {why}' if why else ''})")
    others = sum(count for _, count in reasons[REASONS_TOLD:])
    return ", ".join([*told, *([f"{others} for other reasons"] if others else [])])


def no_frame_due(run: Run) -> str:
    """Says so if there were calls, but none with media for long enough that a frame had to be sent; else ""."""
    calls = run.operations("call")
    if not calls or any(_media_ns(call) > FEW_FRAMES_NS for call in calls):
        return ""
    return f"no call had media for longer than {FEW_FRAMES_NS // MS} ms, so no frame was due"


def _media_ns(call: Operation) -> float:
    opened_ns = call.detail.get("opened_ns")
    if not isinstance(opened_ns, int):
        return 0
    return inf if call.ended_ns is None else call.ended_ns - opened_ns


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
