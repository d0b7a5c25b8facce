"""Calls through the Telnyx twin on real loopback sockets: established, failed, ended."""

from __future__ import annotations

import asyncio
import base64
import json

import numpy as np
import pytest
from aiohttp import web

from busyhour.carriers import Telnyx, TelnyxStream
from busyhour.carriers.background import Background
from busyhour.errors import TWIN_CANNOT, ServiceError
from busyhour.model import MS, SECOND, CallFailed, CallSetup, Carrier, Endpoint, HeardKind, Metered

from .agent import (
    CLOCK,
    HELLO,
    PCMU,
    RTP,
    SETUP,
    Agent,
    call_id,
    calling,
    failure,
    next_of,
    payload,
    serving,
    tone,
)

# ---------------------------------------------------------------- a whole call


async def test_a_call_is_announced_answered_heard_and_ended() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(400))}})
        await agent.hears(ws, "stop")

    agent = Agent(talk)
    async with serving(agent, telnyx := Telnyx()) as target:
        agent.answers(client_state=base64.b64encode(b"mine").decode())
        async with telnyx.dial(target, SETUP) as line:
            onset = await next_of(line, HeardKind.ONSET)
            offset = await next_of(line, HeardKind.OFFSET)
            spoken = await line.say(HELLO)
            samples = telnyx.drain(CLOCK.now_ns())
    assert 0 <= onset.at_ns - line.opened_ns < SECOND
    assert offset.at_ns - onset.at_ns == pytest.approx(400 * MS, abs=10 * MS)
    assert 180 * MS <= spoken.ended_ns - spoken.began_ns < 2 * SECOND  # 240 ms, and more where frames were late
    types = [event["data"]["event_type"] for event in agent.events]
    assert types[0] == "call.initiated"
    assert sorted(types) == ["call.answered", "call.hangup", "call.initiated", "streaming.started", "streaming.stopped"]
    assert ("harness", "send_lateness_ms") in {(sample.source, sample.name) for sample in samples}
    hangup = (await agent.told("call.hangup"))[0]
    assert hangup["hangup_source"] == "caller"
    assert hangup["hangup_cause"] == "normal_clearing"
    assert int(hangup["call_quality_stats"]["inbound"]["packet_count"]) >= 15  # those of what was said, at least
    assert base64.b64decode(hangup["client_state"]) == b"mine"


async def test_the_agent_is_sent_what_the_caller_says() -> None:
    agent = Agent()

    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        async for message in ws:
            await agent.saw(json.loads(message.data))

    agent.talk = talk
    async with serving(agent, telnyx := Telnyx()) as target:
        agent.answers(custom_parameters=None)
        async with telnyx.dial(target, SETUP) as line:
            await line.say(HELLO)
            await agent.shown("media", 10)
    connected, start, *media = agent.frames
    stop = media.pop()
    assert connected == {"event": "connected", "version": "1.0.0"}
    assert (start["event"], start["sequence_number"]) == ("start", "1")
    assert start["start"]["media_format"] == {"encoding": "PCMU", "sample_rate": 8000, "channels": 1}
    assert start["start"]["call_control_id"] == call_id(agent)
    assert (stop["event"], stop["stream_id"]) == ("stop", start["stream_id"])
    assert [int(frame["media"]["chunk"]) for frame in media] == list(range(1, len(media) + 1))
    assert [int(frame["sequence_number"]) for frame in media] == list(range(2, len(media) + 2))
    assert {frame["media"]["track"] for frame in media} == {"inbound"}
    heard = PCMU.decode(b"".join(base64.b64decode(frame["media"]["payload"]) for frame in media))
    said = PCMU.decode(PCMU.encode(HELLO.samples))
    loudest = int(np.argmax(np.abs(said.astype(np.int32))))
    offset = int(np.argmax(np.abs(heard.astype(np.int32)))) - loudest
    assert np.array_equal(heard[offset : offset + len(said)], said)


async def test_fifty_calls_at_once_each_get_their_own_line() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        await ws.send_json({"event": "media", "media": {"payload": payload(tone(100))}})
        await ws.send_json({"event": "mark", "mark": {"name": start["start"]["call_control_id"]}})
        await agent.hears(ws, "mark")
        await agent.command(start["start"]["call_control_id"], "hangup")

    agent = Agent(talk)
    async with serving(agent, telnyx := Telnyx()) as target:
        agent.answers()

        async def one(number: int) -> str:
            async with telnyx.dial(target, CallSetup(id=f"steady/{number}")) as line:
                await next_of(line, HeardKind.ONSET)
                return (await next_of(line, HeardKind.ENDED)).detail

        assert await asyncio.gather(*(one(number) for number in range(50))) == ["hung up"] * 50
    assert len({event["data"]["payload"]["call_control_id"] for event in agent.events}) == 50


async def test_a_call_made_again_with_the_same_seed_has_the_same_names() -> None:
    names = []
    for seed in (1, 1, 2):
        agent = Agent()
        async with serving(agent, telnyx := Telnyx(seed=seed)) as target:
            agent.answers()
            async with telnyx.dial(target, SETUP):
                pass
        names.append((call_id(agent), agent.events[0]["data"]["id"], telnyx.public_key))
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])


# ---------------------------------------------------------------- calls that are not established


async def test_a_dead_target_leaves_the_webhook_unanswered() -> None:
    telnyx = Telnyx(webhook_retries=1, webhook_retry_ms=1)
    async with telnyx.running({}):
        with pytest.raises(CallFailed, match=r"webhook unanswered.*127\.0\.0\.1"):
            async with telnyx.dial(Endpoint("http://127.0.0.1:9"), SETUP):
                pass


async def test_a_refused_webhook_is_tried_again_and_fails_the_call() -> None:
    agent = Agent()
    agent.statuses = [500, 503, 401]
    failed = await failure(agent, Telnyx(webhook_retry_ms=1))
    assert failed.reason == "webhook refused"
    assert "401" in failed.detail
    assert [e["meta"]["attempt"] for e in agent.events if e["data"]["event_type"] == "call.initiated"] == [1, 2, 3]


async def test_a_webhook_that_is_taken_at_the_second_attempt_is_the_same_event() -> None:
    agent = Agent()
    agent.answers()
    answer = agent.on.pop("call.initiated")

    async def first_fail(call: str) -> None:
        agent.on["call.initiated"] = answer

    agent.on["call.initiated"] = first_fail
    agent.statuses = [500]
    async with calling(agent, Telnyx(webhook_retry_ms=1)) as line:
        assert line.opened_ns > 0
    initiated = [e for e in agent.events if e["data"]["event_type"] == "call.initiated"]
    assert [e["meta"]["attempt"] for e in initiated] == [1, 2]
    assert initiated[0]["data"] == initiated[1]["data"]


async def test_a_webhook_that_hangs_is_unanswered() -> None:
    agent = Agent()
    agent.on["call.initiated"] = lambda _: asyncio.Event().wait()
    failed = await failure(agent, Telnyx(webhook_retries=0, webhook_timeout_seconds=0.1))
    assert failed.reason == "webhook unanswered"


async def test_a_call_that_is_never_answered() -> None:
    agent = Agent()
    failed = await failure(agent, answer_within_ns=200 * MS)
    assert failed.reason == "no answer"
    hangup = (await agent.told("call.hangup"))[0]
    assert (hangup["hangup_cause"], hangup["sip_hangup_cause"]) == ("originator_cancel", "487")
    assert "call_quality_stats" not in hangup


@pytest.mark.parametrize(
    ("cause", "hangup_cause", "sip"),
    [("CALL_REJECTED", "call_rejected", "603"), ("USER_BUSY", "user_busy", "486"), ("NOT_FOUND", "not_found", "404")],
)
async def test_a_rejected_call(cause: str, hangup_cause: str, sip: str) -> None:
    agent = Agent()
    agent.on["call.initiated"] = lambda call: agent.command(call, "reject", cause=cause)
    failed = await failure(agent)
    assert (failed.reason, failed.detail) == ("rejected", cause)
    hangup = (await agent.told("call.hangup"))[0]
    assert (hangup["hangup_cause"], hangup["sip_hangup_cause"]) == (hangup_cause, sip)


async def test_a_call_that_is_hung_up_before_it_is_answered_is_rejected() -> None:
    agent = Agent()
    agent.on["call.initiated"] = lambda call: agent.command(call, "hangup")
    assert (await failure(agent)).reason == "rejected"


async def test_who_hangs_up_while_the_media_socket_is_being_opened_has_not_refused_it() -> None:
    async def hanging_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await agent.command(call_id(agent), "hangup")
        await agent.told("call.hangup")
        writer.close()
        await writer.wait_closed()

    agent = Agent()
    async with await asyncio.start_server(hanging_up, "127.0.0.1", 0) as server:
        agent.answers(stream_url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        failed = await failure(agent)
    assert (failed.reason, failed.detail) == ("no media", "hung up by the agent before media")


async def test_an_answer_without_a_stream_gives_no_media() -> None:
    agent = Agent()
    agent.answers(stream_url=None)
    failed = await failure(agent, Telnyx(media_within_seconds=0.2))
    assert failed.reason == "no media"


async def test_a_stream_in_a_codec_that_the_twin_has_not_says_so() -> None:
    agent = Agent()
    agent.answers(stream_bidirectional_codec="G722")
    failed = await failure(agent)
    assert failed.reason == TWIN_CANNOT
    assert "G722" in failed.detail


@pytest.mark.parametrize("path", ["ws://127.0.0.1:9/media", "{url}/missing", "ws://telephone.example/media"])
async def test_a_media_socket_that_cannot_be_opened(path: str) -> None:
    agent = Agent()
    telnyx = Telnyx(media_within_seconds=0.3)
    async with serving(agent, telnyx) as target:
        url = path.format(url=agent.url.replace("http", "ws"))
        agent.answers(stream_url=url)
        with pytest.raises(CallFailed) as failed:
            async with telnyx.dial(target, SETUP):
                pass
    assert failed.value.reason == "media refused"
    assert url in failed.value.detail
    told = (await agent.told("streaming.failed"))[0]
    assert told["stream_params"]["stream_url"] == url
    assert told["stream_type"] == "websocket"


@pytest.mark.parametrize(
    ("hangs", "words"),
    [(False, "closed before the WebSocket handshake"), (True, "no answer to the WebSocket handshake")],
)
async def test_a_media_socket_that_says_nothing_is_refused(
    hangs: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busyhour.carriers.media_stream.CONNECT_SECONDS", 0.6)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if hangs:
            await reader.read()
        writer.close()
        await writer.wait_closed()

    agent = Agent()
    async with (
        await asyncio.start_server(mute, "127.0.0.1", 0) as server,
        serving(agent, telnyx := Telnyx(media_within_seconds=0.3)) as target,
    ):
        agent.answers(stream_url=f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with pytest.raises(CallFailed) as failed:
            async with telnyx.dial(target, SETUP):
                pass
    assert failed.value.reason == "media refused"
    assert words in failed.value.detail


async def test_the_last_refused_command_says_why_a_call_was_not_answered() -> None:
    agent = Agent()
    agent.answers(stream_auth_token="\u00fc")
    failed = await failure(agent, answer_within_ns=SECOND // 2)
    assert failed.reason == "no answer"
    assert "its command answer was refused" in failed.detail
    assert "stream_auth_token" in failed.detail
    agent.on["call.initiated"] = lambda call: agent.command(call, "answer", token="another")
    failed = await failure(agent, Telnyx(api_key="key"), answer_within_ns=SECOND // 2)
    assert "authentication headers" in failed.detail


async def test_a_stream_that_failed_may_be_started_again() -> None:
    agent = Agent()
    async with serving(agent, telnyx := Telnyx()) as target:
        good = agent.url.replace("http", "ws") + "/media"
        agent.answers(stream_url="ws://127.0.0.1:9/media")
        agent.on["streaming.failed"] = lambda call: agent.command(call, "streaming_start", stream_url=good, **RTP)
        async with telnyx.dial(target, SETUP) as line:
            assert line.opened_ns > 0


async def test_a_carrier_that_does_not_run_cannot_dial() -> None:
    with pytest.raises(ServiceError, match="not running"):
        async with Telnyx().dial(Endpoint("http://127.0.0.1:9"), SETUP):
            pass


async def test_a_port_that_is_taken_is_named() -> None:
    async with Telnyx().running({}) as endpoint:
        port = int(endpoint.url.split(":")[2].split("/")[0])
        with pytest.raises(ServiceError, match=str(port)):
            async with Telnyx(port=port).running({}):
                pass


# ---------------------------------------------------------------- calls that end


async def test_the_agent_hangs_up() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        assert await agent.command(call_id(agent), "hangup") == (200, {"data": {"result": "ok"}})
        assert (await next_of(line, HeardKind.ENDED)).detail == "hung up"
        again = await line.hear(0)
        assert again is not None
        assert again.kind == HeardKind.ENDED
        with pytest.raises(CallFailed, match="hung up"):
            await line.say(HELLO)
        with pytest.raises(CallFailed, match="hung up"):
            await line.press("1")
        await line.hang_up()
    hangup = await agent.told("call.hangup")
    assert [each["hangup_source"] for each in hangup] == ["callee"]


async def test_a_media_socket_that_is_closed_without_a_hangup_loses_the_call() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")

    agent = Agent(talk)
    agent.answers()
    async with calling(agent, Telnyx(hangup_within_seconds=0.1)) as line:
        ended = await next_of(line, HeardKind.ENDED)
    assert ended.detail.startswith("lost: the agent closed the media socket (1000)")
    assert (await agent.told("call.hangup"))[0]["hangup_source"] == "unknown"
    assert await agent.told("streaming.stopped")


async def test_a_media_socket_that_is_closed_before_the_hangup_is_a_hangup() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        start = await agent.hears(ws, "start")
        await ws.close()
        await agent.told("streaming.stopped")
        await agent.command(start["start"]["call_control_id"], "hangup")

    agent = Agent(talk)
    agent.answers()
    async with calling(agent) as line:
        assert (await next_of(line, HeardKind.ENDED)).detail == "hung up"


async def test_a_socket_that_breaks_is_lost() -> None:
    async def talk(agent: Agent, ws: web.WebSocketResponse) -> None:
        await agent.hears(ws, "start")
        transport = ws._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    agent = Agent(talk)
    agent.answers()
    async with calling(agent, Telnyx(hangup_within_seconds=0.1)) as line:
        assert (await next_of(line, HeardKind.ENDED)).detail.startswith("lost: the media socket broke")


async def test_an_agent_that_stops_the_stream_can_still_speak_and_hang_up() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(hangup_within_seconds=0.05)) as line:
        call = call_id(agent)
        await agent.command(call, "streaming_stop")
        await agent.told("streaming.stopped")
        await agent.command(call, "speak", payload="Sorry.", voice="female")
        assert (await next_of(line, HeardKind.ONSET)).at_ns > line.opened_ns
        await agent.told("call.speak.ended")
        await agent.command(call, "hangup")
        await next_of(line, HeardKind.ENDED)
    assert len(await agent.told("call.hangup")) == 1


# ---------------------------------------------------------------- nothing is left behind, nothing is hidden


async def test_an_error_inside_comes_out_as_it_is_and_ends_the_calls() -> None:
    agent = Agent()
    agent.answers()
    with pytest.raises(KeyError, match="mine"):
        async with calling(agent):
            raise KeyError("mine")
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert left == []


async def test_a_bug_behind_a_command_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("busyhour.carriers.telnyx.commands.COMMANDS", {"answer": broken})
    agent = Agent()
    agent.answers()
    with pytest.raises(ExceptionGroup) as errors:
        async with calling(agent):
            pass
    assert errors.group_contains(ZeroDivisionError)


def test_both_are_carriers_that_measure_themselves() -> None:
    carriers: list[Carrier] = [Telnyx(), TelnyxStream()]
    assert all(isinstance(carrier, Metered) and carrier.drain(0) == [] for carrier in carriers)


async def test_a_bug_that_shows_while_the_carrier_stops_is_raised_as_itself() -> None:
    async def buggy() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        async with Background(settle_seconds=5) as background:
            background.spawn(buggy())
    assert raised.group_contains(ZeroDivisionError)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
