"""What the carrier itself plays to the caller: spoken text, sound files, keys."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import sys
import wave
from collections.abc import Callable
from typing import Protocol

import aiohttp
import numpy as np

from busyhour.media.codec import resample
from busyhour.media.leg import Leg
from busyhour.media.utterances import spoken
from busyhour.model import MS, SECOND, Clock, Samples

FILE_BYTES_MAX = 10_000_000
FETCH_SECONDS = 5.0
PIECE_SECONDS = 2
RATES_HZ = (4_000, 192_000)  # of a file: beyond, what is resampled would be of any size
AHEAD_NS = 200 * MS  # the next piece is queued before the last one has been played
DIGIT_NS = 250 * MS
PAUSES_NS = {"w": SECOND // 2, "W": SECOND}
ENDLESS = sys.maxsize
SAID_MAX = 50  # texts of the carrier's own voice that a call remembers


class Unplayable(Exception):
    """A sound that cannot be played: `missing` if it was not found, and the message says why."""

    def __init__(self, detail: str, *, missing: bool = False) -> None:
        self.missing = missing
        super().__init__(detail)


class Stage(Protocol):
    """Where sounds are played: the media stream of the call."""

    def play(self, samples: Samples) -> int:
        """Queue the samples for the caller; returns when the last will have been played, in ns."""
        ...

    def silence(self) -> None:
        """Drop what is queued for the caller."""
        ...

    def may_reach(self, url: str) -> bool: ...


class Player:
    """Plays to one caller: piece by piece, for the caller's queue holds no more than a few seconds."""

    def __init__(self, stage: Stage, clock: Clock, session: aiohttp.ClientSession | None) -> None:
        self._stage = stage
        self._clock = clock
        self._session = session
        self._cut = asyncio.Event()

    def cut(self) -> None:
        """Stop what is being played."""
        self._cut.set()
        self._stage.silence()

    def begin(self) -> None:
        """A new sound: a `cut` from now on is meant for it."""
        self._cut.clear()

    async def play(self, samples: Samples, rate_hz: int, loops: int = 1) -> bool:
        """Play it all; whether somebody cut it short."""
        played_ns = self._clock.now_ns()
        for _ in range(loops if len(samples) else 0):
            for at in range(0, len(samples), PIECE_SECONDS * rate_hz):
                piece = samples[at : at + PIECE_SECONDS * rate_hz]
                # For a caller who is gone all has been played at once: then it takes the time that it lasts.
                played_ns = max(self._stage.play(piece), played_ns + len(piece) * SECOND // rate_hz)
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

    async def speech(self, text: str, rate_hz: int) -> Samples:
        # A long text takes a while to synthesise; other calls are being paced meanwhile.
        return await asyncio.to_thread(spoken, text, rate_hz)

    async def decoded(self, content_b64: str, rate_hz: int) -> Samples:
        """The samples of a WAV file in base64. Raises Unplayable."""
        return await asyncio.to_thread(_decoded, content_b64, rate_hz)

    async def fetched(self, url: str, rate_hz: int) -> Samples:
        """The samples of the WAV file at that URL. Raises Unplayable."""
        return await asyncio.to_thread(_wav, await self._file(url), rate_hz)

    async def _file(self, url: str) -> bytes:
        if self._session is None or not self._stage.may_reach(url):
            raise Unplayable(f"busyhour fetches audio only from this machine: {url}", missing=True)
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise Unplayable(f"{url} answered {answer.status}", missing=True)
                octets = await answer.content.readexactly(FILE_BYTES_MAX + 1)
        except asyncio.IncompleteReadError as all_of_it:
            return all_of_it.partial
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as failure:
            raise Unplayable(f"{url}: {failure or type(failure).__name__}", missing=True) from failure
        raise Unplayable(f"{url} is longer than {len(octets) - 1} bytes")


async def press_keys(leg: Callable[[], Leg | None], digits: str, clock: Clock) -> None:
    """Let the caller hear keys (w and W are pauses of 0.5 and 1 s), 250 ms each."""
    for digit in digits:
        pause_ns = PAUSES_NS.get(digit, DIGIT_NS)
        listening = leg()
        if digit not in PAUSES_NS and listening is not None:
            listening.pressed(digit, clock.now_ns())
        await clock.sleep_until(clock.now_ns() + pause_ns)


def _decoded(content_b64: str, rate_hz: int) -> Samples:
    try:
        octets = base64.b64decode(content_b64, validate=True)
    except (binascii.Error, ValueError):
        raise Unplayable("the audio is not base64") from None
    return _wav(octets, rate_hz)


def _wav(octets: bytes, rate_hz: int) -> Samples:
    """The samples of a WAV file of 8 or 16 bits, mixed to one channel, at our rate."""
    try:
        with wave.open(io.BytesIO(octets)) as file:
            width, channels, from_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as problem:
        raise Unplayable(f"the audio is no WAV file that busyhour can read: {problem}") from None
    if width not in _SAMPLES:
        raise Unplayable(f"the WAV file has {8 * width} bits a sample; busyhour reads 8 and 16")
    if not RATES_HZ[0] <= from_hz <= RATES_HZ[1]:
        raise Unplayable(f"the WAV file has {from_hz} samples a second; busyhour reads {RATES_HZ[0]} to {RATES_HZ[1]}")
    whole = len(raw) // (width * channels) * width * channels
    samples = _SAMPLES[width](raw[:whole])
    mixed = samples.reshape(-1, channels).mean(axis=1).astype(np.int16) if channels > 1 else samples
    return resample(mixed, from_hz, rate_hz)


def _unsigned_8(raw: bytes) -> Samples:
    return (np.frombuffer(raw, np.uint8).astype(np.int16) - 128) << 8


def _signed_16(raw: bytes) -> Samples:
    return np.frombuffer(raw, "<i2").astype(np.int16)


_SAMPLES: dict[int, Callable[[bytes], Samples]] = {1: _unsigned_8, 2: _signed_16}
