"""Text to speech: Cartesia's WebSocket (https://docs.cartesia.ai/api-reference/tts/websocket).

One connection a call, kept warm; each reply is a context on it, fed sentence by sentence.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from voice_agent.audio import BYTES_PER_MS, RATE_HZ
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings
from voice_agent.stt import CLOSE_SECONDS, CONNECTION_ERRORS

_PAUSES_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0)  # before connecting again; the last one from then on
CHARACTERS_PER_SECOND = 15  # of speech, for want of a better measure


class VoiceFailed(Exception):
    """No sound, or not all of it. `reason`: "no audio", "stalled", "lost", "not connected", "error 402", ..."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Voice:
    """The connection of one call."""

    def __init__(self, settings: Settings, *, metrics: Metrics, log: Log) -> None:
        self._url = f"{settings.cartesia_url}/tts/websocket"
        self._headers = {
            "Authorization": f"Bearer {settings.cartesia_api_key}",
            "Cartesia-Version": settings.cartesia_version,
        }
        self._request = {
            "model_id": settings.cartesia_model,
            "voice": {"mode": "id", "id": settings.cartesia_voice},
            "language": "en",
            "output_format": {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": RATE_HZ},
            "add_timestamps": True,
            "max_buffer_delay_ms": 0,  # we feed whole sentences: there is nothing to wait for
        }
        self._connect_seconds = settings.connect_seconds
        self._stall_seconds = settings.between_audio_seconds
        self._metrics, self._log = metrics, log
        self._socket: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._speeches: dict[str, Speech] = {}

    def speech(self, heard: Callable[[bytes], None]) -> Speech:
        """A new reply; `heard` gets its sound, mu-law, in pieces of any length."""
        speech = Speech(self, str(uuid.uuid4()), heard, self._stall_seconds)
        self._speeches[speech.id] = speech
        return speech

    async def run(self) -> None:
        """Keep the connection until cancelled; what is being spoken when it is lost fails."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._connect_seconds):
                    socket = await connect(
                        self._url,
                        additional_headers=self._headers,
                        compression=None,
                        ping_interval=None,
                        close_timeout=CLOSE_SECONDS,
                        proxy=None,
                    )
            except CONNECTION_ERRORS as error:
                self.failed(f"connect: {type(error).__name__}")
                failures += 1
            else:
                try:
                    failures = await self._converse(socket) + failures
                finally:
                    self._lose()
                    await socket.close()
            await asyncio.sleep(_PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS) - 1)])

    async def say(self, context: str, text: str, *, last: bool) -> None:
        """Send text of a context, once there is a connection. Raises VoiceFailed."""
        await self._connected.wait()
        await self._send({**self._request, "context_id": context, "transcript": text, "continue": not last})

    async def cancel(self, context: str) -> None:
        """Stop a context at the vendor's; without a connection there is nothing to stop."""
        try:
            await self._send({"context_id": context, "cancel": True})
        except VoiceFailed:
            return

    def forget(self, context: str) -> None:
        self._speeches.pop(context, None)

    def failed(self, reason: str) -> None:
        self._metrics.vendor_failed("cartesia", reason)
        self._log.warning("speech synthesis", problem=reason)

    async def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            raise VoiceFailed("lost")
        try:
            await self._socket.send(json.dumps(message))
        except CONNECTION_ERRORS:
            raise VoiceFailed("lost") from None

    async def _converse(self, socket: ClientConnection) -> int:
        """Hand out what comes; 1 if the connection was lost before it was of any use."""
        self._socket = socket
        self._connected.set()
        useless = 1
        try:
            async for message in socket:
                useless = 0
                self._understand(message)
        except CONNECTION_ERRORS as error:
            self.failed(type(error).__name__)
        return useless

    def _lose(self) -> None:
        self._socket = None
        self._connected.clear()
        for speech in list(self._speeches.values()):
            speech.fail("lost")

    def _understand(self, message: str | bytes) -> None:
        try:
            context, kind, value = _parsed(message)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.failed("malformed")
            return
        speech = self._speeches.get(context)
        if speech is None:
            return  # cancelled: what was on its way arrives still
        match kind:
            case "chunk":
                speech.sound(value)
            case "timestamps":
                speech.timed(value)
            case "error":
                speech.fail(value)
            case "done":
                speech.end()


class Speech:
    """One reply on its way from text to sound."""

    def __init__(self, voice: Voice, context: str, heard: Callable[[bytes], None], stall_seconds: float) -> None:
        self.id = context
        self._voice = voice
        self._heard = heard
        self._stall_seconds = stall_seconds
        self._said: list[str] = []
        self._words: list[tuple[str, float]] = []  # and when each has been said, in seconds from the beginning
        self._bytes = 0
        self._problem = ""
        self._done = False
        self._news = asyncio.Event()

    async def say(self, sentence: str) -> None:
        """The next sentence; returns when it is sent. Raises VoiceFailed: it counts as said, but not as heard."""
        self._said.append(sentence)
        self._check()
        await self._voice.say(self.id, sentence + " ", last=False)

    async def finish(self) -> None:
        """No more sentences: returns when all sound is there. Raises VoiceFailed, also if there was no sound."""
        self._check()
        await self._voice.say(self.id, "", last=True)
        while not self._done:
            self._check()
            self._news.clear()
            # Before the first sound the caller's patience is the limit, not ours between two pieces of it.
            stall_seconds = self._stall_seconds if self._bytes else None
            try:
                async with asyncio.timeout(stall_seconds):
                    await self._news.wait()
            except TimeoutError:
                raise VoiceFailed("stalled") from None
        self._voice.forget(self.id)
        self._check()
        if not self._bytes:
            raise VoiceFailed("no audio")

    async def cancel(self) -> None:
        """Stop it at the vendor's; what it still sends is dropped. Harmless at any time."""
        self._voice.forget(self.id)
        if not self._done and self._said:
            await self._voice.cancel(self.id)

    @property
    def text(self) -> str:
        return " ".join(self._said)

    @property
    def sounded(self) -> bool:
        return self._bytes > 0

    @property
    def received_ms(self) -> float:
        """How much sound there is so far."""
        return self._bytes / BYTES_PER_MS

    def split(self, played_ms: float) -> tuple[str, str]:
        """Its text so far: what the caller has heard after so many milliseconds of its sound, and what not."""
        text = self.text
        if self._done and self._bytes and played_ms >= self.received_ms:
            return text, ""
        end = 0
        for word, until_seconds in self._words:
            found = text.find(word, end)
            if until_seconds * 1000 > played_ms or found < 0:
                break
            end = found + len(word)
        if not self._words:  # a guess, cut back to whole words
            end = text.rfind(" ", 0, int(played_ms / 1000 * CHARACTERS_PER_SECOND) + 1)
        return text[: max(end, 0)].strip(), text[max(end, 0) :].strip()

    # What the connection tells.

    def sound(self, mulaw: bytes) -> None:
        if mulaw:
            self._bytes += len(mulaw)
            self._heard(mulaw)
            self._news.set()

    def timed(self, words: list[tuple[str, float]]) -> None:
        self._words += words

    def end(self) -> None:
        self._done = True
        self._news.set()

    def fail(self, reason: str) -> None:
        self._problem = self._problem or reason
        self._news.set()

    def _check(self) -> None:
        if self._problem:
            self._voice.forget(self.id)
            raise VoiceFailed(self._problem)


def _parsed(message: str | bytes) -> tuple[str, str, Any]:
    """A message of the vendor: its context ("" for none), its type, and what of it we need. Raises ValueError,
    LookupError, TypeError or AttributeError if it is malformed."""
    told = json.loads(message)
    context, kind = str(told.get("context_id") or ""), str(told["type"])
    match kind:
        case "chunk":
            return context, kind, base64.b64decode(told["data"])
        case "timestamps":
            timed = told["word_timestamps"]
            return context, kind, [(str(w), float(end)) for w, end in zip(timed["words"], timed["end"], strict=True)]
        case "error":
            return context, kind, f"error {told.get('status_code', '')}".strip()
        case _:
            return context, kind, None
