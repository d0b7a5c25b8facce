"""The Telnyx twin's HTTP API: what it takes, and how it says no."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from busyhour.carriers import Telnyx
from busyhour.errors import TWIN_CANNOT
from busyhour.model import CallFailed, HeardKind

from .agent import (
    HELLO,
    Agent,
    call_id,
    calling,
    failure,
    next_of,
    serving,
)


async def test_commands_need_a_bearer_and_a_call_and_json() -> None:
    agent = Agent()
    async with serving(agent, Telnyx(api_key="right")), aiohttp.ClientSession() as session:
        url = f"{agent.api}/calls/v3:{'x' * 54}/actions/hangup"
        bearer = {"authorization": "Bearer right"}
        cases: list[tuple[str, dict[str, str], bytes, int, str]] = [
            (url, {}, b"{}", 401, "10009"),
            (url, {"authorization": "Bearer wrong"}, b"{}", 401, "10009"),
            (url, {"authorization": "Basic right"}, b"{}", 401, "10009"),
            (url, bearer, b"{", 400, "10015"),
            (url, bearer, b"[]", 400, "10015"),
            (url, bearer, b"\xff\xfe", 400, "10015"),
            (url, bearer, b"[" * 100_000, 400, "10015"),
            (url, bearer, b"{}", 422, "90018"),
            (url, bearer, b"", 422, "90018"),
            (f"{agent.api}/calls/nonsense/actions/hangup", bearer, b"{}", 422, "90015"),
            (f"{agent.api}/nothing", bearer, b"{}", 404, "10005"),
            (f"{agent.api}/calls", bearer, b"{}", 422, "10004"),
            (f"{agent.api}/calls", bearer, b'{"connection_id":"1","to":"+15550101","from":"+15550102"}', 422, "10015"),
        ]
        for target, headers, body, status, code in cases:
            async with session.post(target, data=body, headers=headers) as answer:
                said = await answer.json()
                assert (answer.status, said["errors"][0]["code"]) == (status, code), (target, body[:20])
                assert {"title", "detail"} <= said["errors"][0].keys()
        async with session.get(f"{agent.api}/calls/v3:unknown", headers=bearer) as answer:
            assert answer.status == 422
        async with session.delete(f"{agent.api}/calls", headers=bearer) as answer:
            assert answer.status == 405


INVALID: list[tuple[str, dict[str, Any], str]] = [
    ("answer", {}, "10015"),  # it was answered before
    ("client_state_update", {}, "10004"),
    ("client_state_update", {"client_state": "not base64!"}, "10015"),
    ("streaming_start", {"stream_url": "ws://127.0.0.1:9/"}, "10015"),  # there is one
    ("streaming_start", {}, "10004"),
    ("streaming_start", {"stream_url": "http://127.0.0.1:9/"}, "10003"),
    ("streaming_start", {"stream_url": "ws://x/", "stream_codec": "pcmu"}, "10015"),
    ("streaming_start", {"stream_url": "ws://x/", "stream_bidirectional_mode": "RTP"}, "10015"),
    ("streaming_start", {"stream_url": "ws://x/", "stream_bidirectional_sampling_rate": 44100}, "10015"),
    ("streaming_start", {"stream_url": "ws://x/", "stream_auth_token": "x" * 4001}, "10015"),
    ("streaming_start", {"stream_url": "ws://x/", "custom_parameters": [1]}, "10015"),
    ("streaming_start", {"stream_url": 1}, "10015"),
    ("streaming_stop", {"stream_id": "another"}, "10015"),
    ("speak", {"voice": "female"}, "10004"),
    ("speak", {"payload": "Hello"}, "10004"),
    ("speak", {"payload": "x" * 3001, "voice": "female"}, "10015"),
    ("speak", {"payload": "Hello", "voice": "female", "payload_type": "html"}, "10015"),
    ("speak", {"payload": "Hello", "voice": "female", "service_level": "premium"}, "10015"),
    ("speak", {"payload": "Hallo", "voice": "female", "service_level": "basic", "language": "de-DE"}, "10015"),
    ("speak", {"payload": "Hello", "voice": "AWS.Polly.Joanna", "loop": 101}, "10015"),
    ("playback_start", {}, "10004"),
    ("playback_start", {"audio_url": "http://x/a.wav", "media_name": "a"}, "10015"),
    ("playback_start", {"audio_url": "file:///etc/passwd"}, "10003"),
    ("playback_start", {"audio_url": "http://x/a.wav", "loop": 0}, "10015"),
    ("playback_start", {"audio_url": "http://x/a.wav", "overlay": "yes"}, "10015"),
    ("transfer", {}, "10004"),
    ("transfer", {"to": "5550101"}, "10016"),
    ("transfer", {"to": "+15550101", "timeout_secs": 1}, "10015"),
    ("transfer", {"to": "+15550101", "webhook_retries_policies": {"call.answered": {"retries_ms": [60001]}}}, "10015"),
    ("send_dtmf", {}, "10004"),
    ("send_dtmf", {"digits": "1X"}, "10015"),
    ("send_dtmf", {"digits": "1", "duration_millis": 50}, "10015"),
    ("reject", {}, "10004"),
    ("reject", {"cause": "USER_BUSY"}, "10015"),  # it was answered before
    ("hangup", {"reason": 'a "quoted" reason'}, "10015"),
]


async def test_wrong_commands_are_refused_and_change_nothing() -> None:
    agent = Agent()
    agent.answers(client_state="c3RhdGU=")
    async with calling(agent) as line:
        call = call_id(agent)
        for action, body, code in INVALID:
            state = {} if action == "client_state_update" else {"client_state": "bmV3"}
            status, said = await agent.command(call, action, **body | state)
            assert (status, said["errors"][0]["code"]) == (422, code), (action, body)
        assert (await agent.command(call, "no_such_action"))[0] == 404
        assert await agent.command(call, "suppression_start") == (200, {"data": {"result": "ok"}})
        assert await line.hear(0) is None
    assert (await agent.told("call.hangup"))[0]["client_state"] == "c3RhdGU="
    refused = [text for _, text in line.trail if "-> 422" in text]
    assert len(refused) == len(INVALID)


@pytest.mark.parametrize("action", ["gather", "record_start"])
async def test_a_command_that_only_telnyx_can_do_ends_the_call_and_blames_nobody(action: str) -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        status, said = await agent.command(call_id(agent), action)
        assert (status, said["errors"][0]["code"]) == (422, "10015")
        with pytest.raises(CallFailed) as failed:
            await line.say(HELLO)
    assert failed.value.reason == TWIN_CANNOT
    assert f"does not support {action}" in failed.value.detail


async def test_commands_that_need_an_answer_are_refused_before_it() -> None:
    agent = Agent()
    said: list[tuple[int, dict[str, Any]]] = []

    async def try_all(call: str) -> None:
        said.append(await agent.command(call, "speak", payload="Hello", voice="female"))
        said.append(await agent.command(call, "playback_start", audio_url="http://127.0.0.1:9/a.wav"))
        said.append(await agent.command(call, "send_dtmf", digits="1"))
        said.append(await agent.command(call, "streaming_start", stream_url="ws://127.0.0.1:9/"))
        await agent.command(call, "hangup")

    agent.on["call.initiated"] = try_all
    await failure(agent)
    assert [(status, body["errors"][0]["code"]) for status, body in said] == [(422, "90034")] * 4
    assert said[0][1]["errors"][0]["detail"] == (
        "This call can't receive speak command because it has not been answered yet."
    )


async def test_the_same_command_id_is_done_once() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent) as line:
        call = call_id(agent)
        for _ in range(3):
            assert (await agent.command(call, "send_dtmf", digits="1", command_id="one"))[0] == 200
        assert (await agent.command(call, "send_dtmf", digits="2", command_id="two"))[0] == 200
        heard = [await next_of(line, HeardKind.DTMF), await next_of(line, HeardKind.DTMF)]
        assert sorted(each.detail for each in heard) == ["1", "2"]
        for _ in range(2):  # a hangup whose answer was lost is repeated with the same id
            assert (await agent.command(call, "hangup", command_id="three"))[0] == 200
        assert (await agent.command(call, "hangup", command_id="four"))[1]["errors"][0]["code"] == "90018"
        assert (await agent.command(call, "hangup"))[1]["errors"][0]["code"] == "90018"
    assert len(await agent.told("call.hangup")) == 1


async def test_the_status_of_a_call() -> None:
    agent = Agent()
    agent.answers(client_state="c3RhdGU=")

    async def status() -> dict[str, Any]:
        url, headers = f"{agent.api}/calls/{call_id(agent)}", {"authorization": "Bearer key"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            assert answer.status == 200
            data: dict[str, Any] = (await answer.json())["data"]
            return data

    async with calling(agent) as line:
        alive = await status()
        await line.hang_up()
        over = await status()
    assert (alive["is_alive"], alive["client_state"], alive["record_type"]) == (True, "c3RhdGU=", "call")
    assert (over["is_alive"], "end_time" in over, "end_time" in alive) == (False, True, False)


async def test_a_share_of_commands_can_be_made_to_fail() -> None:
    agent = Agent()
    said: list[int] = []

    async def insist(call: str) -> None:
        while (status := (await agent.command(call, "hangup", command_id="again"))[0]) != 200:
            said.append(status)
        said.append(status)

    agent.on["call.initiated"] = insist
    await failure(agent, Telnyx(command_error_share=0.8, seed=5))
    assert said.count(500) == len(said) - 1 > 0
