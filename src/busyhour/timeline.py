"""`busyhour call`: one call to an agent that is already running, and what happened in it, second by second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TextIO

from busyhour.carriers.telnyx import TelnyxStream
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.carriers.wire import plivo, vonage
from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.media.utterances import from_wav, rendered, utterance
from busyhour.model import MS, SECOND, Arrival, Audio, CallSetup, Carrier, Endpoint, Line, Operation
from busyhour.workloads.call import Call, Greeting, Say, Scenario, Step

EXAMPLE = "busyhour call ws://127.0.0.1:8080/media --say hours.today --say goodbye.bye"
CARRIERS: Mapping[str, Callable[[], Carrier]] = {
    "telnyx": TelnyxStream,
    "plain": PlainWebSocket,
    "vonage": lambda: PlainWebSocket(wire=vonage()),
    "plivo": lambda: PlainWebSocket(wire=plivo()),
}
DEFAULT_SAYS = ("hours.today", "smalltalk.thanks", "goodbye.bye")


@dataclass
class _Notes:
    """What one call left: its operations and what the line itself saw."""

    operations: list[Operation] = field(default_factory=list)
    trail: list[tuple[int, str]] = field(default_factory=list)


def call(
    url: str, *, says: Sequence[str], patience_seconds: float, codec: str, out: TextIO, carrier: str = "telnyx"
) -> int:
    """Place one call and print its timeline; 0 if every turn was answered, else 1.

    carrier: one of CARRIERS; those beside Telnyx have a codec of their own.

    Raises PlanError for a wrong URL or utterance, ServiceError when there is no call to be had there.
    """
    if not url.startswith(("ws://", "wss://")):
        raise PlanError(f"{url!r} is no media stream; give the agent's WebSocket, like ws://127.0.0.1:8080/media")
    audios = [_audio(text) for text in says or DEFAULT_SAYS]
    steps: list[Step] = [Greeting(patience_seconds), *(Say(audio, patience_seconds) for audio in audios)]
    notes = asyncio.run(_place(CARRIERS[carrier](), url, Scenario("call", steps), codec))
    placed = next(o for o in notes.operations if o.kind == "call")
    if placed.detail.get("opened_ns") is None:
        raise ServiceError(f"no call: {placed.outcome}: {placed.detail['why']}; is the agent running there?")
    _print(notes, placed, out)
    return 0 if all(o.outcome == "ok" for o in notes.operations if o.kind in {"call", "turn"}) else 1


def _audio(text: str) -> Audio:
    if text.endswith(".wav"):
        path = Path(text)
        return from_wav(path, path.stem)
    return rendered(text) if " " in text else utterance(text)


async def _place(carrier: Carrier, url: str, scenario: Scenario, codec: str) -> _Notes:
    notes, clock = _Notes(), SystemClock()

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


def _print(notes: _Notes, call: Operation, out: TextIO) -> None:
    began_ns = call.began_ns or call.due_ns
    events = [*notes.trail, *(event for operation in notes.operations for event in _events(operation))]
    out.writelines(f"{(at_ns - began_ns) / SECOND:8.3f} s  {words}\n" for at_ns, words in sorted(events))
    turns = [o for o in notes.operations if o.kind == "turn"]
    answered = [o for o in turns if o.ended_ns is not None]
    why = f" ({call.detail['why']})" if call.detail.get("why") else ""
    out.write(f"\ncall: {call.outcome}{why}; {len(answered)} of {len(turns)} turns answered\n")


def _events(operation: Operation) -> list[tuple[int, str]]:
    began_ns, ended_ns = operation.began_ns or operation.due_ns, operation.ended_ns
    took = "" if ended_ns is None else _ms(ended_ns - operation.due_ns)
    match operation.kind, ended_ns:
        case "greeting", None:
            return [(began_ns, f"the agent does not greet ({operation.outcome})")]
        case "greeting", int():
            return [(ended_ns, f"the agent greets, {took} after it took the call")]
        case "turn", _:
            words = f"answers, {took} after the caller's end" if took else f"does not answer ({operation.outcome})"
            asked = (began_ns, f'caller: "{operation.detail["text"]}"')
            return [asked, (ended_ns or operation.due_ns, f"the agent {words}")]
        case "speech", int() if operation.who == "agent":
            return [(ended_ns, f"the agent has spoken for {(ended_ns - began_ns) / SECOND:.1f} s")]
        case (("underrun" | "pause"), int()):
            return [(began_ns, f"a silence of {took} in the agent's speech")]
    return []


def _ms(ns: int) -> str:
    return f"{ns / MS:.0f} ms"
