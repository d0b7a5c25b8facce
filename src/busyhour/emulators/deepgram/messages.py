"""What the two kinds of Deepgram streams have in common: what they say, how they end, and octets made samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from busyhour.emulators.listening import Event, Listener, Transcript
from busyhour.media.codec import codec
from busyhour.model import JSON, Samples

HEARD_MS = 80
"""Audio is listened to in pieces of this length, as the vendor says it does; what a piece brings to light is dated by
the samples that decided it."""

Piece: TypeAlias = tuple[Listener, Samples]

ENCODINGS = ("linear16", "mulaw", "alaw")
"""Those the twin decodes; the vendor knows also linear32, flac, amr-nb, amr-wb, opus, ogg-opus, speex, g729."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message to the client (empty: none).

    transcript: in samples, of results. final: it ends an utterance. prompt: it leaves as a final does, but ends
    nothing. began: an utterance begins with it. at: the sample that decided it; None: what just came did.
    """

    message: Mapping[str, JSON]
    channel: int = 0
    transcript: Transcript | None = None
    final: bool = False
    prompt: bool = False
    began: bool = False
    at: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The close of a connection, after the last message if there is one."""

    code: int
    reason: bytes
    message: Mapping[str, JSON] | None = None


class Fatal(Exception):
    """The client said what ends the connection."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class Hearing(Protocol):
    """A stream as its connection sees it."""

    @property
    def model(self) -> str: ...

    @property
    def takes_audio(self) -> bool:
        """Whether it is known how octets are to be read."""
        ...

    @property
    def received(self) -> int:
        """Samples of each channel that came."""
        ...

    @property
    def seconds(self) -> float:
        """How much audio came."""
        ...

    def greeting(self) -> list[Said]:
        """What is said before anything is heard."""
        ...

    def take(self, octets: bytes) -> int:
        """Take octets of the encoding, cut anywhere; how many pieces of HEARD_MS wait to be listened to."""
        ...

    def piece(self) -> list[Piece]:
        """The next of the pieces that wait, for each listener; empty if there is none. What is heard in them has to be
        told by `heard`, before anything else is asked of the stream."""
        ...

    def heard(self, events: Sequence[Sequence[Event]]) -> list[Said]:
        """What comes of the events of each listener."""
        ...

    def listen(self) -> list[Said]:
        """Listen to all the pieces that wait, at once."""
        ...

    def heed(self, text: str) -> list[Said] | None:
        """Do what a text message asks; None: close. Raises Fatal."""
        ...

    def close(self) -> list[Said]:
        """What was left over at the end."""
        ...

    def farewell(self) -> Ending: ...

    def silence(self) -> Ending:
        """The end of a stream that heard nothing for too long."""
        ...

    def nonsense(self) -> Ending:
        """The end of a stream whose octets cannot be read."""
        ...

    def failure(self) -> Ending:
        """The end of a stream that failed."""
        ...

    def numbered(self, message: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """The message as it is sent next."""
        ...


class Ear:
    """Octets in, samples out: samples x channels, in pieces of HEARD_MS however the octets were cut."""

    def __init__(self, encoding: str, rate_hz: int, channels: int = 1) -> None:
        # G.711 maps octet to sample whatever the rate is; so does linear PCM.
        self._codec = codec({"mulaw": "PCMU", "alaw": "PCMA"}.get(encoding, "L16"), little_endian=True)
        self._channels = channels
        self._width = (2 if encoding == "linear16" else 1) * channels
        self.piece_samples = rate_hz * HEARD_MS // 1000
        self._piece = self.piece_samples * self._width
        self._received = 0  # octets
        self._octets = bytearray()

    @property
    def samples(self) -> int:
        """Of each channel, that came."""
        return self._received // self._width

    def take(self, octets: bytes) -> int:
        """How many pieces there are now."""
        self._octets += octets
        self._received += len(octets)
        return len(self._octets) // self._piece

    def piece(self) -> Samples | None:
        """The next whole piece."""
        return self._out(self._piece) if len(self._octets) >= self._piece else None

    def rest(self) -> Samples | None:
        """All samples that were not given out yet, fewer than a piece; octets of one that is not complete are kept."""
        whole = len(self._octets) // self._width * self._width
        return self._out(whole) if whole else None

    def _out(self, count: int) -> Samples:
        octets = bytes(self._octets[:count])
        del self._octets[:count]
        samples = self._codec.decode(octets)
        return samples.reshape(-1, self._channels)
