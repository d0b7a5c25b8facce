"""The plain WebSocket carrier, over real sockets, against agents of no framework and of several shapes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSMsgType, web
from tests.flood.flooding import certificate

from busyhour import timeline
from busyhour.carriers.line import CallerLine
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.carriers.wire import PLAIN, Rule, Template, Wire, plivo, vonage
from busyhour.clock import SystemClock
from busyhour.emulators.twin import listening
from busyhour.errors import PlanError, ServiceError
from busyhour.media.codec import codec
from busyhour.media.speech import WINDOW_NS
from busyhour.model import MS, SECOND, Audio, CallFailed, CallSetup, Endpoint, Heard, HeardKind, Samples, Spoken

from .agent import undisturbed

CLOCK = SystemClock()
SETUP = CallSetup(id="steady/1", answer_within_ns=3 * SECOND)
NOISE: Samples = np.random.default_rng(1).integers(-9000, 9000, 4800).astype(np.int16)
HELLO = Audio("hello", "hello", NOISE, 16_000, 480, 4320)  # 300 ms, of which the middle 240 ms are speech
Talk = Callable[[web.WebSocketResponse, list[Any]], Awaitable[None]]


@asynccontextmanager
async def calling(talk: Talk, wire: Wire = PLAIN, **more: Any) -> AsyncIterator[tuple[CallerLine, list[Any]]]:
    """A call to an agent that talks so, and what it has been told so far: bytes, and JSON values."""
    told: list[Any] = []

    async def media(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=0)
        await ws.prepare(request)
        told.append(dict(request.headers))
        await talk(ws, told)
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/media", media)
    carrier = PlainWebSocket(wire=wire, path="/media", **more)
    async with (
        listening(app) as port,
        carrier.running({}),
        carrier.dial(Endpoint(f"http://127.0.0.1:{port}"), SETUP) as line,
    ):
        yield line, told


async def listen(ws: web.WebSocketResponse, told: list[Any], until: str = "") -> None:
    """Note what comes, up to that event."""
    async for message in ws:
        told.append(message.data if message.type is WSMsgType.BINARY else json.loads(message.data))
        if until and isinstance(told[-1], dict) and told[-1]["event"] == until:
            return


async def until(found: Callable[[], Any]) -> Any:
    async with asyncio.timeout(60):
        while not (value := found()):  # noqa: ASYNC110  (nobody tells when the agent has heard something)
            await asyncio.sleep(0.005)
    return value


async def next_of(line: CallerLine, kind: HeardKind) -> Heard:
    until_ns = CLOCK.now_ns() + 20 * SECOND
    while True:
        heard = await line.hear(until_ns)
        assert heard is not None, f"no {kind}"
        if heard.kind is kind:
            return heard
        assert heard.kind is not HeardKind.ENDED, heard


def answering(wire: Wire, delay_ms: int, write: Callable[[bytes], str | bytes]) -> Talk:
    """An agent that answers with 200 ms of noise, so long after it received the last loud frame; it tells how long that
    really was."""
    octets = wire.codec.encode(np.tile(NOISE, 4)[: wire.rate_hz // 5])

    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        loud_at = 0.0
        loop = asyncio.get_running_loop()
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                frame = message.data
            else:
                told.append(json.loads(message.data))
                frame = base64.b64decode(told[-1].get("media", {}).get("payload", ""))
            if frame and np.abs(wire.codec.decode(frame).astype(np.int32)).max() > 1000:
                loud_at = loop.time()
            elif loud_at and loop.time() - loud_at >= 0.05:
                await asyncio.sleep(loud_at + delay_ms / 1000 - loop.time())
                said = write(octets)
                told.append({"waited_ns": round((loop.time() - loud_at) * SECOND)})
                await (ws.send_bytes(said) if isinstance(said, bytes) else ws.send_str(said))
                loud_at = 0.0

    return talk


def play_audio(octets: bytes) -> str:
    media = {"contentType": "audio/x-mulaw", "sampleRate": 8000, "payload": base64.b64encode(octets).decode()}
    return json.dumps({"event": "playAudio", "media": media})


OWN = Wire(
    encoding="alaw",
    rate_hz=8000,
    audio_out={"type": "audio", "n": "$chunk", "media": {"payload": "$audio"}},
    audio_in=Rule(where={"kind": "speech"}, take="data.b64"),
)


@pytest.mark.parametrize(
    ("wire", "write"),
    [
        (PLAIN, lambda octets: octets),
        (Wire(encoding="pcm16be", rate_hz=24_000), lambda octets: octets),
        (vonage(), lambda octets: octets),
        (plivo(), play_audio),
        (OWN, lambda octets: json.dumps({"kind": "speech", "data": {"b64": base64.b64encode(octets).decode()}})),
    ],
    ids=["plain", "be24", "vonage", "plivo", "own"],
)
async def test_an_agents_known_delay_is_what_the_caller_hears(wire: Wire, write: Any) -> None:
    async def turn() -> tuple[Spoken, Heard, Heard, int]:
        async with calling(answering(wire, 300, write), wire) as (line, told):
            assert line.answered_ns == line.opened_ns > 0
            spoken = await line.say(HELLO)
            onset, offset = await next_of(line, HeardKind.ONSET), await next_of(line, HeardKind.OFFSET)
            return spoken, onset, offset, next(form["waited_ns"] for form in told if "waited_ns" in form)

    spoken, onset, offset, waited_ns = await undisturbed(turn)
    assert 175 * MS <= spoken.ended_ns - spoken.began_ns < 2 * SECOND  # 220 ms, and more where frames were late
    assert waited_ns >= 300 * MS
    assert onset.at_ns - spoken.ended_ns == pytest.approx(waited_ns, abs=60 * MS)
    assert offset.at_ns - onset.at_ns == pytest.approx(200 * MS, abs=4 * WINDOW_NS + 5 * MS)


async def test_plain_audio_is_paced_binary_frames_of_20_ms() -> None:
    async with calling(listen, headers={"X-Key": "k"}) as (line, told):
        await line.say(HELLO)
        await until(lambda: len(told) > 20)
        assert told[0]["X-Key"] == "k"
        assert {len(frame) for frame in told[1:]} == {640}
        sent = b"".join(told[1:])
        assert HELLO.samples.astype("<i2").tobytes() in sent
        assert line.detail == {}


# ---------------------------------------------------------------- presets


async def test_vonage_says_what_it_is_and_obeys() -> None:
    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.send_bytes(b"\0" * 640)
        await ws.send_str('{"action":"notify","payload":{"reply":7}}')
        await ws.send_bytes(b"\0" * 64_000)
        await ws.send_str('{"action":"notify","payload":"later"}')
        await listen(ws, told, until="websocket:notify")
        await ws.send_str('{"action":"clear"}')
        await listen(ws, told)

    async with calling(talk, vonage(headers={"caller": "Anna"})) as (line, told):
        await line.press("5")
        events = await until(lambda: [e for e in told[1:] if isinstance(e, dict)][4:])
        events = [e for e in told[1:] if isinstance(e, dict)]
    assert events[0] == {"event": "websocket:connected", "content-type": "audio/l16;rate=16000", "caller": "Anna"}
    assert sorted(map(str, events[1:])) == sorted(
        map(
            str,
            [
                {"event": "websocket:notify", "payload": {"reply": 7}},
                {"event": "websocket:notify", "payload": "later"},
                {"event": "websocket:cleared"},
                {"event": "websocket:dtmf", "digit": "5", "duration": 260},
            ],
        )
    )
    assert events.index({"event": "websocket:notify", "payload": {"reply": 7}}) < events.index(
        {"event": "websocket:cleared"}
    )


async def test_plivo_numbers_its_messages_and_obeys() -> None:
    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.send_str(play_audio(b"\xff" * 160))
        await ws.send_str('{"event":"checkpoint","streamId":"s","name":"greeting"}')
        await listen(ws, told)

    async with calling(talk, plivo(extra_headers="a=1")) as (line, told):
        played = await until(lambda: [e for e in told if e.get("event") == "playedStream"])
        await line.press("#")
        pressed = await until(lambda: [e for e in told if e.get("event") == "dtmf"])
    start = told[1]
    assert start["event"] == "start"
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000}
    assert start["extra_headers"] == "a=1"
    stream = start["start"]["streamId"]
    media = [event for event in told[2:] if event["event"] == "media"]
    assert [event["media"]["chunk"] for event in media] == list(range(1, len(media) + 1))
    assert [event["media"]["timestamp"] for event in media[:3]] == ["0", "20", "40"]
    assert base64.b64decode(media[0]["media"]["payload"]) == codec("PCMU").silence
    assert [event["sequenceNumber"] for event in told[1:]] == list(range(1, len(told)))
    assert (played[0]["name"], played[0]["streamId"]) == ("greeting", stream)
    assert pressed[0]["dtmf"]["digit"] == "#"


async def test_a_wire_of_ones_own_hears_digits_transcripts_and_the_end() -> None:
    wire = Wire(
        digit_in=Rule(where={"type": "key", "to": "caller"}, take="key"),
        transcript=Rule(where={"type": "transcript"}, take="text"),
        end=Rule(where={"type": "bye"}),
        goodbye=[{"type": "over"}],
    )

    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        for form in (
            {"type": "transcript", "text": "hello"},
            {"type": "other"},
            {"type": "key", "to": "agent", "key": "1"},
            {"type": "key", "to": "caller", "key": 7},
            {"type": "bye"},
        ):
            await ws.send_str(json.dumps(form))
        await listen(ws, told)

    async with calling(talk, wire) as (line, told):
        assert (await next_of(line, HeardKind.DTMF)).detail == "7"
        ended = await line.hear(CLOCK.now_ns() + SECOND)
        assert ended is not None
        assert (ended.kind, ended.detail) == (HeardKind.ENDED, "hung up")
        assert "transcript: hello" in [text for _, text in line.trail]
        assert line.detail == {"unknown_messages": 2}
        assert {"type": "over"} not in told  # it was the agent that hung up


async def test_who_hangs_up_says_goodbye_and_closes() -> None:
    closed: list[int | None] = []

    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await listen(ws, told)
        closed.append(ws.close_code)

    async with calling(talk, Wire(goodbye=[{"type": "over", "to": "$to_number"}])) as (line, told):
        await line.hang_up()
        ended = await next_of_end(line)
        assert ended.detail == "hung up"
        with pytest.raises(CallFailed, match="hung up"):
            await line.say(HELLO)
        await until(lambda: closed)
    assert closed == [1000]
    assert told[-1] == {"type": "over", "to": "+15550199"}


async def next_of_end(line: CallerLine) -> Heard:
    heard = await line.hear(CLOCK.now_ns() + 20 * SECOND)
    assert heard is not None
    assert heard.kind is HeardKind.ENDED
    return heard


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("frames", "wire", "sentence"),
    [
        ([b"\0" * 641], PLAIN, "the agent's frame 1 has 641 bytes of audio: half a sample too many for pcm16le"),
        ([b"\0" * 640, "{"], PLAIN, "the agent's frame 2 is not JSON: {"),
        ([b"\0" * 640, "[" * 100_000], PLAIN, "the agent's frame 2 is not JSON: [[["),
        ([b"\0" * 160], plivo(), "the agent's frame 1 is binary, of 160 bytes; the wire has audio in JSON"),
        (['{"event":"playAudio"}'], plivo(), "the agent's frame 1 has no base64 at media.payload: "),
        (['{"event":"playAudio","media":{"payload":7}}'], plivo(), "frame 1 has no base64 at media.payload"),
        ([play_audio(b"x"), '{"event":"playAudio","media":{"payload":"%%%%"}}'], plivo(), "frame 2 has no base64"),
        ([play_audio(b"xxx")], plivo("pcm16le"), "frame 1 has 3 bytes of audio: half a sample too many"),
        ([b"\0" * 2_000_000], PLAIN, "the agent's frame 1 has 2000000 bytes of audio: more than 30 s"),
        ([b"\0" * 640_000] * 5, PLAIN, "more than 30 s"),
        ([b"\0" * 5_000_000], PLAIN, "the agent's frame 1 is longer than 4194304 bytes"),
        (["{}"] * 6000, PLAIN, "more than 2000 frames in a second"),
        ([json.dumps({"action": "notify", "payload": "x" * 2000})], vonage(), "frame 1 is a mark with a name of more"),
    ],
)
async def test_a_frame_that_breaks_the_wire_ends_the_call_and_is_named(
    frames: list[str | bytes], wire: Wire, sentence: str
) -> None:
    codes: list[int | None] = []

    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        for frame in frames:
            if not ws.closed:
                await (ws.send_bytes(frame) if isinstance(frame, bytes) else ws.send_str(frame))
        await listen_to_all(ws)
        codes.append(ws.close_code)

    async with calling(talk, wire) as (line, _):
        ended = await next_of_end(line)
        assert ended.detail.startswith("protocol error: ")
        assert sentence in ended.detail
        with pytest.raises(CallFailed, match="protocol error"):
            await line.say(HELLO)
        await until(lambda: codes)
    assert codes == [1008]


async def listen_to_all(ws: web.WebSocketResponse) -> None:
    async for _ in ws:
        pass


@pytest.mark.parametrize(
    "message", [b"null", b"3", b'"x"', b"[]", b'{"event":{"a":1}}', b'{"event":["playAudio"]}', b'{"media":{}}']
)
async def test_messages_the_wire_does_not_know_are_passed_over(message: bytes) -> None:
    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.send_str(message.decode())
        await listen(ws, told)

    async with calling(talk, plivo()) as (line, _):
        await until(lambda: line.detail)
        assert line.detail == {"unknown_messages": 1}
        assert "passed over: " in line.trail[-1][1]


async def test_an_agent_that_closes_has_hung_up_and_one_that_breaks_is_lost() -> None:
    async def leave(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.close()

    async def fail(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.close(code=1011, message=b"oops")

    async with calling(leave) as (line, _):
        assert (await next_of_end(line)).detail == "hung up"
    async with calling(fail) as (line, _):
        assert (await next_of_end(line)).detail == "lost: the agent closed the socket (1011 oops)"


async def test_where_no_agent_answers_the_media_are_refused() -> None:
    carrier = PlainWebSocket(path="/nowhere")
    with pytest.raises(ServiceError, match="websocket is not running"):
        async with carrier.dial(Endpoint("ws://127.0.0.1:9"), SETUP):
            pytest.fail("it dialled")
    async with listening(web.Application()) as port, carrier.running({}):
        with pytest.raises(CallFailed) as failed:
            async with carrier.dial(Endpoint(f"ws://127.0.0.1:{port}"), SETUP):
                pytest.fail("it answered")
        assert failed.value.reason == "media refused"
        assert f"ws://127.0.0.1:{port}/nowhere: " in failed.value.detail
        assert "404" in failed.value.detail
        with pytest.raises(PlanError, match=r"'127.0.0.1:9' is no WebSocket; give the agent's URL, like ws://"):
            async with carrier.dial(Endpoint("127.0.0.1:9"), SETUP):
                pytest.fail("it dialled")


async def test_a_key_without_a_message_is_a_failure_of_the_call() -> None:
    async with calling(listen) as (line, _):
        with pytest.raises(CallFailed, match="the wire has no message for a digit"):
            await line.press("1")


async def test_one_call_is_placed_and_told() -> None:
    app = web.Application()

    async def media(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await answering(vonage(), 100, lambda octets: octets)(ws, [])
        return ws

    app.router.add_get("/", media)
    out = io.StringIO()
    async with listening(app) as port:
        url = f"ws://127.0.0.1:{port}"
        settings: dict[str, Any] = {
            "says": ["goodbye.bye"],
            "patience_seconds": 1,
            "codec": "PCMU",
            "out": out,
            "carrier": "vonage",
        }
        await asyncio.to_thread(timeline.call, url, **settings)
    assert "the socket is open" in out.getvalue()
    assert re.search("the agent (answers|cuts in), ", out.getvalue())  # it knows no pause for breath
    assert out.getvalue().endswith("; 1 of 1 turns answered\n")


# ---------------------------------------------------------------- the wire itself


def test_templates_are_filled_in() -> None:
    template = Template({"a": "$audio", "n": "$chunk", "t": "at ${chunk} ms of ${call}", "x": ["$mark", "$$", "$ y"]})
    assert template.names == {"audio", "chunk", "call", "mark"}
    filled = template.filled({"audio": b"AA==", "chunk": 3, "call": 'q"\n', "mark": {"k": [1, None]}})
    expected = {"a": "AA==", "n": 3, "t": 'at 3 ms of q"\n', "x": [{"k": [1, None]}, "$$", "$ y"]}
    assert json.loads(filled) == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"encoding": "opus"}, "wire: the encoding 'opus' is unknown; known are pcm16le, pcm16be, mulaw, alaw"),
        ({"encoding": "mulaw", "rate_hz": 16_000}, "wire: mulaw at 16000 Hz: "),
        ({"rate_hz": 44_100}, "wire: pcm16le at 44100 Hz: "),
        ({"audio_out": {"event": "media"}}, 'wire: audio_out has no "$audio": the agent would hear nothing'),
        (
            {"audio_out": ["$audio", "$time"]},
            "wire: audio_out has $time; known there are audio, call, chunk, from_number",
        ),
        ({"hello": [{"x": "${audio}"}]}, "wire: hello has $audio; known there are call, "),
        ({"clear": Rule(where={})}, "wire: the rule for clear has no `where`: every message would be one"),
        ({"audio_in": Rule(where={"event": "media"})}, "wire: the rule for audio_in has no `take`"),
    ],
)
def test_an_impossible_wire_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError) as refused:
        Wire(**settings)
    assert sentence in str(refused.value)
    assert len(refused.value.problems) == 1


async def test_an_agent_that_breaks_the_protocol_is_a_finding_and_no_line_on_the_terminal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(ws: web.WebSocketResponse, told: list[Any]) -> None:
        await ws.close(code=2999)

    async with calling(talk) as (line, _):
        assert (await next_of(line, HeardKind.ENDED)).detail.startswith("protocol error: websocket: ")
    # What reaches no handler of ours, Python prints.
    assert {record.name.rpartition(".")[0] for record in caplog.records} <= {"busyhour.media_socket"}


async def test_calls_over_tls_load_no_authorities_while_others_are_paced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls, _ = certificate(tmp_path)
    loaded: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *asked: loaded.append(asked))

    async def media(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.receive()
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/media", media)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        carrier = PlainWebSocket(path="/media")
        async with carrier.running({}):
            for _ in range(2):
                async with carrier.dial(Endpoint(f"https://127.0.0.1:{runner.addresses[0][1]}"), SETUP) as line:
                    assert (await next_of(line, HeardKind.ENDED)).detail == "hung up"
    finally:
        await runner.cleanup()
    assert loaded == []
