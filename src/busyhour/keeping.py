"""Which calls are recorded, and whose recordings stay: a sample of each phase, and its worst calls.

What is recorded is decided when a call begins, what is kept when it is over, by what the caller had to bear in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

from busyhour.model import JSON, SECOND, Operation, Plan
from busyhour.recording import Figures, Recorded, Recording, Shelf, Sound, worst
from busyhour.share import WHOLE, Share


@dataclass(slots=True)
class _Call:
    """One that is being recorded."""

    arrival: str
    phase: str
    figures: Figures = field(default_factory=Figures)
    sound: Sound | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    figures: Figures
    draw: float  # those with the smallest are the sample
    bytes: int


@dataclass(slots=True)
class _Phase:
    bytes_max: int
    recorded: int = 0
    kept: int = 0
    bytes: int = 0
    left_out: int = 0  # for want of room
    calls: dict[str, _Kept] = field(default_factory=dict)  # what is kept, unless that is every call


class Keeper:
    """Of one run, or of one process's share of it. `phases`: how many there are; `shelf`: where recordings go."""

    def __init__(self, recording: Recording, *, seed: int, phases: int, shelf: Shelf, share: Share = WHOLE) -> None:
        self._recording, self._seed, self._shelf = recording, seed, shelf
        self._at_once = max(1, share.part(recording.at_once))
        self._bytes_left = recording.bytes_max // share.of
        self._phases_left = phases
        self._name = ""
        self._phase = _Phase(0)
        self._open: dict[str, _Call] = {}

    def enter(self, phase: str) -> None:
        """The phase begins: it may have its part of the room that is left."""
        self._bytes_left -= self._phase.bytes
        self._name, self._phase = phase, _Phase(self._bytes_left // max(1, self._phases_left))
        self._phases_left -= 1

    def begin(self, call: str, arrival: str) -> int:
        """How much of this call the line is to keep, in ns; 0: it is not recorded."""
        recording = self._recording
        if call in self._open or (len(self._open) >= self._at_once and not recording.all):
            return 0
        self._open[call] = _Call(arrival, self._name)
        return round(recording.seconds_max * SECOND)

    def heard(self, call: str, sound: Sound | None) -> None:
        """The call is over, and this is how it sounded. Too late once its arrival is settled."""
        if call in self._open:
            self._open[call].sound = sound

    def note(self, operation: Operation) -> None:
        """Whatever is written down of any call."""
        call = self._open.get(operation.parent or operation.id)
        if call is not None:
            call.figures = _borne(call.figures, operation)

    def settle(self, arrival: str) -> None:
        """Everything of this arrival has been written down: decide what is kept of it."""
        for name in [name for name, call in self._open.items() if call.arrival == arrival]:
            call = self._open.pop(name)
            if call.sound is not None and call.phase == self._name:
                self._decide(name, call.figures, call.sound)

    def told(self) -> Mapping[str, JSON]:
        """Of the phase, for its mark; empty if nothing was recorded."""
        phase = self._phase
        if not phase.recorded:
            return {}
        return {
            "recorded": phase.recorded,
            "kept": phase.kept,
            "left_out": phase.left_out,
            "bytes": phase.bytes,
            "bytes_max": phase.bytes_max,
            "worst": self._recording.worst,
            "all": self._recording.all,
        }

    def _decide(self, name: str, figures: Figures, sound: Sound) -> None:
        phase = self._phase
        phase.recorded += 1
        if self._recording.all:
            wanted = phase.bytes + sound.bytes <= phase.bytes_max
            phase.left_out += not wanted
            phase.kept, phase.bytes = phase.kept + wanted, phase.bytes + wanted * sound.bytes
        else:
            draw = Random(f"{self._seed}/recording/{name}").random()
            self._choose(phase.calls | {name: _Kept(figures, draw, sound.bytes)})
            wanted = name in phase.calls
        if wanted:
            self._shelf.keep(_recorded(name, phase=self._name, figures=figures, sound=sound), sound)

    def _choose(self, calls: Mapping[str, _Kept]) -> None:
        """Which of the calls are kept from now on."""
        phase, recording = self._phase, self._recording
        bad = worst({name: call.figures for name, call in calls.items()}, recording.worst)
        drawn = sorted(calls, key=lambda name: calls[name].draw)[: recording.sample]
        chosen: dict[str, _Kept] = {}
        room = phase.bytes_max
        for name in dict.fromkeys([*bad, *drawn]):  # the most wanted first
            room -= calls[name].bytes
            if room < 0:
                phase.left_out += 1
                break
            chosen[name] = calls[name]
        if discarded := sorted(phase.calls.keys() - chosen):
            self._shelf.discard(discarded)
        phase.calls, phase.kept = chosen, len(chosen)
        phase.bytes = sum(call.bytes for call in chosen.values())


def keeper(plan: Plan, notebook: object, *, seed: int, share: Share = WHOLE) -> Keeper | None:
    """That of a run of the plan; None if it has no calls, records nothing, or the notebook keeps no sound."""
    if not plan.recording.on or plan.carrier is None or not isinstance(notebook, Shelf):
        return None
    return Keeper(plan.recording, seed=seed, phases=len(plan.phases), shelf=notebook, share=share)


def _borne(figures: Figures, operation: Operation) -> Figures:
    """The figures with what this operation adds to them."""
    ended_ns, gave_up_ns = operation.ended_ns, operation.detail.get("gave_up_ns")
    until_ns = ended_ns if ended_ns is not None else gave_up_ns
    waited_ns = max(0, until_ns - operation.due_ns) if isinstance(until_ns, int) else 0
    dead_air_ns = max(figures.dead_air_ns, waited_ns)
    match operation.kind, ended_ns:
        case "call", _:
            figures = replace(figures, outcome=operation.outcome, why=str(operation.detail.get("why") or ""))
        case "turn", int():
            figures = replace(figures, response_ns=max(figures.response_ns, waited_ns), dead_air_ns=dead_air_ns)
            early_ns = max(0, operation.due_ns - ended_ns)
            cut_ins = figures.cut_ins + (early_ns > 0)
            figures = replace(figures, cut_ins=cut_ins, cut_in_ns=max(figures.cut_in_ns, early_ns))
        case "turn", None:
            figures = replace(figures, missed=figures.missed + 1, dead_air_ns=dead_air_ns)
        case "greeting", None:
            figures = replace(figures, missed=figures.missed + 1, ungreeted=True)
        case "pause", _:
            figures = replace(figures, dead_air_ns=dead_air_ns)
        case "underrun", _:
            figures = replace(figures, holes=figures.holes + 1, hole_ns=max(figures.hole_ns, waited_ns))
        case "barge_in", int():
            figures = replace(figures, yield_ns=max(figures.yield_ns, waited_ns))
        case "barge_in", None if operation.outcome != "not reached":
            figures = replace(figures, talked_over=figures.talked_over + 1)
    return figures


def _recorded(call: str, *, phase: str, figures: Figures, sound: Sound) -> Recorded:
    return Recorded(
        call=call,
        phase=phase,
        began_ns=sound.began_ns,
        ended_ns=sound.ended_ns,
        codec=sound.codec,
        rate_hz=sound.rate_hz,
        bytes=sound.bytes,
        cut=sound.cut,
        clears_ns=sound.clears_ns,
        marks=sound.marks,
        figures=figures,
    )
