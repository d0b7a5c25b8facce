"""The sound of a call for a page: as much of it as there is room for, in Ogg Vorbis.

The last page of the stream says at which sample it ends, so it is exactly as long as what it was made of; the page
decodes it whole, once. `docs/decisions/0017` has what it was chosen over, and why seeking is not the browser's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from zlib import crc32

import numpy as np
import soundfile  # type: ignore[import-untyped]  # it has no stubs

from busyhour.columns import Ints
from busyhour.media.codec import resample
from busyhour.model import SECOND, Samples
from busyhour.recording import Sound, Track, at_sample

RATE_HZ_MOST = 16_000  # wideband telephony; what was sampled faster takes more time to encode than it tells the ear
_LEVEL = 0.9  # of libsndfile, 0 to 1
_LEAST_NS = 4 * SECOND  # less of a longer call tells nothing
_OCTETS_LEAST = 15_000
_LONGEST_NS = 120 * SECOND
_HELD_NS = 600 * SECOND
_TENTHS = 10
_AUDIBLE = 16  # of full scale 32,768: -66 dB
_TRIES = 3
_REVERSED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A stretch of a call's sound, in ns from the sound's beginning."""

    since_ns: int
    until_ns: int
    ogg: bytes


def stretch(sound: Sound, around_ns: tuple[int, int]) -> Sound:
    """Of a very long call the ten minutes around a moment, in ns from the sound's beginning; else the sound itself."""
    whole_ns = sound.ended_ns - sound.began_ns
    if whole_ns <= _HELD_NS:
        return sound
    since_ns, until_ns = _from_a_second(window(whole_ns, _HELD_NS, around_ns))
    first, last = at_sample(since_ns, sound.rate_hz), at_sample(until_ns, sound.rate_hz)
    width = len(sound.silence)
    return replace(
        sound,
        began_ns=sound.began_ns + since_ns,
        ended_ns=sound.began_ns + until_ns,
        caller=_between(sound.caller, first, last, width),
        agent=_between(sound.agent, first, last, width),
    )


def _between(track: Track, first: int, last: int, width: int) -> Track:
    begins, counts = track.runs[:, 0], track.runs[:, 1]
    places = np.cumsum(counts) - counts  # of each run, among the octets
    since, until = np.maximum(begins, first), np.minimum(begins + counts, last)
    inside = np.flatnonzero(since < until)
    octets = b"".join(
        track.octets[
            (places[run] + since[run] - begins[run]) * width : (places[run] + until[run] - begins[run]) * width
        ]
        for run in inside.tolist()
    )
    return Track(octets, np.stack((since - first, until - since), axis=1)[inside])


def vorbis(caller: Samples, agent: Samples, rate_hz: int) -> bytes:
    """Ogg Vorbis of two channels, the caller left and the agent right, at `rate_in_page(rate_hz)`."""
    rate = rate_in_page(rate_hz)
    both = np.stack([resample(samples, rate_hz, rate) for samples in (caller, agent)], axis=1)
    held = BytesIO()
    with soundfile.SoundFile(held, "w", rate, 2, format="OGG", subtype="VORBIS", compression_level=_LEVEL) as file:
        for begin in range(0, len(both), rate):  # by the second: libvorbis keeps all that it is given at once
            file.write(both[begin : begin + rate])
    return _numbered(held.getvalue())


def _numbered(ogg: bytes) -> bytes:
    """The same stream with the number 1. libsndfile draws one by chance, but one run has one page.

    A page of Ogg (RFC 3533, section 6) has it at 14, its checksum at 22, and the sizes of its segments from 27 on. The
    checksum is CRC-32 with the bits the other way round, from 0.
    """
    stream, at = bytearray(ogg), 0
    while at < len(stream):
        body = at + 27 + stream[at + 26]
        end = body + sum(stream[at + 27 : body])
        stream[at + 14 : at + 18], stream[at + 22 : at + 26] = (1).to_bytes(4, "little"), bytes(4)
        crc = crc32(stream[at:end].translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        stream[at + 22 : at + 26] = crc.to_bytes(4, "big").translate(_REVERSED)
        at = end
    return bytes(stream)


def rate_in_page(rate_hz: int) -> int:
    return min(rate_hz, RATE_HZ_MOST)


def cost(seconds: float, sounding_seconds: float, rate_hz: int) -> int:
    """About how many octets the sound of a call will take: at most 9 % off for 40 calls of an agent and a caller.

    sounding_seconds: for how long there is anything to be heard, of both channels together.
    """
    octets = 3_000 + 65 * seconds + 2_450 * sounding_seconds
    return round(octets * (1.0 if rate_hz <= 8_000 else 1.25))


def shares(costs: Sequence[int], room: int) -> list[int]:
    """How many octets each call may take: an equal part, and of what the short ones leave. Where that is too little to
    tell anything, the last have none."""
    for count in range(len(costs), 0, -1):
        given: dict[int, int] = {}
        left = room
        for place in sorted(range(count), key=lambda place: costs[place]):
            given[place] = min(costs[place], left // (count - len(given)))
            left -= given[place]
        if all(given[place] >= min(costs[place], _OCTETS_LEAST) for place in given):
            return [given.get(place, 0) for place in range(len(costs))]
    return [0] * len(costs)


def fitted(
    sound: Sound, channels: tuple[Samples, Samples], *, bytes_max: int, around_ns: tuple[int, int]
) -> Clip | None:
    """As much of the sound, around its worst moment, as can be had in so many bytes; None if that is next to nothing.

    around_ns: the moment, in ns from the sound's beginning. Encodes at most three times, and never more than two
    minutes: how long a page takes to be made does not depend on how long calls are.
    """
    whole_ns = sound.ended_ns - sound.began_ns
    sounding = _sounding(channels, sound.rate_hz)
    budget = bytes_max
    for _ in range(_TRIES):
        room_ns = _room_ns(sounding, sound, budget, around_ns)
        since_ns, until_ns = _from_a_second(window(whole_ns, room_ns, around_ns))
        if until_ns - since_ns < min(whole_ns, _LEAST_NS) or until_ns <= since_ns:
            return None
        caller, agent = (within(samples, sound.rate_hz, since_ns, until_ns) for samples in channels)
        ogg = vorbis(caller, agent, sound.rate_hz)
        if len(ogg) <= bytes_max:
            return Clip(since_ns, until_ns, ogg)
        budget = budget * bytes_max // len(ogg) * 19 // 20
    return None


def _sounding(channels: tuple[Samples, Samples], rate_hz: int) -> Ints:
    """In how many tenths of a second there was anything to be heard, of both channels, until each tenth."""
    size = rate_hz // _TENTHS
    count = len(channels[0]) // size
    loud = [
        np.abs(one[: count * size].astype(np.int32)).reshape(count, size).max(axis=1) > _AUDIBLE for one in channels
    ]
    return np.concatenate(([0], np.cumsum(loud[0].astype(np.int64) + loud[1])))


def _room_ns(sounding: Ints, sound: Sound, budget: int, around_ns: tuple[int, int]) -> int:
    """The longest window that is likely to be had for so many octets."""
    whole_ns = sound.ended_ns - sound.began_ns
    least, most = 0, min(whole_ns, _LONGEST_NS)
    while most - least > SECOND // _TENTHS:
        room_ns = (least + most + 1) // 2 if least else most  # the whole is tried first
        since, until = (at_ns * _TENTHS // SECOND for at_ns in window(whole_ns, room_ns, around_ns))
        sounds = int(sounding[min(until, len(sounding) - 1)] - sounding[min(since, len(sounding) - 1)]) / _TENTHS
        fits = cost(room_ns / SECOND, sounds, sound.rate_hz) <= budget
        if fits and room_ns == most:
            return most
        least, most = (room_ns, most) if fits else (max(least, 1), room_ns)
    return least


def window(whole_ns: int, room_ns: int, around_ns: tuple[int, int]) -> tuple[int, int]:
    """The stretch of a whole that has that much room, two thirds of what is left over before the moment: one wants to
    hear how it came to be."""
    if whole_ns <= room_ns:
        return 0, whole_ns
    since_ns, until_ns = (min(max(0, at_ns), whole_ns) for at_ns in around_ns)
    begin_ns = since_ns - max(0, room_ns - (until_ns - since_ns)) * 2 // 3
    begin_ns = min(max(0, begin_ns), whole_ns - room_ns)
    return begin_ns, begin_ns + room_ns


def _from_a_second(stretch_ns: tuple[int, int]) -> tuple[int, int]:
    """From the whole second before, for the sake of the axis."""
    since_ns, until_ns = stretch_ns
    return since_ns - since_ns % SECOND, until_ns


def within(samples: Samples, rate_hz: int, since_ns: int, until_ns: int) -> Samples:
    return samples[at_sample(since_ns, rate_hz) : at_sample(until_ns, rate_hz)]
