"""What all the lines of this process share: the wheel, the decoder, and the encoded audio.

Frames are decoded and judged together, every 5 ms, for all lines of a codec: 0.3 us a frame instead of 6 to 9. (The
lane does it at once, and one by one.) It costs no accuracy, because each frame carries the stamp of its arrival.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pybase64

from busyhour.clock import SystemClock
from busyhour.disturbance import MEDIA, Disturbance, Kind
from busyhour.fastlane import InboxState, meter_of
from busyhour.media.codec import Codec, Octets, resample
from busyhour.media.speech import LEAST_POWER, WINDOWS_PER_SECOND, loud_windows
from busyhour.media.wheel import Wheel
from busyhour.model import Audio, Clock, Samples

DECODE_EVERY_SLOTS = 5
READ_AT_ONCE = 32  # messages, before a look whether frames are to be sent
ENCODED_MAX = 512


@dataclass(frozen=True, eq=False, slots=True)
class Frames:
    """An utterance ready for the wire: base64 of 20 ms each, and which of them hold the ends of the speech."""

    payloads: tuple[bytes, ...]
    first_speech: int
    last_speech: int


class Ear(Protocol):
    """Where decoded frames go."""

    def take_silence(self, at_ns: int) -> bool:
        """Take a frame in which nothing is loud; False if this one must be given as windows."""
        ...

    def take_windows(self, loud: bytes, at_ns: int) -> bool:
        """Take a frame that has been judged; False if this one must be given as samples."""
        ...

    def take(self, samples: Samples, at_ns: int) -> None: ...


class Batch:
    """The frames of one codec that have arrived since they were last decoded."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        padding = -codec.frame_bytes % 3
        self._frame_bytes = codec.frame_bytes
        self._padded_bytes = codec.frame_bytes + padding
        self._padding = padding
        self.payload_bytes = self._padded_bytes // 3 * 4  # a frame of 20 ms in base64
        self._windows = WINDOWS_PER_SECOND // 50
        self._window_samples = codec.rate_hz // WINDOWS_PER_SECOND
        linear = codec.sample_bytes == 2
        decoding = b"" if linear else codec.decode(bytes(range(256))).tobytes()
        self.meter = meter_of(codec.frame_bytes, self._window_samples, decoding, codec.little_endian, LEAST_POWER)
        self._rows: list[tuple[Ear, int, bytes]] = []
        self.append = self._rows.append  # (ear, at_ns, octets); exactly `codec.frame_bytes` of them

    def decode(self) -> None:
        """Give every ear its frames, in the order in which they came."""
        if not self._rows:
            return
        rows = self._rows[:]
        self._rows.clear()
        if self.meter is None:
            self._decode_all(rows)
            return
        for ear, at_ns, octets in rows:
            loud = self.meter.loud_of(octets)
            if (1 in loud or not ear.take_silence(at_ns)) and not ear.take_windows(loud, at_ns):
                ear.take(self.codec.decode(octets), at_ns)

    def _decode_all(self, rows: Sequence[tuple[Ear, int, bytes]]) -> None:
        octets = np.frombuffer(b"".join([octets for _, _, octets in rows]), np.uint8)
        samples = self.codec.decode(octets.reshape(len(rows), -1))
        loud = loud_windows(samples, self._window_samples)
        some_loud = np.any(loud.reshape(len(rows), -1), axis=1).tolist()
        windows, judged = self._windows, loud.tobytes()
        for i, (ear, at_ns, _) in enumerate(rows):
            if not some_loud[i] and ear.take_silence(at_ns):
                continue
            if not ear.take_windows(judged[i * windows : (i + 1) * windows], at_ns):
                ear.take(samples[i], at_ns)

    def octets(self, payloads: Sequence[bytes]) -> Octets:
        """A row for each payload of `payload_bytes`. Raises ValueError if one of them is no frame in base64.

        They are decoded at once: a frame's padding is made "A", which adds octets that are cut off again.
        """
        joined = bytearray(b"".join(payloads))
        if self._padding:
            tails = np.frombuffer(joined, np.uint8).reshape(-1, self.payload_bytes)[:, -self._padding :]
            if not (tails == ord("=")).all():
                raise ValueError("not padded like a frame")
            tails[:] = ord("A")
        octets = np.frombuffer(pybase64.b64decode(joined, None, True), np.uint8)
        return octets.reshape(-1, self._padded_bytes)[:, : self._frame_bytes]


class Reader(Protocol):
    """Whoever is told of a message: its kind as the socket has it, what it says, and when it arrived."""

    @property
    def read(self) -> Callable[[Any, bytes, int], None]: ...


class Inbox(InboxState):
    """What has arrived for all lines and was not read yet.

    A message is stamped and put here when the kernel gives it, and read with those of all lines within 5 ms: one after
    the other in a loop, which takes half as long as each between two system calls that empty the processor's caches.
    """

    def __init__(self, wheel: Wheel) -> None:
        """wheel: whose frames are sent between two messages when they are due."""
        self.wheel = wheel
        self.reads = 0  # how often all that had arrived was read
        self._rows: list[tuple[Reader, Any, bytes, int]] = []
        self._reading = False
        self.put = self._rows.append  # (reader, kind, message, at_ns)

    @property
    def waits(self) -> bool:
        """Whether there is something to read."""
        return bool(self._rows)

    def read(self) -> bool:
        """Tell the readers, in the order in which it came. False, and nothing done, if it is one of them that asks:
        what came after its own message is not read yet."""
        if self._reading:
            return False
        rows = self._rows[:]
        self._rows.clear()
        self._reading = True
        try:
            for number, (reader, kind, message, at_ns) in enumerate(rows):
                reader.read(kind, message, at_ns)
                if number % READ_AT_ONCE == READ_AT_ONCE - 1:
                    self.wheel.hurry()
        finally:
            self._reading = False
            self.reads += 1
        return True


class Studio:
    """One for each process that has lines; `async with studio.turning()` around all of them.

    vices: what faults may do to these lines, and to the carrier whose lines they are.
    """

    def __init__(self, clock: Clock | None = None, wheel: Wheel | None = None, vices: Collection[Kind] = MEDIA) -> None:
        self.clock = clock or SystemClock()
        self.wheel = wheel or Wheel(self.clock)
        self.wheel.between(self.decode, every=DECODE_EVERY_SLOTS)
        self.disturbance = Disturbance(vices)
        self.inbox = Inbox(self.wheel)
        self.decoded_ns = 0  # every frame that is stamped before has been given to its ear
        self._batches: dict[Codec, Batch] = {}
        self._encoded: OrderedDict[tuple[Audio, Codec], Frames] = OrderedDict()

    @asynccontextmanager
    async def turning(self) -> AsyncIterator[None]:
        """As `Wheel.turning`; all lines are closed inside of it."""
        async with self.wheel.turning():
            self.inbox.open()
            try:
                yield
            finally:
                self.inbox.close()

    def batch(self, codec: Codec) -> Batch:
        """Where the frames of that codec wait to be decoded."""
        found = self._batches.get(codec)
        if found is None:
            found = self._batches[codec] = Batch(codec)
        return found

    def decode(self) -> None:
        """Read and decode all that has arrived."""
        until_ns = self.inbox.read_until(self.clock.now_ns())
        if self.inbox.read():
            self.decoded_ns = max(self.decoded_ns, until_ns)
        for batch in self._batches.values():
            batch.decode()

    def frames(self, audio: Audio, codec: Codec) -> Frames:
        """The audio's frames in that codec; encoded once, and shared by all lines that say it.

        Worth calling before a phase for audio whose rate is not the codec's: resampling takes milliseconds.
        """
        key = (audio, codec)
        if key in self._encoded:
            self._encoded.move_to_end(key)
            return self._encoded[key]
        frames = self._encoded[key] = encode(audio, codec)
        if len(self._encoded) > ENCODED_MAX:
            self._encoded.popitem(last=False)
        return frames


def encode(audio: Audio, codec: Codec) -> Frames:
    """Cut the audio into frames of 20 ms; the last one is filled up with silence."""
    samples = resample(audio.samples, audio.rate_hz, codec.rate_hz)
    size = codec.frame_samples
    count = max(1, -(-len(samples) // size))
    padded = np.zeros(count * size, np.int16)
    padded[: len(samples)] = samples
    octets = codec.encode(padded)
    step = codec.frame_bytes
    payloads = tuple(pybase64.b64encode(octets[at : at + step]) for at in range(0, len(octets), step))
    first = audio.speech_began * codec.rate_hz // (audio.rate_hz * size)
    last = max(audio.speech_began, audio.speech_ended - 1) * codec.rate_hz // (audio.rate_hz * size)
    return Frames(payloads, min(first, count - 1), min(last, count - 1))
