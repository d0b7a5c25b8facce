"""The three codecs that carriers put into a media stream: G.711 mu-law, G.711 A-law and linear PCM.

G.711 is computed from the recommendation (ITU-T G.711, tables 1 and 2; the bit order and inversions as in the reference
code of ITU-T G.191) into two lookup tables, so that a frame costs one `take`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import ceil, gcd

import numpy as np
import numpy.typing as npt

from busyhour.model import MS, Samples

FRAME_NS = 20 * MS
FRAMES_PER_SECOND = 50
LINEAR_RATES_HZ = (8_000, 16_000, 24_000, 32_000, 48_000)

Octets = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Codec:
    """One way to put samples into octets. Make it with `codec()`, which knows the names and rates there are."""

    name: str
    rate_hz: int
    little_endian: bool = False  # of L16 only; RFC 2586 and RFC 3551 say network byte order, not every vendor does

    @cached_property
    def frame_samples(self) -> int:
        """Samples in a frame of 20 ms."""
        return self.rate_hz // FRAMES_PER_SECOND

    @cached_property
    def sample_bytes(self) -> int:
        return 2 if self.name == "L16" else 1

    @cached_property
    def frame_bytes(self) -> int:
        """Octets in a frame of 20 ms."""
        return self.frame_samples * self.sample_bytes

    @cached_property
    def silence(self) -> bytes:
        """A frame of digital silence: 0xFF in mu-law, 0xD5 in A-law (which has no zero: it decodes to 8), else 0."""
        return self.encode(np.zeros(self.frame_samples, np.int16))

    def encode(self, samples: Samples) -> bytes:
        """Octets of any number of samples."""
        if self.name == "L16":
            return samples.astype("<i2" if self.little_endian else ">i2").tobytes()
        return _encoding(self.name).take(samples.view(np.uint16)).tobytes()

    def decode(self, octets: bytes | Octets) -> Samples:
        """Samples of any number of octets. An odd octet at the end of L16 is half a sample, and is dropped."""
        plain = np.frombuffer(octets, np.uint8) if isinstance(octets, bytes) else octets
        if self.name != "L16":
            return _decoding(self.name).take(plain)
        whole = np.ascontiguousarray(plain[..., : plain.shape[-1] // 2 * 2])
        return whole.view("<i2" if self.little_endian else ">i2").astype(np.int16)


def codec(name: str, rate_hz: int | None = None, *, little_endian: bool = False) -> Codec:
    """The codec of that name: PCMU or PCMA at 8,000 Hz, or L16 at 8,000 to 48,000 Hz (16,000 unless told).

    Raises ValueError, naming what is known, for any other.
    """
    if name in {"PCMU", "PCMA"} and rate_hz in {None, 8_000}:
        return _codec(name, 8_000, False)
    if name == "L16" and (rate_hz is None or rate_hz in LINEAR_RATES_HZ):
        return _codec(name, rate_hz or 16_000, little_endian)
    rates = ", ".join(f"{rate}" for rate in LINEAR_RATES_HZ)
    raise ValueError(f"no codec {name!r} at {rate_hz} Hz; known are PCMU and PCMA at 8000 Hz, L16 at {rates} Hz")


@lru_cache(maxsize=64)
def _codec(name: str, rate_hz: int, little_endian: bool) -> Codec:
    # One object for each: its cached properties are computed once, and legs of one codec are decoded together.
    return Codec(name, rate_hz, little_endian)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """The same sound at another rate: band-limited, without delay, clipped to 16 bits; ceil(n * to / from) samples.

    A windowed sinc (Kaiser, beta 8, 16 zero crossings), flat to 85 % of the lower rate's band. Not left to
    scipy.signal, whose import alone takes longer than all that is ever resampled here.
    """
    if from_hz == to_hz or not len(samples):
        return samples
    up, down = to_hz // gcd(from_hz, to_hz), from_hz // gcd(from_hz, to_hz)
    cutoff = 0.95 * min(1.0, up / down)  # of the input's band
    half = ceil(16 / cutoff)
    padded = np.pad(samples.astype(np.float64), (half - 1, half + down))
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)  # around[i]: half before i + 1, half after
    resampled = np.empty(-(-len(samples) * up // down))
    for phase in range(min(up, len(resampled))):
        # Every up-th output lies at the same place between two inputs, and so has the same filter.
        before, between = divmod(phase * down, up)
        distance = np.arange(1 - half, half + 1) - between / up
        window = np.i0(8.0 * np.sqrt(np.maximum(0.0, 1.0 - (distance / half) ** 2)))
        taps = np.sinc(cutoff * distance) * window
        resampled[phase::up] = around[before::down][: len(resampled[phase::up])] @ (taps / taps.sum())
    clipped: Samples = np.clip(np.rint(resampled), -32_768, 32_767).astype(np.int16)
    return clipped


@lru_cache(maxsize=2)
def _encoding(name: str) -> Octets:
    """The octet of each 16-bit sample, indexed by the sample's two's complement."""
    linear = np.arange(65_536, dtype=np.uint16).view(np.int16).astype(np.int32)
    return (_mu_law_octets if name == "PCMU" else _a_law_octets)(linear)


@lru_cache(maxsize=2)
def _decoding(name: str) -> Samples:
    """The sample of each octet."""
    octets = np.arange(256, dtype=np.int32)
    return (_mu_law_samples if name == "PCMU" else _a_law_samples)(octets)


def _mu_law_octets(linear: npt.NDArray[np.int32]) -> Octets:
    # 14 bits, one's complement below zero (so that -1 is "minus zero"), biased by 33, clipped: 8 segments of 16 steps.
    magnitude = np.minimum((np.where(linear < 0, ~linear, linear) >> 2) + 33, 0x1FFF)
    segment = np.floor(np.log2(magnitude)).astype(np.int32) - 5
    step = (magnitude >> (segment + 1)) & 0x0F
    # Every bit is inverted on the line; the sign bit is 1 for positive values.
    inverted = ((7 - segment) << 4) | (0x0F - step)
    octets: Octets = np.where(linear < 0, inverted, inverted | 0x80).astype(np.uint8)
    return octets


def _mu_law_samples(octets: npt.NDArray[np.int32]) -> Samples:
    inverted = ~octets
    segment, step = (inverted >> 4) & 0x07, inverted & 0x0F
    magnitude = ((((step << 1) + 33) << segment) - 33) << 2
    return np.where(octets & 0x80, magnitude, -magnitude).astype(np.int16)


def _a_law_octets(linear: npt.NDArray[np.int32]) -> Octets:
    # 13 bits: two linear segments below 32 steps, six that double; even bits are inverted on the line (0x55).
    magnitude = np.where(linear < 0, ~linear, linear) >> 4
    segment = np.maximum(np.floor(np.log2(np.maximum(magnitude, 1))).astype(np.int32) - 3, 0)
    step = (magnitude >> np.maximum(segment - 1, 0)) & 0x0F
    octets: Octets = (((segment << 4) | step | np.where(linear < 0, 0, 0x80)) ^ 0x55).astype(np.uint8)
    return octets


def _a_law_samples(octets: npt.NDArray[np.int32]) -> Samples:
    plain = octets ^ 0x55
    segment, step = (plain >> 4) & 0x07, plain & 0x0F
    magnitude = np.where(segment > 0, ((step + 16) << 4) + 8 << np.maximum(segment - 1, 0), (step << 4) + 8)
    return np.where(plain & 0x80, magnitude, -magnitude).astype(np.int16)
