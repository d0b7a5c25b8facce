"""The frames of Twilio's media streams.

They are those of twilio.com/docs/voice/media-streams/websocket-messages; what Twilio does with others, of its errors
31950, 31951 and 31924.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from busyhour.carriers.media_socket import Clear, Malformed, Mark, Meaning, Media

NAME_CHARACTERS_MAX = 1000
INVALID = "warning 31951 (Stream - Protocol - Invalid Message)"
UNDECODED = "warning 31950 (Stream - Protocol - Malformed Message)"
HEAD = b'{"event":"media","sequenceNumber":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d","payload":"'


@dataclass(eq=False, slots=True)
class TwilioFrames:
    """A `Dialect`: the frames of one stream."""

    stream_sid: str
    carrier: str = "Twilio"
    malformed_max: int | None = None  # Twilio warns of the first, and goes on
    head: bytes = HEAD
    tail: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.tail = b'"},"streamSid":"%b"}' % self.stream_sid.encode()

    def numbering(self, sequence: int) -> Mapping[str, str]:
        return {"sequenceNumber": str(sequence), "streamSid": self.stream_sid}

    def read(self, frame: object) -> Meaning:
        meaning: Meaning = _invalid("the event is not media, mark or clear, or what belongs to it is missing")
        match frame:
            case {"event": "media", "media": {"payload": str(payload)}} if payload:
                meaning = Media(payload)
            case {"event": "mark", "mark": {"name": str(name)}} if len(name) <= NAME_CHARACTERS_MAX:
                meaning = Mark(name)
            case {"event": "clear"}:
                meaning = Clear()
        if isinstance(frame, dict) and frame.get("streamSid") != self.stream_sid:
            return _invalid("streamSid is not the one of the start message")
        return meaning

    def not_json(self) -> Malformed:
        return _invalid("the message is not JSON")

    def not_base64(self) -> Malformed:
        return _invalid("media.payload is not base64")

    def not_text(self) -> Malformed:
        return Malformed("31950", f"{UNDECODED}: a binary frame")

    def complaint(self, _problem: Malformed, _shown: str) -> None:
        """Twilio's warning is in its console: the agent is told nothing."""


def _invalid(detail: str) -> Malformed:
    return Malformed("31951", f"{INVALID}: {detail}")
