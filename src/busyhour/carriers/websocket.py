"""The plain WebSocket carrier: dials an agent that speaks a protocol of its own, told as a `Wire`.

The call begins when the socket is open and ends with it: whoever closes it has hung up. One frame that breaks the wire
ends the call with "protocol error", and says which frame it was.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import pybase64
from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from busyhour.carriers.background import Background
from busyhour.carriers.endings import End
from busyhour.carriers.line import CallerLine
from busyhour.carriers.media_socket import LOGGER, is_base64
from busyhour.carriers.places import drawn_uuid
from busyhour.carriers.wire import PLAIN, Template, Wire
from busyhour.disturbance import MEDIA, Kind
from busyhour.errors import PlanError, ProtocolError, ServiceError
from busyhour.media.codec import FRAMES_PER_SECOND
from busyhour.media.leg import Leg
from busyhour.media.playout import QUEUED_NS_MAX
from busyhour.media.studio import Studio
from busyhour.model import JSON, MS, SECOND, CallFailed, CallSetup, Clock, Endpoint, Sample

TRAIL_MAX = 1000
FRAMES_PER_SECOND_MAX = 2000
FRAME_BYTES_MAX = 4 << 20  # 30 s of 24 kHz in base64, and room around it
NAME_CHARACTERS_MAX = 1000
_BACKLOG_BYTES_MAX = 1 << 20
_SETTLE_SECONDS = 2.0
_CLOSE_SECONDS = 1.0
_SHOWN = 120
_CLEAN_CODES = (WSCloseCode.NO_INFO, WSCloseCode.OK, WSCloseCode.GOING_AWAY)


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

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        return self._dial(target, call)

    @asynccontextmanager
    async def _dial(self, target: Endpoint, setup: CallSetup) -> AsyncIterator[CallerLine]:
        if self._studio is None or self._background is None:
            raise ServiceError(f"{self.name} is not running: dial inside `async with carrier.running(peers)`")
        await self._studio.wheel.admitted()
        self._dialled += 1
        call = _Call(
            wire=self.wire,
            studio=self._studio,
            setup=setup,
            random=Random(f"websocket call {self.seed}/{self._dialled}"),
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


class _Call(WSListener):
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
        self._transport: WSTransport | None = None
        self._congested = False
        self._sequence = 0
        self._received = 0
        self._skipped = 0
        self._unknown = 0
        self._second = 0
        self._frames_in_second = 0
        self._parts: list[bytes] = []
        self._parts_kind = WSMsgType.TEXT

    # ------------------------------------------------------------ the caller's side

    @property
    def clock(self) -> Clock:
        return self._clock

    async def connect(self, url: str, headers: Mapping[str, str]) -> None:
        """Raises CallFailed "media refused"."""
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
                websocket_handshake_timeout=self._setup.answer_within_ns / SECOND,
                logger_name=LOGGER,
                max_frame_size=4 * FRAME_BYTES_MAX,
                extra_headers=dict(headers),
                max_redirects=0,
            )
        except (WSError, OSError, TimeoutError, ValueError) as failure:
            raise self._refused(f"{url}: {failure or type(failure).__name__}") from None
        if self._transport is None:  # picows takes it for a connection that was opened and closed
            raise self._refused(f"{url}: the connection was closed before the WebSocket handshake was answered")

    def _refused(self, detail: str) -> CallFailed:
        self._finish(End(why="media refused", by="agent", detail=detail))
        return CallFailed("media refused", detail)

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
        assert self._transport is not None
        try:
            await self._transport.wait_disconnected()
        except WSError as failure:  # the agent broke RFC 6455, or sent a frame beyond every limit
            self._broken(f"websocket: {failure.args[-1] if failure.args else failure}")
            return
        handshake = self._transport.close_handshake
        received = handshake.recv if handshake is not None else None
        if received is None:
            self._finish(End(why="lost", by="agent", detail="the socket broke without a close frame"))
        elif received.code in _CLEAN_CODES:
            self._finish(End(why="hung up", by="agent"))
        else:
            how = f"{WSCloseCode(received.code).value} {received.reason or ''}".strip()
            self._finish(End(why="lost", by="agent", detail=f"the agent closed the socket ({how})"))

    # ------------------------------------------------------------ to the agent

    def _send_binary(self, payload_b64: bytes, chunk: int) -> None:
        if self._may_send():
            assert self._transport is not None
            self._transport.send(WSMsgType.BINARY, pybase64.b64decode(payload_b64))

    def _send_json(self, payload_b64: bytes, chunk: int) -> None:
        if self._may_send():
            assert self._transport is not None
            self._sequence += 1
            names = self._names | {"audio": payload_b64, "chunk": chunk + 1, "timestamp_ms": chunk * 20}
            self._transport.send(WSMsgType.TEXT, self._audio.filled({**names, "sequence": self._sequence}))

    def _may_send(self) -> bool:
        if self._transport is None or self.end is not None:
            return False
        self._skipped += self._congested  # the agent does not read: a telephone does not wait, and memory is finite
        return not self._congested

    def _tell(self, template: JSON, **names: JSON) -> None:
        """Say it, unless nothing flows. (What begins and ends a call belongs to the socket's opening and closing.)"""
        if not self._disturbance.cut():
            self._say(template, **names)

    def _say(self, template: JSON, **names: JSON) -> None:
        """Harmless on a closed socket."""
        transport = self._transport
        if transport is None or template is None or self._backlog_bytes() > _BACKLOG_BYTES_MAX:
            return
        self._sequence += 1
        values = {**self._names, **names, "sequence": self._sequence}
        transport.send(WSMsgType.TEXT, Template(template).filled(values))

    def _backlog_bytes(self) -> int:
        if self._transport is None or not self._congested:
            return 0
        return self._transport.underlying_transport.get_write_buffer_size()

    # ------------------------------------------------------------ from the agent (picows calls these)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.end is not None:  # the caller gave up while we were connecting
            transport.disconnect(False)
            return
        self.answered_ns = self._clock.now_ns()
        self._note("the socket is open")
        for message in self._wire.hello:
            self._say(message)
        self.leg.open(self.answered_ns)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        at_ns = self._clock.now_ns()
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            return
        if self.end is not None or kind == WSMsgType.PONG:
            return
        self._received += 1
        if self._flooded(at_ns):
            self._broken(f"more than {FRAMES_PER_SECOND_MAX} frames in a second")
            return
        payload = frame.get_payload_as_bytes()
        if kind != WSMsgType.CONTINUATION:
            self._parts_kind = kind
        if not frame.fin or self._parts:
            self._parts.append(payload)
            payload = b"".join(self._parts) if frame.fin else b""
        if max(len(payload), sum(map(len, self._parts))) > FRAME_BYTES_MAX:
            self._broken(f"{self._which()} is longer than {FRAME_BYTES_MAX} bytes")
        elif frame.fin:
            self._parts.clear()
            self._message(self._parts_kind, payload, at_ns)

    def pause_writing(self) -> None:
        self._congested = True

    def resume_writing(self) -> None:
        self._congested = False

    def _flooded(self, at_ns: int) -> bool:
        second = at_ns // SECOND
        if second != self._second:
            self._second, self._frames_in_second = second, 0
        self._frames_in_second += 1
        return self._frames_in_second > FRAMES_PER_SECOND_MAX

    def _message(self, kind: WSMsgType, payload: bytes, at_ns: int) -> None:
        if self._disturbance.cut():
            return
        if kind == WSMsgType.BINARY:
            self._binary(payload, at_ns)
            return
        try:
            message = json.loads(payload)
        except (ValueError, RecursionError):
            self._broken(f"{self._which()} is not JSON: {_shown(payload)}")
            return
        self._heed(message, payload, at_ns)

    def _binary(self, payload: bytes, at_ns: int) -> None:
        if self._wire.audio_in is not None:
            self._broken(f"{self._which()} is binary, of {len(payload)} bytes; the wire has audio in JSON")
        else:
            self._media(pybase64.b64encode(payload), at_ns)

    def _heed(self, message: object, raw: bytes, at_ns: int) -> None:
        wire = self._wire
        if wire.audio_in is not None and wire.audio_in.fits(message):
            content = wire.audio_in.content(message)
            payload = content.encode(errors="replace") if isinstance(content, str) else b"?"
            if not is_base64(payload):
                self._broken(f"{self._which()} has no base64 at {wire.audio_in.take}: {_shown(raw)}")
            else:
                self._media(payload, at_ns)
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
            self._note(f"transcript: {str(wire.transcript.content(message))[:_SHOWN]}")
        elif wire.end is not None and wire.end.fits(message):
            self._finish(End(why="hung up", by="agent"))
        else:
            self._unknown += 1
            if self._unknown == 1:
                self._note(f"{self._which()} is none that the wire knows, and is passed over: {_shown(raw)}")

    def _media(self, payload_b64: bytes, at_ns: int) -> None:
        size = len(payload_b64) // 4 * 3 - payload_b64[-2:].count(b"=")
        if size % self._wire.codec.sample_bytes:
            self._broken(f"{self._which()} has {size} bytes of audio: half a sample too many for {self._wire.encoding}")
            return
        if size > self._chunk_bytes_max:
            self._broken(f"{self._which()} has {size} bytes of audio: more than {QUEUED_NS_MAX // SECOND} s")
            return
        # A leg that refuses has ended, and told `_broken`.
        with suppress(ProtocolError):
            self.leg.media(payload_b64, at_ns)

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
        self._finish(End(why="protocol error", by="carrier", detail=detail), WSCloseCode.POLICY_VIOLATION)

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
        transport = self._transport
        if transport is not None:
            transport.send_close(code)
            transport.disconnect()
            asyncio.get_running_loop().call_later(_CLOSE_SECONDS, transport.disconnect, False)

    def _note(self, text: str) -> None:
        self.trail.append((self._clock.now_ns(), text))


def _address(target_url: str, path: str) -> str:
    """The agent's URL. Raises PlanError."""
    scheme, separator, rest = target_url.partition("://")
    schemes = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
    if not separator or scheme not in schemes:
        raise PlanError(f"{target_url!r} is no WebSocket; give the agent's URL, like ws://127.0.0.1:8080/media")
    return f"{schemes[scheme]}://{rest.rstrip('/') + path if path else rest}"


def _shown(raw: bytes) -> str:
    """The frame's beginning, fit for a message to a person."""
    shown = raw[:_SHOWN].decode(errors="replace")
    return shown + "..." if len(raw) > _SHOWN else shown
