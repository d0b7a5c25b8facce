"""A call's connection to one vendor of speech, kept warm; each reply is a context on it, fed sentence by sentence."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect

from voice_agent.breaker import Breaker, State, incurable
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.parting import closed
from voice_agent.settings import Settings
from voice_agent.stt import CLOSE_SECONDS, CONNECTION_ERRORS, in_few_words
from voice_agent.tts.speech import Speech, VoiceFailed
from voice_agent.usage import Usage

_PAUSES_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0)  # before connecting again; the last one from then on


@dataclass(frozen=True, slots=True)
class Told:
    """A message of the vendor: its context ("" for none), its kind, and what of it we need.

    Kinds: "sound" (mu-law), "words" and "words from here" (each with its end in seconds), "error" (the reason), "done".
    """

    context: str
    kind: str
    value: Any = None


class Dialect(Protocol):
    """How one vendor wants to be told, and answers."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def say(self, context: str, text: str, *, first: bool) -> Sequence[Mapping[str, Any]]: ...

    def finish(self, context: str) -> Sequence[Mapping[str, Any]]: ...

    def cancel(self, context: str) -> Sequence[Mapping[str, Any]]: ...

    def read(self, message: str | bytes) -> Sequence[Told]:
        """Raises ValueError, LookupError, TypeError or AttributeError if it is malformed."""
        ...


class Voice:
    """The connection of one call to one vendor. It is made when the voice is first wanted.

    patient: there is no other voice, so that it is better to wait for the connection than to give up.
    """

    def __init__(
        self,
        dialect: Dialect,
        breaker: Breaker,
        settings: Settings,
        *,
        patient: bool,
        metrics: Metrics,
        usage: Usage,
        log: Log,
    ) -> None:
        self.name = dialect.name
        self.breaker = breaker
        self.suspect_until = 0.0  # on the loop's clock: it has failed in this call
        self._dialect, self._patient = dialect, patient
        self._connect_seconds = settings.connect_seconds
        self._stall_seconds = settings.between_audio_seconds if patient else settings.attempt_seconds
        self._metrics, self._usage, self._log = metrics, usage, log
        self._socket: ClientConnection | None = None
        self._wanted = asyncio.Event()
        self._tried = asyncio.Event()  # connecting has succeeded, or failed
        self._speeches: dict[str, Speech] = {}

    def want(self) -> None:
        self._wanted.set()

    @property
    def reachable(self) -> bool:
        """Whether there is a connection, or may be as far as we know."""
        return self._socket is not None or not self._tried.is_set()

    def speech(self, heard: Callable[[bytes], None], *, trusting: bool) -> Speech:
        """A new reply; `heard` gets its sound, mu-law, in pieces of any length."""
        speech = Speech(self, str(uuid.uuid4()), heard, stall_seconds=self._stall_seconds, trusting=trusting)
        self._speeches[speech.id] = speech
        return speech

    async def run(self) -> None:
        """Keep the connection until cancelled; what is being spoken when it is lost fails."""
        await self._wanted.wait()
        failures = 0
        while True:
            if not self._patient and self.breaker.state is State.OPEN and not self.breaker.admits():
                await asyncio.sleep(_PAUSES_SECONDS[-1])  # nobody is going to ask it
                continue
            try:
                async with asyncio.timeout(self._connect_seconds):
                    socket = await connect(
                        self._dialect.url,
                        additional_headers=self._dialect.headers,
                        compression=None,
                        ping_interval=None,
                        close_timeout=CLOSE_SECONDS,
                        proxy=None,
                    )
            except CONNECTION_ERRORS as error:
                reason = f"connect: {in_few_words(error)}"
                self.failed(reason)
                self.breaker.failed(reason, self._log)
                failures += 1
                self._tried.set()
            else:
                with self._metrics.connected(self.name):
                    try:
                        failures = await self._converse(socket) + failures
                    finally:
                        self._lose()
                        await closed(socket)
            await asyncio.sleep(_PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS) - 1)])

    async def say(self, context: str, text: str, *, first: bool) -> None:
        """Send text of a context, once there is a connection. Raises VoiceFailed."""
        await self._send(self._dialect.say(context, text, first=first))
        self._usage.spoke(self.name, len(text.strip()))

    async def finish(self, context: str) -> None:
        """Tell that a context is complete. Raises VoiceFailed."""
        await self._send(self._dialect.finish(context))

    async def cancel(self, context: str) -> None:
        """Stop a context at the vendor's; without a connection there is nothing to stop."""
        if self._socket is not None:
            try:
                await self._send(self._dialect.cancel(context))
            except VoiceFailed:
                return

    def forget(self, context: str) -> None:
        self._speeches.pop(context, None)

    def failed(self, reason: str, **fields: int | bool) -> None:
        self._metrics.vendor_failed(self.name, reason)
        self._log.trouble("vendor failed", provider=self.name, reason=reason, **fields)

    async def _send(self, messages: Sequence[Mapping[str, Any]]) -> None:
        await self._tried.wait()
        while self._socket is None:
            if not self._patient:
                raise VoiceFailed("not connected")
            self._tried.clear()
            await self._tried.wait()
        socket = self._socket  # it may be lost between two messages
        try:
            async with asyncio.timeout(self._stall_seconds):
                for message in messages:
                    await socket.send(json.dumps(message))
        except TimeoutError:
            raise VoiceFailed("stalled") from None
        except CONNECTION_ERRORS:
            raise VoiceFailed("lost") from None

    async def _converse(self, socket: ClientConnection) -> int:
        """Hand out what comes; 1 if the connection was lost before it was of any use."""
        self._socket = socket
        self._tried.set()
        useless = 1
        try:
            async for message in socket:
                useless = 0
                self._understand(message)
        except CONNECTION_ERRORS as error:
            self.failed(type(error).__name__)
        if incurable(socket.close_reason or ""):  # told in the closing frame, if nowhere else
            self._lose("quota")
        return useless

    def _lose(self, reason: str = "lost") -> None:
        self._socket = None
        for speech in list(self._speeches.values()):
            speech.fail(reason)

    def _understand(self, message: str | bytes) -> None:
        try:
            news = self._dialect.read(message)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.failed("malformed")
            return
        for told in news:
            concerned = self._speeches.get(told.context)
            if concerned is not None:  # else it was cancelled: what was on its way arrives still
                _tell(concerned, told)
            elif told.kind == "error" and not told.context:  # about the connection, and so about everything on it
                for speech in list(self._speeches.values()):
                    speech.fail(told.value)


def _tell(speech: Speech, told: Told) -> None:
    match told.kind:
        case "sound":
            speech.sound(told.value)
        case "words":
            speech.timed(told.value)
        case "words from here":
            speech.timed_from_here(told.value)
        case "error":
            speech.fail(told.value)
        case "done":
            speech.end()
