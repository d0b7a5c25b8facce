"""What the Telnyx twin does for the agent: speak, play, transfer, press keys."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from busyhour.carriers import Telnyx
from busyhour.model import MS, CallFailed, HeardKind, Samples

from .agent import (
    HELLO,
    RTP,
    SETUP,
    Agent,
    call_id,
    calling,
    next_of,
    serving,
    tone,
)


def wav(samples: Samples, rate_hz: int, channels: int = 1) -> bytes:
    octets = io.BytesIO()
    with wave.open(octets, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat(samples, channels).astype("<i2").tobytes())
    return octets.getvalue()


async def test_speak_is_heard_and_told_in_order() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        call = call_id(agent)
        for text in ("One moment.", "<speak>Please <break/> hold</speak>"):
            kind = "ssml" if "<" in text else "text"
            status, _ = await agent.command(call, "speak", payload=text, voice="AWS.Polly.Joanna", payload_type=kind)
            assert status == 200
        await next_of(line, HeardKind.ONSET)
        ended = await agent.told("call.speak.ended", 2)
        await agent.command(call, "hangup")
    assert [each["status"] for each in ended] == ["completed", "completed"]
    types = [e["data"]["event_type"] for e in agent.events if "speak" in e["data"]["event_type"]]
    assert types == ["call.speak.started", "call.speak.ended"] * 2
    assert line.detail["carrier_said"] == ["One moment.", "Please hold"]


async def test_speak_before_the_stream_is_heard_once_it_is_open() -> None:
    agent = Agent()
    agent.answers(stream_url=None)
    async with serving(agent, telnyx := Telnyx()) as target:
        url = agent.url.replace("http", "ws") + "/media"

        async def speak_then_stream(call: str) -> None:
            await agent.command(call, "speak", payload="Hello.", voice="female")
            await agent.command(call, "streaming_start", stream_url=url, **RTP)

        agent.on["call.answered"] = speak_then_stream
        async with telnyx.dial(target, SETUP) as line:
            assert (await next_of(line, HeardKind.ONSET)).at_ns >= line.opened_ns


async def test_a_hangup_cuts_the_speech() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        call = call_id(agent)
        await agent.command(call, "speak", payload="A long story. " * 100, voice="female")
        await next_of(line, HeardKind.ONSET)
        await agent.command(call, "hangup")
    assert [each["status"] for each in await agent.told("call.speak.ended")] == ["call_hangup"]


@pytest.mark.parametrize("how", ["content", "data", "url"])
async def test_playback_of_a_wav_file(how: str) -> None:
    file = wav(tone(300, 16000), 16000, channels=2)
    content = base64.b64encode(file).decode()
    agent = Agent()
    agent.answers()
    async with calling(agent) as line, serving_file(file) as url:
        sources = {
            "content": {"playback_content": content},
            "data": {"audio_url": f"data:audio/wav;base64,{content}"},
            "url": {"audio_url": url},
        }
        assert (await agent.command(call_id(agent), "playback_start", **sources[how]))[0] == 200
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
        ended = (await agent.told("call.playback.ended"))[0]
    assert offset.at_ns - onset.at_ns == pytest.approx(300 * MS, abs=10 * MS)
    assert ended["status"] == "completed"
    assert ("media_url" in ended) is (how != "content")


@asynccontextmanager
async def serving_file(file: bytes) -> AsyncIterator[str]:
    app = web.Application()

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=file)

    app.router.add_get("/a.wav", get)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/a.wav"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("sound", "status"),
    [
        ({"audio_url": "http://127.0.0.1:9/a.wav"}, "file_not_found"),
        ({"audio_url": "https://telephone.example/a.wav"}, "file_not_found"),
        ({"media_name": "never-uploaded"}, "file_not_found"),
        ({"playback_content": "not base64"}, "failed"),
        ({"playback_content": base64.b64encode(b"no audio at all").decode()}, "failed"),
    ],
)
async def test_what_cannot_be_played_is_told(sound: dict[str, str], status: str) -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        await agent.command(call_id(agent), "playback_start", **sound)
        ended = (await agent.told("call.playback.ended"))[0]
        assert await line.hear(0) is None
    assert ended["status"] == status


async def test_playback_can_be_stopped() -> None:
    content = base64.b64encode(wav(tone(1000), 8000)).decode()
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        call = call_id(agent)
        for _ in range(2):
            await agent.command(call, "playback_start", playback_content=content, loop="infinity")
        await next_of(line, HeardKind.ONSET)
        await agent.command(call, "playback_stop", stop="all")
        await next_of(line, HeardKind.OFFSET)
        ended = await agent.told("call.playback.ended")
    assert [each["status"] for each in ended] == ["cancelled"]


async def test_an_answered_transfer_takes_the_caller_away() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(transfer_after_ms=1)) as line:
        body = {"to": "+15550101", "target_leg_client_state": "Yg=="}
        assert (await agent.command(call_id(agent), "transfer", **body))[0] == 200
        assert (await next_of(line, HeardKind.ENDED)).detail == "transferred"
        with pytest.raises(CallFailed, match="transferred"):
            await line.say(HELLO)
    initiated = (await agent.told("call.initiated", 2))[1]
    bridged = await agent.told("call.bridged", 2)
    hangups = await agent.told("call.hangup", 2)
    assert (initiated["direction"], initiated["to"], initiated["client_state"]) == ("outgoing", "+15550101", "Yg==")
    assert {each["call_control_id"] for each in bridged} == {call_id(agent), initiated["call_control_id"]}
    assert {each["call_session_id"] for each in bridged} == {initiated["call_session_id"]}
    assert {each["call_control_id"] for each in hangups} == {call_id(agent), initiated["call_control_id"]}


@pytest.mark.parametrize(("outcome", "cause"), [("busy", "user_busy"), ("rejected", "call_rejected")])
async def test_a_failed_transfer_leaves_the_caller_where_he_was(outcome: Any, cause: str) -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(transfer=outcome, transfer_after_ms=1)) as line:
        await agent.command(call_id(agent), "transfer", to="+15550101")
        hangup = (await agent.told("call.hangup"))[0]
        assert hangup["hangup_cause"] == cause
        assert hangup["call_control_id"] != call_id(agent)
        await line.say(HELLO)


async def test_keys_pressed_by_either_side() -> None:
    agent = Agent()

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await agent.saw(json.loads(message.data))

    agent.talk = talk
    agent.answers()
    async with calling(agent) as line:
        await line.press("4#")
        await agent.command(call_id(agent), "send_dtmf", digits="1w2")
        heard = [(await next_of(line, HeardKind.DTMF)).detail for _ in range(2)]
        frames = await agent.shown("dtmf", 2)
        digits = await agent.told("call.dtmf.received", 2)
        with pytest.raises(ValueError, match="keys are"):
            await line.press("x")
    assert heard == ["1", "2"]
    assert [frame["dtmf"]["digit"] for frame in frames] == ["4", "#"]
    assert sorted(each["digit"] for each in digits) == ["#", "4"]


async def test_the_trail_tells_the_story() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        await agent.told("streaming.started")
    texts = " | ".join(text for _, text in line.trail)
    for part in ("event call.initiated", "command answer", "media stream open: ws://", "hung up by the caller"):
        assert part in texts
    assert "webhook call.initiated -> 200" in texts
    assert [at for at, _ in line.trail] == sorted(at for at, _ in line.trail)
