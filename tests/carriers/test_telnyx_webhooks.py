"""The Telnyx twin's webhooks and their vices."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from busyhour.carriers import Telnyx
from busyhour.clock import unix_seconds
from busyhour.model import HeardKind

from .agent import (
    SETUP,
    Agent,
    call_id,
    calling,
    next_of,
    serving,
)


def signed_by(public_key: str, headers: dict[str, str], raw: bytes) -> bool:
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key))
    signature = base64.b64decode(headers["telnyx-signature-ed25519"])
    try:
        key.verify(signature, headers["telnyx-timestamp"].encode() + b"|" + raw)
    except InvalidSignature:
        return False
    return True


@pytest.mark.parametrize(
    ("signature", "verifies", "fresh"),
    [("valid", True, True), ("wrong", False, True), ("tampered", False, True), ("stale", True, False)],
)
async def test_webhooks_are_signed_as_told(signature: Any, verifies: bool, fresh: bool) -> None:
    agent = Agent()
    agent.answers()
    telnyx = Telnyx(signature=signature)
    async with calling(agent, telnyx):
        pass
    assert len(agent.webhooks) == 5
    for headers, raw in agent.webhooks:
        assert signed_by(telnyx.public_key, headers, raw) is verifies
        assert (abs(unix_seconds() - int(headers["telnyx-timestamp"])) <= 300) is fresh


async def test_webhooks_can_be_unsigned() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(signature="missing")):
        pass
    assert agent.webhooks
    assert not any("telnyx-signature-ed25519" in headers for headers, _ in agent.webhooks)


async def test_duplicates_have_the_same_event_id() -> None:
    agent = Agent()
    agent.answers()
    async with calling(agent, Telnyx(duplicate_share=1.0)):
        pass
    for event_type in ("call.initiated", "call.answered", "call.hangup"):
        await agent.told(event_type, 2)
    ids = [event["data"]["id"] for event in agent.events]
    assert len(ids) == 2 * len(set(ids))


async def test_late_webhooks_are_overtaken() -> None:
    orders = set()
    for seed in range(4):
        agent = Agent()
        agent.answers()
        async with calling(agent, Telnyx(seed=seed, late_share=0.5, late_ms=60)):
            await agent.told("streaming.started")
        await agent.told("call.hangup")
        orders.add(tuple(event["data"]["event_type"] for event in agent.events))
    assert len(orders) > 1


async def test_an_agent_can_redirect_its_webhooks_but_not_off_the_machine() -> None:
    agent = Agent()
    async with serving(agent, telnyx := Telnyx()) as target:
        agent.answers(webhook_url=f"{agent.url}/api/telnyx/webhook?again")
        async with telnyx.dial(target, SETUP) as line:
            await agent.command(call_id(agent), "transfer", to="+15550101", webhook_url="https://telephone.example/")
            await next_of(line, HeardKind.ENDED)
        await agent.told("call.hangup")
    urls = {event["data"]["event_type"]: event["meta"]["delivered_to"] for event in reversed(agent.events)}
    assert urls["call.initiated"] == f"{agent.url}/api/telnyx/webhook"
    assert urls["call.answered"] == urls["call.hangup"] == f"{agent.url}/api/telnyx/webhook?again"
    assert any("telephone.example" in text for _, text in getattr(line, "trail", []))


async def test_the_agents_own_retry_policy_is_kept() -> None:
    agent = Agent()
    agent.answers(webhook_retries_policies={"streaming.started": {"retries_ms": [1, 1, 1]}})

    async def refuse(_: str) -> None:
        agent.statuses.append(500)

    agent.on["streaming.started"] = refuse
    async with calling(agent):
        await agent.told("streaming.started", 4)
    attempts = [e["meta"]["attempt"] for e in agent.events if e["data"]["event_type"] == "streaming.started"]
    assert attempts == [1, 2, 3, 4]
