"""One keep-alive connection: a request at a time, its answer parsed as it comes, by llhttp (httptools)."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from busyhour.fastlane import Asked, ConnectionState

_HEAD_BYTES_MAX = 64 * 1024
_BODY_BYTES_MAX = 16 * 1024 * 1024


class Owner(Protocol):
    """Who asks. Nothing here blocks, and it may ask the next from within any of these."""

    def now_ns(self) -> int: ...
    def answered(self, asked: Asked, status: int, body: bytes, now_ns: int) -> None: ...
    def broken(self, asked: Asked, why: str, now_ns: int, *, unread: bool) -> None:
        """No answer. unread: the connection had served before and ended without a byte of this answer."""
        ...

    def ready(self, connection: Connection) -> None:
        """It can take a request: it is new, or has answered the last."""
        ...

    def gone(self, connection: Connection) -> None: ...
    def crashed(self, error: BaseException) -> None:
        """A bug of ours, where no caller of ours would see it."""
        ...


class Connection(ConnectionState, asyncio.Protocol):
    """Stamps an answer when the last of its bytes is read, before any of them is looked at.

    `on_body` is there only where bodies are wanted: a callback less for each answer where they are not. From its second
    answer on, those of the plainest kind may be taken by the lane.
    """

    __slots__ = (
        "_body", "_complete", "_head", "_keep", "_parser", "_served", "_size", "_status", "on_body",
    )  # fmt: skip

    def __init__(self, owner: Owner, *, bodies: bool) -> None:
        self.asked: Asked | None = None
        self.closed = False
        self._owner = owner
        self._transport = None
        self._served = False
        self._status = 0
        self._keep = False
        if bodies:
            self.on_body = self._keep_body
        self._parser = httptools.HttpResponseParser(self)
        self._complete = self._size = 0
        self._read = False
        self._head = b""
        self._body: list[bytes] = []

    def ask(self, asked: Asked, now_ns: int) -> None:
        assert self.asked is None
        self.asked = asked
        asked.began_ns = now_ns
        request = asked.script.encoded[asked.step]
        if not self.put(request):
            self._transport.write(request)

    def abort(self) -> Asked | None:
        """Close it at once; what was under way is given back and not told of."""
        asked, self.asked = self.asked, None
        self.closed = True
        self.leave(False)
        if self._transport is not None:
            self._transport.abort()
        return asked

    # ---------------------------------------------------------------- the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are, and do not derive from it
        try:
            self._owner.ready(self)
        except BaseException as error:  # forwarded, not swallowed
            self._owner.crashed(error)

    def data_received(self, data: bytes) -> None:
        now_ns = self._owner.now_ns()
        try:
            if self.asked is None:  # told without being asked: what it says next could be taken for an answer
                self.abort()
                return
            self._read = True
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserCallbackError:
                raise
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._break("malformed answer", now_ns)
                return
            if self._complete:
                self._over(now_ns)
            else:
                self._wait_for_more(data, now_ns)
        except BaseException as error:  # forwarded, not swallowed: nobody looks into a callback
            self._owner.crashed(error)

    def cut(self, error: OSError) -> None:
        """The lane came upon it when it read the socket, whose transport will not be told again."""
        try:
            if self.asked is None:
                self.abort()
            else:
                self._break(_ended(error), self._owner.now_ns())
        except BaseException as bug:  # forwarded, not swallowed
            self._owner.crashed(bug)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.leave(False)
        try:
            if self.asked is not None:
                now_ns = self._owner.now_ns()
                if exc is None and _ends_with_the_connection(self._head):
                    self._keep, self._status = False, self._parser.get_status_code()
                    self._over(now_ns)
                else:
                    self._break(_ended(exc), now_ns)
            self._owner.gone(self)
        except BaseException as error:  # forwarded, not swallowed
            self._owner.crashed(error)

    # ---------------------------------------------------------------- the parser

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:  # else an interim answer (RFC 9110, 15.2): the final one follows
            self._complete += 1
            self._status = status
            self._keep = self._parser.should_keep_alive()

    def _keep_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= _BODY_BYTES_MAX:
            self._body.append(data)

    # ---------------------------------------------------------------- answers

    def _over(self, now_ns: int) -> None:
        asked, self.asked = self.asked, None
        assert asked is not None
        # Two answers to one request leave it open which is which.
        keep = self._keep and self._complete == 1
        self._complete = 0
        self._read, self._served = False, True
        if not keep:
            self.abort()
        if self._size or self._head:
            self._over_at_length(asked, now_ns)
        else:
            self._owner.answered(asked, self._status, b"", now_ns)
        if keep:
            self.join()
            self._owner.ready(self)

    def _over_at_length(self, asked: Asked, now_ns: int) -> None:
        body, whole = b"".join(self._body), self._size <= _BODY_BYTES_MAX
        self._body.clear()
        self._size, self._head = 0, b""
        if whole:
            self._owner.answered(asked, self._status, body, now_ns)
        else:
            self._owner.broken(asked, f"answer over {_BODY_BYTES_MAX >> 20} MB", now_ns, unread=False)

    def _break(self, why: str, now_ns: int) -> None:
        unread = self._served and not self._read
        asked = self.abort()
        if asked is not None:
            self._owner.broken(asked, why, now_ns, unread=unread)

    def _wait_for_more(self, data: bytes, now_ns: int) -> None:
        """Keep the head: it says whether the answer ends where the connection does."""
        if len(self._head) < _HEAD_BYTES_MAX:
            self._head += data[:_HEAD_BYTES_MAX]
            if len(self._head) >= _HEAD_BYTES_MAX and b"\r\n\r\n" not in _final(self._head):
                self._break("headers too large", now_ns)


def _ended(error: Exception | None) -> str:
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset"
    return "closed early" if error is None else f"connection lost: {type(error).__name__}"


def _final(head: bytes) -> bytes:
    """Without the interim answers before it."""
    while head.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1")):
        head = head.partition(b"\r\n\r\n")[2]
    return head


def _ends_with_the_connection(head: bytes) -> bool:
    """Whether the body of the answer that begins with `head` has no length of its own (RFC 9112, 6.3, rule 8)."""
    fields, ended, _ = _final(head).lower().partition(b"\r\n\r\n")
    return bool(ended) and b"\ncontent-length:" not in fields and b"\ntransfer-encoding:" not in fields
