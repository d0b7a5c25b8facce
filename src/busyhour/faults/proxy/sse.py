"""Server-sent events in a body as it comes (WHATWG HTML, 9.2.6), and the toxics on them.

An event is a block of lines with at least one `data` line, ended by an empty line; comments and blocks without data do
not count. Lines end with LF, CR or CRLF.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Protocol

MEDIA_TYPE = "text/event-stream"
_LINE_END = re.compile(rb"\r\n|\n|\r")
_FIELD = b"data"
_WRONG = 0x7E  # "~" begins no JSON value, and ends none that has begun


class Goes(Enum):
    ON = auto()
    STALLS = auto()  # nothing more comes, and no end either
    ENDS = auto()  # here, in good order


class BodyTamper(Protocol):
    """What befalls the body of one response."""

    def begin(self) -> Goes: ...

    def feed(self, data: bytes) -> tuple[bytes, Goes, int]:
        """What goes on of it (all of it, changed or not, when it goes ON), how, and how many events were harmed."""
        ...


class Events:
    """Counts events in a body, whose pieces may be cut anywhere."""

    def __init__(self) -> None:
        self.number = 0  # of events that are complete
        self._line = b""  # the beginning of the unfinished line, as much as tells a `data` field
        self._has_data = False
        self._after_cr = False

    def ends(self, data: bytes, wanted: int) -> int | None:
        """Where in `data` event number `wanted` is complete; None if it is not. Counts up to there."""
        at = 0
        if self._after_cr and data:
            self._after_cr = False
            at = 1 if data[:1] == b"\n" else 0
        while at < len(data):
            end = _LINE_END.search(data, at)
            if end is None:
                self._begin(data[at : at + len(_FIELD) + 1])
                return None
            self._begin(data[at : min(end.start(), at + len(_FIELD) + 1)])
            at = end.end()
            self._after_cr = end[0] == b"\r" and at == len(data)
            if self._end_line() and self.number == wanted:
                return at
        return None

    def _begin(self, part: bytes) -> None:
        self._line = (self._line + part)[: len(_FIELD) + 1]

    def _end_line(self) -> bool:
        """Whether this line completed an event."""
        line, self._line = self._line, b""
        if line:
            self._has_data = self._has_data or line in {_FIELD, _FIELD + b":"}
            return False
        complete, self._has_data = self._has_data, False
        self.number += complete
        return complete


class AfterEvents:
    """Something happens after so many events."""

    def __init__(self, events: int, then: Goes) -> None:
        self._wanted = events
        self._then = then
        self._events = Events()

    def begin(self) -> Goes:
        return self._then if self._wanted == 0 else Goes.ON

    def feed(self, data: bytes) -> tuple[bytes, Goes, int]:
        end = self._events.ends(data, self._wanted)
        return (data, Goes.ON, 0) if end is None else (data[:end], self._then, 1)


class AfterBytes:
    """It stalls after so many bytes of the body."""

    def __init__(self, count: int) -> None:
        self._left = count

    def begin(self) -> Goes:
        return Goes.STALLS if self._left == 0 else Goes.ON

    def feed(self, data: bytes) -> tuple[bytes, Goes, int]:
        if len(data) < self._left:
            self._left -= len(data)
            return data, Goes.ON, 0
        return data[: self._left], Goes.STALLS, 1


class MalformedEvent:
    """The data of one event is no JSON; it keeps its length, so that no framing has to change."""

    def __init__(self, event: int) -> None:
        self._wanted = event
        self._events = Events()
        self._line = 0  # bytes of the unfinished line so far, within the event
        self._prefix = b""
        self._within = False  # the value of a data field
        self._value_bytes = 0

    def begin(self) -> Goes:
        return Goes.ON

    def feed(self, data: bytes) -> tuple[bytes, Goes, int]:
        if self._events.number >= self._wanted:
            return data, Goes.ON, 0
        begin = 0
        if self._events.number < self._wanted - 1:
            before = self._events.ends(data, self._wanted - 1)
            if before is None:
                return data, Goes.ON, 0
            begin = before
        end = self._events.ends(data[begin:], self._wanted)
        stop = len(data) if end is None else begin + end
        return data[:begin] + self._spoil(data[begin:stop]) + data[stop:], Goes.ON, 0 if end is None else 1

    def _spoil(self, part: bytes) -> bytes:
        spoilt = bytearray(part)
        for index, byte in enumerate(part):
            if byte in b"\r\n":
                self._line, self._prefix, self._within, self._value_bytes = 0, b"", False, 0
                continue
            if self._within:
                self._value_bytes += not (self._value_bytes == 0 and byte == 0x20)
                keeps = byte == 0x20 if self._value_bytes == 0 else self._value_bytes == 1 and byte in b"{["
                spoilt[index] = byte if keeps else _WRONG
                continue
            self._line += 1
            self._prefix += bytes((byte,)) if len(self._prefix) <= len(_FIELD) else b""
            self._within = self._line == len(_FIELD) + 1 and self._prefix == _FIELD + b":"
        return bytes(spoilt)
