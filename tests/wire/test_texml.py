"""TeXML through the Telnyx twin: the vendor's own SDK verifies what is signed and commands the calls."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import telnyx
from aiohttp import web
from telnyx import AsyncTelnyx
from telnyx.lib.webhook_verification import WebhookVerificationError, verify_webhook_signature

from busyhour.carriers import TeXML
from busyhour.carriers.line import CallerLine
from busyhour.media.codec import codec
from busyhour.model import MS, Carrier, HeardKind, Metered

from ..carriers.agent import HELLO, next_of, payload, tone
from ..carriers.document_agent import DocumentAgent, calling, ended, failure, listening, response

CONNECT = '<Connect><Stream url="{media}" bidirectionalMode="rtp" bidirectionalCodec="PCMU"/></Connect>'


async def speaking(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
    await agent.hears(ws, "start")
    await ws.send_json({"event": "media", "media": {"payload": payload(tone(400))}})
    await listening(agent, ws)


async def test_a_call_is_told_by_texml_and_streamed_in_telnyxs_frames() -> None:
    agent, texml = DocumentAgent(speaking), TeXML(status_path="/status")
    stream = '<Connect><Stream url="{media}?a=b" name="main" bidirectionalMode="rtp" statusCallback="/stream">'
    document = stream + '<Parameter name="who" value="me"/></Stream></Connect>'
    async with calling(agent, document, carrier=texml) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
        await line.say(HELLO)
        await line.press("5")
        await agent.shown("dtmf")
        await line.hang_up()
        streams = await agent.told("/stream", 2)
        statuses = await agent.told("/status", 4)
    assert offset.at_ns - onset.at_ns == pytest.approx(400 * MS, abs=10 * MS)
    asked = (await agent.told("/api/texml/voice"))[0]
    assert asked["AccountSid"] == texml.account_sid
    assert asked["CallSid"] == asked["CallSidLegacy"]
    assert asked["CallSid"].startswith("v3:")
    connected, start, *rest = agent.frames
    assert connected == {"event": "connected", "version": "1.0.0"}
    assert start["start"]["call_control_id"] == asked["CallSid"]
    assert start["start"]["custom_parameters"] == {"who": "me"}
    assert start["start"]["media_format"] == {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}
    assert {frame["stream_id"] for frame in rest} == {start["stream_id"]}
    assert [frame["dtmf"] for frame in rest if frame["event"] == "dtmf"] == [{"digit": "5"}]
    assert {each["StreamEvent"] for each in streams} == {"stream-started", "stream-stopped"}
    assert {each["CallStatus"] for each in statuses} == {"initiated", "ringing", "in-progress", "completed"}


async def test_what_stands_after_connect_is_done_when_the_socket_is_closed() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "media")

    async with calling(DocumentAgent(talk), CONNECT, "<Say>Goodbye.</Say>", carrier=TeXML()) as line:
        assert (await next_of(line, HeardKind.ONSET)).at_ns > line.opened_ns
        assert await ended(line) == "hung up"
    assert line.detail == {"carrier_said": ["Goodbye."]}


async def test_a_stream_without_rtp_mode_is_heard_by_nobody() -> None:
    agent = DocumentAgent(speaking)
    async with calling(agent, '<Connect><Stream url="{media}"/></Connect>', carrier=TeXML()) as line:
        await agent.shown("media", 5)
        assert line.detail["dropped_frames"] == 1
        assert "rtp" in str(line.detail["dropped_because"])


async def test_a_wide_band_stream() -> None:
    async def talk(agent: DocumentAgent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        wide = base64.b64encode(codec("L16", 16000).encode(tone(200, 16000))).decode()
        await ws.send_json({"event": "media", "media": {"payload": wide}})
        await listening(agent, ws)

    attributes = 'bidirectionalMode="rtp" bidirectionalCodec="L16" bidirectionalSamplingRate="16000"'
    stream = f'<Connect><Stream url="{{media}}" codec="PCMA" {attributes}/></Connect>'
    agent = DocumentAgent(talk)
    async with calling(agent, stream, carrier=TeXML()) as line:
        onset = await next_of(line, HeardKind.ONSET)
        offset = await next_of(line, HeardKind.OFFSET)
    assert offset.at_ns - onset.at_ns == pytest.approx(200 * MS, abs=10 * MS)
    assert agent.frames[1]["start"]["media_format"]["encoding"] == "PCMA"
    async with calling(agent, "<Say>Hello.</Say>", stream, carrier=TeXML()) as line:  # the carrier speaks wide-band too
        await next_of(line, HeardKind.ONSET)
        await agent.shown("start", 2)


@pytest.mark.parametrize(
    ("verbs", "reason", "words"),
    [
        (CONNECT.replace("PCMU", "G722"), "twin cannot", "G722"),
        (CONNECT.replace("rtp", "tcp"), "protocol error", "stream_bidirectional_mode"),
        (CONNECT.replace("/>", ' bidirectionalSamplingRate="fast"/>'), "protocol error", "sampling_rate"),
        ("<AIGather/>", "twin cannot", "does not carry out <AIGather>"),
        ("<Shout/>", "protocol error", "<Shout> is no verb of TeXML"),
        ("", "no media", "no <Connect><Stream>"),
        ('<Reject reason="busy"/>', "rejected", "busy"),
        ('<Connect><Stream url="ws://127.0.0.1:9/"/></Connect>', "media refused", "ws://127.0.0.1:9/"),
    ],
)
async def test_a_document_that_gives_no_conversation(verbs: str, reason: str, words: str) -> None:
    failed = await failure(verbs, carrier=TeXML())
    assert failed.reason == reason
    assert words in failed.detail


def test_it_is_a_carrier_that_measures_itself() -> None:
    carrier: Carrier = TeXML()
    assert isinstance(carrier, Metered)
    assert carrier.drain(0) == []


# ---------------------------------------------------------------- the SDK


async def test_the_verifier_takes_what_is_signed_and_refuses_what_was_changed() -> None:
    agent, texml = DocumentAgent(), TeXML(seed=7, status_path="/status")
    agent.documents["/next"] = [response(CONNECT)]
    async with calling(agent, '<Redirect method="GET">/next</Redirect>', carrier=texml) as line:
        await line.hang_up()
        await agent.told("/status", 4)
    assert {method for method, *_ in agent.requests} == {"GET", "POST"}
    for _, _, headers, _, raw in agent.requests:
        verify_webhook_signature(raw, headers, texml.public_key)
        with pytest.raises(WebhookVerificationError, match="does not match"):
            verify_webhook_signature(raw + b"&", headers, texml.public_key)
        with pytest.raises(WebhookVerificationError, match="does not match"):
            verify_webhook_signature(raw, headers, TeXML(seed=8).public_key)


@pytest.mark.parametrize("how", ["wrong", "tampered", "stale", "missing"])
async def test_the_verifier_refuses_what_the_twin_signs_wrongly(how: Any) -> None:
    agent, texml = DocumentAgent(), TeXML(signature=how)
    async with calling(agent, CONNECT, carrier=texml):
        _, _, headers, _, raw = agent.requests[0]
        with pytest.raises(WebhookVerificationError):
            verify_webhook_signature(raw, headers, texml.public_key)


@asynccontextmanager
async def sdk_calling(agent: DocumentAgent, texml: TeXML) -> AsyncIterator[tuple[CallerLine, AsyncTelnyx]]:
    client = AsyncTelnyx(api_key="KEY", base_url="http://127.0.0.1:9", max_retries=0)
    async with client, calling(agent, CONNECT, carrier=texml) as line:
        yield line, client.with_options(base_url=agent.api)


async def test_the_sdk_fetches_redirects_and_ends_a_call() -> None:
    agent, texml = DocumentAgent(), TeXML(api_key="KEY")
    async with sdk_calling(agent, texml) as (line, client):
        sid, account = agent.asked[0][1]["CallSid"], texml.account_sid
        calls = client.texml.accounts.calls
        call = await calls.retrieve(sid, account_sid=account)
        assert (call.sid, call.status, call.direction) == (sid, "in-progress", "inbound")
        said = response("<Say>Wait.</Say>", '<Pause length="60"/>')
        assert (await calls.update(sid, account_sid=account, texml=said)).status == "in-progress"
        await next_of(line, HeardKind.ONSET)
        with pytest.raises(telnyx.UnprocessableEntityError):
            await calls.update(sid, account_sid=account, status="paused")
        with pytest.raises(telnyx.NotFoundError):
            await calls.retrieve("v3:nothing", account_sid=account)
        with pytest.raises(telnyx.AuthenticationError):
            await client.with_options(api_key="WRONG").texml.accounts.calls.retrieve(sid, account_sid=account)
        assert (await calls.update(sid, account_sid=account, status="completed")).status == "completed"
        assert await ended(line) == "hung up"
        with pytest.raises(telnyx.UnprocessableEntityError) as over:
            await calls.update(sid, account_sid=account, status="completed")
        assert "90018" in str(over.value)
