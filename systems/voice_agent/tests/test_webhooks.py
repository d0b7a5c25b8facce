"""The carrier's door: who is let in, and what happens once, twice, too late and not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from voice_agent.switchboard import Lately

_EVENT = {"data": {"event_type": "call.cost", "id": "1", "payload": {"call_control_id": "x"}}}


async def test_only_what_the_carrier_signed_lately_is_taken(worlds: Callable[..., Any]) -> None:
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    async with worlds(TELNYX_VERIFY="on", TELNYX_PUBLIC_KEY=base64.b64encode(raw).decode()) as world:
        body = json.dumps(_EVENT).encode()
        assert await world.post(body, key=key) == 200
        assert await world.post(body, key=Ed25519PrivateKey.generate()) == 403
        assert await world.post(body, key=key, age_seconds=290) == 200
        assert await world.post(body, key=key, age_seconds=310) == 403
        assert await world.post(body, key=key, age_seconds=-310) == 403
        url = f"{world.agent}/api/telnyx/webhook"
        assert (await world.http.post(url, content=body)).status_code == 401
        headers = {"telnyx-timestamp": "1", "telnyx-signature-ed25519": "not base64"}
        assert (await world.http.post(url, content=body, headers=headers)).status_code == 403


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"data":{}}', b'{"data":{"event_type":"a","id":"b","payload":1}}'])
async def test_a_malformed_webhook_is_refused(world: Any, body: bytes) -> None:
    assert await world.post(body) == 400


async def test_a_webhook_that_comes_twice_is_taken_once(world: Any) -> None:
    await world.webhook("call.initiated", id_="same")
    await world.telnyx.commanded("answer")
    await world.webhook("call.answered")
    await world.telnyx.commanded("streaming_start")
    await world.webhook("call.hangup")
    await world.quiet()
    await world.webhook("call.initiated", id_="same")
    await world.webhook("call.initiated", id_="another")  # nor is a call that has ended answered again
    assert await world.metric("voice_agent_open_calls") == 0
    assert world.telnyx.names() == ["answer", "streaming_start"]


async def test_a_hangup_before_its_beginning_leaves_no_call(world: Any) -> None:
    await world.webhook("call.hangup")
    await world.webhook("call.initiated")
    assert await world.metric("voice_agent_open_calls") == 0
    assert world.telnyx.commands == []


async def test_outgoing_calls_are_not_answered(world: Any) -> None:
    await world.webhook("call.initiated", direction="outgoing")
    assert await world.metric("voice_agent_open_calls") == 0


async def _a_command_is_tried_again_under_the_same_id(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        world.telnyx.failures = 2
        async with world.calling() as caller:
            await caller.greeted()
        tried = [command["command_id"] for name, command in world.telnyx.commands if name == "answer"]
        assert len(tried) == 3
        assert len(set(tried)) == 1
        streaming = await world.telnyx.commanded("streaming_start")
        assert streaming["stream_bidirectional_mode"] == "rtp"
        assert streaming["command_id"] not in tried


async def _a_command_is_given_up_in_the_end(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        world.telnyx.failures = 100
        await world.webhook("call.initiated")
        await world.counted('voice_agent_calls_total{outcome="no media"}')
        assert world.telnyx.names() == ["answer"] * 3 + ["hangup"] * 3


async def test_a_call_that_ended_before_it_was_answered_is_over(world: Any) -> None:
    world.telnyx.ended = True
    await world.webhook("call.initiated")
    await world.counted('voice_agent_calls_total{outcome="caller hung up"}')
    assert world.telnyx.names() == ["answer"]


async def test_calls_beyond_the_limit_are_rejected(worlds: Callable[..., Any]) -> None:
    async with worlds(MAX_CALLS="1") as world, world.calling() as caller:
        await caller.greeted()
        await world.webhook("call.initiated", call_control_id="second")
        assert await world.telnyx.commanded("reject") == {
            "cause": "USER_BUSY",
            "call": "second",
            "command_id": world.telnyx.commands[-1][1]["command_id"],
        }


async def test_a_media_stream_needs_its_token_and_comes_once(world: Any) -> None:
    base = world.agent.replace("http", "ws") + "/ws/media-stream/v3%3Aa%20b"
    async with world.calling() as caller:
        await caller.greeted()
        for url in (base, f"{base}?token=guessed", await world.stream_url(), base.replace("v3", "v4")):
            with pytest.raises(InvalidStatus, match="403"):
                await connect(url, proxy=None)
        await caller.say("Still there?")
        await caller.next("media")


async def test_without_media_auth_a_stream_needs_no_call(worlds: Callable[..., Any]) -> None:
    async with worlds(MEDIA_AUTH="off") as world:
        async with connect(world.agent.replace("http", "ws") + "/ws/media-stream/desk", proxy=None) as socket:
            await socket.send('{"event":"start","start":{"media_format":{"encoding":"PCMU","sample_rate":8000}}}')
            assert json.loads(await socket.recv())["event"] == "media"
            await socket.send('{"event":"stop"}')
        await world.quiet()
        assert world.telnyx.commands == []


async def test_health_tells_of_open_calls(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        health = await world.http.get(f"{world.agent}/health")
    assert health.json() == {"status": "ok", "open_calls": 1}
    metrics = (await world.http.get(f"{world.agent}/metrics")).text
    assert "# TYPE voice_agent_open_calls gauge\nvoice_agent_open_calls 0\n" in metrics


def test_lately_is_bounded() -> None:
    lately = Lately(2)
    assert [lately.add(id_) for id_ in ("a", "b", "a", "c")] == [True, True, False, True]
    assert [id_ in lately for id_ in ("a", "b", "c")] == [True, False, True]


async def test_commands_that_fail(together: Callable[..., Any]) -> None:
    await together(
        _a_command_is_tried_again_under_the_same_id,
        _a_command_is_given_up_in_the_end,
    )
