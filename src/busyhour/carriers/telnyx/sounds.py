"""What the carrier itself plays to the caller: `speak` and `playback_start`, one after the other."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import wave
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import aiohttp
import numpy as np

from busyhour.carriers.telnyx.params import Sound
from busyhour.carriers.telnyx.refusals import invalid
from busyhour.media.codec import resample
from busyhour.media.utterances import spoken
from busyhour.model import MS, SECOND, Clock, Samples

QUEUE_MAX = 100
FILE_BYTES_MAX = 10_000_000
FETCH_SECONDS = 5.0
PIECE_SECONDS = 2
AHEAD_NS = 200 * MS  # the next piece is queued before the last one has been played


class Unplayable(Exception):
    """A sound that cannot be played: `status` is Telnyx's word for it, the message says why."""

    def __init__(self, status: str, detail: str) -> None:
        self.status = status
        super().__init__(detail)


class Stage(Protocol):
    """Where sounds are played: the call."""

    async def until_open(self) -> int:
        """Wait until the caller hears: the rate of the caller's ear in Hz."""
        ...

    def play(self, samples: Samples) -> int:
        """Queue the samples for the caller; returns when the last will have been played, in ns."""
        ...

    def silence(self) -> None:
        """Drop what is queued for the caller."""
        ...

    def event(self, type_: str, **payload: Any) -> object: ...

    def may_reach(self, url: str) -> bool: ...


class Sounds:
    """The queue of one call. `run` plays it for as long as the call lasts."""

    def __init__(self, stage: Stage, clock: Clock, session: aiohttp.ClientSession | None) -> None:
        self._stage = stage
        self._clock = clock
        self._session = session
        self._queue: deque[Sound] = deque()
        self._some = asyncio.Event()
        self._cut = asyncio.Event()
        self._playing: Sound | None = None

    @property
    def playing(self) -> bool:
        return self._playing is not None or bool(self._queue)

    def add(self, sound: Sound) -> None:
        """Play it when its turn comes. Raises Refusal if too much is queued."""
        if len(self._queue) >= QUEUE_MAX:
            raise invalid("payload" if sound.text else "audio_url", f"{QUEUE_MAX} sounds are queued already.")
        if sound.stop:
            self.stop(everything=sound.stop == "all")
        self._queue.append(sound)
        self._some.set()

    def stop(self, *, everything: bool) -> None:
        """Stop the current sound, and with `everything` those that wait for their turn."""
        if everything:
            self._queue.clear()
        if self._playing is not None:
            self._cut.set()
            self._stage.silence()

    def end(self) -> None:
        """The call is over: say so of the sound that was playing. `run` is then cancelled by the call."""
        if self._playing is not None:
            self._tell_end(self._playing, "call_hangup", "")
            self._playing = None
        self._queue.clear()

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._queue:
                await self._play(self._queue.popleft())

    async def _play(self, sound: Sound) -> None:
        self._playing = sound
        self._cut.clear()
        self._stage.event(f"call.{_kind(sound)}.started", **_fields(sound))
        rate_hz = await self._stage.until_open()
        status, detail = "completed", ""
        try:
            samples = await self._samples(sound, rate_hz)
            if await self._cut_short(samples, rate_hz, sound.loops):
                # The SDK knows no "cancelled" for speech.
                status = "completed" if sound.text else "cancelled"
        except Unplayable as problem:
            status, detail = problem.status, str(problem)
        self._playing = None
        self._tell_end(sound, status, detail)

    async def _cut_short(self, samples: Samples, rate_hz: int, loops: int) -> bool:
        """Play it all; whether somebody stopped it before the end. The caller's queue holds no more than a few s."""
        for _ in range(loops if len(samples) else 0):
            for at in range(0, len(samples), PIECE_SECONDS * rate_hz):
                played_ns = self._stage.play(samples[at : at + PIECE_SECONDS * rate_hz])
                if await self._cut_before(played_ns - AHEAD_NS):
                    return True
        return await self._cut_before(self._clock.now_ns() + AHEAD_NS) if len(samples) else False

    async def _cut_before(self, until_ns: int) -> bool:
        """Wait until then: whether somebody has stopped the sound before."""
        try:
            async with asyncio.timeout(max(0, until_ns - self._clock.now_ns()) / SECOND):
                await self._cut.wait()
        except TimeoutError:
            return False
        return True

    def _tell_end(self, sound: Sound, status: str, detail: str) -> None:
        fields = _fields(sound) | {"status": status}
        if not sound.text and detail:
            fields["status_detail"] = detail
        self._stage.event(f"call.{_kind(sound)}.ended", **fields)

    async def _samples(self, sound: Sound, rate_hz: int) -> Samples:
        if sound.text:
            # A long text takes a while to synthesise; other calls are being paced meanwhile.
            return await asyncio.to_thread(spoken, sound.text, rate_hz)
        if sound.media_name:
            raise Unplayable("file_not_found", f"nothing was uploaded as {sound.media_name}")
        if sound.content:
            return await asyncio.to_thread(_decoded, sound.content, rate_hz)
        if sound.url.startswith("data:"):
            return await asyncio.to_thread(_decoded, sound.url.partition(",")[2], rate_hz)
        return await asyncio.to_thread(_wav, await self._fetched(sound.url), rate_hz)

    async def _fetched(self, url: str) -> bytes:
        if self._session is None or not self._stage.may_reach(url):
            raise Unplayable("file_not_found", f"busyhour fetches audio only from this machine: {url}")
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise Unplayable("file_not_found", f"{url} answered {answer.status}")
                octets = await answer.content.readexactly(FILE_BYTES_MAX + 1)
        except asyncio.IncompleteReadError as all_of_it:
            return all_of_it.partial
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise Unplayable("file_not_found", f"{url}: {failure or type(failure).__name__}") from failure
        raise Unplayable("failed", f"{url} is longer than {len(octets) - 1} bytes")


def _kind(sound: Sound) -> str:
    return "speak" if sound.text else "playback"


def _fields(sound: Sound) -> dict[str, Any]:
    """What the webhooks of a playback say of it; of `playback_content` they say nothing."""
    if sound.text:
        return {}
    named: dict[str, Any] = {"overlay": sound.overlay}
    if sound.url:
        named["media_url"] = sound.url
    if sound.media_name:
        named["media_name"] = sound.media_name
    return named


def _decoded(content_b64: str, rate_hz: int) -> Samples:
    try:
        octets = base64.b64decode(content_b64, validate=True)
    except (binascii.Error, ValueError):
        raise Unplayable("failed", "the audio is not base64") from None
    return _wav(octets, rate_hz)


def _wav(octets: bytes, rate_hz: int) -> Samples:
    """The samples of a WAV file of 8 or 16 bits, mixed to one channel, at our rate."""
    try:
        with wave.open(io.BytesIO(octets)) as file:
            width, channels, from_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as problem:
        raise Unplayable("failed", f"the audio is no WAV file that busyhour can read: {problem}") from None
    if width not in _SAMPLES:
        raise Unplayable("failed", f"the WAV file has {8 * width} bits a sample; busyhour reads 8 and 16")
    whole = len(raw) // (width * channels) * width * channels
    samples = _SAMPLES[width](raw[:whole])
    mixed = samples.reshape(-1, channels).mean(axis=1).astype(np.int16) if channels > 1 else samples
    return resample(mixed, from_hz, rate_hz)


def _unsigned_8(raw: bytes) -> Samples:
    return (np.frombuffer(raw, np.uint8).astype(np.int16) - 128) << 8


def _signed_16(raw: bytes) -> Samples:
    return np.frombuffer(raw, "<i2").astype(np.int16)


_SAMPLES: dict[int, Callable[[bytes], Samples]] = {1: _unsigned_8, 2: _signed_16}
