"""One call placed for a test, and what the caller heard, as values to assert on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import StringIO
from math import inf
from urllib.parse import urlsplit

from busyhour import timeline
from busyhour.errors import PlanError, ServiceError
from busyhour.model import MS, SECOND, Audio, Carrier, Endpoint, Operation, Service
from busyhour.services import Mortal

_PLAIN = 'carrier="plain"'


@dataclass(frozen=True)
class Turn:
    """What the caller said, and what came of it. response_ms: from the end of their speech to the first sound that is
    played to them, infinite where there was none. heard_seconds: of the agent's speech until they spoke again."""

    said: str
    outcome: str  # "ok", "missed" (no answer within the patience), "lost" (the call ended first)
    response_ms: float
    heard_seconds: float


@dataclass(frozen=True)
class PlacedCall:
    """A call that is over. greeting_ms: from the agent's taking it to the first sound, infinite if there was none."""

    outcome: str  # "ok", or the reason in a few words: "hung up early", "lost", "protocol error"
    why: str
    ended_by: str  # "caller", "agent"
    seconds: float
    greeting_ms: float
    turns: tuple[Turn, ...]
    timeline: str  # as `busyhour call` prints it
    operations: tuple[Operation, ...]

    def problems(self) -> list[str]:
        """A sentence for each thing that a caller would hold against it; a missing greeting is none."""
        found = [] if self.outcome == "ok" else [f"the call: {self.outcome}{f' ({self.why})' if self.why else ''}"]
        return found + [
            f'the agent does not answer "{turn.said}" ({turn.outcome})' for turn in self.turns if turn.outcome != "ok"
        ]


async def place(
    target: str | Service,
    *,
    path: str,
    says: Sequence[str | Audio],
    carrier: str | Carrier,
    services: Sequence[Service],
    patience_seconds: float,
    codec: str,
) -> PlacedCall:
    """Start what is to be started, call the target, stop it all.

    Raises PlanError for an address, carrier or utterance that is none, ServiceError when something does not start and
    when there is no call to be had.
    """
    if not isinstance(target, str) and not hasattr(target, "running"):
        raise PlanError(
            f"busyhour.call takes the ws:// URL of an agent, or a service like Command(...), not {target!r}"
        )
    by = timeline.carrier_named(carrier) if isinstance(carrier, str) else carrier
    address = timeline.media_url(target + path) if isinstance(target, str) else ""
    audios = [timeline.spoken(one) if isinstance(one, str) else one for one in says or timeline.DEFAULT_SAYS]
    scenario = timeline.conversation(audios, patience_seconds)
    peers: dict[str, Endpoint] = {}
    async with AsyncExitStack() as stack:
        for service in (*services, by):
            peers[service.name] = await stack.enter_async_context(service.running(dict(peers)))
        if not isinstance(target, str):
            endpoint = await stack.enter_async_context(target.running(dict(peers)))
            address = endpoint.url + path
            if isinstance(carrier, str):  # those have no webhooks: they dial the media socket
                address = address.replace("http", "ws", 1)
        notes = await timeline.place(by, address, scenario, codec)
        died = target.obituary() if isinstance(target, Mortal) else None
    given = path or (isinstance(target, str) and urlsplit(target).path.strip("/"))
    return _told(notes, died, "correct the path" if given else 'give path=, like path="/media"')


def hint_for_a_blocked_loop() -> str:
    """What more there is to say of a call that failed, where the test that waited for it has an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return ""
    return (
        "This test's own event loop stood still meanwhile: an agent that runs on it cannot answer. "
        "Wait by `await asyncio.to_thread(busyhour.call, ...)`"
    )


def _told(notes: timeline.Notes, died: str | None, correct: str) -> PlacedCall:
    """correct: what to do where the agent has no WebSocket at the path."""
    call = notes.call
    if call.detail.get("opened_ns") is None and died:
        raise ServiceError(f"no call: {call.outcome}: {call.detail['why']}; {died}")
    if call.detail.get("opened_ns") is None:
        raise ServiceError(f"no call: {timeline.unreached(call, plain=_PLAIN, correct=correct)}")
    out = StringIO()
    timeline.write(notes, out)
    greeting = next((o for o in notes.operations if o.kind == "greeting"), None)
    return PlacedCall(
        outcome=call.outcome,
        why="; ".join(filter(None, (str(call.detail["why"]), died, timeline.other_frames(call, plain=_PLAIN)))),
        ended_by=str(call.detail["ended_by"]),
        seconds=_between(call.began_ns, call.ended_ns) / SECOND,
        greeting_ms=_response_ms(greeting),
        turns=_turns(notes.operations),
        timeline=out.getvalue(),
        operations=tuple(notes.operations),
    )


def _turns(operations: Sequence[Operation]) -> tuple[Turn, ...]:
    turns = [o for o in operations if o.kind == "turn"]
    heard = [o for o in operations if o.kind == "speech" and o.who == "agent"]
    found = []
    for number, turn in enumerate(turns):
        until_ns = turns[number + 1].began_ns if number + 1 < len(turns) else None
        found.append(
            Turn(
                said=str(turn.detail["text"]),
                outcome=turn.outcome,
                response_ms=_response_ms(turn),
                heard_seconds=sum(_overlap_ns(one, turn.due_ns, until_ns) for one in heard) / SECOND,
            )
        )
    return tuple(found)


def _response_ms(operation: Operation | None) -> float:
    if operation is None or operation.ended_ns is None:
        return inf
    return (operation.ended_ns - operation.due_ns) / MS


def _overlap_ns(speech: Operation, from_ns: int, until_ns: int | None) -> int:
    ended_ns = speech.ended_ns or 0
    last_ns = ended_ns if until_ns is None else min(ended_ns, until_ns)
    return max(0, last_ns - max(speech.began_ns or 0, from_ns))


def _between(began_ns: int | None, ended_ns: int | None) -> int:
    return (ended_ns or 0) - (began_ns or 0)
