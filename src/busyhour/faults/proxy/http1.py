"""HTTP/1.1 messages in a stream (RFC 9112): where each begins and ends, without changing a byte.

The pieces that `Messages` cuts a stream into are, put together again, the stream. What is not HTTP/1.1 comes out as
OPAQUE from there on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

HEAD_BYTES_AT_MOST = 64 * 1024
_LINE_BYTES_AT_MOST = 4096
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) (HTTP/1\.[01])")
_STATUS_LINE = re.compile(r"(HTTP/1\.[01]) ([1-9]\d\d)(?: .*)?")
_REQUEST_BEGINS = re.compile(rb"[A-Z]{3,20} \S{1,8000} HTTP/1\.[01]\r?\n")


class Kind(Enum):
    HEAD = auto()
    DATA = auto()  # of a body
    END = auto()  # of a message
    OPAQUE = auto()  # no message any more: after an upgrade, or never was one


class Piece(NamedTuple):
    """`frame` and then `data` are what was on the wire; `data` is of the body, `frame` is not."""

    kind: Kind
    frame: bytes
    data: bytes = b""


class Delimited(Enum):
    """How the end of a body is told."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    OPAQUE = auto()  # what follows is of another protocol


class Body(NamedTuple):
    delimited: Delimited
    length: int = 0


class NotHTTP(Exception):
    """The stream breaks the rules of HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and the headers, whose names are in lower case; repeated ones are joined by a comma."""

    method: str  # of a request
    status: int  # of a response
    version: str
    headers: Mapping[str, str]

    def has(self, name: str, token: str) -> bool:
        """Whether a header lists the token, in whatever case."""
        return token in (part.strip().lower() for part in self.headers.get(name, "").split(","))

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def request_begins(data: bytes) -> bool:
    """Whether a chunk looks like the beginning of a request."""
    return _REQUEST_BEGINS.match(data) is not None


def parse_request(raw: bytes) -> Head:
    """Raises NotHTTP."""
    start, headers = _lines(raw)
    line = _REQUEST_LINE.fullmatch(start)
    if line is None:
        raise NotHTTP
    return Head(line[1], 0, line[3], headers)


def parse_response(raw: bytes) -> Head:
    """Raises NotHTTP."""
    start, headers = _lines(raw)
    line = _STATUS_LINE.fullmatch(start)
    if line is None:
        raise NotHTTP
    return Head("", int(line[2]), line[1], headers)


def request_body(head: Head) -> Body:
    """RFC 9112, 6.3. Raises NotHTTP."""
    if "transfer-encoding" in head.headers:
        if not head.headers["transfer-encoding"].lower().rstrip().endswith("chunked"):
            raise NotHTTP
        return Body(Delimited.CHUNKED)
    return _by_length(head) or Body(Delimited.NONE)


def response_body(head: Head, method: str) -> Body:
    """RFC 9112, 6.3, for a response to a request of this method. Raises NotHTTP."""
    if head.status == 101 or (method == "CONNECT" and 200 <= head.status < 300):
        return Body(Delimited.OPAQUE)
    if method == "HEAD" or head.status < 200 or head.status in {204, 304}:
        return Body(Delimited.NONE)
    if "transfer-encoding" in head.headers:
        chunked = head.headers["transfer-encoding"].lower().rstrip().endswith("chunked")
        return Body(Delimited.CHUNKED if chunked else Delimited.CLOSE)
    return _by_length(head) or Body(Delimited.CLOSE)


class Messages:
    """Cuts one direction of a connection into pieces, as the bytes come."""

    def __init__(self, begin: Callable[[bytes], Body]) -> None:
        """begin: called with each head, says how its body ends; raises NotHTTP."""
        self.lost = False  # it turned out not to be HTTP
        self._begin = begin
        self._rest = b""
        self._ready: deque[Piece] = deque()
        self._left = 0
        self._step: Callable[[], Piece | None] = self._head

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The pieces that are complete now. What is awaited (a whole head, the line of a chunk) is kept back."""
        self._rest = self._rest + data if self._rest else data
        while True:
            while self._ready:
                yield self._ready.popleft()
            if not self._rest:
                return
            try:
                piece = self._step()
            except NotHTTP:
                self.lost = True
                self.become_opaque()
                continue
            if piece is None:
                return
            yield piece

    def become_opaque(self) -> None:
        self._step = self._opaque

    def flush(self) -> bytes:
        """What is kept back; it is the reader's now."""
        rest, self._rest = self._rest, b""
        return rest

    def _opaque(self) -> Piece | None:
        return Piece(Kind.OPAQUE, b"", self.flush())

    def _head(self) -> Piece | None:
        begins = len(self._rest) - len(self._rest.lstrip(b"\r\n"))  # empty lines before it are to be tolerated
        end = _HEAD_END.search(self._rest, begins)
        if end is None:
            if len(self._rest) > HEAD_BYTES_AT_MOST or b"\0" in self._rest:
                raise NotHTTP
            self._check_first_line()
            return None
        raw = self._rest[: end.end()]
        body = self._begin(raw[begins:])
        self._rest = self._rest[end.end() :]
        self._left = body.length
        self._step = {
            Delimited.NONE: self._head,
            Delimited.LENGTH: self._length,
            Delimited.CHUNKED: self._chunk_size,
            Delimited.CLOSE: self._until_close,
            Delimited.OPAQUE: self._opaque,
        }[body.delimited]
        if body.delimited is Delimited.NONE or (body.delimited is Delimited.LENGTH and body.length == 0):
            self._end_message(b"")
        return Piece(Kind.HEAD, raw)

    def _check_first_line(self) -> None:
        """Raises NotHTTP as soon as the first line shows it: a foreign protocol must not wait for an empty line."""
        line, newline, _ = self._rest.lstrip(b"\r\n").partition(b"\n")
        text = line.decode("latin-1").rstrip("\r")
        if newline and not _REQUEST_LINE.fullmatch(text) and not _STATUS_LINE.fullmatch(text):
            raise NotHTTP
        if not newline and text and not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z/-]+( |\Z)", text):
            raise NotHTTP

    def _length(self) -> Piece | None:
        data, self._rest = self._rest[: self._left], self._rest[self._left :]
        self._left -= len(data)
        if self._left == 0:
            self._end_message(b"")
        return Piece(Kind.DATA, b"", data)

    def _until_close(self) -> Piece | None:
        return Piece(Kind.DATA, b"", self.flush())

    def _chunk_size(self) -> Piece | None:
        line = self._line()
        if line is None:
            return None
        digits = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", digits):
            self._rest = line + self._rest
            raise NotHTTP
        self._left = int(digits, 16)
        if self._left == 0:
            self._rest = line + self._rest
            self._step = self._trailers
            return self._trailers()
        self._step = self._chunk_data
        return Piece(Kind.DATA, line)

    def _chunk_data(self) -> Piece | None:
        data, self._rest = self._rest[: self._left], self._rest[self._left :]
        self._left -= len(data)
        if self._left == 0:
            self._step = self._chunk_end
        return Piece(Kind.DATA, b"", data)

    def _chunk_end(self) -> Piece | None:
        line = self._line()
        if line is None:
            return None
        if line.strip(b"\r\n"):
            self._rest = line + self._rest
            raise NotHTTP
        self._step = self._chunk_size
        return Piece(Kind.DATA, line)

    def _trailers(self) -> Piece | None:
        """The last chunk's line and what follows it to an empty line."""
        end = _HEAD_END.search(self._rest)
        if end is None:
            if len(self._rest) > HEAD_BYTES_AT_MOST:
                raise NotHTTP
            return None
        raw, self._rest = self._rest[: end.end()], self._rest[end.end() :]
        self._end_message(raw)
        return self._ready.popleft()

    def _end_message(self, raw: bytes) -> None:
        self._ready.append(Piece(Kind.END, raw))
        self._step = self._head

    def _line(self) -> bytes | None:
        line, newline, rest = self._rest.partition(b"\n")
        if not newline:
            if len(line) > _LINE_BYTES_AT_MOST:
                raise NotHTTP
            return None
        self._rest = rest
        return line + newline


def _lines(raw: bytes) -> tuple[str, dict[str, str]]:
    first, *rest = raw.decode("latin-1").replace("\r\n", "\n").rstrip("\n").split("\n")
    headers: dict[str, str] = {}
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise NotHTTP
        key, text = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return first, headers


def _by_length(head: Head) -> Body | None:
    if "content-length" not in head.headers:
        return None
    lengths = {part.strip() for part in head.headers["content-length"].split(",")}
    (length,) = lengths if len(lengths) == 1 else ("",)
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise NotHTTP
    return Body(Delimited.LENGTH, int(length))
