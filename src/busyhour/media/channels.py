"""A recording as samples."""

from __future__ import annotations

from busyhour.media.codec import codec
from busyhour.model import Samples
from busyhour.recording import Sound


def channels(sound: Sound) -> tuple[Samples, Samples]:
    """The caller's samples, and those of the agent as the caller heard them: as many of each."""
    named = codec(sound.codec, sound.rate_hz, little_endian=sound.codec == "L16")
    caller, agent = (named.decode(bytes(sound.octets(track))) for track in (sound.caller, sound.agent))
    return caller, agent
