"""`check_carrier` finds what is wrong with a carrier, and nothing wrong with ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from busyhour.carriers import Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.carriers.wire import plivo
from busyhour.clock import VirtualClock
from busyhour.model import MS, SECOND, Audio, CallFailed, CallSetup, Carrier, Endpoint, Heard, HeardKind, Line, Spoken
from busyhour.testing import Manner, MemoryCarrier, MemoryLine, check_carrier

from .carriers.agent import Agent, payload, tone
from .carriers.agent import serving as serving_telnyx
from .carriers.document_agent import DocumentAgent, response
from .carriers.document_agent import serving as serving_documents

NOBODY = Endpoint("http://127.0.0.1:9")
SETUP = CallSetup(id="check/1", answer_within_ns=3 * SECOND)


# ---------------------------------------------------------------- ours


def test_the_carrier_in_memory_keeps_its_contract() -> None:
    clock = VirtualClock()
    assert clock.run(check_carrier(MemoryCarrier(clock=clock), Endpoint("memory:"), clock=clock)) == []


async def speak(ws: web.WebSocketResponse, media: Mapping[str, Any]) -> None:
    """Speak for a moment, and listen."""
    await ws.send_json(media)
    async for _ in ws:
        pass


async def test_telnyx_keeps_it() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await speak(ws, {"event": "media", "media": {"payload": payload(tone(300))}})

    agent, telnyx = Agent(talk), Telnyx()
    async with serving_telnyx(agent, Telnyx()) as target:  # its own twin is for its commands alone
        agent.answers()
        agent.api = f"http://127.0.0.1:{await unused_port()}/v2"
        telnyx.port = int(agent.api.split(":")[2].split("/")[0])
        assert await check_carrier(telnyx, target, nobody=NOBODY, setup=SETUP) == []


async def unused_port() -> int:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        return int(server.sockets[0].getsockname()[1])


async def test_the_stream_alone_keeps_it() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await speak(ws, {"event": "media", "media": {"payload": payload(tone(300))}})

    agent = Agent(talk)
    async with serving_telnyx(agent, TelnyxStream()):
        target = Endpoint(agent.url.replace("http", "ws") + "/media")
        nobody = Endpoint("ws://127.0.0.1:9/media")
        assert await check_carrier(TelnyxStream(), target, nobody=nobody, setup=SETUP) == []


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_carriers_of_documents_keep_it(make: Callable[[], Twilio | TeXML]) -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        stream = {"streamSid": start["streamSid"]} if "streamSid" in start else {}
        await speak(ws, {"event": "media", **stream, "media": {"payload": payload(tone(300))}})

    agent = DocumentAgent(talk)
    document = response('<Connect><Stream url="{media}" bidirectionalMode="rtp"/></Connect>')
    agent.documents = {"/api/twilio/voice": [document], "/api/texml/voice": [document]}
    async with serving_documents(agent, make()) as target:
        assert await check_carrier(make(), target, nobody=NOBODY, setup=SETUP) == []


async def test_twilios_stream_alone_keeps_it() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        assert start["start"]["customParameters"] == {"who": '<"me">'}
        media = {"event": "media", "streamSid": start["streamSid"], "media": {"payload": payload(tone(300))}}
        await speak(ws, media)

    agent = Agent(talk)
    async with serving_telnyx(agent, TelnyxStream()):
        target = Endpoint(agent.url.replace("http", "ws") + "/media")
        nobody = Endpoint("ws://127.0.0.1:9/media")
        carrier = TwilioStream(custom_parameters={"who": '<"me">'})
        assert await check_carrier(carrier, target, nobody=nobody, setup=SETUP) == []


async def test_a_plain_web_socket_keeps_it() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await speak(ws, {"event": "playAudio", "media": {"payload": payload(tone(300))}})

    agent = Agent(talk)
    async with serving_telnyx(agent, TelnyxStream()) as target:
        carrier = PlainWebSocket(wire=plivo(), path="/media")
        assert await check_carrier(carrier, target, nobody=NOBODY, setup=SETUP) == []


# ---------------------------------------------------------------- those that break it


class Broken(MemoryLine):
    """A line with one defect, or none."""

    defect = ""

    async def say(self, audio: Audio) -> Spoken:
        if self.defect == "says after its end":
            return Spoken(self._clock.now_ns(), self._clock.now_ns())
        return await super().say(audio)

    async def hear(self, until_ns: int) -> Heard | None:
        if self.defect == "waits":
            await self._clock.sleep_until(self._clock.now_ns() + SECOND)
        heard = await super().hear(until_ns)
        if self.defect == "hears the future" and heard is not None:
            return Heard(heard.kind, heard.at_ns + SECOND)
        if self.defect == "never ends" and heard is not None and heard.kind is HeardKind.ENDED:
            return None
        return heard

    async def press(self, digits: str) -> None:
        if self.defect == "has no keys":
            raise CallFailed("lost", "no keys")

    async def hang_up(self) -> None:
        if self.defect != "hangs on":
            await super().hang_up()


@dataclass(eq=False)
class BrokenCarrier:
    clock: VirtualClock
    defect: str
    name: str = "broken"
    left: Sequence[asyncio.Task[Any]] = ()

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        yield Endpoint("memory:")

    @asynccontextmanager
    async def dial(self, target: Endpoint, call: CallSetup) -> AsyncIterator[Line]:
        if self.defect == "fails":
            raise CallFailed("lost", "it is broken")
        if self.defect == "rings for ever":
            await asyncio.Event().wait()
        if self.defect == "leaves tasks":
            self.left = [*self.left, asyncio.create_task(asyncio.Event().wait(), name="forgotten")]
        line = Broken(self.clock, Manner(speaks_ms=0, hangs_up_after_ms=100 if self.defect == "lost" else 0))
        line.defect = self.defect
        if self.defect == "answered late":
            line.answered_ns = self.clock.now_ns() + SECOND
        if self.defect == "trail":
            line.trail = [(2, "b"), (1, "a")]
        if self.defect == "silent":
            line._events.clear()
        try:
            if self.defect == "swallows":
                with suppress(RuntimeError, Exception):
                    yield line
            else:
                yield line
        finally:
            await line.hang_up()


@pytest.mark.parametrize(
    ("defect", "problem"),
    [
        ("fails", "a call fails: lost: it is broken"),
        ("rings for ever", "a call has no line within 10 s"),
        ("answered late", "answered_ns and opened_ns do not lie in this order"),
        ("waits", "hear(now) takes 1000 ms; it must not wait"),
        ("hears the future", "an onset is stamped before the call was answered, or in the future"),
        ("silent", "nothing is heard of the target within 10 s"),
        ("lost", "the call is ended by the far end: hung up"),
        ("says after its end", "say goes on after hang_up; it raises CallFailed"),
        ("says after its end", "the speech of an utterance took 0 ms on the wire instead of 400"),
        ("has no keys", "press fails on a call that lasts: lost: no keys"),
        ("trail", "the trail is not in order of time"),
        ("hangs on", "say goes on after hang_up; it raises CallFailed"),
        ("never ends", "hear gives None after hang_up"),
        ("leaves tasks", "tasks are left behind when it has stopped: forgotten"),
        ("swallows", "an exception inside of a call does not come out of it"),
        ("", "dial gives a line to memory:, where nobody answers"),
    ],
)
def test_each_breach_is_listed(defect: str, problem: str) -> None:
    clock = VirtualClock()
    carrier: Carrier = BrokenCarrier(clock, defect)

    async def check() -> list[str]:
        target = Endpoint("memory:")
        try:
            return await check_carrier(carrier, target, nobody=target, clock=clock)
        finally:
            assert isinstance(carrier, BrokenCarrier)
            for task in carrier.left:
                task.cancel()

    found = clock.run(check())
    assert any(each.startswith(problem) for each in found), found


def test_a_carrier_with_no_breach_but_one_has_one_problem() -> None:
    clock = VirtualClock()
    assert clock.run(check_carrier(BrokenCarrier(clock, ""), Endpoint("memory:"), clock=clock)) == []
    nameless = BrokenCarrier(clock, "", name="")
    found = clock.run(check_carrier(nameless, Endpoint("memory:"), clock=clock))
    assert found == ["name is empty: plans and marks speak of it by its name"]
    assert clock.now_ns() > 100 * MS
