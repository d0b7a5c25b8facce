"""Speech to text: Deepgram's live transcription (https://developers.deepgram.com/reference/speech-to-text/listen-streaming).

One connection a call, open for the whole of it. All sound is sent, speech or not; the end of an utterance is ours to
say, with `Finalize`. What was sent since the last final result is kept, and sent again if the connection is lost, or
if a host does not answer and there is another (DEEPGRAM_FALLBACK_URL).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import websockets
from websockets.asyncio.client import ClientConnection, connect

from voice_agent.audio import FRAME_BYTES, RATE_HZ
from voice_agent.breaker import Breaker, usable
from voice_agent.defects import Defects
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.parting import broken_off, closed
from voice_agent.settings import Settings
from voice_agent.usage import Usage

_KEEPALIVE_SECONDS = 4.0  # the vendor closes after 10 s without audio or KeepAlive
_SEND_BYTES = 2 * FRAME_BYTES
_KEPT_BYTES = 15 * RATE_HZ
_LOSSES = 3  # a host; after so many the recogniser gives up: each is followed by one attempt to connect again
CLOSE_SECONDS = 0.4  # for the vendor to say goodbye when we are done with it
CONNECTION_ERRORS = (OSError, TimeoutError, websockets.WebSocketException)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the caller said. `heard` is False if the recogniser did not answer, so that "" says nothing."""

    text: str
    heard: bool


@dataclass(frozen=True, slots=True)
class Host:
    """Where the vendor is; the breaker is shared by all calls."""

    name: str
    url: str
    key: str
    breaker: Breaker


class Recognizer:
    """`hear` the caller's sound as it comes, `finish` when they have finished speaking."""

    def __init__(
        self,
        settings: Settings,
        hosts: Sequence[Host],
        *,
        metrics: Metrics,
        defects: Defects,
        usage: Usage,
        log: Log,
    ) -> None:
        self._query = urlencode(
            {
                "model": settings.deepgram_model,
                "encoding": "mulaw",
                "sample_rate": RATE_HZ,
                "channels": 1,
                "interim_results": "true",
                "punctuate": "true",
                "endpointing": "false",  # ours to say
            }
        )
        self._connect_seconds = settings.connect_seconds
        self._hosts = hosts[:1] if defects.strikes("no_failover") else hosts
        self._host = next(iter(usable(self._hosts)), self._hosts[0])
        self._leaving_host = False  # the connection is fine, but nobody answers there
        self._metrics, self._usage, self._log = metrics, usage, log
        self._wake = asyncio.Event()
        self._unsent = bytearray()
        self._unanswered = bytearray()  # sent, but not yet covered by a final result
        self._sent_seconds = 0.0  # of sound, on this connection: the vendor's time line
        self._taken_seconds = 0.0  # up to here the words were taken by `finish`
        self._finals: list[str] = []
        self._interim = ""
        self._asked = self._told = self._answered = 0  # Finalize: asked by us, told to the vendor, answered by it
        self._answer = asyncio.Event()

    def hear(self, sound: bytes) -> None:
        """Sound of the caller, mu-law; never waits. What cannot be sent is kept for 15 s."""
        self._unsent += sound
        del self._unsent[:-_KEPT_BYTES]
        if len(self._unsent) >= _SEND_BYTES:
            self._wake.set()

    async def finish(self, within_seconds: float) -> Transcript:
        """All that was said since the last transcript taken. If there is another host, it is given as long again.

        May be cancelled when the caller speaks on: nothing is lost.
        """
        self._asked += 1
        asked = self._asked
        self._wake.set()
        heard = False
        for tries_left in reversed(range(len(self._hosts))):
            heard = await self._answered_within(within_seconds, asked)
            if heard or not tries_left or not self._leave_host():
                break
        if not heard:
            self._answered = self._told = asked  # an answer that comes yet is too late
            self._log.warning("no final transcript", interim=self._interim)
        if not heard and self._interim:
            self._finals.append(self._interim)
        text = " ".join(self._finals)
        self._finals.clear()
        self._interim = ""
        self._unanswered.clear()
        self._taken_seconds = self._sent_seconds
        return Transcript(text, heard or bool(text))

    async def run(self) -> None:
        """Keep the connection until cancelled, or until it was lost too often."""
        for loss in range(_LOSSES * len(self._hosts)):
            try:
                async with asyncio.timeout(self._connect_seconds):
                    socket = await connect(
                        f"{self._host.url}/v1/listen?{self._query}",
                        additional_headers={"Authorization": f"Token {self._host.key}"},
                        compression=None,
                        ping_interval=None,
                        close_timeout=CLOSE_SECONDS,
                        proxy=None,
                    )
            except CONNECTION_ERRORS as error:
                self._lose_host(f"connect: {in_few_words(error)}")
                await asyncio.sleep(0.2 * (loss // len(self._hosts)))
                continue
            with self._metrics.connected(self._host.name):
                try:
                    await self._converse(socket)
                except CONNECTION_ERRORS as error:
                    self._lose_host(in_few_words(error))
                finally:
                    await closed(socket)

    async def _answered_within(self, seconds: float, asked: int) -> bool:
        with self._host.breaker.attempt(self._log) as verdict:
            try:
                async with asyncio.timeout(seconds):
                    while self._answered < asked:
                        self._answer.clear()
                        await self._answer.wait()
            except TimeoutError:
                verdict.failed("no final")
                self._failed("no final", spoken=bool(self._interim))
                return False
            verdict.succeeded()
        return True

    def _lose_host(self, reason: str) -> None:
        self._failed(reason)
        self._host.breaker.failed(reason, self._log)
        self._next_host(reason)

    def _leave_host(self) -> bool:
        """Whether there is another to go to."""
        self._leaving_host = self._next_host("no final")
        self._wake.set()
        return self._leaving_host

    def _next_host(self, reason: str) -> bool:
        others = [host for host in usable(self._hosts) if host is not self._host]
        if others:
            self._metrics.failed_over(self._host.name, others[0].name)
            self._log.trouble("failover", provider=self._host.name, to=others[0].name, reason=reason)
            self._host = others[0]
        return bool(others)

    async def _converse(self, socket: ClientConnection) -> None:
        self._unsent[:0] = self._unanswered  # what the lost connection did not answer
        self._unanswered.clear()
        self._sent_seconds = self._taken_seconds = 0.0
        self._told = self._answered
        self._leaving_host = False
        self._wake.set()
        reader = asyncio.create_task(self._read(socket))
        reader.add_done_callback(lambda _: self._wake.set())
        try:
            while not reader.done() and not self._leaving_host:
                await self._send(socket)
        finally:
            reader.cancel()
            await asyncio.wait({reader})
        if not broken_off(reader):
            try:
                reader.result()
            finally:
                del reader  # it keeps what it raised, and that this frame

    async def _send(self, socket: ClientConnection) -> None:
        try:
            async with asyncio.timeout(_KEEPALIVE_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            await socket.send('{"type":"KeepAlive"}')
            return
        self._wake.clear()
        if self._unsent:
            sound = bytes(self._unsent)
            self._unsent.clear()
            self._unanswered += sound
            del self._unanswered[:-_KEPT_BYTES]
            self._sent_seconds += len(sound) / RATE_HZ
            self._usage.heard(self._host.name, len(sound) / RATE_HZ)
            async with asyncio.timeout(self._connect_seconds):  # a host that does not read any more is lost
                await socket.send(sound)
        if self._told < self._asked:
            self._told = self._asked
            await socket.send('{"type":"Finalize"}')

    async def _read(self, socket: ClientConnection) -> None:
        async for message in socket:
            try:
                self._understand(json.loads(message))
            except (ValueError, LookupError, TypeError):
                self._failed("malformed")
        self._lose_host("closed")  # in good order, but we did not ask for it

    def _understand(self, message: dict[str, Any]) -> None:
        if message["type"] == "Error":
            self._failed("error")
        if message["type"] != "Results":
            return
        words = str(message["channel"]["alternatives"][0]["transcript"]).strip()
        if 0 < message["start"] + message["duration"] <= self._taken_seconds:
            return  # of an utterance that was taken without waiting for it any longer
        if not message.get("is_final"):
            self._interim = words
            return
        self._interim = ""
        if words:
            self._finals.append(words)
        if message.get("from_finalize"):
            self._answered = min(self._answered + 1, self._told)
            if self._answered == self._asked:
                self._unanswered.clear()
            self._answer.set()

    def _failed(self, reason: str, *, spoken: bool = False) -> None:
        self._metrics.vendor_failed(self._host.name, reason)
        self._log.trouble("vendor failed", provider=self._host.name, reason=reason, attempt=1, spoken=spoken)


def in_few_words(error: Exception) -> str:
    """The kind of a failure in a few words, fit for a label: without addresses and numbers of its own."""
    if isinstance(error, websockets.InvalidStatus):
        return f"HTTP {error.response.status_code}"
    return type(error).__name__
