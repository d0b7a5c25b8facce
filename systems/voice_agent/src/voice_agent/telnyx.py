"""The carrier's side: is this webhook genuine, and commands for a call (Telnyx Call Control v2)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
import uuid
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.pools import asked

TOLERANCE_SECONDS = 300
CALL_HAS_ENDED = "90018"

_TRIES = 3
_ANSWER_SECONDS = 2.0
_PAUSES_SECONDS = (0.1, 0.3)  # before the second and the third try


class Refused(Exception):
    """A webhook that is not to be believed; `status` is the HTTP answer to it."""

    def __init__(self, status: int, because: str) -> None:
        self.status = status
        super().__init__(because)


class Verifier:
    """Checks the Ed25519 signature of `timestamp|body` (https://developers.telnyx.com, Receiving Webhooks)."""

    def __init__(self, public_key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(public_key)

    def check(self, body: bytes, headers: Mapping[str, str]) -> None:
        """`body` is what was received: re-serialised JSON has another signature.

        Raises Refused: 401 if it is unsigned, 403 if it is not genuine.
        """
        signature = headers.get("telnyx-signature-ed25519", "")
        timestamp = headers.get("telnyx-timestamp", "")
        if not signature or not timestamp:
            raise Refused(401, "unsigned")
        if not timestamp.isdecimal() or abs(time.time() - int(timestamp[:12])) > TOLERANCE_SECONDS:
            raise Refused(403, "stale")
        try:
            self._key.verify(base64.b64decode(signature, validate=True), f"{timestamp}|".encode() + body)
        except (InvalidSignature, binascii.Error, ValueError):
            raise Refused(403, "bad signature") from None


class CommandFailed(Exception):
    """A command that the carrier did not take, after all tries."""


class CallOver(CommandFailed):
    """The call has ended already: there is nobody to command it for."""


class Phone(Protocol):
    """What a conversation may ask of its telephone call. All raise CommandFailed."""

    async def hang_up(self) -> None: ...

    async def speak(self, text: str) -> None:
        """Say it with the carrier's own voice; returns when the carrier has taken it, not when it is said."""
        ...

    async def transfer(self, number: str) -> None: ...


class TelnyxCall:
    """The commands for one call. Each is tried three times under one command_id, so that it happens at most once."""

    def __init__(
        self, client: httpx.AsyncClient, call_control_id: str, *, voice: str, metrics: Metrics, log: Log
    ) -> None:
        self._client = client
        self._path = f"calls/{quote(call_control_id, safe='')}/actions/"
        self._voice = voice
        self._metrics = metrics
        self._log = log

    async def answer(self) -> None:
        await self._command("answer", {})

    async def reject(self, cause: str) -> None:
        """`cause`: CALL_REJECTED or USER_BUSY."""
        await self._command("reject", {"cause": cause})

    async def start_streaming(self, url: str) -> None:
        """Have the carrier open its media WebSocket to `url`, both ways."""
        command: dict[str, str | int] = {
            "stream_url": url,
            "stream_track": "inbound_track",
            "stream_codec": "PCMU",
            "stream_bidirectional_mode": "rtp",  # without it the carrier drops, silently, all sound that we send
            "stream_bidirectional_codec": "PCMU",
            "stream_bidirectional_sampling_rate": 8000,
        }
        await self._command("streaming_start", command)

    async def hang_up(self) -> None:
        await self._command("hangup", {})

    async def speak(self, text: str) -> None:
        voice = {"voice": self._voice, "language": "en-US", "service_level": "basic"}
        await self._command("speak", {"payload": text[:3000], "payload_type": "text", **voice})

    async def transfer(self, number: str) -> None:
        await self._command("transfer", {"to": number})

    async def _command(self, name: str, fields: Mapping[str, str | int]) -> None:
        command = {**fields, "command_id": str(uuid.uuid4())}
        problem = ""
        for pause in (*_PAUSES_SECONDS[: _TRIES - 1], None):
            try:
                answer = await asked(self._client, "POST", self._path + name, json=command, timeout=_ANSWER_SECONDS)
            except httpx.TransportError as error:
                problem = type(error).__name__
            else:
                if answer.is_success:
                    self._log.info("command taken", command=name)
                    return
                if answer.status_code == 404 or (answer.status_code == 422 and CALL_HAS_ENDED in answer.text):
                    raise CallOver(f"{name}: the call has ended")
                problem = f"HTTP {answer.status_code}"
                if answer.status_code < 500 and answer.status_code != 429:
                    break
            self._metrics.vendor_failed("telnyx", problem)
            if pause is not None:
                await asyncio.sleep(pause)
        self._log.warning("command failed", command=name, problem=problem)
        raise CommandFailed(f"{name}: {problem}")


class NoPhone:
    """The telephone of a media stream that belongs to no call of the carrier: a trial at one's own desk."""

    async def hang_up(self) -> None:
        """Nothing to do: the conversation closes its socket."""

    async def speak(self, text: str) -> None:
        raise CommandFailed(f"there is no carrier to say {text!r}")

    async def transfer(self, number: str) -> None:
        raise CommandFailed(f"there is no carrier to transfer to {number}")
