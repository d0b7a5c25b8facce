"""Calls whose stages are known, with all that the twins saw of them; and the diagnosis of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from busyhour.indicators import response_latency
from busyhour.indicators.stages import Diagnosis, Missed, diagnose
from busyhour.model import Indicator, Operation, Run
from busyhour.testing import call, greeting, transcript, turn, witnessed

USUAL = {"end-pointing": 200, "STT final": 40, "agent": 4, "LLM first token": 150, "LLM first sentence": 60,
         "network": 2, "TTS first audio": 60, "playout": 10}  # fmt: skip
ASKED = ("Is there any parking near the office?", "What does a cleaning cost?", "Are you open on Saturday?")
REPLIES = (
    "There is free parking right behind the building.",
    "A cleaning costs ninety dollars.",
    "On Saturdays we are open from nine to one.",
)


def exchange(
    at_s: float,
    took_ms: Mapping[str, float] = MappingProxyType({}),
    *,
    number: int = 1,
    what: int = 0,
    phase: str = "steady",
    closed: bool = True,
    heard: str = "",
    greeted: bool = False,
    without: Sequence[str] = (),
) -> list[Operation]:
    """A call with one turn, which ends at `at_s`, and all that the twins saw of it; stages as in USUAL, with "_"."""
    took = USUAL | {name: took_ms.get(name.replace(" ", "_").replace("-", "_"), ms) for name, ms in USUAL.items()}
    text, reply = ASKED[what], REPLIES[what]
    instants, at_ms = {}, at_s * 1000
    for name in USUAL:
        at_ms += took[name]
        instants[name] = at_ms / 1000
    latency_ms = at_ms - at_s * 1000
    asked_s, token_s = instants["agent"], instants["LLM first token"]
    rows = {
        "stt": final(text=heard or text, at_s=at_s, ended_s=instants["STT final"], phase=phase, number=number),
        "llm": witnessed(
            "llm", "llm", asked_s, phase=phase, first_ms=took["LLM first token"],
            seconds=instants["LLM first sentence"] - asked_s, prompt=heard or text, reply=reply, tool="",
        ),
        "tts": witnessed(
            "tts", "tts", instants["network"], phase=phase, first_ms=took["TTS first audio"], seconds=2, text=reply,
        ),
    }  # fmt: skip
    if closed:
        final_row = rows["stt"]
        detail = {**final_row.detail, "closed_ns": round(instants["end-pointing"] * 1e9)}
        rows["stt"] = replace(final_row, detail=detail)
    assert token_s > asked_s
    name = f"{phase}/{number}"
    said = turn(latency_ms, call=name, at_s=at_s - 2, seconds=2, text=text)
    begun = [call(number, phase=phase, at_s=at_s - 5, seconds=20), said]
    if greeted:
        begun.append(greeting(80, call=name, at_s=at_s - 5))
        hello = witnessed("tts", "tts", at_s - 4.98, phase=phase, first_ms=55, text="Thank you for calling.")
        begun.append(hello)
    return [*begun, *(row for kind, row in rows.items() if kind not in without)]


def final(*, text: str, at_s: float, ended_s: float | None, phase: str, number: int) -> Operation:
    """Speech that arrives 20 ms after it was sent."""
    row = transcript(f"c{number}", at_s - 1.98, at_s + 0.02, text)
    return replace(
        row, id=f"stt/{phase}/{number}", phase=phase, ended_ns=None if ended_s is None else round(ended_s * 1e9)
    )


T = TypeVar("T")


def flat(lists: Iterable[list[T]]) -> list[T]:
    return [one for some in lists for one in some]


def spread(count: int = 20, slow: int = 2, **slow_ms: float) -> list[Operation]:
    """Calls one after the other, of which the last are slow by that."""
    made = [exchange(10 * n + 10, slow_ms if n >= count - slow else {}, number=n, what=n % 3) for n in range(count)]
    return flat(made)


def diagnosis(run: Run, indicator: Indicator | None = None, q: float = 0.95) -> Diagnosis:
    indicator = indicator or response_latency("steady", q)
    value = indicator(run).value
    assert value is not None
    (found,) = diagnose(run, [Missed("the gate", indicator, value)])
    return found


def shares(found: Diagnosis) -> dict[str, float]:
    return {stage.name: round(stage.ms, 3) for stage in found.stages if stage.ms}
