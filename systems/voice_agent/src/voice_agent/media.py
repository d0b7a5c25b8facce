"""The carrier's media stream: the socket, and its messages
(https://developers.telnyx.com/api-reference/websockets/stream-call-media-over-websocket)."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol


class MediaSocket(Protocol):
    async def open(self) -> None: ...

    async def receive(self) -> str | None:
        """The next text message; None when the socket is closed."""
        ...

    async def send(self, text: str) -> None:
        """Harmless on a closed socket: `receive` tells that it is."""
        ...


def parse(text: str) -> tuple[str, Any]:
    """A message of the carrier: its event, and what of it we need. Raises ValueError, LookupError, TypeError or
    AttributeError if it is malformed."""
    message = json.loads(text)
    match message["event"]:
        case "media":
            media = message["media"]
            inbound = media.get("track", "inbound") == "inbound"  # on the other track is what we said ourselves
            return "media", (
                int(media["chunk"]),
                base64.b64decode(media["payload"], validate=True),
            ) if inbound else None
        case "start":
            media_format = message["start"]["media_format"]
            return "start", f"{media_format['encoding']}/{int(media_format['sample_rate'])}"
        case "mark":
            return "mark", str(message["mark"]["name"])
        case "dtmf":
            return "dtmf", str(message["dtmf"]["digit"])
        case event:
            return str(event), None
