"""The vendor's own SDK judges the Telnyx twin: its client commands it, its verifier and its types read its webhooks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import telnyx
from aiohttp import web
from telnyx import AsyncTelnyx
from telnyx.lib.webhook_verification import WebhookVerificationError, verify_webhook_signature
from telnyx.types import (
    CallAnswered,
    CallBridged,
    CallDtmfReceived,
    CallHangup,
    CallInitiated,
    CallPlaybackEnded,
    CallPlaybackStarted,
    CallSpeakEnded,
    CallSpeakStarted,
    CallStreamingFailed,
    CallStreamingStarted,
    CallStreamingStopped,
)

from busyhour.carriers import Telnyx
from busyhour.clock import SystemClock
from busyhour.model import SECOND, CallFailed, CallSetup, Endpoint, HeardKind, Line

CLOCK = SystemClock()
SETUP = CallSetup(id="steady/1", answer_within_ns=5 * SECOND)
STATE = base64.b64encode(b"who is calling").decode()
TYPES: dict[str, Any] = {
    "call.answered": CallAnswered,
    "call.bridged": CallBridged,
    "call.dtmf.received": CallDtmfReceived,
    "call.hangup": CallHangup,
    "call.initiated": CallInitiated,
    "call.playback.ended": CallPlaybackEnded,
    "call.playback.started": CallPlaybackStarted,
    "call.speak.ended": CallSpeakEnded,
    "call.speak.started": CallSpeakStarted,
    "streaming.failed": CallStreamingFailed,
    "streaming.started": CallStreamingStarted,
    "streaming.stopped": CallStreamingStopped,
}

Act = Callable[["SdkAgent", str], Awaitable[None]]


class SdkAgent:
    """An agent written with the SDK: it unwraps every webhook, and answers with a stream."""

    def __init__(self, client: AsyncTelnyx, on: dict[str, Act]) -> None:
        self.client = client
        self.on = on
        self.url = ""
        self.raw: list[tuple[dict[str, str], bytes]] = []
        self._news = asyncio.Condition()

    @property
    def stream_url(self) -> str:
        return self.url.replace("http", "ws") + "/media"

    async def webhook(self, request: web.Request) -> web.Response:
        raw = await request.read()
        headers = dict(request.headers)
        webhooks: Any = self.client.webhooks  # typed as if it were not to be awaited
        event = await webhooks.unwrap(raw.decode(), headers=headers)
        async with self._news:
            self.raw.append((headers, raw))
            self._news.notify_all()
        act = self.on.get(event.data.event_type)
        if act is not None:
            await act(self, event.data.payload.call_control_id)
        return web.Response()

    async def media(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for _ in ws:
            pass
        return ws

    async def told(self, event_type: str, count: int = 1) -> list[dict[str, Any]]:
        def events() -> list[dict[str, Any]]:
            all_events = [json.loads(raw) for _, raw in self.raw]
            return [event["data"] for event in all_events if event["data"]["event_type"] == event_type]

        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(lambda: len(events()) >= count)
        return events()


async def answer(agent: SdkAgent, call: str) -> None:
    said = await agent.client.calls.actions.answer(
        call,
        client_state=STATE,
        command_id="answer",
        stream_url=agent.stream_url,
        stream_track="inbound_track",
        stream_bidirectional_mode="rtp",
        stream_bidirectional_codec="PCMU",
    )
    assert said.data is not None
    assert said.data.result == "ok"


@asynccontextmanager
async def judged(twin: Telnyx, **on: Act) -> AsyncIterator[tuple[SdkAgent, Endpoint]]:
    """The twin and an agent of the SDK, which acts on events: `call_initiated=answer`."""
    async with twin.running({}) as endpoint:
        client = AsyncTelnyx(api_key="KEY", base_url=endpoint.url, public_key=twin.public_key, max_retries=0)
        agent = SdkAgent(client, {name.replace("_", "."): act for name, act in on.items()})
        app = web.Application()
        app.router.add_post("/api/telnyx/webhook", agent.webhook)
        app.router.add_get("/media", agent.media)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            agent.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with client:
                yield agent, Endpoint(agent.url)
        finally:
            await runner.cleanup()


async def ended(line: Line) -> str:
    while True:
        heard = await line.hear(CLOCK.now_ns() + 5 * SECOND)
        assert heard is not None
        if heard.kind == HeardKind.ENDED:
            return heard.detail


async def test_the_sdk_commands_a_call_from_answer_to_hangup() -> None:
    twin = Telnyx(api_key="KEY", transfer="busy", transfer_after_ms=1)
    async with judged(twin, call_initiated=answer) as (agent, target), twin.dial(target, SETUP) as line:
        actions = agent.client.calls.actions
        call = (await agent.told("call.initiated"))[0]["payload"]["call_control_id"]
        await agent.told("streaming.started")
        await actions.stop_streaming(call)
        await actions.start_streaming(
            call,
            stream_url=agent.stream_url,
            stream_codec="PCMU",
            stream_bidirectional_mode="rtp",
            stream_bidirectional_codec="PCMU",
            stream_bidirectional_sampling_rate=8000,
            stream_auth_token="token",
            custom_parameters=[{"name": "a", "value": "b"}],
        )
        await agent.told("streaming.started", 2)
        await actions.speak(call, payload="One moment.", voice="AWS.Polly.Joanna", language="en-US", loop=1)
        await agent.told("call.speak.ended")
        await actions.start_playback(call, audio_url="http://127.0.0.1:9/a.wav", overlay=False, client_state=STATE)
        await agent.told("call.playback.ended")
        await actions.stop_playback(call, stop="all")
        await actions.send_dtmf(call, digits="1", duration_millis=250)
        await actions.transfer(call, to="+15550101", timeout_secs=30)
        assert (await agent.told("call.hangup"))[0]["payload"]["hangup_cause"] == "user_busy"
        newer = base64.b64encode(b"newer").decode()
        await actions.update_client_state(call, client_state=newer)
        status = await agent.client.calls.retrieve_status(call)
        assert status.data is not None
        assert (status.data.is_alive, status.data.client_state) == (True, newer)
        await line.press("5")
        await agent.told("call.dtmf.received")
        await actions.hangup(call)
        assert await ended(line) == "hung up"
        last = (await agent.told("call.hangup", 2))[1]
        assert last["payload"]["client_state"] == newer
        judge(agent)


def judge(agent: SdkAgent) -> None:
    """Every webhook has the SDK's type for its event, strictly: the right literals, and no field it does not know
    but those that were seen in the webhooks of real calls."""
    seen = {"calling_party_type", "from_sip_uri", "to_sip_uri", "end_time", "direction", "state", "status_detail"}
    for _, raw in agent.raw:
        event = json.loads(raw)
        assert set(event) == {"data", "meta"}
        typed = TYPES[event["data"]["event_type"]].model_validate(event["data"])
        assert typed.event_type == event["data"]["event_type"]
        assert typed.occurred_at is not None
        assert typed.payload is not None
        assert set(typed.payload.model_extra or {}) <= seen, event


async def test_an_answered_transfer_in_the_types_of_the_sdk() -> None:
    twin = Telnyx(transfer_after_ms=1)
    async with judged(twin, call_initiated=answer_incoming) as (agent, target), twin.dial(target, SETUP) as line:
        call = (await agent.told("call.initiated"))[0]["payload"]["call_control_id"]
        await agent.client.calls.actions.transfer(call, to="sip:desk@example.com", target_leg_client_state=STATE)
        assert await ended(line) == "transferred"
        await agent.told("call.bridged", 2)
        await line.hang_up()
        await agent.told("call.hangup", 2)
        judge(agent)


async def answer_incoming(agent: SdkAgent, call: str) -> None:
    if len(await agent.told("call.initiated")) == 1:
        await answer(agent, call)


async def test_a_failed_stream_in_the_types_of_the_sdk() -> None:
    async def answer_nowhere(agent: SdkAgent, call: str) -> None:
        await agent.client.calls.actions.answer(call, stream_url="ws://127.0.0.1:9/media")

    twin = Telnyx(media_within_seconds=0.3)
    async with judged(twin, call_initiated=answer_nowhere) as (agent, target):
        with pytest.raises(CallFailed, match="media refused"):
            async with twin.dial(target, SETUP):
                pass
        await agent.told("streaming.failed")
        judge(agent)


async def test_a_rejected_call_in_the_types_of_the_sdk() -> None:
    async def reject(agent: SdkAgent, call: str) -> None:
        await agent.client.calls.actions.reject(call, cause="USER_BUSY")

    twin = Telnyx()
    async with judged(twin, call_initiated=reject) as (agent, target):
        with pytest.raises(CallFailed, match="rejected"):
            async with twin.dial(target, SETUP):
                pass
        assert (await agent.told("call.hangup"))[0]["payload"]["hangup_cause"] == "user_busy"
        judge(agent)


async def test_the_errors_of_the_twin_are_the_exceptions_of_the_sdk() -> None:
    twin = Telnyx(api_key="KEY")
    async with judged(twin, call_initiated=answer) as (agent, target), twin.dial(target, SETUP):
        calls = agent.client.calls
        call = (await agent.told("call.initiated"))[0]["payload"]["call_control_id"]
        with pytest.raises(telnyx.UnprocessableEntityError) as wrong:
            await calls.actions.send_dtmf(call, digits="no digits")
        assert code(wrong.value) == "10015"
        with pytest.raises(telnyx.UnprocessableEntityError) as wrong:
            await calls.dial(connection_id="1", from_="+15550100", to="+15550101")
        assert code(wrong.value) == "10015"
        with pytest.raises(telnyx.UnprocessableEntityError) as wrong:
            await calls.retrieve_status("nonsense")
        assert code(wrong.value) == "90015"
        with pytest.raises(telnyx.AuthenticationError) as unknown:
            await agent.client.with_options(api_key="WRONG").calls.actions.hangup(call)
        assert code(unknown.value) == "10009"
        with pytest.raises(telnyx.NotFoundError) as nowhere:
            await agent.client.post("/nothing", cast_to=object)
        assert code(nowhere.value) == "10005"
        with pytest.raises(telnyx.UnprocessableEntityError) as wrong:
            await calls.actions.start_recording(call, channels="single", format="wav")
        assert code(wrong.value) == "10015"  # which the twin cannot do: the call is over
        with pytest.raises(telnyx.UnprocessableEntityError) as over:
            await calls.actions.hangup(call)
        assert code(over.value) == "90018"


def code(error: telnyx.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    (only,) = error.body["errors"]
    assert only["title"]
    assert only["detail"]
    return str(only["code"])


async def test_a_command_that_fails_with_500_is_repeated_by_the_sdk_and_done_once() -> None:
    twin = Telnyx(command_error_share=0.5, seed=3)
    async with judged(twin, call_initiated=answer) as (agent, target):
        agent.client = agent.client.with_options(max_retries=10)
        async with twin.dial(target, SETUP):
            await agent.told("streaming.started")
    assert len(await agent.told("call.answered")) == 1


# ---------------------------------------------------------------- the verifier


async def webhooks_of(twin: Telnyx) -> list[tuple[dict[str, str], bytes]]:
    """What a call sends, as it was on the wire."""
    received: list[tuple[dict[str, str], bytes]] = []

    async def webhook(request: web.Request) -> web.Response:
        received.append((dict(request.headers), await request.read()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/api/telnyx/webhook", webhook)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with twin.running({}):
            target = Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}")
            with pytest.raises(CallFailed, match="no answer"):
                async with twin.dial(target, CallSetup(id="a", answer_within_ns=100_000_000)):
                    pass
    finally:
        await runner.cleanup()
    assert len(received) == 2
    return received


async def test_the_verifier_takes_what_is_signed_and_refuses_what_was_changed() -> None:
    twin = Telnyx(seed=7)
    for headers, raw in await webhooks_of(twin):
        verify_webhook_signature(raw, headers, twin.public_key)
        for changed in (raw + b" ", raw.replace(b"call", b"Call", 1), b""):
            with pytest.raises(WebhookVerificationError, match="does not match"):
                verify_webhook_signature(changed, headers, twin.public_key)
        with pytest.raises(WebhookVerificationError, match="does not match"):
            verify_webhook_signature(raw, headers, Telnyx(seed=8).public_key)
        later = {name: str(int(value) + 1) if name == "telnyx-timestamp" else value for name, value in headers.items()}
        with pytest.raises(WebhookVerificationError, match="does not match"):
            verify_webhook_signature(raw, later, twin.public_key)


@pytest.mark.parametrize(
    ("signature", "complaint"),
    [
        ("wrong", "does not match"),
        ("tampered", "does not match"),
        ("stale", "too old or too new"),
        ("missing", "Missing required header"),
    ],
)
async def test_the_verifier_refuses_what_the_twin_signs_wrongly(signature: Any, complaint: str) -> None:
    twin = Telnyx(signature=signature)
    for headers, raw in await webhooks_of(twin):
        with pytest.raises(WebhookVerificationError, match=complaint):
            verify_webhook_signature(raw, headers, twin.public_key)
