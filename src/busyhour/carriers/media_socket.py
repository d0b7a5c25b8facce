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
from busyhour.fastlane import NO_CHUNK, StreamState
from busyhour.media.codec import FRAME_NS
from busyhour.media.leg import Leg
from busyhour.media.playout import QUEUED_NS_MAX
from busyhour.media.studio import Inbox
from busyhour.model import MS, SECOND, Clock

FRAME_BYTES_MAX = 1 << 20
FRAME_MS = FRAME_NS // MS


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

    @property
    def head(self) -> bytes:
        """What stands before the base64 of a frame that carries 20 ms of the caller, with a "%d" each for its place
        among all frames and among these, both counted from 1, and for its time in ms."""
        ...

    @property
    def tail(self) -> bytes:
        """What stands behind it."""
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


class MediaSocket(StreamState):
    """One media stream. `open`, then `send_audio` and `say`, then `close`; `closed` tells how it ended."""

    def __init__(self, *, dialect: Dialect, owner: Owner, clock: Clock, bytes_per_second: int, inbox: Inbox) -> None:
        """bytes_per_second: of the agent's audio, which decides how long a frame may be."""
        self._sent = self._skipped = self._received = self._misunderstood = 0
        self._dialect = dialect
        self.head, self.tail = dialect.head, dialect.tail
        self.before = self.after = None  # of the last media frame of the agent, but for its payload
        self.leg = None
        self._owner = owner
        # base64 takes 4 characters for 3 bytes; the rest of the frame is far below a kilobyte.
        self._bytes_max = max(FRAME_BYTES_MAX, QUEUED_NS_MAX // SECOND * bytes_per_second * 4 // 3 + 1024)
        self.take = owner.heard_media  # who gets the audio, as octets
        self._socket = AgentSocket(
            hearer=self, clock=clock, bytes_max=self._bytes_max, named="media socket", inbox=inbox
        )
        self._sequence = 0
        self._first_chunk = NO_CHUNK
        self.ear = self._socket.ear
        if self.ear is not None:
            self.ear.stream = self

    # ------------------------------------------------------------ to the agent

    async def open(self, url: str, *, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """Connect. Raises Refused."""
        await self._socket.open(url, headers=headers, timeout_seconds=timeout_seconds)

    def send_audio(self, payload_b64: bytes, chunk: int) -> None:
        """One frame of 20 ms of the caller, the `chunk`-th of the call; the first one sent is the stream's 0th."""
        outlet = self._socket.outlet
        if outlet is None:
            self._skipped += self._socket.writable
            return
        if self._first_chunk == NO_CHUNK:
            self._first_chunk = chunk
        sequence = self._sequence = self._sequence + 1
        self._sent += 1
        number = chunk - self._first_chunk
        outlet(TEXT, self.head % (sequence, number + 1, number * FRAME_MS) + payload_b64 + self.tail)

    def hear_by(self, leg: Leg) -> None:
        """From now on the leg gets the audio, instead of the owner."""
        self.take, self.leg = leg.octets, leg

    @property
    def counts(self) -> Counts:
        return Counts(self._sent, self._skipped, self._received, self._misunderstood)

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
        self.leg = None
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
        before, after = self.before, self.after
        if not (before and after and kind is TEXT):
            pass
        elif message.startswith(before) and message.endswith(after) and len(message) <= self._bytes_max:
            # A media frame that differs from one already understood in nothing but the payload: agents build them all
            # alike, so it is enough to compare what stands before and after the audio. There is none where the two
            # overlap, and what is base64 has nothing in it that a JSON reader would read otherwise.
            octets = decoded(message[len(before) : -len(after)])
            if octets:
                self._received += 1
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
            self._received += 1
            self._malformed(problem, message)

    def _message(self, raw: bytes, at_ns: int) -> None:
        self._received += 1
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
            self.before, self.after = raw[:began], raw[began + len(payload) :]

    def _malformed(self, problem: Malformed, raw: bytes) -> None:
        self._misunderstood += 1
        most, told = self._dialect.malformed_max, f"{problem.detail}: {shown(raw)}"
        if most is not None and self._misunderstood > most:
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
