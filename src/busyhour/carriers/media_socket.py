"""The media WebSocket: the carrier dials the agent, and both speak JSON in text frames.

How a frame is written and what it means is the business of the carrier's `Dialect`; what arrives has been stamped by
the `AgentSocket` before anything of it is read.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import pybase64
from picows import WSCloseCode, WSMsgType

from busyhour.carriers.agent_socket import TEXT, AgentSocket, Closed, shown
from busyhour.media.playout import QUEUED_NS_MAX
from busyhour.media.studio import Inbox
from busyhour.model import SECOND, Clock

FRAME_BYTES_MAX = 1 << 20


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

    def heard_media(self, octets: bytes, at_ns: int) -> None: ...

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


class MediaSocket:
    """One media stream. `open`, then `send_audio` and `say`, then `close`; `closed` tells how it ended."""

    def __init__(self, *, dialect: Dialect, owner: Owner, clock: Clock, bytes_per_second: int, inbox: Inbox) -> None:
        """bytes_per_second: of the agent's audio, which decides how long a frame may be."""
        self.counts = Counts()
        self._dialect = dialect
        self._owner = owner
        # base64 takes 4 characters for 3 bytes; the rest of the frame is far below a kilobyte.
        self._bytes_max = max(FRAME_BYTES_MAX, QUEUED_NS_MAX // SECOND * bytes_per_second * 4 // 3 + 1024)
        self.take = owner.heard_media  # who gets the audio, as octets
        self._socket = AgentSocket(
            hearer=self, clock=clock, bytes_max=self._bytes_max, named="media socket", inbox=inbox
        )
        self._sequence = 0
        self._first_chunk: int | None = None
        self._shape: tuple[bytes, bytes, int, int] | None = None

    # ------------------------------------------------------------ to the agent

    async def open(self, url: str, *, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """Connect. Raises Refused."""
        await self._socket.open(url, headers=headers, timeout_seconds=timeout_seconds)

    def send_audio(self, payload_b64: bytes, chunk: int) -> None:
        """One frame of 20 ms of the caller, the `chunk`-th of the call; the first one sent is the stream's 0th."""
        outlet = self._socket.outlet
        if outlet is None:
            self.counts.skipped += self._socket.writable
            return
        if self._first_chunk is None:
            self._first_chunk = chunk
        sequence = self._sequence = self._sequence + 1
        self.counts.sent += 1
        outlet(TEXT, self._dialect.audio(payload_b64, sequence=sequence, chunk=chunk - self._first_chunk))

    def say(self, event: str, content: Mapping[str, Any], *, numbered: bool = True) -> None:
        """Send any other event; harmless on a closed socket."""
        if not self._socket.writable or self._socket.full:
            return
        frame: dict[str, Any] = {"event": event}
        if numbered:
            self._sequence += 1
            frame |= self._dialect.numbering(self._sequence)
        self._socket.send(WSMsgType.TEXT, json.dumps({**frame, **content}, separators=(",", ":")).encode())

    def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Close it from our side; what arrives from now on is not heard."""
        self._socket.close(code)

    def break_off(self) -> None:
        """The connection is gone, without a closing frame; `closed` tells of it."""
        self._socket.break_off()

    @property
    def opened(self) -> bool:
        return self._socket.opened

    async def closed(self) -> Closed:
        """Wait until it is closed. An exception of our own callbacks is raised here: it is a bug."""
        return await self._socket.closed()

    # ------------------------------------------------------------ from the agent (the socket calls these)

    def socket_opened(self, at_ns: int) -> None:
        self._owner.socket_opened(at_ns)

    def broke(self, detail: str) -> None:
        self._owner.broke_protocol(detail)

    def heard(self, kind: WSMsgType, message: bytes, at_ns: int) -> None:
        shape = self._shape
        if shape is not None and kind is TEXT:
            # A media frame that differs from one already understood in nothing but the payload: agents build them all
            # alike, so it is enough to compare what stands before and after the audio. There is none where the two
            # overlap, and what is base64 has nothing in it that a JSON reader would read otherwise.
            before, after, begin, end = shape
            if message.startswith(before) and message.endswith(after) and len(message) <= self._bytes_max:
                octets = decoded(message[begin:end])
                if octets:
                    self.counts.received += 1
                    self.take(octets, at_ns)
                    return
        if kind == WSMsgType.BINARY:
            self._binary(message)
        else:
            self._message(message, at_ns)

    def _binary(self, message: bytes) -> None:
        problem = self._dialect.not_text()
        if problem is None:
            carrier = self._dialect.carrier
            self._socket.give_up(f"a binary frame of {len(message)} bytes; {carrier} takes JSON in text frames")
        else:
            self.counts.received += 1
            self._malformed(problem, message)

    def _message(self, raw: bytes, at_ns: int) -> None:
        self.counts.received += 1
        if len(raw) > self._bytes_max:
            self._socket.give_up(f"a frame of {len(raw)} bytes; the limit is {self._bytes_max}")
            return
        try:
            frame = json.loads(raw)
        except (ValueError, RecursionError):
            self._malformed(self._dialect.not_json(), raw)
            return
        self._event(frame, raw, at_ns)

    def _event(self, frame: object, raw: bytes, at_ns: int) -> None:
        match self._dialect.read(frame):
            case Media(payload):
                self._learn(raw, payload)
                octets = decoded(payload.encode(errors="replace"))  # half a surrogate pair is no base64 either
                if octets is None:
                    self._malformed(self._dialect.not_base64(), raw)
                else:
                    self.take(octets, at_ns)
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
            after = raw[began + len(payload) :]
            self._shape = raw[:began], after, began, -len(after)

    def _malformed(self, problem: Malformed, raw: bytes) -> None:
        self.counts.malformed += 1
        most, told = self._dialect.malformed_max, f"{problem.detail}: {shown(raw)}"
        if most is not None and self.counts.malformed > most:
            self._socket.give_up(f"more than {most} malformed frames; the last: {told}")
            return
        self._owner.heard_malformed(told)
        complaint = self._dialect.complaint(problem, shown(raw))
        if complaint is not None:
            self.say(*complaint, numbered=False)


def decoded(payload: bytes) -> bytes | None:
    """None if it is not base64 of RFC 4648 with its padding."""
    try:
        return pybase64.b64decode(payload, None, True)
    except Base64Error:
        return None
