"""`busyhour call`: one call to an agent that is already running, and what happened in it, second by second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TextIO

from busyhour.carriers.telnyx import TelnyxStream
from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.media.utterances import from_wav, rendered, utterances
from busyhour.model import MS, SECOND, Arrival, Audio, CallSetup, Endpoint, Line, Operation
from busyhour.workloads.call import Call, Greeting, Say, Scenario, Step

EXAMPLE = "busyhour call ws://127.0.0.1:8080/media --say hours.today --say goodbye.bye"
DEFAULT_SAYS = ("hours.today", "smalltalk.thanks", "goodbye.bye")


@dataclass
class _Notes:
    """What one call left: its operations and what the line itself saw."""

    operations: list[Operation] = field(default_factory=list)
    trail: list[tuple[int, str]] = field(default_factory=list)


def call(url: str, *, says: Sequence[str], patience_seconds: float, codec: str, out: TextIO) -> int:
    """Place one call and print its timeline; 0 if every turn was answered, else 1. Raises PlanError, ServiceError."""
    if not url.startswith(("ws://", "wss://")):
        raise PlanError(f"{url!r} is no media stream; give the agent's WebSocket, like ws://127.0.0.1:8080/media")
    audios = [_audio(text) for text in says or DEFAULT_SAYS]
    steps: list[Step] = [Greeting(patience_seconds), *(Say(audio, patience_seconds) for audio in audios)]
    notes = asyncio.run(_place(url, Scenario("call", steps), codec))
    _print(notes, out)
    return 0 if all(o.outcome == "ok" for o in notes.operations if o.kind in {"call", "turn"}) else 1


def _audio(text: str) -> Audio:
    if text in utterances():
        return utterances()[text]
    if text.endswith(".wav"):
        path = Path(text)
        return from_wav(path, path.stem)
    return rendered(text)


async def _place(url: str, scenario: Scenario, codec: str) -> _Notes:
    notes, clock, carrier = _Notes(), SystemClock(), TelnyxStream()

    @asynccontextmanager
    async def dial(setup: CallSetup) -> AsyncIterator[Line]:
        async with carrier.dial(Endpoint(url), setup) as line:
            try:
                yield line
            finally:
                notes.trail.extend(line.trail)

    async with carrier.running({}):
        arrival = Arrival(
            id="call/1",
            phase="call",
            due_ns=clock.now_ns(),
            clock=clock,
            random=Random(0),
            dial=dial,
            record=notes.operations.append,
        )
        await Call([scenario], CallSetup(id="call/1", codec=codec)).perform(arrival)
    return notes


def _print(notes: _Notes, out: TextIO) -> None:
    call = next(o for o in notes.operations if o.kind == "call")
    began_ns = call.began_ns or call.due_ns
    events = [*notes.trail, *(event for operation in notes.operations for event in _events(operation))]
    out.writelines(f"{(at_ns - began_ns) / SECOND:8.3f} s  {words}\n" for at_ns, words in sorted(events))
    turns = [o for o in notes.operations if o.kind == "turn"]
    answered = [o for o in turns if o.ended_ns is not None]
    why = f" ({call.detail['why']})" if call.detail.get("why") else ""
    out.write(f"\ncall: {call.outcome}{why}; {len(answered)} of {len(turns)} turns answered\n")


def _events(operation: Operation) -> list[tuple[int, str]]:
    began_ns, ended_ns = operation.began_ns, operation.ended_ns
    if operation.kind == "greeting":
        words = "no greeting" if ended_ns is None else f"the agent greets, {_ms(ended_ns - operation.due_ns)} after"
        return [(ended_ns or operation.due_ns, words + " the line was open")]
    if operation.kind == "turn":
        asked = (began_ns or operation.due_ns, f'caller: "{operation.detail["text"]}"')
        if ended_ns is None:
            return [asked, (operation.due_ns, f"the agent does not answer ({operation.outcome})")]
        return [asked, (ended_ns, f"the agent answers, {_ms(ended_ns - operation.due_ns)} after the caller's end")]
    if operation.kind == "speech" and operation.who == "agent" and ended_ns is not None and began_ns is not None:
        return [(ended_ns, f"the agent has spoken for {(ended_ns - began_ns) / SECOND:.1f} s")]
    if operation.kind == "underrun" and ended_ns is not None and began_ns is not None:
        return [(began_ns, f"a gap of {_ms(ended_ns - began_ns)} in the agent's speech")]
    return []


def _ms(ns: int) -> str:
    return f"{ns / MS:.0f} ms"
