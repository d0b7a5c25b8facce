"""Messages between who leads a run and its workers: JSON objects, one to a line.

leader -> worker   {"begin": {...}}                what to carry out, once
                   {"do": NAME, "id": N, ...}      an order
worker -> leader   {"ready": true}                 the plan is loaded, the journal is there
                   {"re": N, ...}                  what came of the order
                   {"progress": {...}}             how its phase stands, four times a second
                   {"failed": {"kind": CLASS, "why": TEXT}}   its last words, unless it was killed
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from busyhour.errors import ProtocolError

Message: TypeAlias = Mapping[str, Any]
LINE_BYTES_MAX = 4 << 20
BACKLOG_BYTES_MAX = 64 << 20  # whoever does not read for so long is as good as gone


class Link(Protocol):
    """The way to the other side."""

    def send(self, message: Message) -> None:
        """Harmless when the other side is gone: `receive` says so."""
        ...

    async def receive(self) -> Message | None:
        """The next message; None when the other side is gone. Raises ProtocolError."""
        ...


class Lines:
    """A Link over a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Message) -> None:
        if self._writer.is_closing():
            return
        if self._writer.transport.get_write_buffer_size() > BACKLOG_BYTES_MAX:
            self._writer.transport.abort()
            return
        self._writer.write(encoded(message))

    async def receive(self) -> Message | None:
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        except ValueError:
            raise ProtocolError(f"a message has more than {LINE_BYTES_MAX} bytes") from None
        return decoded(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        """Send what waits, for a second at most, and hang up."""
        self._writer.close()
        try:
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()


def encoded(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decoded(line: bytes) -> Message:
    """Raises ProtocolError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is no JSON: {error}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message is no JSON object")
    return message
