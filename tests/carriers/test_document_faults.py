"""The carrier's faults, as they befall carriers that are told by documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from telnyx.lib.webhook_verification import WebhookVerificationError, verify_webhook_signature
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # has no types

from busyhour.carriers import TeXML, Twilio
from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.faults import carrier as faults
from busyhour.model import MS, CallFailed, Fault, HeardKind, Line, Proof

from .document_agent import SETUP, DocumentAgent, response, serving

CONNECT = response('<Connect><Stream url="{media}" bidirectionalMode="rtp"/></Connect>')
CLOCK = SystemClock()


@asynccontextmanager
async def disturbed(carrier: Twilio | TeXML, fault: Fault) -> AsyncIterator[tuple[DocumentAgent, Line, Proof]]:
    """A call under a fault."""
    agent = DocumentAgent()
    agent.documents = {"/api/twilio/voice": [CONNECT], "/api/texml/voice": [CONNECT]}
    async with serving(agent, carrier) as target:
        here = {carrier.name: agent.carrier}
        async with fault.injected(here, CLOCK) as proof, carrier.dial(target, SETUP) as line:
            yield agent, line, proof


@pytest.mark.parametrize("how", ["wrong", "tampered"])
async def test_requests_of_twilio_are_forged(how: Any) -> None:
    twilio = Twilio()
    async with disturbed(twilio, faults.ForgedWebhooks(twilio, how)) as (agent, _, proof):
        assert await proof.effect() == (
            True,
            f"1 webhooks sent with a {how} signature at twilio while it was injected",
        )
        _, url, headers, fields, _ = agent.requests[0]
        signature = {name.lower(): value for name, value in headers.items()}["x-twilio-signature"]
        assert not RequestValidator(twilio.auth_token).validate(url, fields, signature)


async def test_a_signature_of_twilio_cannot_be_stale() -> None:
    twilio = Twilio()
    async with disturbed(twilio, faults.ForgedWebhooks(twilio, "stale")) as (agent, _, proof):
        assert not (await proof.effect())[0]
        _, url, headers, fields, _ = agent.requests[0]
        signature = {name.lower(): value for name, value in headers.items()}["x-twilio-signature"]
        assert RequestValidator(twilio.auth_token).validate(url, fields, signature)


async def test_requests_of_texml_are_stale() -> None:
    texml = TeXML()
    async with disturbed(texml, faults.ForgedWebhooks(texml, "stale")) as (agent, _, proof):
        assert (await proof.effect())[0]
        _, _, headers, _, raw = agent.requests[0]
        with pytest.raises(WebhookVerificationError, match="too old"):
            verify_webhook_signature(raw, headers, texml.public_key)


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_requests_are_unsigned_and_late(make: Any) -> None:
    carrier = make()
    async with disturbed(carrier, faults.UnsignedWebhooks(carrier)) as (agent, _, proof):
        assert (await proof.effect())[0]
        assert not [name for name in agent.requests[0][2] if "signature" in name.lower()]
    before_ns = CLOCK.now_ns()
    async with disturbed(carrier, faults.LateWebhooks(carrier, 150)) as (_, line, proof):
        assert line.answered_ns - before_ns >= 150 * MS
        assert (await proof.effect())[0]


async def test_the_api_fails_once_and_does_it_when_asked_again() -> None:
    twilio = Twilio()
    async with disturbed(twilio, faults.FailingCommands(twilio)) as (agent, _, proof):
        sid = agent.asked[0][1]["CallSid"]
        status, said = await agent.api_call(twilio, "POST", sid, Status="completed")
        assert (status, said["code"]) == (500, 20500)
        status, _ = await agent.api_call(twilio, "POST", sid, Twiml="<Response><Pause/></Response>")
        assert status == 500, "another command, which has not been tried before"
        status, said = await agent.api_call(twilio, "POST", sid, Status="completed")
        assert (status, said["status"]) == (200, "completed")
        assert "1 were sent again and then done" in (await proof.effect())[1]


async def test_the_api_says_that_a_lasting_call_is_gone() -> None:
    twilio = Twilio()
    async with disturbed(twilio, faults.RefusedCommands(twilio)) as (agent, _, proof):
        sid = agent.asked[0][1]["CallSid"]
        assert (await agent.api_call(twilio, "POST", sid, Status="completed"))[1]["code"] == 20404
        assert (await agent.api_call(twilio, "GET", sid))[1]["status"] == "in-progress"
        assert (await proof.effect())[0]


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_media_are_disturbed_as_at_any_carrier(make: Any) -> None:
    carrier = make()
    async with disturbed(carrier, faults.Gaps(carrier, 100, every_ms=300)) as (agent, _, proof):
        chunks = [int(frame["media"]["chunk"]) for frame in await agent.shown("media", 30)]
        assert any(later - earlier > 2 for earlier, later in pairwise(chunks))
        assert (await proof.effect())[0]


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_a_media_socket_breaks_as_at_any_carrier(make: Any) -> None:
    carrier = make()
    async with disturbed(carrier, faults.BrokenMedia(carrier, after_ms=50)) as (_, line, proof):
        heard = await line.hear(CLOCK.now_ns() + 60_000 * MS)
        while heard is not None and heard.kind is not HeardKind.ENDED:
            heard = await line.hear(CLOCK.now_ns() + 60_000 * MS)
        assert heard is not None
        assert heard.detail.startswith("lost"), heard
        assert "1 media sockets broken off" in (await proof.effect())[1]


@pytest.mark.parametrize("make", [Twilio, TeXML])
async def test_a_media_socket_is_not_reached_as_at_any_carrier(make: Any) -> None:
    carrier = make()
    with pytest.raises(CallFailed, match=r"media refused: .*does not get through"):
        async with disturbed(carrier, faults.RefusedMedia(carrier)):
            pass


async def test_a_vice_that_they_have_not_is_named() -> None:
    twilio = Twilio()
    with pytest.raises(PlanError, match="needs webhook replayed, which twilio does not have"):
        async with disturbed(twilio, faults.ReplayedWebhooks(twilio)):
            pass
