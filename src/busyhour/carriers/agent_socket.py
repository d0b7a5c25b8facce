"""A WebSocket that a carrier dials at the agent: opened, kept within bounds, closed; what is said on it, others know.

What arrives is stamped in the frame callback, before anything of it is read, or by the kernel, where the ear reads it.
A telephone waits for nobody: what the agent does not read is not queued beyond the buffer of the socket.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from busyhour.fastlane import ear_of
from busyhour.media.studio import Inbox
from busyhour.model import SECOND, Clock

FRAMES_PER_SECOND_MAX = 2000
BACKLOG_BYTES_MAX = 1 << 20
CLOSE_SECONDS = 1.0
CLEAN_CODES = (WSCloseCode.NO_INFO, WSCloseCode.OK, WSCloseCode.GOING_AWAY)
SHOWN_CHARACTERS = 120
TEXT, BINARY = WSMsgType.TEXT, WSMsgType.BINARY  # one look for each frame, instead of two

# picows reports disconnects to a logger; without a handler Python would print them on the terminal of the run.
LOGGER = logging.getLogger("busyhour.media_socket")
LOGGER.addHandler(logging.NullHandler())


@cache
def _trusting() -> ssl.SSLContext:
    """A laboratory certificate is nobody's to verify: what is measured is the agent, on a network of ours.

    One for all calls, and without the machine's authorities: to load these takes 25 ms, more than a frame of every call
    that is being paced meanwhile.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Refused(Exception):
    """The agent's socket could not be opened; the message says why."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a socket was closed; `clean` if the agent took its leave."""

    clean: bool
    how: str


class Hearer(Protocol):
    """Whom the socket tells what it hears."""

    def socket_opened(self, at_ns: int) -> None:
        """Called before anything is heard, so that nothing the agent says at once is lost."""
        ...

    def heard(self, kind: WSMsgType, message: bytes, at_ns: int) -> None:
        """A whole message, TEXT or BINARY; how long it may be is the hearer's to say."""
        ...

    def broke(self, detail: str) -> None:
        """The agent broke the protocol beyond repair: nothing more is heard of it. Called once."""
        ...


class _Nobody:
    """Who hears a socket that is over: it and its hearer would else keep one another alive, and during a run the
    garbage collector is held off."""

    def socket_opened(self, at_ns: int) -> None: ...

    def heard(self, kind: WSMsgType, message: bytes, at_ns: int) -> None: ...

    def broke(self, detail: str) -> None: ...


def _unheard(_kind: WSMsgType, _message: bytes, _at_ns: int) -> None:
    """A message of a socket that is over."""


class AgentSocket(WSListener):
    """`open`, then `send`, then `close`; `closed` tells how it ended.

    bytes_max: of a message that comes in pieces. named: what it is called in messages.
    """

    def __init__(self, *, hearer: Hearer, clock: Clock, bytes_max: int, named: str, inbox: Inbox) -> None:
        self._hearer: Hearer = hearer
        self.read: Callable[[WSMsgType, bytes, int], None] = hearer.heard  # for the inbox
        self.now_ns = clock.now_ns
        self._bytes_max = bytes_max
        self._named = named
        self._transport: WSTransport | None = None
        self._congested = False
        self._deaf = False
        self._closing = False
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._parts_kind = WSMsgType.TEXT
        self._counted_ns = clock.now_ns()
        self._frames_left = FRAMES_PER_SECOND_MAX
        self.inbox = inbox
        self._put = inbox.put
        self.wheel = inbox.wheel
        self.outlet: Callable[[WSMsgType, bytes], None] | None = None  # sends what comes every 20 ms; None: it cannot
        self.bug: BaseException | None = None  # of ours, which came up while the ear had a frame
        self.ear = ear_of(self)  # takes frames before this does, until it is over

    # ------------------------------------------------------------ to the agent

    async def open(self, url: str, *, headers: Mapping[str, str], timeout_seconds: float) -> None:
        """Connect. Raises Refused."""
        try:
            await self._connect(url, headers, timeout_seconds)
        except (WSError, OSError, TimeoutError, ValueError) as failure:
            self._let_go()
            raise Refused(f"{url}: {failure or type(failure).__name__}") from failure
        if self._transport is None:  # picows takes it for a connection that was opened and closed
            self._let_go()
            raise Refused(f"{url}: the connection was closed before the WebSocket handshake was answered")

    async def _connect(self, url: str, headers: Mapping[str, str], timeout_seconds: float) -> None:
        await ws_connect(
            lambda: self if self.ear is None else self.ear,
            url,
            ssl_context=_trusting() if url.startswith("wss:") else None,
            websocket_handshake_timeout=timeout_seconds,
            logger_name=LOGGER,
            # More than we allow: what is too long arrives and can be named, what is absurd never does.
            max_frame_size=4 * self._bytes_max,
            extra_headers=dict(headers),
            max_redirects=0,
            read_buffer_init_size=2048,
        )

    @property
    def opened(self) -> bool:
        return self._transport is not None

    @property
    def writable(self) -> bool:
        return self._transport is not None and not self._closing

    @property
    def congested(self) -> bool:
        """The agent does not read: of what comes every 20 ms nothing is to be sent."""
        return self._congested

    @property
    def full(self) -> bool:
        """Nothing at all is to be sent any more."""
        if self._transport is None or not self._congested:
            return False
        return self._transport.underlying_transport.get_write_buffer_size() > BACKLOG_BYTES_MAX

    def send(self, kind: WSMsgType, message: bytes) -> None:
        """Harmless on a closed socket."""
        if self._transport is not None and not self._closing:
            self._write(kind, message)

    def close(self, code: WSCloseCode = WSCloseCode.OK) -> None:
        """Close it from our side, and break it off if that takes long; what arrives from now on is not heard."""
        if self._closing:
            return
        self._closing = self._deaf = True
        self._let_out(None)
        self._let_go()
        if self._transport is not None:
            self._transport.send_close(code)
            self._transport.disconnect()
            asyncio.get_running_loop().call_later(CLOSE_SECONDS, self._transport.disconnect, False)

    def break_off(self) -> None:
        """Let the connection go without a closing frame, as if the network had; `closed` tells that it broke."""
        if self._transport is not None:
            self._transport.disconnect(False)

    async def closed(self) -> Closed:
        """Wait until it is closed. An exception of our own callbacks is raised here: it is a bug."""
        try:
            return await self._disconnected()
        finally:
            self._let_go()

    async def _disconnected(self) -> Closed:
        assert self._transport is not None
        try:
            await self._transport.wait_disconnected()
            if self.bug is not None:
                raise self.bug
        except WSError as failure:  # the agent broke RFC 6455, or sent a frame beyond every limit
            detail = f"websocket: {failure.args[-1] if failure.args else failure}"
            if not self._closing:
                self.give_up(detail)
            return Closed(False, detail)
        handshake = self._transport.close_handshake
        received = handshake.recv if handshake is not None else None
        if received is None:
            return Closed(False, f"the {self._named} broke without a close frame")
        code = f"{WSCloseCode(received.code).value} {received.reason or ''}".strip()
        return Closed(received.code in CLEAN_CODES, f"the agent closed the {self._named} ({code})")

    # ------------------------------------------------------------ from the agent (picows calls these)

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self._closing:  # the call ended while we were connecting
            transport.disconnect(False)
        else:
            self._let_out(transport)
            self._hearer.socket_opened(self.now_ns())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        now_ns = self.now_ns()
        at_ns = now_ns if self.ear is None else self.ear.arrived_ns or now_ns
        self._frames_left -= 1
        if self._frames_left < 0:
            self._count_anew(now_ns)
        kind = frame.msg_type
        if (kind is TEXT or kind is BINARY) and frame.fin and self._frames_left >= 0:  # nearly all of them
            self._put((self, kind, frame.get_payload_as_bytes(), at_ns))
            if now_ns >= self.wheel.hurry_ns:  # the sockets that can be read may be hundreds
                self.wheel.hurry()
            return
        self.inbox.read()
        if kind == WSMsgType.CLOSE:
            if self.ear is not None:
                self.ear.leave(False)  # what comes after it is not read
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif self._deaf or kind == WSMsgType.PONG:
            pass
        elif self._frames_left < 0:
            self.give_up(f"more than {FRAMES_PER_SECOND_MAX} frames in a second")
        elif frame.fin and not self._parts:
            self._hearer.heard(kind, frame.get_payload_as_bytes(), at_ns)
        else:
            self._fragment(frame, at_ns)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.inbox.read()  # what it said before it went
        self._let_out(None)

    def pause_writing(self) -> None:
        self._congested = True
        self._let_out(None)

    def resume_writing(self) -> None:
        self._congested = False
        if self._transport is not None and not self._closing:
            self._let_out(self._transport)

    def passed(self, frames: int) -> None:
        """So many have come that the ear has taken."""
        self._frames_left -= frames
        if self._frames_left < 0:
            self._count_anew(self.now_ns())
        if self._frames_left < 0:
            self.give_up(f"more than {FRAMES_PER_SECOND_MAX} frames in a second")

    def _let_out(self, transport: WSTransport | None) -> None:
        self.outlet = None if transport is None else self._write
        if self.ear is not None:
            self.ear.outlet = transport

    def _write(self, kind: WSMsgType, message: bytes) -> None:
        assert self._transport is not None
        if self.ear is not None:
            self.ear.sent_beside()
        self._transport.send(kind, message)

    def _count_anew(self, at_ns: int) -> None:
        """Allow as many frames again, if those allowed took a second: so often a look at the time is enough."""
        if at_ns - self._counted_ns >= SECOND:
            self._counted_ns, self._frames_left = at_ns, FRAMES_PER_SECOND_MAX - 1

    def _let_go(self) -> None:
        self._hearer, self.read = _Nobody(), _unheard
        if self.ear is not None:
            self.ear.outlet = self.ear.stream = None
            self.ear = None

    def _fragment(self, frame: WSFrame, at_ns: int) -> None:
        if not self._parts:
            self._parts_kind = frame.msg_type
        self._parts.append(frame.get_payload_as_bytes())
        self._parts_bytes += frame.payload_size
        if self._parts_bytes > self._bytes_max:
            self.give_up(f"a fragmented message of more than {self._bytes_max} bytes")
        elif frame.fin:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._parts_bytes = 0
            self._hearer.heard(self._parts_kind, whole, at_ns)

    def give_up(self, detail: str) -> None:
        """Hear nothing more of the agent."""
        if not self._deaf:
            self._deaf, self.read = True, _unheard
            if self.ear is not None:
                self.ear.stream = None
            self._hearer.broke(detail)


def shown(raw: bytes) -> str:
    """The beginning of a message, fit for a person."""
    text = raw[:SHOWN_CHARACTERS].decode(errors="replace")
    return text + "..." if len(raw) > SHOWN_CHARACTERS else text
