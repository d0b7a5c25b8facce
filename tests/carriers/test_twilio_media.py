"""The Twilio twin's media socket, its API and its callbacks, with agents that keep to them and agents that do not."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, encode_basic_auth, web

from busyhour.carriers import TeXML, Twilio
from busyhour.carriers.line import CallerLine
from busyhour.model import MS, SECOND, CallFailed, HeardKind

from .agent import CLOCK, HELLO, PCMU, next_of, payload, tone
from .document_agent import DocumentAgent, calling, ended, listening, response

CONNECT = '<Connect><Stream url="{media}"/></Connect>'
FORK = '<Start><Stream url="{media}" name="fork" statusCallback="/stream"/></Start>'


async def sending(*frames: object) -> tuple[DocumentAgent, str, CallerLine]:
    """Send the agent's frames (SID stands for the stream's), then a mark: the agent, how the call ended, the line."""

    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        sid = (await agent.hears(ws, "start"))["streamSid"]
        for frame in frames:
            if isinstance(frame, bytes):
                await ws.send_bytes(frame)
            else:
                text = frame if isinstance(frame, str) else json.dumps(frame)
                await ws.send_str(text.replace("SID", sid))
        await ws.send_json({"event": "mark", "streamSid": sid, "mark": {"name": "last"}})
        await agent.hears(ws, "mark")

    agent = DocumentAgent(talk)
    async with calling(agent, CONNECT) as line:
        return agent, await ended(line), line


async def test_the_agent_is_sent_what_the_caller_says_and_presses() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    parameters = '<Parameter name="who" value="me"/><Parameter name="when" value="now"/>'
    stream = '<Connect><Stream url="{media}?a=b" name="main">' + parameters + "</Stream></Connect>"
    async with calling(agent, stream, carrier=twilio) as line:
        await line.say(HELLO)
        await line.press("5")
        await agent.shown("dtmf")
        await line.hang_up()
        await agent.shown("stop")
    connected, start, *rest = agent.frames
    media = [frame for frame in rest if frame["event"] == "media"]
    sid, call_sid = start["streamSid"], (await agent.told("/api/twilio/voice"))[0]["CallSid"]
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start == {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": sid,
        "start": {
            "accountSid": twilio.account_sid,
            "callSid": call_sid,
            "streamSid": sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"who": "me", "when": "now"},
        },
    }
    assert [int(frame["sequenceNumber"]) for frame in rest] == list(range(2, len(rest) + 2))
    assert [int(frame["media"]["chunk"]) for frame in media] == list(range(1, len(media) + 1))
    assert {frame["streamSid"] for frame in rest} == {sid}
    assert rest[-1]["stop"] == {"accountSid": twilio.account_sid, "callSid": call_sid}
    assert [frame["dtmf"] for frame in rest if frame["event"] == "dtmf"] == [{"track": "inbound_track", "digit": "5"}]
    heard = PCMU.decode(b"".join(base64.b64decode(frame["media"]["payload"]) for frame in media))
    said = PCMU.decode(PCMU.encode(HELLO.samples))
    loudest = int(np.argmax(np.abs(said.astype(np.int32))))
    offset = int(np.argmax(np.abs(heard.astype(np.int32)))) - loudest
    assert np.array_equal(heard[offset : offset + len(said)], said)
    assert "query string" in str(line.detail["warnings"])


MALFORMED: list[object] = [
    "no json",
    "",
    "[" * 10_000,
    "null",
    [1, 2],
    {"event": "ping", "streamSid": "SID"},
    {"event": "media", "media": {"payload": "AAAA"}},
    {"event": "clear"},
    {"event": "clear", "streamSid": "MZ" + "0" * 32},
    {"event": "mark", "streamSid": "SID", "mark": {}},
    {"event": "mark", "streamSid": "SID", "mark": {"name": "x" * 1001}},
    {"event": "media", "streamSid": "SID"},
    {"event": "media", "streamSid": "SID", "media": {"payload": 1}},
    {"event": "media", "streamSid": "SID", "media": {"payload": ""}},
    {"event": "media", "streamSid": "SID", "media": {"payload": "not base64"}},
    {"event": "media", "streamSid": ["SID"], "media": {"payload": "AAAA"}},
]


async def test_nonsense_is_a_warning_told_once_and_counted_and_survived() -> None:
    agent, how, line = await sending(*MALFORMED * 8)
    assert how == "hung up"
    assert line.detail["malformed_frames"] == len(MALFORMED) * 8
    first = "warning 31951 (Stream - Protocol - Invalid Message): the message is not JSON: no json"
    assert line.detail["malformed_first"] == first
    assert [text for _, text in line.trail if "31951" in text] == [f"malformed frame: {first}"]
    assert {frame["event"] for frame in agent.frames} == {"connected", "start", "media", "mark"}


async def test_audio_with_another_streams_sid_is_not_heard() -> None:
    loud = payload(tone(200))
    wrong = {"event": "media", "streamSid": "MZ" + "0" * 32, "media": {"payload": loud}}
    _, how, line = await sending(wrong, wrong)
    assert how == "hung up"
    assert "streamSid is not the one of the start message" in str(line.detail["malformed_first"])


async def test_binary_frames_are_warned_of_and_not_heard() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        for _ in range(3):
            await ws.send_bytes(b"\x10" * 160)
        await ws.close()

    async with calling(DocumentAgent(talk), '<Connect><Stream url="{media}"/></Connect>') as line:
        assert await ended(line) == "hung up"
    assert line.detail["malformed_frames"] == 3
    assert str(line.detail["malformed_first"]).startswith("warning 31950 (Stream - Protocol - Malformed Message): ")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (["x" * (1 << 21)], "a frame of 2097152 bytes"),
        ([{"event": "clear", "streamSid": "SID"}] * 4100, "more than 2000 frames in a second"),
        (["x"] * 4100, "more than 2000 frames in a second"),
        (
            [{"event": "media", "streamSid": "SID", "media": {"payload": payload(tone(16000))}}] * 3,
            "more than 30 s of audio",
        ),
    ],
    ids=["oversized", "flood", "flood of nonsense", "too much audio"],
)
async def test_what_no_carrier_would_bear_ends_the_call(frames: list[object], words: str) -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        sid = (await agent.hears(ws, "start"))["streamSid"]
        for frame in frames:
            if isinstance(frame, bytes):
                await ws.send_bytes(frame)
            else:
                text = frame if isinstance(frame, str) else json.dumps(frame)
                await ws.send_str(text.replace("SID", sid))
        await listening(agent, ws)

    agent = DocumentAgent(talk)
    stream = '<Connect><Stream url="{media}" statusCallback="/stream"/></Connect>'
    async with calling(agent, stream) as line:
        how = await ended(line)
        with pytest.raises(CallFailed) as failed:
            await line.say(HELLO)
        errors = [each for each in await agent.told("/stream", 3) if each["StreamEvent"] == "stream-error"]
    assert failed.value.reason == "protocol error"
    assert how == str(failed.value)
    assert words in how
    assert "error 31924 (Stream - WebSocket - Protocol Error)" in errors[0]["StreamError"]


async def test_a_one_way_stream_is_sent_the_caller_and_the_caller_hears_nothing_of_it() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        sid = (await agent.hears(ws, "start"))["streamSid"]
        await ws.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload(tone(400))}})
        await listening(agent, ws)

    agent = DocumentAgent(talk)
    verbs = (FORK, '<Pause length="1"/>', '<Stop><Stream name="fork"/></Stop>', "<Say>The fork is off.</Say>")
    async with calling(agent, *verbs) as line:
        await agent.shown("media", 20)
        await agent.shown("stop")
        onset = await next_of(line, HeardKind.ONSET)
        assert onset.at_ns - line.opened_ns > 900 * MS
        assert await ended(line) == "hung up"
        events = [each["StreamEvent"] for each in await agent.told("/stream", 2)]
    assert sorted(events) == ["stream-started", "stream-stopped"]
    assert line.detail["dropped_frames"] == 1
    assert "one-way" in str(line.detail["dropped_because"])


async def test_a_document_that_only_forks_is_over_at_once() -> None:
    agent = DocumentAgent()
    with pytest.raises(CallFailed, match="media"):
        async with calling(agent, FORK):
            pass


def streams(agent: DocumentAgent) -> dict[str, list[dict[str, Any]]]:
    """The frames of each stream, by the parameter "is" that it was started with."""
    ids: dict[str, str] = {}
    for frame in agent.frames:
        if frame["event"] == "start":
            told = frame["start"].get("customParameters") or frame["start"].get("custom_parameters")
            ids[told["is"]] = frame.get("streamSid") or frame["stream_id"]
    return {
        name: [frame for frame in agent.frames if (frame.get("streamSid") or frame.get("stream_id")) == stream_id]
        for name, stream_id in ids.items()
    }


def named(name: str, attributes: str = "") -> str:
    return f'<Stream url="{{media}}" name="{name}" {attributes}><Parameter name="is" value="{name}"/></Stream>'


@pytest.mark.parametrize("carrier", [Twilio, TeXML])
async def test_a_fork_goes_on_beside_the_conversation_and_ends_with_the_call(carrier: type[Twilio | TeXML]) -> None:
    """Recorders and monitors are sent what the caller says; what they say themselves nobody hears."""

    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        key = "streamSid" if carrier is Twilio else "stream_id"
        sid = {key: start[key]}
        if "main" not in str(start):
            await ws.send_json({"event": "media", **sid, "media": {"payload": payload(tone(2000))}})
            await ws.send_json({"event": "clear", **sid})
        else:
            await agent.hears(ws, "media")
            await ws.send_json({"event": "media", **sid, "media": {"payload": payload(tone(400))}})
        await listening(agent, ws)

    rtp = 'bidirectionalMode="rtp" bidirectionalCodec="PCMU"'
    verbs = ("<Start>" + named("fork") + "</Start>", "<Connect>" + named("main", rtp) + "</Connect>")
    agent = DocumentAgent(talk)
    async with calling(agent, *verbs, carrier=carrier()) as line:
        onset, offset = await next_of(line, HeardKind.ONSET), await next_of(line, HeardKind.OFFSET)
        await line.say(HELLO)
        await line.press("5")
        await line.hang_up()
        await agent.shown("stop", 2)
    assert offset.at_ns - onset.at_ns == pytest.approx(400 * MS, abs=10 * MS), "the fork's 2 s were not heard"
    assert line.detail["dropped_frames"] == 1
    both = streams(agent)
    loudest = {
        name: max(max(base64.b64decode(frame["media"]["payload"])) for frame in frames if frame["event"] == "media")
        for name, frames in both.items()
    }
    assert loudest["fork"] == loudest["main"], "both were sent what the caller said"
    keys = {name: sum(frame["event"] == "dtmf" for frame in frames) for name, frames in both.items()}
    assert keys == {"main": 1, "fork": 0 if carrier is Twilio else 1}  # Twilio tells none to a one-way stream


async def test_a_fork_is_stopped_by_its_name_and_the_conversation_goes_on() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        if start["start"]["customParameters"]["is"] == "main":
            await agent.hears(ws, "media")
            await ws.send_json({"event": "mark", "streamSid": start["streamSid"], "mark": {"name": "on"}})
        await listening(agent, ws)

    status = 'statusCallback="/stream"'
    start = "<Start>" + named("one", status) + named("two", status) + "</Start>"
    agent = DocumentAgent(talk)
    stop = '<Stop><Stream name="one"/></Stop>'
    async with calling(agent, start, "<Say>Hello.</Say>", stop, "<Connect>" + named("main") + "</Connect>") as line:
        await agent.shown("mark")
        stopped = [
            each["StreamName"] for each in await agent.told("/stream", 3) if each["StreamEvent"] == "stream-stopped"
        ]
        assert stopped == ["one"]
        assert line.detail.get("warnings") is None
        assert not any("ended" in text for _, text in line.trail)


async def test_a_fork_that_nobody_answers_ends_no_conversation() -> None:
    nobody = '<Start><Stream url="ws://127.0.0.1:9/no" name="fork" statusCallback="/stream"/></Start>'

    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "media")
        await agent.told("/stream")
        await ws.close()

    agent = DocumentAgent(talk)
    async with calling(agent, nobody, CONNECT, "<Say>Good bye.</Say>") as line:
        assert await ended(line) == "hung up"
    assert [each["StreamEvent"] for each in await agent.told("/stream")] == ["stream-error"]


async def test_more_forks_than_the_twin_opens_are_its_own_limit() -> None:
    async with calling(DocumentAgent(), "<Say>Hello.</Say>", FORK * 17, CONNECT) as line:
        assert (await ended(line)).startswith("twin cannot: busyhour's twin opens at most 16 one-way streams")


async def test_a_socket_that_breaks_is_lost_and_told() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        transport = ws._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    agent = DocumentAgent(talk)
    stream = '<Connect><Stream url="{media}" name="main" statusCallback="/stream"/></Connect>'
    async with calling(agent, stream) as line:
        assert (await ended(line)).startswith("lost: error 31921 (Stream - WebSocket - Close Error)")
        told = await agent.told("/stream", 3)
    assert {each["StreamEvent"] for each in told} == {"stream-started", "stream-stopped", "stream-error"}
    assert {each["StreamName"] for each in told} == {"main"}
    assert {each["StreamSid"] for each in told} == {agent.frames[1]["streamSid"]}


async def test_clear_drops_what_is_queued_and_returns_the_marks() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        sid = (await agent.hears(ws, "start"))["streamSid"]
        await ws.send_json({"event": "media", "streamSid": sid, "media": {"payload": payload(tone(5000))}})
        await ws.send_json({"event": "mark", "streamSid": sid, "mark": {"name": "long"}})
        for _ in range(15):
            await agent.hears(ws, "media")
        await ws.send_json({"event": "clear", "streamSid": sid})
        mark = await agent.hears(ws, "mark")
        assert (mark["mark"], mark["streamSid"]) == ({"name": "long"}, sid)
        await listening(agent, ws)

    async with calling(DocumentAgent(talk), CONNECT) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
    assert offset.at_ns - onset.at_ns < 2 * SECOND


# ---------------------------------------------------------------- the API


def call_sid(agent: DocumentAgent) -> str:
    return agent.asked[0][1]["CallSid"]


async def test_the_agent_ends_a_call_over_the_api() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    async with calling(agent, CONNECT, carrier=twilio) as line:
        sid = call_sid(agent)
        status, call = await agent.api_call(twilio, "GET", sid)
        assert (status, call["status"], call["sid"], call["end_time"]) == (200, "in-progress", sid, None)
        status, call = await agent.api_call(twilio, "POST", sid, Status="completed")
        assert (status, call["status"]) == (200, "completed")
        assert await ended(line) == "hung up"
        assert (await agent.api_call(twilio, "GET", sid))[1]["status"] == "completed"
        status, gone = await agent.api_call(twilio, "POST", sid, Status="completed")
        assert (status, gone["code"], gone["status"]) == (404, 20404, 404)
        status, over = await agent.api_call(twilio, "POST", sid, Twiml=response())
        assert (status, over["code"]) == (400, 21220)
        await agent.shown("stop")


async def test_the_agent_redirects_a_call_over_the_api() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    agent.documents["/later"] = [response("<Say>And goodbye.</Say>", "<Hangup/>")]
    async with calling(agent, CONNECT, carrier=twilio) as line:
        sid = call_sid(agent)
        assert (await agent.api_call(twilio, "POST", sid, Twiml=response(CONNECT).format(media="ws://h/")))[0] == 200
        await agent.shown("stop")
        assert "neither on this machine" in await ended(line)
    async with calling(agent, CONNECT, carrier=twilio) as line:
        sid = agent.asked[-1][1]["CallSid"]
        document = response("<Say>Wait.</Say>", '<Pause length="60"/>')
        assert (await agent.api_call(twilio, "POST", sid, Twiml=document))[0] == 200
        await next_of(line, HeardKind.ONSET)
        assert (await agent.api_call(twilio, "POST", sid, Url=f"{agent.url}/later", Method="GET"))[0] == 200
        assert (await agent.told("/later"))[0]["CallStatus"] == "in-progress"
        assert await ended(line) == "hung up"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Status": "paused"}, 20001),
        ({"Url": "http://127.0.0.1/", "Twiml": "<Response/>"}, 20001),
        ({"Url": "ftp://127.0.0.1/"}, 21205),
        ({"Url": "http://127.0.0.1/", "Method": "PUT"}, 20001),
        ({"Twiml": "x" * 4001}, 20001),
        ({"StatusCallback": "mailto:a@b"}, 20001),
    ],
)
async def test_an_update_that_means_nothing_is_refused_and_changes_nothing(fields: dict[str, str], code: int) -> None:
    agent, twilio = DocumentAgent(), Twilio()
    async with calling(agent, CONNECT, carrier=twilio) as line:
        status, refused = await agent.api_call(twilio, "POST", call_sid(agent), **fields)
        assert (status, refused["code"], refused["status"]) == (400, code, 400)
        assert refused["more_info"] == f"https://www.twilio.com/docs/errors/{code}"
        assert (await agent.api_call(twilio, "GET", call_sid(agent)))[1]["status"] == "in-progress"
        assert any(str(code) in text for _, text in line.trail)


@pytest.mark.parametrize(
    ("method", "path", "auth", "status", "code"),
    [
        ("GET", "/2010-04-01/Accounts/{account}/Calls/CAno.json", "right", 404, 20404),
        ("POST", "/2010-04-01/Accounts/{account}/Calls/CAno.json", "right", 404, 20404),
        ("POST", "/2010-04-01/Accounts/ACother/Calls/{call}.json", "right", 404, 20404),
        ("POST", "/2010-04-01/Accounts/{account}/Calls/{call}.json", "wrong", 401, 20003),
        ("POST", "/2010-04-01/Accounts/{account}/Calls/{call}.json", "", 401, 20003),
        ("POST", "/2010-04-01/Accounts/{account}/Calls.json", "right", 400, 20001),
        ("DELETE", "/2010-04-01/Accounts/{account}/Calls/{call}.json", "right", 405, 20004),
        ("GET", "/v2/nothing", "right", 404, 20404),
    ],
)
async def test_who_may_not_and_what_is_not_there(method: str, path: str, auth: str, status: int, code: int) -> None:
    agent, twilio = DocumentAgent(), Twilio()
    async with calling(agent, CONNECT, carrier=twilio), ClientSession() as session:
        password = twilio.auth_token if auth == "right" else "guess"
        headers = {"authorization": encode_basic_auth(twilio.account_sid, password)} if auth else {}
        url = agent.api + path.format(account=twilio.account_sid, call=call_sid(agent))
        async with session.request(method, url, headers=headers) as answer:
            said = await answer.json()
    assert (answer.status, said["code"], said["status"]) == (status, code, status)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[" * 100_000, "application/json"),
        (b'"text"', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"--x\r\nno", "multipart/form-data; boundary=x"),
        (b"nothing", "multipart/form-data"),
        (b"Status=%ff%fe&Status[]=x&=&&&", "application/x-www-form-urlencoded"),
        (b"\x00" * 1000, "application/octet-stream"),
        (b"x" * (2 << 20), "application/x-www-form-urlencoded"),
    ],
    ids=["deep", "text", "binary json", "bad multipart", "no boundary", "odd form", "octets", "huge"],
)
async def test_bodies_that_are_none_are_answered_by_the_vendors_errors(body: bytes, content_type: str) -> None:
    agent, twilio = DocumentAgent(), Twilio()
    async with calling(agent, CONNECT, carrier=twilio), ClientSession() as session:
        url = f"{agent.api}/2010-04-01/Accounts/{twilio.account_sid}/Calls/{call_sid(agent)}.json"
        auth = {"authorization": encode_basic_auth(twilio.account_sid, twilio.auth_token)}
        async with session.post(url, data=io.BytesIO(body), headers={"content-type": content_type, **auth}) as answer:
            said: dict[str, Any] = await answer.json()
        assert answer.status in (200, 400, 413)
        assert said["code"] if answer.status != 200 else said["sid"]
        async with session.get(url, headers=auth) as answer:
            assert (await answer.json())["status"] == "in-progress"


async def test_a_status_callback_can_be_set_over_the_api() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    async with calling(agent, CONNECT, carrier=twilio) as line:
        url = f"{agent.url}/done"
        assert (await agent.api_call(twilio, "POST", call_sid(agent), StatusCallback=url))[0] == 200
        await line.hang_up()
        told = (await agent.told("/done"))[0]
    assert (told["CallStatus"], told["CallSid"]) == ("completed", call_sid(agent))


async def test_a_call_that_lasts_can_be_heard_until_its_end() -> None:
    async with calling(DocumentAgent(), CONNECT) as line:
        assert await line.hear(CLOCK.now_ns() + 50 * MS) is None
        with pytest.raises(ValueError, match="keys are"):
            await line.press("x")
