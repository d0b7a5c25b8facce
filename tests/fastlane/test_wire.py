"""The compiled lane on real sockets: what an agent gets, and what is heard however the network cuts it."""

import asyncio
import base64
import hashlib
import json
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from tests.fastlane.rig import (
    MESSAGES,
    TEXT,
    TONE,
    Rig,
    StillClock,
    compiled,
    media,
    websocket_frame,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from busyhour.carriers.agent_socket import Closed
from busyhour.carriers.media_socket import MediaSocket
from busyhour.carriers.telnyx.media import TelnyxFrames
from busyhour.clock import SystemClock
from busyhour.fastlane import tick_all
from busyhour.media.codec import codec
from busyhour.media.leg import Leg
from busyhour.media.studio import Studio
from busyhour.model import MS, SECOND, Audio

LONG = media(TONE * 400)  # 85 KB: more than is read at once
ON_THE_WIRE: dict[str, tuple[bytes, bytes]] = {  # and which windows are loud
    "silence": (websocket_frame(1, media(codec("PCMU").silence)), bytes(8)),
    "tone": (websocket_frame(1, media(TONE)), b"\1" * 8),
    "two pieces": (websocket_frame(1, media(TONE)[:90], last=False) + websocket_frame(0, media(TONE)[90:]), b"\1" * 8),
    "ping": (websocket_frame(9, b"are you there"), b""),
    "short": (websocket_frame(1, b"{}"), b""),
    "long": (websocket_frame(1, LONG), b"\1" * 3_200),
}


class Agent(WSListener):
    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == TEXT:
            self._heard.append(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()


class Caller:
    """Owner of a stream to a real socket."""

    def __init__(self, studio: Studio, url: str, *, by_lane: bool) -> None:
        self.leg = Leg(studio=studio, codec=codec("PCMU"), send=lambda _payload, _index: None)
        self.socket = MediaSocket(
            dialect=TelnyxFrames("a stream"),
            owner=self,
            clock=SystemClock(),
            bytes_per_second=8_000,
            inbox=studio.inbox,
        )
        self._url, self._by_lane = url, by_lane

    async def open(self) -> None:
        await self.socket.open(self._url, headers={}, timeout_seconds=10)

    def socket_opened(self, at_ns: int) -> None:
        self.socket.say("start", {})
        self.leg.send_by(self.socket.send_audio, self.socket if self._by_lane else None)
        self.leg.open(at_ns)

    def heard_media(self, octets: bytes, at_ns: int) -> None: ...
    def heard_mark(self, name: str, at_ns: int) -> None: ...
    def heard_clear(self, at_ns: int) -> None: ...
    def heard_malformed(self, detail: str) -> None: ...
    def broke_protocol(self, detail: str) -> None: ...


async def conversed() -> tuple[list[bytes], list[bytes]]:
    """What an agent gets of a caller by the lane, and by Python."""
    heard: dict[str, list[bytes]] = {"/lane": [], "/python": []}

    def accept(request: WSUpgradeRequest) -> Agent:
        return Agent(heard[request.path.decode()])

    server = await ws_create_server(accept, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    studio = Studio()
    async with studio.turning():
        callers = [Caller(studio, f"{url}{path}", by_lane=path == "/lane") for path in heard]
        for caller in callers:
            await caller.open()
        samples = (8_000 * np.sin(np.arange(2_400) / 3)).astype(np.int16)
        for caller in callers:
            pause = Audio("pause", "pause", np.zeros(1_920, np.int16), 8_000, 0, 1)
            await caller.leg.say(pause)  # 12 frames: on to numbers of two digits
            spoken = await caller.leg.say(Audio("hum", "hum", samples, 8_000, 400, 2_000))
            assert 20 * MS < spoken.ended_ns - spoken.began_ns < SECOND
            caller.socket.say("dtmf", {"digit": "1"})
            caller.leg.end(SystemClock().now_ns(), "hung up")
            caller.socket.close()
            await caller.socket.closed()
        counts = [caller.socket.counts.sent for caller in callers]
    server.close()
    await server.wait_closed()
    assert [sum(b'"media"' in message for message in messages) for messages in heard.values()] == counts
    return heard["/lane"], heard["/python"]


def test_what_is_sent_is_the_same_to_the_octet() -> None:
    by_lane, by_python = uvloop.run(conversed())

    def spoken(messages: Sequence[bytes]) -> list[str]:
        payloads = [json.loads(message)["media"]["payload"] for message in messages if b'"media"' in message]
        return [payload for payload in payloads if payload.strip("/") != "w=="]

    for messages in (by_lane, by_python):
        numbers = [int(json.loads(message)["sequence_number"]) for message in messages]
        assert numbers == list(range(1, len(messages) + 1))
        chunks = [json.loads(m)["media"] for m in messages if b'"media"' in m]
        assert [int(chunk["chunk"]) for chunk in chunks] == list(range(1, len(chunks) + 1))
        assert [int(chunk["timestamp"]) for chunk in chunks] == list(range(0, 20 * len(chunks), 20))
    assert by_lane[:11] == by_python[:11]  # silence, with the same numbers
    assert spoken(by_lane) == spoken(by_python)
    assert spoken(by_lane)


class SlowAgent:
    """Reads its socket when it is told to, and at no other time."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listening.setblocking(False)
        self.url = f"ws://127.0.0.1:{self._listening.getsockname()[1]}"
        self._protocol = ServerProtocol()

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._socket, _ = await loop.sock_accept(self._listening)
        self._listening.close()
        while self._protocol.state is State.CONNECTING:
            self._protocol.receive_data(await loop.sock_recv(self._socket, 65_536))
            for request in self._protocol.events_received():
                assert isinstance(request, Request)
                self._protocol.send_response(self._protocol.accept(request))
                self.send()

    def send(self) -> None:
        for data in self._protocol.data_to_send():
            self._socket.send(data)

    def read(self) -> None:
        with suppress(BlockingIOError):
            while data := self._socket.recv(65_536):
                self._protocol.receive_data(data)

    def numbers(self) -> list[int]:
        """Of all that it was told so far."""
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        assert {frame.opcode for frame in frames} == {Opcode.TEXT}
        return [int(json.loads(frame.data)["sequence_number"]) for frame in frames]

    def close(self) -> None:
        self._socket.close()


async def congested(cause: str) -> list[int]:
    """What an agent gets that has not read for a while, in the order in which it comes."""
    agent, studio = SlowAgent(), Studio(StillClock())
    async with studio.turning():
        caller = Caller(studio, agent.url, by_lane=True)
        accepted = asyncio.create_task(agent.accept())
        await caller.open()
        await accepted
        transport, slot = caller.socket._socket._transport, caller.leg._slot
        assert transport is not None
        assert slot is not None
        transport.underlying_transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def tick() -> None:
            tick_all((slot,), 0, studio.clock.now_ns, array("q"), lambda _slot, failure: pytest.fail(str(failure)))

        agent._socket.sendall(2 * websocket_frame(1, media(TONE)))  # from now on the lane reads it, and sends
        async with asyncio.timeout(20):
            while transport.underlying_transport.is_reading():
                studio.decode()
                await asyncio.sleep(0)
        for _ in range(5):
            tick()
        if cause == "frames":
            while not transport.underlying_transport.get_write_buffer_size():
                tick()
        else:
            caller.socket.say("something long", {"text": 60_000 * "."})
        assert 0 < transport.underlying_transport.get_write_buffer_size() < 65_536
        for _ in range(5):
            agent.read()  # now the kernel has room, and the transport does not know it yet
            tick()
        async with asyncio.timeout(20):
            while transport.underlying_transport.get_write_buffer_size():
                agent.read()
                await asyncio.sleep(0)
        agent.read()
        agent.close()
        caller.leg.end(SECOND, "hung up")
        caller.socket.close()
        await caller.socket.closed()
    assert caller.socket.counts.skipped == 0
    return agent.numbers()


@compiled
@pytest.mark.parametrize("cause", ["frames", "an event"])
def test_nothing_overtakes_what_the_socket_could_not_take(cause: str) -> None:
    numbers = uvloop.run(congested(cause))
    assert len(numbers) > 10
    assert numbers == list(range(1, len(numbers) + 1))


async def fed(data: bytes, cuts: Sequence[int] = (), frames: int = 0) -> tuple[Rig, Closed | None]:
    """A stream that gets this over a socket, so many octets at a time, and then a mark; how it ended, if it did.

    frames: so many it is to get, and no mark behind them.
    """
    talking = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line[19:] for line in request.decode().split("\r\n") if line.lower().startswith("sec-websocket-key:")
        )
        proof = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        )
        writer.write(head + proof + b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await talking.wait()
        at = 0
        for size in [*cuts, len(data)]:
            writer.write(data[at : at + size])
            at += size
            for _ in range(3):  # let it be read, or not: both is to be right
                await asyncio.sleep(0)
        if not frames:
            writer.write(websocket_frame(1, MESSAGES["mark"][1]))
        with suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    rig = Rig(StillClock(), by_lane=True)
    async with rig.studio.turning():
        host, port = server.sockets[0].getsockname()
        await rig.socket.open(f"ws://{host}:{port}", headers={}, timeout_seconds=10)
        closed = asyncio.create_task(rig.socket.closed())
        transport = rig.socket._socket._transport
        assert transport is not None
        transport.underlying_transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        talking.set()
        try:
            async with asyncio.timeout(20):
                while not (rig.leg._playout.marks or closed.done() or 0 < frames == rig.socket.counts.received):
                    rig.studio.decode()
                    await asyncio.sleep(0)
            how = closed.result() if closed.done() else None
            rig.direct = not transport.underlying_transport.is_reading()
        finally:
            rig.socket.close()
            await closed
            server.close()
    return rig, how


async def cut(frames: Sequence[str], cuts: Sequence[int]) -> tuple[Rig, bytes]:
    """A stream that gets those frames; and what it should have heard."""
    rig, _ = await fed(b"".join(ON_THE_WIRE[name][0] for name in ["tone", *frames]), cuts)
    return rig, b"".join(ON_THE_WIRE[name][1] for name in ["tone", *frames])


@compiled
@pytest.mark.parametrize(
    "wrong",
    [
        b"\x81\xfe" + len(media(TONE)).to_bytes(2) + bytes(4) + media(TONE),  # masked, by a mask that changes nothing
        b"\x81\x7f" + len(media(TONE)).to_bytes(8) + media(TONE),  # a length in eight octets that two could hold
    ],
)
def test_what_breaks_the_protocol_is_not_taken(wrong: bytes) -> None:
    good = ON_THE_WIRE["tone"][0]
    _, how = uvloop.run(fed(4 * good + wrong + good))
    assert how is not None
    assert not how.clean
    assert how.how.startswith("websocket: ")


@compiled
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(ON_THE_WIRE)) | st.sampled_from(["silence", "tone"]), max_size=40),
    st.lists(st.integers(1, 900), max_size=30),
)
def test_frames_are_the_same_however_they_are_cut(frames: list[str], cuts: list[int]) -> None:
    frames = [name for i, name in enumerate(frames) if name != "long" or "long" not in frames[:i]]
    rig, expected = uvloop.run(cut(frames, cuts))
    rig.leg._playout._end_tail()
    assert b"".join(loud for _, _, loud in rig.leg._playout._queue) == expected
    assert rig.socket.counts.received == 2 + len(frames) - frames.count("ping")
    assert rig.socket.counts.malformed == frames.count("short")


@compiled
def test_all_is_read_when_more_has_come_than_is_read_at_once() -> None:
    tone, silence, short = (ON_THE_WIRE[name][0] for name in ("tone", "silence", "short"))
    whole, rest = divmod(65_536, len(silence))  # what is read at once is to end where a frame does
    assert rest % len(short) == 0
    frames = [tone, *[short] * (rest // len(short)), *[silence] * (whole + 10)]
    rig, _ = uvloop.run(fed(b"".join(frames), [len(tone)], frames=len(frames)))
    assert rig.direct


@compiled
@pytest.mark.parametrize("cuts", [[], [100, 100, 1, 1], [700, 3_000]])
def test_sockets_are_read_directly_again_after_half_a_frame(cuts: list[int]) -> None:
    rig, _ = uvloop.run(cut(["silence"] * 10, cuts))
    assert rig.direct


@compiled
def test_an_error_of_our_own_in_the_lane_is_raised_by_who_waits_for_the_end() -> None:
    async def fail() -> None:
        def broken(_loud: bytes, _at_ns: int) -> bool:
            raise ZeroDivisionError("a bug of ours")

        rig = Rig(StillClock(), by_lane=True)
        agent: list[WSTransport] = []

        class Talker(WSListener):
            def on_ws_connected(self, transport: WSTransport) -> None:
                agent.append(transport)

        server = await ws_create_server(lambda _request: Talker(), "127.0.0.1", 0)
        async with rig.studio.turning():
            await rig.socket.open(
                f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", headers={}, timeout_seconds=10
            )
            closed = asyncio.create_task(rig.socket.closed())
            async with asyncio.timeout(20):
                while not closed.done():
                    agent[0].send(*MESSAGES["tone"])
                    rig.studio.decode()
                    rig.leg.take_windows = broken if rig.socket.before else rig.leg.take_windows  # type: ignore[method-assign]
                    rig.leg._steady = False
                    await asyncio.sleep(0)
                with pytest.raises(ZeroDivisionError):
                    await closed
        server.close()

    uvloop.run(fail())
