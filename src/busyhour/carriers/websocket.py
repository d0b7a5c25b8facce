"""The plain WebSocket carrier: dials an agent that speaks a protocol of its own, told as a `Wire`.

The call begins when the socket is open and ends with it: whoever closes it has hung up. One frame that breaks the wire
ends the call with "protocol error", and says which frame it was.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pybase64
from picows import WSCloseCode, WSMsgType

from busyhour.carriers.agent_socket import SHOWN_CHARACTERS, AgentSocket, Refused, shown
from busyhour.carriers.background import Background
from busyhour.carriers.endings import End
from busyhour.carriers.line import CallerLine
from busyhour.carriers.media_socket import decoded
from busyhour.carriers.places import drawn_uuid, next_call
from busyhour.carriers.wire import PLAIN, Template, Wire
from busyhour.disturbance import MEDIA, Kind
from busyhour.errors import PlanError, ProtocolError, ServiceError
from busyhour.media.codec import FRAMES_PER_SECOND
from busyhour.media.leg import Leg
from busyhour.media.playout import QUEUED_NS_MAX
from busyhour.media.studio import Studio
from busyhour.model import JSON, MS, SECOND, CallFailed, CallSetup, Clock, Endpoint, Sample
from busyhour.share import WHOLE, Share

TRAIL_MAX = 1000
FRAME_BYTES_MAX = 4 << 20  # 30 s of 24 kHz in base64, and room around it
NAME_CHARACTERS_MAX = 1000
_SETTLE_SECONDS = 2.0


@dataclass(kw_only=True, eq=False)
class PlainWebSocket:
    """A carrier that dials the target's URL (ws, wss, or http made ws) with `path` behind it.

    wire: how the agent's messages look. headers: of the handshake. The codec of a call is the wire's.
    """

    name: str = "websocket"
    wire: Wire = PLAIN
    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    jitter_buffer_ms: int = 0
    seed: int = 0
    _studio: Studio | None = field(default=None, init=False, repr=False)
    _background: Background | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)

    @property
    def vices(self) -> frozenset[Kind]:
        """What faults may do to it: no key is pressed where the wire has no message for one."""
        return MEDIA if self.wire.digit is not None else MEDIA - {"dtmf.flood"}

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        studio = Studio(vices=self.vices)
        async with studio.turning(), Background(_SETTLE_SECONDS) as background:
            self._studio, self._background = studio, background
            try:
                yield Endpoint("", handle=studio.disturbance)
            finally:
                self._studio = self._background = None

    def of_share(self, share: Share) -> PlainWebSocket:
        part = replace(self)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        return self._dial(target, call)

    @asynccontextmanager
    async def _dial(self, target: Endpoint, setup: CallSetup) -> AsyncIterator[CallerLine]:
        if self._studio is None or self._background is None:
            raise ServiceError(f"{self.name} is not running: dial inside `async with carrier.running(peers)`")
        await self._studio.wheel.admitted()
        self._dialled, random = next_call(f"websocket call {self.seed}", self._dialled, self._share, drawn_uuid)
        call = _Call(
            wire=self.wire,
            studio=self._studio,
            setup=setup,
            random=random,
            jitter_buffer_ns=self.jitter_buffer_ms * MS,
        )
        try:
            await call.connect(_address(target.url, self.path), self.headers)
            self._background.spawn(call.watch())
            yield CallerLine(call)
        finally:
            call.hang_up()

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._studio.wheel.drain(now_ns) if self._studio is not None else []


class _Call:
    """One call: the socket to the agent at one end, the caller's leg at the other."""

    def __init__(self, *, wire: Wire, studio: Studio, setup: CallSetup, random: Random, jitter_buffer_ns: int) -> None:
        self.trail: deque[tuple[int, str]] = deque(maxlen=TRAIL_MAX)
        self.end: End | None = None
        self.answered_ns = 0
        self.leg = Leg(
            studio=studio,
            codec=wire.codec,
            send=self._send_binary if wire.audio_out is None else self._send_json,
            jitter_buffer_ns=jitter_buffer_ns,
            failed=lambda failure: self._broken(str(failure)),
            record_ns=setup.record_ns,
        )
        self._wire = wire
        self._chunk_bytes_max = QUEUED_NS_MAX // SECOND * FRAMES_PER_SECOND * wire.codec.frame_bytes
        self._clock = studio.clock
        self._disturbance = studio.disturbance
        self._setup = setup
        self._audio = Template(wire.audio_out)
        self._names: dict[str, JSON | bytes] = {
            "call": drawn_uuid(random),
            "stream": drawn_uuid(random),
            "from_number": setup.from_number,
            "to_number": setup.to_number,
        }
        self._socket = AgentSocket(
            hearer=self, clock=studio.clock, bytes_max=FRAME_BYTES_MAX, named="socket", inbox=studio.inbox
        )
        self._sequence = 0
        self._received = 0
        self._skipped = 0
        self._unknown = 0

    # ------------------------------------------------------------ the caller's side

    @property
    def clock(self) -> Clock:
        return self._clock

    async def connect(self, url: str, headers: Mapping[str, str]) -> None:
        """Raises CallFailed "media refused"."""
        try:
            await self._socket.open(url, headers=headers, timeout_seconds=self._setup.answer_within_ns / SECOND)
        except Refused as refused:
            self._finish(End(why="media refused", by="agent", detail=str(refused)))
            raise CallFailed("media refused", str(refused)) from None

    def press(self, digit: str) -> None:
        """Raises CallFailed when the wire has no message for it."""
        if self._wire.digit is None:
            raise CallFailed("no such message", "the wire has no message for a digit; give it one as `digit`")
        self._note(f"the caller presses {digit}")
        self._tell(self._wire.digit, digit=digit)

    def hang_up(self) -> None:
        self._finish(End(why="hung up", by="caller"))

    def detail(self) -> Mapping[str, JSON]:
        found: dict[str, JSON] = {"unknown_messages": self._unknown, "unread_frames": self._skipped}
        return {name: count for name, count in found.items() if count}

    async def watch(self) -> None:
        """Wait until the socket is closed. An exception of our own callbacks is raised here: it is a bug."""
        closed = await self._socket.closed()
        if closed.clean:
            self._finish(End(why="hung up", by="agent"))
        else:
            self._finish(End(why="lost", by="agent", detail=closed.how))

    # ------------------------------------------------------------ to the agent

    def _send_binary(self, payload_b64: bytes, chunk: int) -> None:
        if self._may_send():
            self._socket.send(WSMsgType.BINARY, pybase64.b64decode(payload_b64))

    def _send_json(self, payload_b64: bytes, chunk: int) -> None:
        if self._may_send():
            self._sequence += 1
            names = self._names | {"audio": payload_b64, "chunk": chunk + 1, "timestamp_ms": chunk * 20}
            self._socket.send(WSMsgType.TEXT, self._audio.filled({**names, "sequence": self._sequence}))

    def _may_send(self) -> bool:
        if not self._socket.writable:
            return False
        self._skipped += self._socket.congested
        return not self._socket.congested

    def _tell(self, template: JSON, **names: JSON) -> None:
        """Say it, unless nothing flows. (What begins and ends a call belongs to the socket's opening and closing.)"""
        if not self._disturbance.cut():
            self._say(template, **names)

    def _say(self, template: JSON, **names: JSON) -> None:
        """Harmless on a closed socket."""
        if template is None or not self._socket.writable or self._socket.full:
            return
        self._sequence += 1
        values = {**self._names, **names, "sequence": self._sequence}
        self._socket.send(WSMsgType.TEXT, Template(template).filled(values))

    # ------------------------------------------------------------ from the agent (the socket calls these)

    def socket_opened(self, at_ns: int) -> None:
        self.answered_ns = at_ns
        self._note("the socket is open")
        for message in self._wire.hello:
            self._say(message)
        self.leg.open(at_ns)

    def broke(self, detail: str) -> None:
        self._finish(End(why="protocol error", by="carrier", detail=detail), WSCloseCode.POLICY_VIOLATION)

    def heard(self, kind: WSMsgType, message: bytes, at_ns: int) -> None:
        self._received += 1
        if len(message) > FRAME_BYTES_MAX:
            self._broken(f"{self._which()} is longer than {FRAME_BYTES_MAX} bytes")
        elif self._disturbance.cut():
            return
        elif kind == WSMsgType.BINARY:
            self._binary(message, at_ns)
        else:
            self._text(message, at_ns)

    def _text(self, payload: bytes, at_ns: int) -> None:
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            self._broken(f"{self._which()} is not JSON: {shown(payload)}")
            return
        self._heed(message, payload, at_ns)

    def _binary(self, payload: bytes, at_ns: int) -> None:
        if self._wire.audio_in is not None:
            self._broken(f"{self._which()} is binary, of {len(payload)} bytes; the wire has audio in JSON")
        else:
            self._media(payload, at_ns)

    def _heed(self, message: object, raw: bytes, at_ns: int) -> None:
        wire = self._wire
        if wire.audio_in is not None and wire.audio_in.fits(message):
            content = wire.audio_in.content(message)
            payload = content.encode(errors="replace") if isinstance(content, str) else b"?"
            octets = decoded(payload)
            if octets is None:
                self._broken(f"{self._which()} has no base64 at {wire.audio_in.take}: {shown(raw)}")
            else:
                self._media(octets, at_ns)
        elif wire.clear is not None and wire.clear.fits(message):
            self._note("clear")
            for name in self.leg.clear(at_ns):
                self._played(name)
            self._tell(wire.cleared)
        elif wire.mark is not None and wire.mark.fits(message):
            self._mark(json.dumps(wire.mark.content(message)), at_ns)
        elif wire.digit_in is not None and wire.digit_in.fits(message):
            self.leg.pressed(str(wire.digit_in.content(message))[:1], at_ns)
        elif wire.transcript is not None and wire.transcript.fits(message):
            self._note(f"transcript: {str(wire.transcript.content(message))[:SHOWN_CHARACTERS]}")
        elif wire.end is not None and wire.end.fits(message):
            self._finish(End(why="hung up", by="agent"))
        else:
            self._unknown += 1
            if self._unknown == 1:
                self._note(f"{self._which()} is none that the wire knows, and is passed over: {shown(raw)}")

    def _media(self, octets: bytes, at_ns: int) -> None:
        size = len(octets)
        if size % self._wire.codec.sample_bytes:
            self._broken(f"{self._which()} has {size} bytes of audio: half a sample too many for {self._wire.encoding}")
            return
        if size > self._chunk_bytes_max:
            self._broken(f"{self._which()} has {size} bytes of audio: more than {QUEUED_NS_MAX // SECOND} s")
            return
        self.leg.octets(octets, at_ns)

    def _mark(self, name: str, at_ns: int) -> None:
        if len(name) > NAME_CHARACTERS_MAX:
            self._broken(f"{self._which()} is a mark with a name of more than {NAME_CHARACTERS_MAX} characters")
            return
        self._note(f"mark {name}")
        try:
            self.leg.mark(name, at_ns, self._played)
        except ProtocolError as failure:
            self._broken(f"{self._which()}: {failure}")

    def _played(self, name: str) -> None:
        self._note(f"mark {name} played")
        self._tell(self._wire.played, mark=json.loads(name))

    def _which(self) -> str:
        return f"the agent's frame {self._received}"

    # ------------------------------------------------------------ the end

    def _broken(self, detail: str) -> None:
        self._socket.give_up(detail)

    def _finish(self, end: End, code: WSCloseCode = WSCloseCode.OK) -> None:
        """The call is over; the first reason stays."""
        if self.end is not None:
            return
        if end.by == "caller":
            for message in self._wire.goodbye:
                self._say(message)
        self.end = end
        self._note(f"{end.why} by the {end.by}{f': {end.detail}' if end.detail else ''}")
        self.leg.end(self._clock.now_ns(), end.why, end.detail)
        self._socket.close(code)

    def _note(self, text: str) -> None:
        self.trail.append((self._clock.now_ns(), text))


def _address(target_url: str, path: str) -> str:
    """The agent's URL. Raises PlanError."""
    scheme, separator, rest = target_url.partition("://")
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    if not separator or scheme not in schemes:
        raise PlanError(f"{target_url!r} is no WebSocket; give the agent's URL, like ws://127.0.0.1:8080/media")
    return f"{schemes[scheme]}://{rest.rstrip('/') + path if path else rest}"
