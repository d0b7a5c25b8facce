"""A call that is over is gone: during a run the garbage collector is held off, and what waited for it would grow."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from busyhour.carriers import PlainWebSocket, Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream
from busyhour.model import SECOND, CallFailed, Endpoint, HeardKind, Line

from . import agent as telnyx_side
from . import document_agent as document_side
from .agent import CLOCK, HELLO, Agent, payload, tone
from .document_agent import DocumentAgent

CONNECT = '<Connect><Stream url="{media}"/></Connect>'


@pytest.fixture
def left_over() -> Iterator[Callable[[], dict[str, int]]]:
    """Asked, it names the objects of ours that only the garbage collector could free, since the fixture was made."""

    def names() -> dict[str, int]:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [type(thing) for thing in gc.garbage]
        ours = [kind.__qualname__ for kind in found if kind.__module__.startswith("busyhour.")]
        return {name: ours.count(name) for name in ours}

    gc.collect()
    gc.disable()
    gc.freeze()  # what was there before is not looked through again and again
    try:
        yield names
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


async def hung_up(line: Line) -> None:
    await line.say(HELLO)
    await line.hear(CLOCK.now_ns())
    await line.hang_up()


async def to_its_end(line: Line) -> None:
    """Until the agent ends it, or breaks it off; and speak to nobody then."""
    while (heard := await line.hear(CLOCK.now_ns() + 5_000_000_000)) is not None and heard.kind is not HeardKind.ENDED:
        pass
    assert heard is not None
    for _ in range(2):
        try:
            await line.say(HELLO)
        except CallFailed:
            continue
        raise AssertionError("nobody can speak after the end")


async def speaks(agent: Any, ws: web.WebSocketResponse) -> None:
    start = await agent.hears(ws, "start")
    stream = {"streamSid": start["streamSid"]} if "streamSid" in start else {}
    await ws.send_json({"event": "media", **stream, "media": {"payload": payload(tone(100))}})
    await ws.send_json({"event": "mark", **stream, "mark": {"name": "spoken"}})
    async for _ in ws:
        pass


async def talks_nonsense(agent: Any, ws: web.WebSocketResponse) -> None:
    start = await agent.hears(ws, "start")
    stream = {"streamSid": start["streamSid"]} if "streamSid" in start else {}
    for _ in range(40):
        await ws.send_json({"event": "media", **stream, "media": {"payload": "~" * 216}})
    async for _ in ws:
        pass


async def leaves(agent: Any, ws: web.WebSocketResponse) -> None:
    await agent.hears(ws, "start")


Way = Callable[[Line], Coroutine[Any, Any, None]]
WAYS = [(speaks, hung_up), (leaves, to_its_end)]


@pytest.mark.parametrize(("talk", "way"), WAYS)
async def test_telnyx(talk: Any, way: Way, left_over: Callable[[], dict[str, int]]) -> None:
    agent = Agent(talk)
    agent.answers()
    telnyx = Telnyx(hangup_within_seconds=0.1)
    async with telnyx_side.serving(agent, telnyx) as target:
        for _ in range(2):
            async with telnyx.dial(target, telnyx_side.SETUP) as line:
                await way(line)
            del line
        assert left_over() == {}


async def test_a_call_that_telnyx_ends(left_over: Callable[[], dict[str, int]]) -> None:
    agent = Agent(talks_nonsense)
    agent.answers()
    async with telnyx_side.serving(agent, telnyx := Telnyx(hangup_within_seconds=0.1)) as target:
        async with telnyx.dial(target, telnyx_side.SETUP) as line:
            await line.hang_up()
        del line
        assert left_over() == {}


async def test_a_call_that_nobody_answers(left_over: Callable[[], dict[str, int]]) -> None:
    async with telnyx_side.serving(Agent(), telnyx := Telnyx(media_within_seconds=0.1)) as target:
        await refused(telnyx, target, replace(telnyx_side.SETUP, answer_within_ns=SECOND // 10))
        assert left_over() == {}


async def refused(carrier: Any, target: Endpoint, setup: Any) -> None:
    try:
        async with carrier.dial(target, setup):
            raise AssertionError("nobody was to answer")
    except CallFailed:
        pass


@pytest.mark.parametrize("make", [Twilio, TeXML])
@pytest.mark.parametrize(("talk", "way"), WAYS)
async def test_documents(make: Any, talk: Any, way: Way, left_over: Callable[[], dict[str, int]]) -> None:
    agent, carrier = DocumentAgent(talk), make()
    agent.documents["/api/twilio/voice"] = agent.documents["/api/texml/voice"] = [document_side.response(CONNECT)]
    async with document_side.serving(agent, carrier) as target:
        for _ in range(2):
            async with carrier.dial(target, document_side.SETUP) as line:
                await way(line)
            del line
        assert left_over() == {}


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_forks_and_gathered_keys(make: Any, left_over: Callable[[], dict[str, int]]) -> None:
    agent, carrier = DocumentAgent(), make()
    verbs = ('<Start><Stream url="{media}"/></Start>', '<Gather timeout="0.05" action="/keys"/>', CONNECT)
    agent.documents["/api/twilio/voice"] = agent.documents["/api/texml/voice"] = [document_side.response(*verbs)]
    async with document_side.serving(agent, carrier) as target:
        async with carrier.dial(target, document_side.SETUP) as line:
            await agent.shown("start", 2)
            await hung_up(line)
        del line
        assert left_over() == {}


@pytest.mark.parametrize("make", [TelnyxStream, TwilioStream, PlainWebSocket])
@pytest.mark.parametrize("way", [hung_up, to_its_end])
async def test_media_sockets_alone(make: Any, way: Way, left_over: Callable[[], dict[str, int]]) -> None:
    async def media(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        if way is hung_up:
            async for _ in ws:
                pass
        return ws

    app = web.Application()
    app.router.add_get("/media", media)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    carrier = make()
    try:
        async with carrier.running({}):
            for _ in range(2):
                async with carrier.dial(Endpoint(f"ws://127.0.0.1:{port}/media"), telnyx_side.SETUP) as line:
                    await way(line)
                del line
            assert left_over() == {}
    finally:
        await runner.cleanup()
