"""WebSocket frames in a stream (RFC 6455, 5), and the toxics on messages.

Frames are passed on as they come, however long: only their headers are kept back until they are whole. Control frames
(ping, pong, close) pass and do not count.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple, Protocol

from busyhour.faults.proxy.sse import Goes

_CLOSE = 0x8
NO_CLOSE_FRAME = 1006
_WRONG = 0x7E


class FramePiece(NamedTuple):
    """Part of a frame as it was on the wire: `header` if it is the first, and payload, masked if it was."""

    header: bytes
    payload: bytes
    opcode: int
    offset: int  # of the payload's first byte in the frame
    mask: bytes
    last: bool  # the frame is complete with it
    final: bool  # and it is the last frame of its message

    @property
    def is_data(self) -> bool:
        return self.opcode < _CLOSE

    @property
    def completes_message(self) -> bool:
        return self.is_data and self.last and self.final


class Frames:
    """Cuts one direction of a WebSocket into frames."""

    def __init__(self) -> None:
        self._rest = b""
        self._header: tuple[int, bytes, bool] = (0, b"", True)  # opcode, mask, final
        self._length = 0
        self._done: int | None = None  # payload bytes of the frame so far; None between frames

    def feed(self, data: bytes) -> Iterator[FramePiece]:
        self._rest = self._rest + data if self._rest else data
        while self._rest:
            header = b""
            if self._done is None:
                taken = self._take_header()
                if taken is None:
                    return
                header = taken
                self._done = 0
            left = self._length - self._done
            payload, self._rest = self._rest[:left], self._rest[left:]
            offset, self._done = self._done, self._done + len(payload)
            last = self._done == self._length
            if last:
                self._done = None
            opcode, mask, final = self._header
            if header or payload:
                yield FramePiece(header, payload, opcode, offset, mask, last, final)

    def flush(self) -> bytes:
        """What is kept back; it is the reader's now."""
        rest, self._rest = self._rest, b""
        return rest

    def _take_header(self) -> bytes | None:
        if len(self._rest) < 2:
            return None
        first, second = self._rest[0], self._rest[1]
        extended = {126: 2, 127: 8}.get(second & 0x7F, 0)
        masked = 4 if second & 0x80 else 0
        size = 2 + extended + masked
        if len(self._rest) < size:
            return None
        header, self._rest = self._rest[:size], self._rest[size:]
        self._length = int.from_bytes(header[2 : 2 + extended], "big") if extended else second & 0x7F
        self._header = (first & 0x0F, header[size - masked :] if masked else b"", bool(first & 0x80))
        return header


def close_frame(code: int, reason: str, mask: bytes) -> bytes:
    """A close frame; masked if `mask` has its four bytes (a client's must be)."""
    payload = struct.pack("!H", code) + reason.encode()
    if not mask:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + mask + _xor(payload, mask, 0)


class MessageTamper(Protocol):
    """What befalls one direction of a WebSocket."""

    def begin(self) -> tuple[bytes, Goes, int]:
        """Before the first frame: bytes to send, how it goes on, harms done."""
        ...

    def feed(self, piece: FramePiece) -> tuple[bytes, Goes, int]: ...


class AfterMessages:
    """Something happens after so many messages; `ending`: what is still sent then."""

    def __init__(self, messages: int, then: Goes, ending: Callable[[], bytes] = bytes) -> None:
        self._left = messages
        self._then = then
        self._ending = ending

    def begin(self) -> tuple[bytes, Goes, int]:
        return (self._ending(), self._then, 1) if self._left == 0 else (b"", Goes.ON, 0)

    def feed(self, piece: FramePiece) -> tuple[bytes, Goes, int]:
        raw = piece.header + piece.payload
        self._left -= piece.completes_message
        return (raw + self._ending(), self._then, 1) if self._left == 0 else (raw, Goes.ON, 0)


class MalformedMessage:
    """One message is made of "~": as text no JSON, as audio noise. Its frames keep their lengths."""

    def __init__(self, message: int) -> None:
        self._left = message

    def begin(self) -> tuple[bytes, Goes, int]:
        return b"", Goes.ON, 0

    def feed(self, piece: FramePiece) -> tuple[bytes, Goes, int]:
        if not piece.is_data or self._left <= 0:
            return piece.header + piece.payload, Goes.ON, 0
        payload = piece.payload
        if self._left == 1:
            payload = bytes((_WRONG,)) * len(payload)
            payload = _xor(payload, piece.mask, piece.offset) if piece.mask else payload
        self._left -= piece.completes_message
        return piece.header + payload, Goes.ON, 1 if self._left == 0 else 0


def truncation(messages: int, *, code: int, reason: str, masked: bool, random: Random) -> AfterMessages:
    """After so many messages a close frame with this code; none with 1006, which stands for a lost connection."""

    def ending() -> bytes:
        if code == NO_CLOSE_FRAME:
            return b""
        return close_frame(code, reason, random.randbytes(4) if masked else b"")

    return AfterMessages(messages, Goes.ENDS, ending)


def _xor(data: bytes, mask: bytes, offset: int) -> bytes:
    key = mask[offset % 4 :] + mask[: offset % 4]
    repeated = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")
