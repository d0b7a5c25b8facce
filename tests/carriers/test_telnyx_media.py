"""The Telnyx twin's media socket, with agents that keep to its protocol and agents that do not."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from picows import WSMsgType

from busyhour.carriers import Telnyx, TelnyxStream
from busyhour.carriers.line import CallerLine
from busyhour.carriers.media_socket import MediaSocket, decoded
from busyhour.carriers.telnyx.call import Call
from busyhour.carriers.telnyx.media import TelnyxFrames
from busyhour.errors import PlanError
from busyhour.media.codec import codec
from busyhour.media.studio import Inbox
from busyhour.media.wheel import Wheel
from busyhour.model import MS, SECOND, CallFailed, CallSetup, Endpoint, HeardKind

from .agent import CLOCK, HELLO, RTP, SETUP, Agent, call_id, calling, next_of, payload, serving, silent, tone

# ---------------------------------------------------------------- the media socket


async def sending(*frames: object, telnyx: Telnyx | None = None, **asked: Any) -> tuple[Agent, str, CallerLine]:
    """Send the agent's frames, then a mark: the agent, how the call ended, the line."""

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        for frame in frames:
            if isinstance(frame, bytes):
                await ws.send_bytes(frame)
            elif isinstance(frame, str):
                await ws.send_str(frame)
            else:
                await ws.send_json(frame)
        await ws.send_json({"event": "mark", "mark": {"name": "last"}})
        await agent.hears(ws, "mark")
        await agent.command(start["start"]["call_control_id"], "hangup")

    agent = Agent(talk)
    agent.answers(**asked)
    async with calling(agent, telnyx) as line:
        while True:
            heard = await line.hear(CLOCK.now_ns() + 5 * SECOND)
            assert heard is not None
            if heard.kind == HeardKind.ENDED:
                return agent, heard.detail, line


MALFORMED: list[tuple[object, str]] = [
    ("no json", "malformed_frame"),
    ("", "malformed_frame"),
    ("[" * 10_000, "malformed_frame"),
    ("null", "malformed_frame"),
    ({"event": "stop"}, "malformed_frame"),
    ({"media": {"payload": "AAAA"}}, "malformed_frame"),
    ({"event": "mark", "mark": {}}, "malformed_frame"),
    ({"event": "mark", "mark": {"name": "x" * 1001}}, "malformed_frame"),
    ({"event": "media"}, "invalid_media"),
    ({"event": "media", "media": {"payload": 1}}, "invalid_media"),
    ({"event": "media", "media": {"payload": ""}}, "invalid_media"),
    ({"event": "media", "media": {"payload": "not base64"}}, "invalid_media"),
    ({"event": "media", "media": {"payload": "AAA"}}, "invalid_media"),
    ({"event": "media", "media": {"payload": "\ud800"}}, "invalid_media"),  # half a surrogate pair
]


@pytest.mark.parametrize("shape", ["payload", "error"])
async def test_malformed_frames_are_told_and_counted_and_survived(shape: Any) -> None:
    agent, ended, line = await sending(*(frame for frame, _ in MALFORMED), telnyx=Telnyx(error_shape=shape))
    assert ended == "hung up"
    errors = [frame for frame in agent.frames if frame["event"] == "error"]
    assert [error[shape]["title"] for error in errors] == [title for _, title in MALFORMED]
    codes = {error[shape]["title"]: error[shape]["code"] for error in errors}
    assert codes == {"malformed_frame": 100002 if shape == "payload" else 100003, "invalid_media": 100004}
    assert line.detail["malformed_frames"] == len(MALFORMED)
    assert line.detail["malformed_first"] == "The frame is not JSON: no json"
    assert [text for _, text in line.trail if "malformed" in text] == [
        "malformed frame: The frame is not JSON: no json"
    ]


@pytest.mark.parametrize(
    ("frames", "detail"),
    [
        ([b"\xff" * 160], "a binary frame of 160 bytes"),
        ([{"event": "media", "media": {"payload": "A" * (1 << 20)}}], "a frame of"),
        (["x" * (1 << 23)], "8388608"),
        (["x"] * 101, "more than 100 malformed frames"),
        ([{"event": "clear"}] * 4100, "more than 2000 frames in a second"),
        ([{"event": "media", "media": {"payload": payload(tone(16000))}}] * 3, "more than 30 s of audio"),
        (
            [
                {"event": "media", "media": {"payload": payload(tone(2000))}},
                *[{"event": "mark", "mark": {"name": "x"}}] * 1001,
            ],
            "more than 1000 marks",
        ),
    ],
    ids=["binary", "oversized", "absurd", "many malformed", "flood", "too much audio", "too many marks"],
)
async def test_what_no_carrier_would_bear_ends_the_call(frames: list[object], detail: str) -> None:
    agent = Agent()
    ended = ""

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        for frame in frames:
            text = frame if isinstance(frame, str) else json.dumps(frame) if not isinstance(frame, bytes) else ""
            await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(text))
        async for _ in ws:
            pass

    agent.talk = talk
    agent.answers()
    async with calling(agent) as line:
        while not ended:
            heard = await line.hear(CLOCK.now_ns() + 5 * SECOND)
            assert heard is not None
            ended = heard.detail if heard.kind == HeardKind.ENDED else ""
        with pytest.raises(CallFailed) as failed:
            await line.say(HELLO)
    assert failed.value.reason == "protocol error"
    assert detail in failed.value.detail
    assert ended == str(failed.value)


async def test_audio_without_rtp_mode_is_dropped_and_told() -> None:
    media = {"event": "media", "media": {"payload": payload(tone(100))}}
    agent, ended, line = await sending(media, media, stream_bidirectional_mode=None)
    assert ended == "hung up"
    assert line.detail["dropped_frames"] == 2
    assert "stream_bidirectional_mode" in str(line.detail["dropped_because"])
    assert not [frame for frame in agent.frames if frame["event"] == "error"]


async def test_mp3_is_dropped_and_told() -> None:
    media = {"event": "media", "media": {"payload": "SUQz"}}
    _, _, line = await sending(media, stream_bidirectional_mode="mp3", stream_track="both_tracks")
    assert line.detail["dropped_frames"] == 1
    assert "mp3" in str(line.detail["dropped_because"])
    assert any("both_tracks" in text for _, text in line.trail)


async def test_an_agent_that_does_not_read_is_not_waited_for() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        assert isinstance(line._call, Call)
        socket = line._call.media._socket
        assert socket is not None
        socket._socket.pause_writing()  # as the transport does above its high-water mark
        await line.say(HELLO)
        unread = line.detail["unread_frames"]
        socket._socket.resume_writing()
        await line.say(HELLO)
    assert isinstance(unread, int)
    assert unread >= 15
    assert line.detail["unread_frames"] == pytest.approx(unread, abs=3)


async def test_a_stream_can_be_stopped_and_started_again_and_only_one_at_a_time() -> None:
    agent = Agent()

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await agent.saw(json.loads(message.data))

    agent.talk = talk
    agent.answers()
    async with calling(agent) as line:
        call, url = call_id(agent), agent.url.replace("http", "ws") + "/media"
        for count in (2, 3):
            assert (await agent.command(call, "streaming_start", stream_url=url, **RTP))[0] == 422
            assert (await agent.command(call, "streaming_stop"))[0] == 200
            assert (await agent.command(call, "streaming_start", stream_url=url, **RTP))[0] == 200
            await agent.told("streaming.started", count)
        # Stopped before it was open: it is never opened.
        await agent.command(call, "streaming_stop")
        await agent.command(call, "streaming_start", stream_url=url, **RTP)
        await agent.command(call, "streaming_stop")
        await line.say(HELLO)
    ids = [frame["stream_id"] for frame in agent.frames if frame["event"] == "start"]
    assert len(set(ids)) == len(ids) >= 3
    assert len(await agent.told("streaming.stopped")) == len(ids)


async def test_the_path_of_a_stream_url_may_hold_the_call_control_id() -> None:
    agent = Agent()

    async def answer(call: str) -> None:
        url = f"{agent.url.replace('http', 'ws')}/media/{call}?a=b"
        await agent.command(call, "answer", stream_url=url, **RTP)

    agent.on["call.initiated"] = answer
    async with calling(agent):
        await agent.told("streaming.started")
    assert agent.paths == [f"/media/{call_id(agent)}?a=b"]


async def test_a_fragmented_message_is_one_message() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        frame = json.dumps({"event": "media", "media": {"payload": payload(tone(200))}}).encode()
        transport = ws._req.transport  # type: ignore[union-attr]
        assert isinstance(transport, asyncio.Transport)
        for opcode, part in ((0x01, frame[:100]), (0x00, frame[100:150]), (0x80, frame[150:])):
            size = len(part).to_bytes(1, "big") if len(part) < 126 else b"\x7e" + len(part).to_bytes(2, "big")
            transport.write(bytes([opcode]) + size + part)
        await silent(agent, ws)

    agent = Agent(talk)
    agent.answers()
    async with calling(agent) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
    assert offset.at_ns - onset.at_ns == pytest.approx(200 * MS, abs=10 * MS)


async def test_clear_drops_what_is_queued_and_returns_the_marks() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(5000))}})
        await ws.send_json({"event": "mark", "mark": {"name": "long"}})
        for _ in range(15):
            await agent.hears(ws, "media")
        await ws.send_json({"event": "clear"})
        await agent.hears(ws, "mark")
        await ws.send_json({"event": "mark", "mark": {"name": "empty"}})
        await agent.hears(ws, "mark")
        await silent(agent, ws)

    agent = Agent(talk)
    agent.answers()
    async with calling(agent) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
        marks = [frame["mark"]["name"] for frame in await agent.shown("mark", 2)]
    assert marks == ["long", "empty"]
    assert offset.at_ns - onset.at_ns < 2 * SECOND


async def test_a_mark_comes_back_when_what_was_sent_before_has_been_played() -> None:
    times: list[int] = []

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        times.append(CLOCK.now_ns())
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(300))}})
        await ws.send_json({"event": "mark", "mark": {"name": "played"}})
        await agent.hears(ws, "mark")
        times.append(CLOCK.now_ns())
        await silent(agent, ws)

    agent = Agent(talk)
    agent.answers()
    async with calling(agent):
        await agent.shown("mark")
    assert 300 * MS <= times[1] - times[0] < 30 * SECOND


async def test_what_has_arrived_before_the_caller_hangs_up_is_heard() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        while True:
            await agent.hears(ws, "media")
            await ws.send_str("no JSON")

    agent = Agent(talk)
    agent.answers()
    telnyx = Telnyx()
    async with calling(agent, telnyx) as line:
        assert telnyx._exchange is not None
        inbox = telnyx._exchange.studio.inbox
        while not inbox.waits:  # noqa: ASYNC110  nothing tells that something has not been read
            await asyncio.sleep(0)
        before = line.detail.get("malformed_frames", 0)
        await line.hang_up()
        assert line.detail["malformed_frames"] == before + 1


async def test_l16_both_ways_and_an_auth_token_and_parameters() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        wide = base64.b64encode(codec("L16", 16000).encode(tone(200, 16000))).decode()
        await ws.send_json({"event": "media", "media": {"payload": wide}})
        await agent.hears(ws, "media")
        await silent(agent, ws)

    agent = Agent(talk)
    agent.answers(stream_url=None)
    async with serving(agent, telnyx := Telnyx()) as target:
        asked: dict[str, Any] = {
            "stream_url": agent.url.replace("http", "ws") + "/media",
            "stream_codec": "L16",
            "stream_bidirectional_mode": "rtp",
            "stream_bidirectional_codec": "L16",
            "stream_bidirectional_sampling_rate": 16000,
            "stream_auth_token": "secret",
            "custom_parameters": [{"name": "who", "value": "me"}],
        }
        agent.on["call.answered"] = lambda call: agent.command(call, "streaming_start", **asked)
        async with telnyx.dial(target, SETUP) as line:
            onset = await next_of(line, HeardKind.ONSET)
            offset = await next_of(line, HeardKind.OFFSET)
    assert offset.at_ns - onset.at_ns == pytest.approx(200 * MS, abs=10 * MS)
    assert agent.frames[0]["x-telnyx-streaming-auth-token"] == "secret"
    assert agent.handshakes[0]["x-telnyx-streaming-auth-token"] == "secret"
    assert agent.frames[1]["start"]["media_format"] == {"encoding": "L16", "sample_rate": 16000, "channels": 1}
    assert agent.frames[1]["start"]["custom_parameters"] == {"who": "me"}
    assert len(base64.b64decode(agent.frames[2]["media"]["payload"])) == 640


async def test_an_agent_may_hear_in_one_codec_and_speak_in_another() -> None:
    agent = Agent()

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await agent.saw(json.loads(message.data))

    agent.talk = talk
    async with serving(agent, telnyx := Telnyx()) as target:
        agent.answers(stream_codec="PCMA")
        async with telnyx.dial(target, SETUP) as line:
            await line.say(HELLO)
    media = [frame["media"]["payload"] for frame in agent.frames if frame["event"] == "media"]
    assert agent.frames[1]["start"]["media_format"]["encoding"] == "PCMA"
    heard = codec("PCMA").decode(b"".join(base64.b64decode(each) for each in media)).astype(np.int32)
    assert np.abs(heard).max() == pytest.approx(np.abs(HELLO.samples.astype(np.int32)).max(), rel=0.1)


class Noted:
    """The owner of a media socket in a unit test."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def socket_opened(self, at_ns: int) -> None: ...

    def heard_media(self, octets: bytes, at_ns: int) -> None:
        self.heard.append(octets)

    def heard_mark(self, name: str, at_ns: int) -> None:
        self.heard.append(("mark", name))

    def heard_clear(self, at_ns: int) -> None:
        self.heard.append("clear")

    def heard_malformed(self, detail: str) -> None: ...

    def broke_protocol(self, detail: str) -> None:
        self.heard.append(("broken", detail))


FRAMES = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["media", "media", "media", "mark", "clear", "other"]),
        "media": st.fixed_dictionaries(
            {"payload": st.sampled_from(["AAAA", "AAA=", "/+8=", 'A"A', "media", "A\\A", ""])},
            optional={"track": st.sampled_from(["AAAA", "inbound"]), "payload ": st.just("AAAA")},
        ),
    },
    optional={
        "mark": st.fixed_dictionaries({"name": st.sampled_from(["media", "payload"])}),
        "stream_id": st.just("x"),
    },
)
SPELLINGS = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :  ")])


@given(st.lists(st.tuples(FRAMES, SPELLINGS, st.booleans()), max_size=12))
def test_the_fast_path_hears_what_a_json_reader_hears(frames: list[tuple[dict[str, Any], Any, bool]]) -> None:
    at_once, one_by_one = Noted(), Noted()
    learning = MediaSocket(
        dialect=TelnyxFrames("s"), owner=at_once, clock=CLOCK, bytes_per_second=8000, inbox=Inbox(Wheel())
    )
    for frame, separators, sort in frames:
        raw = json.dumps(frame, separators=separators, sort_keys=sort).encode()
        learning.heard(WSMsgType.TEXT, raw, 0)
        fresh = MediaSocket(
            dialect=TelnyxFrames("s"), owner=one_by_one, clock=CLOCK, bytes_per_second=8000, inbox=Inbox(Wheel())
        )
        fresh.heard(WSMsgType.TEXT, raw, 0)
    assert at_once.heard == one_by_one.heard


@given(
    st.binary(max_size=12).map(base64.b64encode) | st.binary(max_size=12) | st.text("A=+/", max_size=9).map(str.encode)
)
def test_base64_is_what_the_standard_library_takes_strictly(octets: bytes) -> None:
    try:
        expected = base64.b64decode(octets, validate=True)
    except ValueError:
        expected = None
    # The library is lenient about what follows the padding; nobody else need be.
    strict = expected if len(octets) % 4 == 0 and octets.count(b"=") < 3 else None
    assert decoded(octets) == strict


# ---------------------------------------------------------------- the stream alone


async def test_a_stream_without_call_control() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        assert start["start"]["custom_parameters"] == {"who": "me"}
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(100))}})
        for _ in range(15):
            await agent.hears(ws, "media")

    agent = Agent(talk)
    telnyx = TelnyxStream(custom_parameters={"who": "me"})
    async with serving(agent, telnyx):
        target = Endpoint(agent.url.replace("http", "ws") + "/media")
        async with telnyx.dial(target, SETUP) as line:
            await next_of(line, HeardKind.ONSET)
            assert (await next_of(line, HeardKind.ENDED)).detail.startswith("hung up")
    assert not agent.events


async def test_a_stream_that_nobody_serves_is_refused_at_once() -> None:
    telnyx = TelnyxStream()
    async with telnyx.running({}):
        with pytest.raises(CallFailed, match="media refused"):
            async with telnyx.dial(Endpoint("ws://127.0.0.1:9/media"), SETUP):
                pass
        with pytest.raises(PlanError, match="OPUS"):
            async with telnyx.dial(Endpoint("ws://127.0.0.1:9/media"), CallSetup(id="a", codec="OPUS")):
                pass
