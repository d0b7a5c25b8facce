"""The frames of Telnyx's media WebSocket.

They are those of developers.telnyx.com/api-reference/websockets/stream-call-media-over-websocket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from busyhour.carriers.media_socket import Clear, Malformed, Mark, Meaning, Media

ErrorShape: TypeAlias = Literal["payload", "error"]

NAME_CHARACTERS_MAX = 1000
HEAD = b'{"event":"media","sequence_number":"%d","media":{"track":"inbound","chunk":"%d","timestamp":"%d","payload":"'

# Two editions of the documentation disagree on the key and on the first code; both have been seen by users.
ERROR_CODES: Mapping[ErrorShape, Mapping[str, int]] = {
    "payload": {"malformed_frame": 100002, "invalid_media": 100004},
    "error": {"malformed_frame": 100003, "invalid_media": 100004},
}


@dataclass(eq=False, slots=True)
class TelnyxFrames:
    """A `Dialect`: the frames of one stream."""

    stream_id: str
    error_shape: ErrorShape = "payload"
    carrier: str = "Telnyx"
    malformed_max: int | None = 100
    head: bytes = HEAD
    tail: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.tail = b'"},"stream_id":"%b"}' % self.stream_id.encode()

    def numbering(self, sequence: int) -> Mapping[str, str]:
        return {"sequence_number": str(sequence), "stream_id": self.stream_id}

    def read(self, frame: object) -> Meaning:
        match frame:
            case {"event": "media", "media": {"payload": str(payload)}} if payload:
                return Media(payload)
            case {"event": "media"}:
                return Malformed("invalid_media", "media.payload is missing or no string")
            case {"event": "mark", "mark": {"name": str(name)}} if len(name) <= NAME_CHARACTERS_MAX:
                return Mark(name)
            case {"event": "clear"}:
                return Clear()
        return Malformed("malformed_frame", "The frame is no media, mark or clear event")

    def not_json(self) -> Malformed:
        return Malformed("malformed_frame", "The frame is not JSON")

    def not_base64(self) -> Malformed:
        return Malformed("invalid_media", "media.payload is not base64")

    def not_text(self) -> None:
        """Nothing says that Telnyx bears one."""

    def complaint(self, problem: Malformed, shown: str) -> tuple[str, Mapping[str, Any]]:
        code = ERROR_CODES[self.error_shape][problem.kind]
        content = {"code": code, "title": problem.kind, "detail": f"{problem.detail}: {shown}"}
        return "error", {"stream_id": self.stream_id, self.error_shape: content}
