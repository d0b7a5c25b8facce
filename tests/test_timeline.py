"""`busyhour call`: what is wrong with it is said before anybody is called, and what happened is told in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO

import pytest
from aiohttp import web

from busyhour import timeline
from busyhour.errors import PlanError, ServiceError
from busyhour.model import MS, SECOND, Operation
from busyhour.timeline import Notes


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80", "ws://", "ws://[::1", "ws://127.0.0.1:99999/x", "ws://:80", "hello"]
)
def test_what_is_no_media_stream(url: str) -> None:
    with pytest.raises(PlanError, match="is no media stream; give the agent's WebSocket"):
        timeline.media_url(url)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:8080/media", "wss://agent.test", "ws://[::1]:80/a?b=c"])
def test_what_is_one(url: str) -> None:
    assert timeline.media_url(url) == url


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 601])
def test_a_patience_that_is_none(seconds: float) -> None:
    with pytest.raises(PlanError, match=r"a patience of \S+ s: give more than 0 s, and at most 600 s"):
        timeline.conversation([], seconds)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "nothing to say"),
        (" ", "nothing to say"),
        ("hours.tomorow", "did you mean hours.today"),
        ("nowhere.wav", "nowhere.wav: cannot be read as a WAV file: No such file or directory; give one that is mono"),
    ],
)
def test_what_cannot_be_said(text: str, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        timeline.spoken(text)


def test_what_the_line_saw_comes_before_what_follows_from_it() -> None:
    greeting = Operation(
        id="call/1/greeting/1",
        kind="greeting",
        phase="call",
        due_ns=SECOND,
        began_ns=SECOND,
        outcome="lost",
        detail={"gave_up_ns": SECOND + 20 * MS},
    )
    call = Operation(
        id="call/1",
        kind="call",
        phase="call",
        due_ns=SECOND,
        began_ns=SECOND,
        ended_ns=2 * SECOND,
        outcome="lost",
        detail={"why": "lost: the socket broke"},
    )
    notes = Notes([greeting, call], [(SECOND, "the socket is open"), (SECOND + 20 * MS, "lost by the agent")])
    out = StringIO()
    timeline.write(notes, out)
    assert out.getvalue().splitlines() == [
        "   0.000 s  the socket is open",
        "   0.020 s  lost by the agent",
        "   0.020 s  the agent does not greet (lost)",
        "",
        "call: lost (the socket broke); 0 of 0 turns answered",
    ]


def test_an_answer_before_the_callers_end_is_told_as_what_it_is() -> None:
    turns = [
        Operation(
            id=f"call/1/turn/{number}",
            kind="turn",
            phase="call",
            due_ns=3 * SECOND,
            began_ns=SECOND,
            ended_ns=3 * SECOND + after_ms * MS,
            outcome="ok",
            detail={"text": "Hello?"},
        )
        for number, after_ms in enumerate((-1534, 640), start=1)
    ]
    call = Operation(id="call/1", kind="call", phase="call", due_ns=0, began_ns=0, ended_ns=5 * SECOND, outcome="ok")
    out = StringIO()
    timeline.write(Notes([*turns, call]), out)
    assert "   1.466 s  the agent cuts in, 1534 ms before the caller's end\n" in out.getvalue()
    assert "   3.640 s  the agent answers, 640 ms after the caller's end\n" in out.getvalue()


# ---------------------------------------------------------------- where no call is to be had


@asynccontextmanager
async def agent() -> AsyncIterator[str]:
    """HOST:PORT of one that takes the bare audio at /media, and answers with the status N at /status/N."""

    async def media(request: web.Request) -> web.WebSocketResponse:
        stream = web.WebSocketResponse()
        await stream.prepare(request)
        async for message in stream:
            if '"media"' in str(message.data):  # the caller is heard: the call is surely there
                await stream.send_bytes(bytes(640))
        return stream

    async def status(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    app = web.Application()
    app.router.add_get("/media", media)
    app.router.add_get("/status/{status}", status)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def called(url: str, out: StringIO, carrier: str = "telnyx") -> int:
    says = {"says": ["goodbye.bye"], "patience_seconds": 1.0, "codec": "PCMU"}
    return await asyncio.to_thread(timeline.call, url, out=out, carrier=carrier, **says)  # type: ignore[arg-type]  # one dict


@pytest.mark.parametrize("carrier", timeline.CARRIERS)
async def test_where_nobody_listens(carrier: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServiceError) as refused:
            await called(f"ws://{place}/media", StringIO(), carrier)
    assert str(refused.value) == f"no call: nobody listens at {place}; start the agent, or correct the port"


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/medai", "takes no WebSocket at /medai (it answers 404); correct the path"),
        ("", "takes no WebSocket at / (it answers 404); correct the path"),
        ("/status/403", "(it answers 403); correct the path, or give what the agent demands of who connects"),
        ("/status/500", "(it answers 500); what the agent prints should say why"),
    ],
)
async def test_where_something_else_answers(path: str, told: str) -> None:
    async with agent() as place:
        for carrier in ("telnyx", "twilio", "plain"):
            with pytest.raises(ServiceError) as refused:
                await called(f"ws://{place}{path}", StringIO(), carrier)
            assert str(refused.value).startswith(f"no call: something answers at {place}, but ")
            assert str(refused.value).endswith(told)


async def test_an_agent_of_another_carriers_frames() -> None:
    out = StringIO()
    async with agent() as place:
        assert await called(f"ws://{place}/media", out) == 1
    why, hint = "a binary frame of 640 bytes; Telnyx takes JSON in text frames", "does the agent take the bare audio?"
    assert out.getvalue().endswith(
        f"\ncall: protocol error ({why}); 0 of 0 turns answered\n{hint} Then it is --carrier plain\n"
    )
    told = out.getvalue().splitlines()
    assert sum(why in line for line in told) == 2  # where it happened, and in the last word
    assert sum(line.endswith(" protocol error by the carrier") for line in told) == 1


def test_frames_that_came_before_the_call_was_there() -> None:
    why = "protocol error: a binary frame of 640 bytes; Telnyx takes JSON in text frames"
    call = Operation(
        id="call/1", kind="call", phase="call", due_ns=0, outcome="protocol error", detail={"why": why[16:]}
    )
    hint = 'does the agent take the bare audio? Then it is carrier="plain"'
    assert timeline.unreached(call, plain='carrier="plain"') == f"{why}; {hint}"
