"""The media WebSocket: the carrier dials the agent, and both speak JSON in text frames.

How a frame is written and what it means is the business of the carrier's `Dialect`; the socket keeps the pace and the
limits. What arrives is stamped in the frame callback, before anything of it is read.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from busyhour.media.playout import QUEUED_NS_MAX
from busyhour.model import SECOND, Clock

FRAME_BYTES_MAX = 1 << 20
FRAMES_PER_SECOND_MAX = 2000
BACKLOG_BYTES_MAX = 1 << 20
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
CLEAN_CODES = (WSCloseCode.NO_INFO, WSCloseCode.OK, WSCloseCode.GOING_AWAY)
SHOWN_CHARACTERS = 120

# picows reports disconnects to a logger; without a handler Python would print them on the terminal of the run.
LOGGER = logging.getLogger("busyhour.media_socket")
LOGGER.addHandler(logging.NullHandler())


class Refused(Exception):
    """The agent's media socket could not be opened; the message says why."""


@dataclass(frozen=True, slots=True)
class Media:
    """Audio of the agent; that it is base64 is checked by the socket."""

    payload: str


@dataclass(frozen=True, slots=True)
class Mark:
    name: str


@dataclass(frozen=True, slots=True)
class Clear:
    """What is queued for the caller is to be dropped."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A frame that means nothing in the dialect: `kind` in the carrier's words, `detail` for people."""

    kind: str
    detail: str


Meaning: TypeAlias = Media | Mark | Clear | Malformed


class Dialect(Protocol):
    """How a carrier writes and reads the frames of one media stream."""

    @property
    def carrier(self) -> str:
        """The carrier's name, for messages."""
        ...

    @property
    def malformed_max(self) -> int | None:
        """How many malformed frames are borne before the call is ended; None: any number, as the carrier does."""
        ...

    def audio(self, payload_b64: bytes, *, sequence: int, chunk: int) -> bytes:
        """The whole frame that carries 20 ms of the caller; `chunk` is counted from 0, `sequence` from 1."""
        ...

    def numbering(self, sequence: int) -> Mapping[str, str]:
        """What every other frame says of its stream and its place in it."""
        ...

    def read(self, frame: object) -> Meaning:
        """What a frame of the agent means: any JSON value."""
        ...

    def not_json(self) -> Malformed: ...

    def not_base64(self) -> Malformed: ...

    def not_text(self) -> Malformed | None:
        """Of a binary frame; None: it ends the call."""
        ...

    def complaint(self, problem: Malformed, shown: str) -> tuple[str, Mapping[str, Any]] | None:
        """The event, and its content, that tells the agent of a malformed frame; None if the carrier tells nothing."""
        ...


class Owner(Protocol):
    """Whom the socket tells what it hears."""

    def socket_opened(self, at_ns: int) -> None:
        """Called before anything is heard, so that nothing the agent says at once is lost."""
        ...

    def heard_media(self, payload_b64: bytes, at_ns: int) -> None: ...

    def heard_mark(self, name: str, at_ns: int) -> None: ...

    def heard_clear(self, at_ns: int) -> None: ...

    def heard_malformed(self, detail: str) -> None:
        """A frame was not understood, and is ignored."""
        ...

    def broke_protocol(self, detail: str) -> None:
        """The agent broke the protocol beyond repair: nothing more is heard of it."""
        ...


@dataclass(slots=True)
class Counts:
    """What went over the socket, in frames."""

    sent: int = 0
    skipped: int = 0  # not sent, because the agent does not read
    received: int = 0
    malformed: int = 0
    dropped: int = 0  # audio that the carrier would not play on such a stream

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Closed:
    """How a socket was closed; `clean` if the agent took its leave."""

    clean: bool
    how: str


class MediaSocket(WSListener):
    """One media stream. `open`, then `send_audio` and `say`, then `close`; `closed` tells how it ended."""

    def __init__(self, *, dialect: Dialect, owner: Owner, clock: Clock, bytes_per_second: int) -> None:
        """bytes_per_second: of the agent's audio, which decides how long a frame may be."""
        self.counts = Counts()
        self._dialect = dialect
        self._owner = owner
        self._now_ns = clock.now_ns
        # base64 takes 4 characters for 3 bytes; the rest of the frame is far below a kilobyte.
        self._bytes_max = max(FRAME_BYTES_MAX, QUEUED_NS_MAX // SECOND * bytes_per_second * 4 // 3 + 1024)
        self._transport: WSTransport | None = None
        self._sequence = 0
        self._first_chunk: int | None = None
        self._congested = False
        self._deaf = False
        self._closing = False
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._shape: tuple[bytes, bytes] | None = None
        self._second = 0
        self._frames_in_second = 0

    # ------------------------------------------------------------ to the agent

    async def open(self, url: str, *, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """Connect. Raises Refused."""
        # A laboratory certificate is nobody's to verify: what is measured is the agent, on a network of ours.
        context = ssl.create_default_context() if url.startswith("wss:") else None
        if context is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            await ws_connect(
                lambda: self,
                url,
                ssl_context=context,
                websocket_handshake_timeout=timeout_seconds,
                logger_name=LOGGER,
                # One more than we allow: what is too long arrives and can be named, what is absurd never does.
                max_frame_size=4 * self._bytes_max,
                extra_headers=headers,
                max_redirects=0,
            )
        except (WSError, OSError, TimeoutError, ValueError) as failure:
            raise Refused(f"{url}: {failure or type(failure).__name__}") from failure
        if self._transport is None:  # picows takes it for a connection that was opened and closed
            raise Refused(f"{url}: the connection was closed before the WebSocket handshake was answered")

    def send_audio(self, payload_b64: bytes, chunk: int) -> None:
        """One frame of 20 ms of the caller, the `chunk`-th of the call; the first one sent is the stream's 0th."""
        transport = self._transport
        if transport is None or self._closing:
            return
        if self._first_chunk is None:
            self._first_chunk = chunk
        if self._congested:  # the agent does not read: a telephone does not wait for it, and our memory is finite
            self.counts.skipped += 1
            return
        self._sequence += 1
        self.counts.sent += 1
        frame = self._dialect.audio(payload_b64, sequence=self._sequence, chunk=chunk - self._first_chunk)
        transport.send(WSMsgType.TEXT, frame)

    def say(self, event: str, content: Mapping[str, Any], *, numbered: bool = True) -> None:
        """Send any other event; harmless on a closed socket."""
        transport = self._transport
        if transport is None or self._closing or self._backlog_bytes() > BACKLOG_BYTES_MAX:
            return
        frame: dict[str, Any] = {"event": event}
        if numbered:
            self._sequence += 1
            frame |= self._dialect.numbering(self._sequence)
        transport.send(WSMsgType.TEXT, json.dumps({**frame, **content}, separators=(",", ":")).encode())

    def _backlog_bytes(self) -> int:
        if self._transport is None or not self._congested:
            return 0
        return self._transport.underlying_transport.get_write_buffer_size()

    def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Close it from our side; what arrives from now on is not heard."""
        if self._closing:
            return
        self._closing = self._deaf = True
        if self._transport is not None:
            self._transport.send_close(code)
            self._transport.disconnect()

    def abort(self) -> None:
        """Break it off, without waiting for what is still to be sent."""
        self._closing = self._deaf = True
        if self._transport is not None:
            self._transport.disconnect(False)

    @property
    def opened(self) -> bool:
        return self._transport is not None

    async def closed(self) -> Closed:
        """Wait until it is closed. An exception of our own callbacks is raised here: it is a bug."""
        assert self._transport is not None
        try:
            await self._transport.wait_disconnected()
        except WSError as failure:  # the agent broke RFC 6455, or sent a frame beyond every limit
            detail = f"websocket: {failure.args[-1] if failure.args else failure}"
            if not self._closing:
                self._broken(detail)
            return Closed(False, detail)
        handshake = self._transport.close_handshake
        received = handshake.recv if handshake is not None else None
        if received is None:
            return Closed(False, "the media socket broke without a close frame")
        code = f"{WSCloseCode(received.code).value} {received.reason or ''}".strip()
        return Closed(received.code in CLEAN_CODES, f"the agent closed the media socket ({code})")

    # ------------------------------------------------------------ from the agent (picows calls these)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self._closing:  # the call ended while we were connecting
            transport.disconnect(False)
        else:
            self._owner.socket_opened(self._now_ns())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at_ns = self._now_ns()
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif self._deaf or kind == WSMsgType.PONG:
            pass
        elif self._flooded(at_ns):
            self._broken(f"more than {FRAMES_PER_SECOND_MAX} frames in a second")
        elif kind == WSMsgType.TEXT and frame.fin:
            self._message(frame.get_payload_as_bytes(), at_ns)
        elif kind == WSMsgType.BINARY:
            self._binary(frame)
        else:
            self._fragment(frame, at_ns)

    def _binary(self, frame: WSFrame) -> None:
        problem = self._dialect.not_text() if frame.fin else None
        if problem is None:
            carrier = self._dialect.carrier
            self._broken(f"a binary frame of {frame.payload_size} bytes; {carrier} takes JSON in text frames")
        else:
            self.counts.received += 1
            self._malformed(problem, frame.get_payload_as_bytes())

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False

    def _flooded(self, at_ns: int) -> bool:
        second = at_ns // SECOND
        if second != self._second:
            self._second = second
            self._frames_in_second = 0
        self._frames_in_second += 1
        return self._frames_in_second > FRAMES_PER_SECOND_MAX

    def _fragment(self, frame: WSFrame, at_ns: int) -> None:
        self._parts.append(frame.get_payload_as_bytes())
        self._parts_bytes += frame.payload_size
        if self._parts_bytes > self._bytes_max:
            self._broken(f"a fragmented message of more than {self._bytes_max} bytes")
        elif frame.fin:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._parts_bytes = 0
            self._message(whole, at_ns)

    def _message(self, raw: bytes, at_ns: int) -> None:
        self.counts.received += 1
        if len(raw) > self._bytes_max:
            self._broken(f"a frame of {len(raw)} bytes; the limit is {self._bytes_max}")
            return
        payload = self._payload(raw)
        if payload is not None:
            self._media(payload, raw, at_ns)
            return
        try:
            frame = json.loads(raw)
        except (ValueError, RecursionError):
            self._malformed(self._dialect.not_json(), raw)
            return
        self._event(frame, raw, at_ns)

    def _payload(self, raw: bytes) -> bytes | None:
        """The payload of a media frame that differs from one already understood in nothing but the payload.

        Agents build every media frame alike, so it is enough to compare what stands before and after the audio; that
        the payload is base64 is checked where it is decoded.
        """
        if self._shape is None:
            return None
        before, after = self._shape
        if len(raw) <= len(before) + len(after) or not (raw.startswith(before) and raw.endswith(after)):
            return None
        payload = raw[len(before) : len(raw) - len(after)]
        # A quotation mark or an escape ends the likeness: ask a JSON reader.
        return None if b'"' in payload or b"\\" in payload else payload

    def _event(self, frame: object, raw: bytes, at_ns: int) -> None:
        match self._dialect.read(frame):
            case Media(payload):
                self._learn(raw, payload)
                self._media(payload.encode(errors="replace"), raw, at_ns)  # half a surrogate pair is no base64 either
            case Mark(name):
                self._owner.heard_mark(name, at_ns)
            case Clear():
                self._owner.heard_clear(at_ns)
            case Malformed() as problem:
                self._malformed(problem, raw)

    def _learn(self, raw: bytes, payload: str) -> None:
        if not payload.isascii():
            return
        quoted = b'"' + payload.encode() + b'"'
        if raw.count(quoted) == 1:
            began = raw.index(quoted) + 1
            self._shape = raw[:began], raw[began + len(payload) :]

    def _media(self, payload: bytes, raw: bytes, at_ns: int) -> None:
        if is_base64(payload):
            self._owner.heard_media(payload, at_ns)
        else:
            self._malformed(self._dialect.not_base64(), raw)

    def _malformed(self, problem: Malformed, raw: bytes) -> None:
        self.counts.malformed += 1
        most, told = self._dialect.malformed_max, f"{problem.detail}: {_shown(raw)}"
        if most is not None and self.counts.malformed > most:
            self._broken(f"more than {most} malformed frames; the last: {told}")
            return
        self._owner.heard_malformed(told)
        complaint = self._dialect.complaint(problem, _shown(raw))
        if complaint is not None:
            self.say(*complaint, numbered=False)

    def _broken(self, detail: str) -> None:
        if not self._deaf:
            self._deaf = True
            self._owner.broke_protocol(detail)


def is_base64(payload: bytes) -> bool:
    """Whether it is base64 of RFC 4648 with its padding; 0.3 us for a frame."""
    padding = payload.translate(None, BASE64)
    return len(payload) % 4 == 0 and padding in (b"", b"=", b"==") and payload.endswith(padding)


def _shown(raw: bytes) -> str:
    """The frame's beginning, fit for a message to a person."""
    shown = raw[:SHOWN_CHARACTERS].decode(errors="replace")
    return shown + "..." if len(raw) > SHOWN_CHARACTERS else shown
