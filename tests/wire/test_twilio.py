"""The vendor's own SDK judges the Twilio twin: its validator the signatures, its builder the documents that are carried
out, its REST client the calls API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from twilio.base.exceptions import TwilioRestException  # type: ignore[import-untyped]  # has no types
from twilio.http.http_client import TwilioHttpClient  # type: ignore[import-untyped]  # has no types
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # has no types
from twilio.rest import Client  # type: ignore[import-untyped]  # has no types
from twilio.twiml.voice_response import Connect, Dial, Start, VoiceResponse  # type: ignore[import-untyped]  # no types

from busyhour.carriers import Twilio
from busyhour.model import CallFailed

from ..carriers.agent import HELLO
from ..carriers.document_agent import SETUP, DocumentAgent, ended, serving


class Redirected(TwilioHttpClient):  # type: ignore[misc]  # its base has no types
    """The SDK's HTTP client, which finds api.twilio.com on loopback."""

    def __init__(self, url: str) -> None:
        super().__init__(pool_connections=False)
        self._url = url

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        assert url.startswith("https://api.twilio.com/")
        return super().request(method, url.replace("https://api.twilio.com", self._url), *args, **kwargs)


def connected() -> str:
    said = VoiceResponse()
    connect = Connect()
    stream = connect.stream(url="MEDIA", name="main", status_callback="/stream")
    stream.parameter(name="caller", value="Ada & Grace")
    said.append(connect)
    said.say("Goodbye.")
    return str(said)


def documents(agent: DocumentAgent, document: str, path: str = "/api/twilio/voice") -> None:
    agent.documents[path] = [document.replace("{", "{{").replace("}", "}}").replace("MEDIA", "{media}")]


async def on_call(act: Callable[[Client, str], Any], document: str = "") -> tuple[DocumentAgent, str, Any]:
    """Call, and let the SDK's client act on the call: the agent, how the call ended, what the act returned."""
    agent, twilio = DocumentAgent(), Twilio()
    documents(agent, document or connected())
    async with serving(agent, twilio) as target, twilio.dial(target, SETUP) as line:
        client = Client(twilio.account_sid, twilio.auth_token, http_client=Redirected(agent.api))
        returned = await asyncio.to_thread(act, client, agent.asked[0][1]["CallSid"])
        return agent, await ended(line), returned


# ---------------------------------------------------------------- signatures


async def requests_of(twilio: Twilio) -> list[tuple[str, str, dict[str, str], str]]:
    """Every request of one call: method, URL, parameters of the body, signature."""
    agent = DocumentAgent()
    said = VoiceResponse()
    said.redirect("/next?keep=this&that=a%20b", method="GET")
    documents(agent, str(said))
    documents(agent, connected(), "/next")
    async with serving(agent, twilio) as target, twilio.dial(target, SETUP) as line:
        await line.hang_up()
        await agent.told("/status", 4)
        await agent.told("/stream", 2)
    found = []
    for method, url, headers, _, raw in agent.requests:
        named = {name.lower(): value for name, value in headers.items()}
        found.append((method, url, dict(parse_qsl(raw.decode())), named.get("x-twilio-signature", "")))
    assert {method for method, *_ in found} == {"GET", "POST"}
    return found


async def test_the_validator_takes_what_is_signed_and_refuses_what_was_changed() -> None:
    twilio = Twilio(seed=7, status_path="/status?x=1")
    validator, stranger = RequestValidator(twilio.auth_token), RequestValidator(Twilio(seed=8).auth_token)
    for _, url, fields, signature in await requests_of(twilio):
        assert validator.validate(url, fields, signature)
        assert not stranger.validate(url, fields, signature)
        assert not validator.validate(url + "&", fields, signature)
        assert not validator.validate(url, fields | {"CallSid": "CA"}, signature)
        assert not validator.validate(url, fields | {"Another": ""}, signature)
        assert not validator.validate(url, fields, signature.swapcase())


@pytest.mark.parametrize(("how", "taken"), [("valid", True), ("missing", False), ("wrong", False), ("tampered", False)])
async def test_the_media_socket_is_opened_with_a_signature_too(how: Any, taken: bool) -> None:
    agent, twilio = DocumentAgent(), Twilio(signature=how)
    documents(agent, connected())
    async with serving(agent, twilio) as target, twilio.dial(target, SETUP):
        await agent.shown("start")
    (headers,) = agent.handshakes
    validator = RequestValidator(twilio.auth_token)
    assert validator.validate(agent.stream_url, {}, headers.get("x-twilio-signature", "")) is taken
    assert ("x-twilio-signature" in headers) is (how != "missing")


@pytest.mark.parametrize("how", ["missing", "wrong", "tampered"])
async def test_the_validator_refuses_what_the_twin_signs_wrongly(how: Any) -> None:
    twilio = Twilio(signature=how, status_path="/status")
    for _, url, fields, signature in await requests_of(twilio):
        assert not RequestValidator(twilio.auth_token).validate(url, fields, signature)


# ---------------------------------------------------------------- documents


async def test_what_the_builder_writes_is_carried_out() -> None:
    agent, twilio = DocumentAgent(), Twilio(transfer="busy", transfer_after_ms=1)
    said = VoiceResponse()
    said.pause(length=0)
    said.say("Welcome.", voice="alice", language="en-GB")
    connect = Connect()
    connect.stream(url="MEDIA").parameter(name="caller", value="Ada & Grace")
    said.append(connect)
    dial = Dial(action="/dialled")
    dial.number("+15550101")
    said.append(dial)
    documents(agent, str(said))
    after = VoiceResponse()
    start = Start()
    start.stream(url="MEDIA", name="fork")
    after.append(start)
    after.stop().stream(name="fork")
    after.hangup()
    documents(agent, str(after), "/dialled")

    async def talk(agent: DocumentAgent, ws: Any) -> None:
        start = await agent.hears(ws, "start")
        assert start["start"]["customParameters"] == {"caller": "Ada & Grace"}
        await agent.hears(ws, "media")

    agent.talk = talk
    async with serving(agent, twilio) as target, twilio.dial(target, SETUP) as line:
        assert await ended(line) == "hung up"
        assert (await agent.told("/dialled"))[0]["DialCallStatus"] == "busy"


async def test_a_rejection_of_the_builder() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    said = VoiceResponse()
    said.reject(reason="busy")
    documents(agent, str(said))
    async with serving(agent, twilio) as target:
        with pytest.raises(CallFailed, match="rejected: busy"):
            async with twilio.dial(target, SETUP):
                pass


# ---------------------------------------------------------------- the calls API


async def test_the_client_fetches_and_ends_a_call() -> None:
    def act(client: Client, sid: str) -> list[Any]:
        fetched = client.calls(sid).fetch()
        updated = client.calls(sid).update(status="completed")
        return [fetched, updated, client.calls(sid).fetch()]

    agent, how, (fetched, updated, last) = await on_call(act)
    assert how == "hung up"
    assert [call.status for call in (fetched, updated, last)] == ["in-progress", "completed", "completed"]
    assert fetched.sid == agent.asked[0][1]["CallSid"]
    assert (fetched._from, fetched.to, fetched.direction) == (SETUP.from_number, SETUP.to_number, "inbound")
    assert fetched.end_time is None
    assert fetched.date_created is not None
    assert last.end_time >= last.start_time
    assert int(last.duration) >= 0
    await agent.shown("stop")


async def test_the_client_redirects_a_call() -> None:
    said = VoiceResponse()
    said.say("We are closing.")

    def act(client: Client, sid: str) -> Any:
        return client.calls(sid).update(twiml=str(said))

    agent, how, call = await on_call(act)
    assert (how, call.status) == ("hung up", "in-progress")
    assert [frame["event"] for frame in agent.frames][-1] == "stop"


async def test_the_errors_of_the_twin_are_the_exceptions_of_the_client() -> None:
    def refused(act: Callable[[], object]) -> tuple[int, int]:
        with pytest.raises(TwilioRestException) as raised:
            act()
        assert raised.value.msg
        return raised.value.status, raised.value.code

    def act(client: Client, sid: str) -> list[tuple[int, int]]:
        calls, stranger = client.calls, Client(client.username, "guess", http_client=client.http_client)
        found = [
            refused(calls("CA" + "0" * 32).fetch),
            refused(lambda: calls("CA" + "0" * 32).update(status="completed")),
            refused(lambda: calls(sid).update(status="paused")),
            refused(lambda: calls(sid).update(url="nowhere")),
            refused(lambda: calls.create(to="+15550101", from_="+15550100", url="http://127.0.0.1/")),
            refused(stranger.calls(sid).fetch),
        ]
        calls(sid).update(status="completed")
        found.append(refused(lambda: calls(sid).update(status="completed")))
        found.append(refused(lambda: calls(sid).update(twiml="<Response/>")))
        return found

    _, _, found = await on_call(act)
    assert found == [
        (404, 20404),
        (404, 20404),
        (400, 20001),
        (400, 21205),
        (400, 20001),
        (401, 20003),
        (404, 20404),
        (400, 21220),
    ]


async def test_a_conversation_goes_on_while_the_client_looks_on() -> None:
    agent, twilio = DocumentAgent(), Twilio()
    documents(agent, connected())
    async with serving(agent, twilio) as target, twilio.dial(target, SETUP) as line:
        client = Client(twilio.account_sid, twilio.auth_token, http_client=Redirected(agent.api))
        looking = asyncio.create_task(asyncio.to_thread(client.calls(agent.asked[0][1]["CallSid"]).fetch))
        await line.say(HELLO)
        assert (await looking).status == "in-progress"
