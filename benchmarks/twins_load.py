"""Clients that load the twins over raw sockets: requests, a voice on a WebSocket, an ear that hears frames.

They parse nothing: the time at which awaited bytes came is stamped in the socket's callback.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import cast
from urllib.parse import urlsplit

from busyhour.media.codec import codec
from busyhour.media.utterances import utterances
from busyhour.model import MS, SECOND

FRAME_NS = 20 * MS
SILENT_FRAMES = 100
"""After each utterance: the agent speaks, and the caller listens."""
_BUFFER_BYTES_AT_MOST = 1 << 20


# ---------------------------------------------------------------- the wire


class Wire(asyncio.Protocol):
    """One connection: bytes out, and the time at which awaited bytes came in, stamped before anything is parsed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._wanted: tuple[bytes, asyncio.Future[int]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        searched = len(self._buffer)
        self._buffer += data
        if self._wanted is not None:
            self._look(now_ns, searched)
        elif len(self._buffer) > _BUFFER_BYTES_AT_MOST:
            self._buffer.clear()

    def connection_lost(self, problem: Exception | None) -> None:
        if self._wanted is not None and not self._wanted[1].done():
            self._wanted[1].set_exception(ConnectionResetError(f"the twin closed the connection: {problem}"))

    def send(self, octets: bytes) -> int:
        """When it was handed over."""
        assert self._transport is not None
        if self._transport.is_closing():
            raise ConnectionResetError("the twin closed the connection")
        now_ns = time.monotonic_ns()
        self._transport.write(octets)
        return now_ns

    def begin(self) -> None:
        """Forget what came before."""
        self._buffer.clear()

    def until(self, marker: bytes) -> asyncio.Future[int]:
        """When the bytes with `marker` came."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._wanted = (marker, future)
        self._look(time.monotonic_ns(), 0)
        return future

    def _look(self, now_ns: int, searched: int) -> None:
        assert self._wanted is not None
        marker, future = self._wanted
        at = self._buffer.find(marker, max(0, searched - len(marker)))
        if at >= 0:
            del self._buffer[: at + len(marker)]
            self._wanted = None
            if not future.done():
                future.set_result(now_ns)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Wire]:
    parts = urlsplit(url)
    _, wire = await asyncio.get_running_loop().create_connection(Wire, parts.hostname or "", parts.port or 0)
    try:
        yield wire
    finally:
        wire.close()


@asynccontextmanager
async def upgraded(url: str, path: str, headers: str) -> AsyncIterator[Wire]:
    """A WebSocket (RFC 6455)."""
    async with connected(url) as wire:
        wire.send(
            f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{headers}\r\n".encode()
        )
        await wire.until(b" 101 ")
        await wire.until(b"\r\n\r\n")
        yield wire


def framed(payload: bytes, *, text: bool) -> bytes:
    """A client's frame whose mask is zero, so that the payload is sent as it is."""
    head = bytes([0x81 if text else 0x82])
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return head + length + bytes(4) + payload


# ---------------------------------------------------------------- what is asked


@dataclass
class Load:
    """One twin under load: where it is, and the errors measured so far, in ms."""

    url: str
    setting_ms: float
    streams: int = 1
    errors_ms: list[float] = field(default_factory=list)

    def took(self, sent_ns: int, came_ns: int) -> None:
        self.errors_ms.append((came_ns - sent_ns) / MS - self.setting_ms)


@dataclass(frozen=True, kw_only=True)
class Http:
    """Requests on a connection that is kept. first: what the first token (or byte) comes with; end: what ends it."""

    path: str
    headers: str
    body: Mapping[str, object]
    first: bytes
    end: bytes
    period_ns: int

    def request(self, url: str) -> bytes:
        body = json.dumps(self.body).encode()
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
            f"{self.headers}Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    async def one_by_one(self, load: Load, times: int) -> None:
        request = self.request(load.url)
        async with connected(load.url) as wire:
            for _ in range(times):
                await self._exchange(wire, request, load)

    async def stream(self, load: Load, number: int) -> None:
        request = self.request(load.url)
        due_ns = time.monotonic_ns() + number * self.period_ns // load.streams
        async with connected(load.url) as wire:
            while True:
                await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / SECOND)
                await self._exchange(wire, request, load)
                due_ns += self.period_ns

    async def _exchange(self, wire: Wire, request: bytes, load: Load) -> None:
        wire.begin()
        first = wire.until(self.first)
        sent_ns = wire.send(request)
        load.took(sent_ns, await first)
        await wire.until(self.end)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A sentence on a WebSocket, again and again: each begins when the last has been spoken in real time."""

    path: str
    headers: str
    messages: Callable[[str], Sequence[Mapping[str, object]]]
    first: bytes
    end: bytes
    speech_ns: int = 3 * SECOND

    async def one_by_one(self, load: Load, times: int) -> None:
        async with upgraded(load.url, self.path, self.headers) as wire:
            for number in range(times):
                await self._exchange(wire, f"alone-{load.setting_ms}-{number}", load)

    async def stream(self, load: Load, number: int) -> None:
        due_ns = time.monotonic_ns() + number * self.speech_ns // load.streams
        async with upgraded(load.url, self.path, self.headers) as wire:
            for spoken in count():
                await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / SECOND)
                await self._exchange(wire, f"c{number}-{spoken}", load)
                due_ns += self.speech_ns

    async def _exchange(self, wire: Wire, context: str, load: Load) -> None:
        wire.begin()
        first = wire.until(self.first)
        frames = b"".join(framed(json.dumps(form).encode(), text=True) for form in self.messages(context))
        load.took(wire.send(frames), await first)
        await wire.until(self.end)


@dataclass(frozen=True, kw_only=True)
class Ear:
    """An utterance in 20 ms frames of mu-law, again and again; at its end the result is asked for."""

    path: str
    headers: str
    ask: Mapping[str, object]
    first: bytes

    async def one_by_one(self, load: Load, times: int) -> None:
        async with upgraded(load.url, self.path, self.headers) as wire:
            for _ in range(times):
                await self._utterance(wire, load, time.monotonic_ns(), FRAME_NS // 8)

    async def stream(self, load: Load, number: int) -> None:
        # Not all begin at once, and not all with speech: half of them are listening to begin with.
        await asyncio.sleep(number / load.streams)
        async with upgraded(load.url, self.path, self.headers) as wire:
            due_ns = time.monotonic_ns()
            silent = number % 2 * SILENT_FRAMES
            while True:
                due_ns = await _send(wire, [_SILENT] * silent, due_ns, FRAME_NS)
                due_ns = await self._utterance(wire, load, due_ns, FRAME_NS)
                silent = SILENT_FRAMES

    async def _utterance(self, wire: Wire, load: Load, due_ns: int, step_ns: int) -> int:
        """Frames, each when it is due; then the question. When the next frame is due."""
        due_ns = await _send(wire, _frames(), due_ns, step_ns)
        wire.begin()
        result = wire.until(self.first)
        load.took(wire.send(framed(json.dumps(self.ask).encode(), text=True)), await result)
        return time.monotonic_ns()


async def _send(wire: Wire, frames: Sequence[bytes], due_ns: int, step_ns: int) -> int:
    for frame in frames:
        await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / SECOND)
        wire.send(frame)
        due_ns += step_ns
    await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / SECOND)
    return due_ns


def _frames() -> list[bytes]:
    if not _SPOKEN:
        octets = codec("PCMU").encode(utterances(8000)["hours.today"].samples)
        _SPOKEN.extend(framed(octets[at : at + 160], text=False) for at in range(0, len(octets) - 160, 160))
    return _SPOKEN


_SPOKEN: list[bytes] = []
_SILENT = framed(b"\xff" * 160, text=False)
