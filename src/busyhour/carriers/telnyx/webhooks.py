"""Webhooks as Telnyx sends them: signed, at least once, in no promised order.

Envelope: developers.telnyx.com/docs/voice/programmable-voice/voice-api-webhooks. Signature: the Ed25519 signature of
`timestamp|body` in base64, with the key that the vendor's SDK verifies (its `lib/webhook_verification.py`).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, TypeAlias

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from busyhour.carriers.background import Background
from busyhour.clock import unix_seconds, wall_time
from busyhour.disturbance import Disturbance
from busyhour.model import MS, Clock

Signature: TypeAlias = Literal["valid", "missing", "wrong", "tampered", "stale"]

STALE_SECONDS = 600  # twice the tolerance of the vendor's verifier
BODY_SHOWN = 200


class Signer:
    """The carrier's key pair, made from a seed: the same seed, the same public key."""

    def __init__(self, seed: int) -> None:
        self._key = _key(Random(f"telnyx key {seed}"))
        self._other = _key(Random(f"a forger's key {seed}"))

    @property
    def public_key(self) -> str:
        """As the Mission Control portal shows it: base64 of the 32 raw bytes."""
        raw = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def headers(self, body: bytes, how: Signature = "valid") -> dict[str, str]:
        if how == "missing":
            return {}
        timestamp = str(unix_seconds() - (STALE_SECONDS if how == "stale" else 0))
        key = self._other if how == "wrong" else self._key
        signed = body + b" " if how == "tampered" else body
        signature = key.sign(timestamp.encode() + b"|" + signed)
        return {
            "telnyx-signature-ed25519": base64.b64encode(signature).decode(),
            "telnyx-timestamp": timestamp,
        }


def _key(random: Random) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(random.randbytes(32))


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of a webhook: "delivered", "refused" (an answer, not 2xx) or "unanswered" (no answer)."""

    outcome: Literal["delivered", "refused", "unanswered"]
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How the carrier delivers: its retries, and its vices as shares of the webhooks."""

    retries: int = 2
    retry_ms: int = 250  # before the first retry; each later one waits twice as long
    timeout_seconds: float = 2.0
    duplicate_share: float = 0.0
    late_share: float = 0.0  # a late webhook is overtaken by those after it
    late_ms: int = 250
    signature: Signature = "valid"
    signature_share: float = 1.0  # of the webhooks that are signed in that way


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One webhook event. `told` takes the sentence that says what came of it."""

    type: str
    id: str
    payload: Mapping[str, Any]
    url: str
    told: Callable[[str], None]
    retries_ms: Sequence[int] | None = None  # the agent's own policy, from `webhook_retries_policies`


class Webhooks:
    """Posts events, each as a task in the background."""

    def __init__(
        self,
        *,
        habits: Habits,
        signer: Signer,
        session: aiohttp.ClientSession,
        background: Background,
        clock: Clock,
        disturbance: Disturbance,
    ) -> None:
        self._habits = habits
        self._signer = signer
        self._session = session
        self._background = background
        self._clock = clock
        self._trouble = disturbance
        self._posted = 0
        self._held: dict[object, tuple[int, asyncio.Event]] = {}  # by call: what waits until a later one overtakes it

    @property
    def patience_seconds(self) -> float:
        """How long it is worth to wait for what is under way when a call is over."""
        return self._habits.timeout_seconds

    def post(self, event: Event, random: Random) -> asyncio.Task[Delivery] | None:
        """Deliver it; the task ends with what came of it. `random` decides on the vices. None: the run is ending."""
        habits = self._habits
        duplicated = random.random() < habits.duplicate_share
        late = random.random() < habits.late_share
        signature: Signature = habits.signature if random.random() < habits.signature_share else "valid"
        if self._trouble.befalling("webhook.duplicated", event.id):
            self._trouble.count("webhook.duplicated")
            duplicated = True
        forged = self._trouble.befalling("webhook.signature", event.id)
        if forged is not None:
            self._trouble.count("webhook.signature")
            signature = forged.how  # type: ignore[assignment]  # the fault has checked it
        occurred_at = utc_now()
        self._posted += 1
        number = self._posted
        task = self._background.spawn(self._deliver(event, number, occurred_at, signature, late=late))
        if duplicated:
            event.told(f"webhook {event.type} is delivered twice")
            self._background.spawn(self._deliver(event, number, occurred_at, signature, late=late))
        return task

    async def _deliver(
        self, event: Event, number: int, occurred_at: str, signature: Signature, *, late: bool
    ) -> Delivery:
        habits = self._habits
        waits = event.retries_ms
        if waits is None:
            waits = [habits.retry_ms << attempt for attempt in range(habits.retries)]
        if late:
            await self._sleep(habits.late_ms)
        await self._held_back(event, number)
        delivery = Delivery("unanswered")
        for attempt in range(len(waits) + 1):
            if attempt:
                await self._sleep(waits[attempt - 1])
            began_ns = self._clock.now_ns()
            delivery = await self._attempt(event, occurred_at, signature, attempt + 1)
            took_ms = (self._clock.now_ns() - began_ns) / MS
            event.told(f"webhook {event.type} -> {delivery.detail} ({took_ms:.0f} ms, attempt {attempt + 1})")
            if delivery.outcome == "delivered":
                break
        held = self._held.get(event.payload.get("call_control_id"))
        if held is not None and held[0] < number and delivery.outcome != "unanswered":
            held[1].set()
        return delivery

    async def _held_back(self, event: Event, number: int) -> None:
        """By a fault: for a time, or until the next webhook of the same call was delivered."""
        trouble = self._trouble
        if (late := trouble.befalling("webhook.late", event.id)) is not None:
            event.told(f"webhook {event.type} is {late.ms:g} ms late")
            await self._sleep(late.ms)
            trouble.count("webhook.late")
        call = event.payload.get("call_control_id")
        mixed = trouble.befalling("webhook.out_of_order", event.id)
        if mixed is None or call in self._held:  # while one of the call's is held, the next must pass it
            return
        overtaken = asyncio.Event()
        self._held[call] = number, overtaken
        try:
            async with asyncio.timeout(mixed.ms / 1000):
                await overtaken.wait()
        except TimeoutError:
            return
        finally:
            del self._held[call]
        event.told(f"webhook {event.type} was overtaken")
        trouble.count("webhook.out_of_order")

    async def _attempt(self, event: Event, occurred_at: str, signature: Signature, attempt: int) -> Delivery:
        data = {
            "event_type": event.type,
            "id": event.id,
            "occurred_at": occurred_at,
            "payload": event.payload,
            "record_type": "event",
        }
        envelope = {"data": data, "meta": {"attempt": attempt, "delivered_to": event.url}}
        body = json.dumps(envelope, separators=(",", ":")).encode()
        headers = {"content-type": "application/json", "user-agent": "telnyx-webhooks"}
        headers |= self._signer.headers(body, signature)
        delivery = await self._post(event.url, body, headers)
        replayed = self._trouble.befalling("webhook.replayed", event.id)
        if replayed is not None and delivery.outcome == "delivered":
            self._background.spawn(self._replay(event, body, headers, replayed.ms))
        return delivery

    async def _replay(self, event: Event, body: bytes, headers: Mapping[str, str], after_ms: float) -> None:
        """To the letter what was delivered before."""
        await self._sleep(after_ms)
        delivery = await self._post(event.url, body, headers)
        event.told(f"webhook {event.type} replayed -> {delivery.detail}")
        if delivery.outcome != "unanswered":  # an agent that is gone was not disturbed
            self._trouble.count("webhook.replayed")

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Delivery:
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                said = " ".join((await answer.content.read(BODY_SHOWN)).decode(errors="replace").split())
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            return Delivery("unanswered", f"no answer: {failure or type(failure).__name__}")
        if 200 <= answer.status < 300:
            return Delivery("delivered", str(answer.status))
        return Delivery("refused", f"{answer.status} {said}".strip())

    async def _sleep(self, ms: float) -> None:
        await self._clock.sleep_until(self._clock.now_ns() + round(ms * MS))


def utc_now() -> str:
    """Now, as Telnyx writes it: ISO 8601 with microseconds and Z."""
    return wall_time().replace("+00:00", "000Z")
