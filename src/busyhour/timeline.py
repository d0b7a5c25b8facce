"""`busyhour call`: one call to an agent that is already running, and what happened in it, second by second."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TextIO
from urllib.parse import urlsplit

from busyhour.carriers.telnyx import TelnyxStream
from busyhour.carriers.twilio import TwilioStream
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
    "twilio": TwilioStream,
    "plain": PlainWebSocket,
    "vonage": lambda: PlainWebSocket(wire=vonage()),
    "plivo": lambda: PlainWebSocket(wire=plivo()),
}
PATIENCE_SECONDS_MAX = 600.0
_DIALLED = re.compile(r"(?P<url>wss?://\S+): (?P<said>.*)")  # in the reason of a call that was refused
_ANSWERED = re.compile(r"received (?P<status>[1-5]\d\d)$")
_UNWELCOME = ("401", "403")
_IN_JSON = "takes JSON in text frames"  # a JSON carrier, of a binary frame
DEFAULT_SAYS = ("hours.today", "smalltalk.thanks", "goodbye.bye")


@dataclass
class Notes:
    """What one call left: its operations and what the line itself saw."""

    operations: list[Operation] = field(default_factory=list)
    trail: list[tuple[int, str]] = field(default_factory=list)

    @property
    def call(self) -> Operation:
        return next(operation for operation in self.operations if operation.kind == "call")


def call(
    url: str, *, says: Sequence[str], patience_seconds: float, codec: str, out: TextIO, carrier: str = "telnyx"
) -> int:
    """Place one call and print its timeline; 0 if every turn was answered, else 1.

    carrier: one of CARRIERS; those beside Telnyx have a codec of their own.

    Raises PlanError for a wrong URL or utterance, ServiceError when there is no call to be had there.
    """
    address, audios = media_url(url), [spoken(text) for text in says or DEFAULT_SAYS]
    notes = asyncio.run(_called(carrier_named(carrier), address, conversation(audios, patience_seconds), codec))
    if notes.call.detail.get("opened_ns") is None:
        raise ServiceError(f"no call: {unreached(notes.call, plain='--carrier plain')}")
    write(notes, out)
    if hint := other_frames(notes.call, plain="--carrier plain"):
        out.write(f"{hint}\n")
    return 0 if all(o.outcome == "ok" for o in notes.operations if o.kind in {"call", "turn"}) else 1


def unreached(call: Operation, *, plain: str, correct: str = "correct the path") -> str:
    """Why there was no call to be had, and what to do about it. plain: how the plain carrier is asked for;
    correct: what to do where the agent has no WebSocket at the path."""
    why = f"{call.outcome}: {call.detail['why']}"
    if hint := other_frames(call, plain=plain):
        return f"{why}; {hint}"
    dialled = _DIALLED.search(why)
    if dialled is None:
        return f"{why}; is the agent running there?"
    parts, said = urlsplit(dialled["url"]), dialled["said"]
    if f"[Errno {errno.ECONNREFUSED}]" in said:
        return f"nobody listens at {parts.netloc}; start the agent, or correct the port"
    answered = _ANSWERED.search(said)
    if answered is None:
        return f"{why}; is the agent running there?"
    if answered["status"] in _UNWELCOME:
        correct += ", or give what the agent demands of who connects"
    elif answered["status"].startswith("5"):
        correct = "what the agent prints should say why"
    there = f"something answers at {parts.netloc}, but takes no WebSocket at {parts.path or '/'}"
    return f"{there} (it answers {answered['status']}); {correct}"


def other_frames(call: Operation, *, plain: str) -> str:
    """What to try where the agent's frames are those of no telephone company; "" where they are not."""
    return f"does the agent take the bare audio? Then it is {plain}" if _IN_JSON in str(call.detail["why"]) else ""


def media_url(url: str) -> str:
    """The URL of an agent's media socket. Raises PlanError for another."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # no port, no IPv6 address
        sound = False
    if not sound:
        raise PlanError(f"{url!r} is no media stream; give the agent's WebSocket, like ws://127.0.0.1:8080/media")
    return url


def carrier_named(name: str) -> Carrier:
    """One of CARRIERS. Raises PlanError for another."""
    if name not in CARRIERS:
        raise PlanError(f"there is no carrier {name!r}; those that need nothing but a URL are {', '.join(CARRIERS)}")
    return CARRIERS[name]()


def spoken(text: str) -> Audio:
    """An utterance by its name, a WAV file by its path, or else a text, spoken. Raises PlanError, ServiceError."""
    if not text.strip():
        raise PlanError("there is nothing to say; give an utterance like hours.today, a text, or a WAV file")
    if text.endswith(".wav"):
        path = Path(text)
        return from_wav(path, path.stem)
    return rendered(text) if " " in text else utterance(text)


def conversation(says: Sequence[Audio], patience_seconds: float) -> Scenario:
    """Hear the greeting out, then say these one after the other. Raises PlanError for a patience that is none."""
    if not 0 < patience_seconds <= PATIENCE_SECONDS_MAX:
        words = f"a patience of {patience_seconds:g} s: give more than 0 s, and at most {PATIENCE_SECONDS_MAX:g} s"
        raise PlanError(words)
    steps: list[Step] = [Greeting(patience_seconds), *(Say(audio, patience_seconds) for audio in says)]
    return Scenario("call", steps)


async def place(carrier: Carrier, address: str, scenario: Scenario, codec: str) -> Notes:
    """One call to a target by a carrier that is running. A call that fails is noted, not raised."""
    notes, clock = Notes(), SystemClock()

    @asynccontextmanager
    async def dial(setup: CallSetup) -> AsyncIterator[Line]:
        async with carrier.dial(Endpoint(address), setup) as line:
            try:
                yield line
            finally:
                notes.trail.extend(line.trail)

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


async def _called(carrier: Carrier, address: str, scenario: Scenario, codec: str) -> Notes:
    async with carrier.running({}):
        return await place(carrier, address, scenario, codec)


def write(notes: Notes, out: TextIO) -> None:
    """A line for each thing that happened, in seconds since the call began, and one that sums it up."""
    call = notes.call
    began_ns = call.began_ns or call.due_ns
    said = str(call.detail.get("why") or "").removeprefix(f"{call.outcome}: ")
    events = [
        *_said_once(notes.trail, said),
        *(event for operation in notes.operations for event in _events(operation)),
    ]
    events.sort(key=lambda event: event[0])  # what the line saw comes before what follows from it
    out.writelines(f"{(at_ns - began_ns) / SECOND:8.3f} s  {words}\n" for at_ns, words in events)
    turns = [o for o in notes.operations if o.kind == "turn"]
    answered = [o for o in turns if o.ended_ns is not None]
    why = f" ({said})" if said else ""
    out.write(f"\ncall: {call.outcome}{why}; {len(answered)} of {len(turns)} turns answered\n")


def _said_once(trail: Sequence[tuple[int, str]], why: str) -> list[tuple[int, str]]:
    """What the line saw; the reason of the call's end, which several of its lines may give, in the first of them."""
    ends = [number for number, (_, words) in enumerate(trail) if why and words.endswith(f": {why}")]
    return [
        (at_ns, words.removesuffix(f": {why}") if number in ends[1:] else words)
        for number, (at_ns, words) in enumerate(trail)
    ]


def _events(operation: Operation) -> list[tuple[int, str]]:
    began_ns, ended_ns = operation.began_ns or operation.due_ns, operation.ended_ns
    took = "" if ended_ns is None else _ms(ended_ns - operation.due_ns)
    match operation.kind, ended_ns:
        case "greeting", None:
            gave_up_ns = operation.detail.get("gave_up_ns")
            at_ns = gave_up_ns if isinstance(gave_up_ns, int) else began_ns
            return [(at_ns, f"the agent does not greet ({operation.outcome})")]
        case "greeting", int():
            return [(ended_ns, f"the agent greets, {took} after it took the call")]
        case "turn", _:
            words = f"does not answer ({operation.outcome})"
            if ended_ns is not None:
                late_ns = ended_ns - operation.due_ns
                words = f"answers, {_ms(late_ns)} after the caller's end"
                if late_ns < 0:
                    words = f"cuts in, {_ms(-late_ns)} before the caller's end"
            asked = (began_ns, f'caller: "{operation.detail["text"]}"')
            return [asked, (ended_ns or operation.due_ns, f"the agent {words}")]
        case "speech", int() if operation.who == "agent":
            return [(ended_ns, f"the agent has spoken for {(ended_ns - began_ns) / SECOND:.1f} s")]
        case (("underrun" | "pause"), int()):
            return [(began_ns, f"a silence of {took} in the agent's speech")]
    return []


def _ms(ns: int) -> str:
    return f"{ns / MS:.0f} ms"
