"""What goes on when nobody hears it, or what was handed over is absurd: bounded, in order, counted as it was."""

from __future__ import annotations

import asyncio
import base64
import struct
from itertools import count
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from busyhour.carriers import Telnyx, Twilio
from busyhour.carriers.background import Background
from busyhour.carriers.serving import client
from busyhour.carriers.sounds import Player, Unplayable
from busyhour.carriers.telnyx.webhooks import Event, Habits, Signer, Webhooks
from busyhour.clock import SystemClock
from busyhour.descriptors import widened
from busyhour.disturbance import MEDIA, WEBHOOKS, Disturbance, Vice
from busyhour.emulators.twin import listening
from busyhour.errors import PlanError
from busyhour.faults.carrier import BurstLoss
from busyhour.media.leg import Leg
from busyhour.model import SECOND, CallFailed, HeardKind, Samples

from . import document_agent
from .agent import Agent, call_id, calling, next_of, tone
from .document_agent import DocumentAgent, response

CLOCK = SystemClock()


# ---------------------------------------------------------------- webhooks


async def test_a_thousand_webhooks_wait_for_the_agent_and_not_for_one_another() -> None:
    """The agent answers none before all have come: had they to wait for connections, the first would never be answered.

    The test has both ends of each: 2,000 descriptors.
    """
    come, all_have_come = count(1), asyncio.Event()

    async def webhook(request: web.Request) -> web.Response:
        if next(come) == 1_000:
            all_have_come.set()
        await all_have_come.wait()
        return web.Response()

    async def told(session: aiohttp.ClientSession, url: str) -> int:
        async with session.post(url) as answer:
            return answer.status

    app = web.Application()
    app.router.add_post("/", webhook)
    with widened():
        async with listening(app) as port, client(timeout_seconds=100) as session:
            url = f"http://127.0.0.1:{port}/"
            answers = await asyncio.gather(*(told(session, url) for _ in range(1_000)))
    assert answers == [200] * 1_000


# ---------------------------------------------------------------- sounds


class Deaf:
    """A stage on which nothing is played any more: the caller is gone."""

    def __init__(self) -> None:
        self.played = 0

    def play(self, samples: Samples) -> int:
        self.played += 1
        return 0

    def silence(self) -> None: ...

    def may_reach(self, url: str) -> bool:
        return False


async def test_music_that_nobody_hears_lasts_as_long_as_it_lasts() -> None:
    stage = Deaf()
    player = Player(stage, CLOCK, None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await player.play(tone(400, 8000), 8000, loops=1_000_000)
    assert 1 <= stage.played <= 3


async def test_the_music_of_a_caller_who_was_put_through_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    played, play = 0, Leg.play

    def counted(leg: Leg, samples: Samples, at_ns: int) -> int:
        nonlocal played
        played += 1
        return play(leg, samples, at_ns)

    monkeypatch.setattr(Leg, "play", counted)
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(transfer_after_ms=1)) as line:
        silence = base64.b64encode(wav_file(8000, samples=1600)).decode()
        told = await agent.command(call_id(agent), "playback_start", playback_content=silence, loop="infinity")
        assert told[0] == 200
        await agent.told("call.playback.started")
        await agent.command(call_id(agent), "transfer", to="+15550101")
        assert (await next_of(line, HeardKind.ENDED)).detail == "transferred"
        await CLOCK.sleep_until(CLOCK.now_ns() + SECOND // 2)
    assert 0 < played <= 5


def wav_file(rate_hz: int, *, samples: int = 800) -> bytes:
    header = struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, 0, 2, 16)
    chunks = b"fmt " + header + b"data" + struct.pack("<I", 2 * samples) + bytes(2 * samples)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize("rate_hz", [0, 1, 192_001, 2**32 - 5])
async def test_a_sound_file_of_an_absurd_rate_is_no_sound(rate_hz: int) -> None:
    player = Player(Deaf(), CLOCK, None)
    with pytest.raises(Unplayable, match=f"{rate_hz} samples a second"):
        await player.decoded(base64.b64encode(wav_file(rate_hz)).decode(), 8000)


# ---------------------------------------------------------------- documents


@pytest.mark.parametrize("last", ["<Reject/>", "<Hangup/>"])
@pytest.mark.parametrize("after", ["<Say>Hello?</Say>", '<Connect><Stream url="{media}"/></Connect>'])
async def test_nothing_is_done_after_the_call_is_over(last: str, after: str) -> None:
    agent, twilio = DocumentAgent(), Twilio()
    streamed = response('<Connect><Stream url="{media}"/></Connect>')
    agent.documents["/api/twilio/voice"] = [response(last, after), streamed]
    async with document_agent.serving(agent, twilio) as target:
        assert twilio._exchange is not None
        with pytest.raises(CallFailed):
            async with twilio.dial(target, document_agent.SETUP):
                pass
        async with twilio.dial(target, document_agent.SETUP):  # what the first call had begun would have come before
            assert len(await agent.shown("start")) == 1
        assert twilio._exchange.studio.wheel._slots == [[]] * 20


# ---------------------------------------------------------------- faults


class Posted:
    """The webhooks of one call, and in which order they came."""

    def __init__(self, disturbance: Disturbance, background: Background, session: aiohttp.ClientSession) -> None:
        self.webhooks = Webhooks(
            habits=Habits(retries=0),
            signer=Signer(0),
            session=session,
            background=background,
            clock=CLOCK,
            disturbance=disturbance,
        )
        self._ids = count()

    def post(self, type_: str, url: str) -> asyncio.Task[Any]:
        event = Event(
            type=type_,
            id=f"{next(self._ids)}",
            payload={"call_control_id": "v3:x"},
            url=url,
            told=lambda _: None,
        )
        task = self.webhooks.post(event, Random(0))
        assert task is not None
        return task


async def arrival_order(within_ms: float, *at_once: list[str]) -> tuple[list[str], int]:
    """The webhooks of a call that are all befallen, some at once, and the next when those are delivered: the order in
    which they came, and how many were counted."""
    came: list[str] = []

    async def take(request: web.Request) -> web.Response:
        came.append((await request.json())["data"]["event_type"])
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    disturbance = Disturbance(MEDIA | WEBHOOKS)
    disturbance.add(Vice(kind="webhook.out_of_order", ms=within_ms))
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with aiohttp.ClientSession() as session, Background(5) as background:
            posted = Posted(disturbance, background, session)
            for types in at_once:
                await asyncio.gather(*(posted.post(type_, url) for type_ in types))
    finally:
        await runner.cleanup()
    return came, disturbance.counts["webhook.out_of_order"]


async def test_what_was_delivered_in_order_was_not_overtaken() -> None:
    came, overtaken = await arrival_order(20, ["1"], ["2"], ["3"])
    assert came == ["1", "2", "3"]
    assert overtaken == 0


async def test_when_all_are_befallen_each_second_one_overtakes() -> None:
    came, overtaken = await arrival_order(20_000, ["1", "2"], ["3", "4"])
    assert came == ["2", "1", "4", "3"]
    assert overtaken == 2


@pytest.mark.parametrize(("share", "frames"), [(0.9, 5), (0.6, 1), (0.99, 50)])
def test_a_loss_that_cannot_be_had_in_such_bursts_is_an_error_of_the_plan(share: float, frames: float) -> None:
    with pytest.raises(PlanError, match="bursts"):
        BurstLoss(Telnyx(), share, frames=frames)


@pytest.mark.parametrize(("share", "frames"), [(1.0, 1), (0.5, 1), (0.9, 9), (0.3, 5)])
def test_the_share_that_is_lost_is_the_one_that_was_asked_for(share: float, frames: float) -> None:
    disturbance = Disturbance()
    disturbance.add(BurstLoss(Telnyx(), share, frames=frames).vice)
    path = disturbance.path("to agent")
    lost = sum(path.arrives_ns(at_ns) is None for at_ns in range(40_000))
    assert lost / 40_000 == pytest.approx(share, abs=0.02)
