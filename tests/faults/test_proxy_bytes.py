"""The byte path on real sockets: what passes, what a toxic does to it, how connections end."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
from random import Random

import pytest

from busyhour.faults.proxy.link import WRITE_ROOM_BYTES
from busyhour.services import free_port

from .proxied import Stand, echo, on_uvloop, standing


async def refused(reader: asyncio.StreamReader) -> bool:
    """Whether the connection was reset, rather than closed."""
    try:
        async with asyncio.timeout(60):
            await reader.read()
    except ConnectionResetError:
        return True
    return False


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# ---------------------------------------------------------------- what passes


@on_uvloop
async def test_bytes_pass_both_ways_unchanged() -> None:
    data = Random(1).randbytes(8_000_000)
    async with standing() as stand:
        reader, writer = await stand.connect()

        async def send() -> None:
            writer.write(data)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        received = await reader.read()
        await sending
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
        assert stand.proxied.received_bytes("upstream") == stand.proxied.received_bytes("downstream") == len(data)


@on_uvloop
async def test_two_hundred_connections_at_once_each_get_their_own() -> None:
    async with standing() as stand:

        async def one(number: int) -> bool:
            reader, writer = await stand.connect()
            for turn in range(5):
                said = b"%04d/%d" % (number, turn)
                writer.write(said)
                if await reader.readexactly(len(said)) != said:
                    return False
            return True

        assert all(await asyncio.gather(*(one(number) for number in range(200))))
        assert stand.proxied.accepted == 200
        await stand.close_clients()
        await stand.until(lambda: not stand.proxied._links, "the links are forgotten")


@on_uvloop
async def test_an_upstream_that_speaks_first_is_heard() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await reader.read()

    async with standing(greet) as stand:
        for _ in range(20):
            reader, writer = await stand.connect()
            assert await reader.readline() == b"220 ready\r\n"
            writer.close()


@on_uvloop
async def test_a_half_closed_connection_answers_still() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(b"heard " + question)
        await writer.drain()

    async with standing(answer_at_the_end) as stand:
        reader, writer = await stand.connect()
        writer.write(b"everything")
        writer.write_eof()
        assert await reader.read() == b"heard everything"


@on_uvloop
async def test_the_upstream_may_close_first_and_still_be_spoken_to() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def close_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        heard.set_result(await reader.read())

    async with standing(close_first) as stand:
        reader, writer = await stand.connect()
        assert await reader.read() == b""
        writer.write(b"last words")
        writer.write_eof()
        assert await heard == b"last words"


@on_uvloop
async def test_a_reset_passes_in_both_directions() -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def reset_when_told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if await reader.read(100) == b"reset me":
                reset(writer)
            await reader.read()
            seen.put_nowait("closed")
        except ConnectionResetError:
            seen.put_nowait("reset")

    async with standing(reset_when_told) as stand:
        reader, writer = await stand.connect()
        writer.write(b"reset me")
        assert await refused(reader)
        assert await seen.get() in {"reset", "closed"}
        reader, writer = await stand.connect()
        writer.write(b"hello")
        await stand.until(lambda: stand.proxied.received_bytes("upstream") == 13, "the upstream has it")
        reset(writer)
        assert await seen.get() == "reset"


@on_uvloop
async def test_a_client_that_goes_away_in_the_middle_leaves_nothing_behind() -> None:
    gone = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(bytes(65536))
                await writer.drain()
        finally:
            gone.set()

    async with standing(pour) as stand:
        reader, writer = await stand.connect()
        await reader.readexactly(1_000_000)
        writer.close()
        async with asyncio.timeout(60):
            await gone.wait()
        await stand.until(lambda: not stand.proxied._links, "the link is forgotten")


@on_uvloop
async def test_an_unreachable_upstream_resets_the_client_and_is_told_in_a_sentence() -> None:
    port = free_port()
    async with standing(upstream=port) as stand:
        for _ in range(3):
            reader, writer = await stand.connect()
            writer.write(b"anybody?")
            assert await refused(reader)
        assert stand.proxied.unreachable == 3
        sentence = f"the upstream 127.0.0.1:{port} of it cannot be reached: Connection refused"
        assert stand.proxied.last_problem == sentence


@on_uvloop
async def test_a_slow_reader_stops_the_sender_and_not_the_memory() -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with standing(pour) as stand, standing() as other:
        reader, _ = await stand.connect()
        passing = await other.connect()
        for one in (stand, other):
            one.toxic("latency", {"latency": 1})
        await stand.until(lambda: bool(stand.proxied._links), "the connection is accepted")
        (link,) = stand.proxied._links
        pipe = link.pipes["downstream"]
        before = -1
        while before != sent or not pipe._paused:  # while others' bytes pass, these do not
            before = sent
            for _ in range(100):
                await ping(other, *passing)
        held = pipe.stages[0][1].held_bytes + pipe.sink._transport.get_write_buffer_size()
        assert held < 6 * 1024 * 1024 + WRITE_ROOM_BYTES
        assert sent < 64 * 1024 * 1024, "the rest is in the kernel's buffers"
        received = 0
        while received < before + 1_000_000:
            received += len(await reader.read(1 << 20))
        assert sent > before, "it goes on when the reader does"


# ---------------------------------------------------------------- toxics on live connections


async def ping(stand: Stand, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Seconds for a round trip, counted in ms as this loop does, whose timers may be early by one as well."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    writer.write(b"ping")
    assert await reader.readexactly(4) == b"ping"
    return loop.time() - began


async def quickest(stand: Stand, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    """Seconds for the quickest of some: a machine that stalls does not make all of them slow."""
    return min([await ping(stand, reader, writer) for _ in range(4)])


@on_uvloop
async def test_latency_comes_and_goes_on_an_open_connection() -> None:
    async with standing() as stand:
        reader, writer = await stand.connect()
        assert await quickest(stand, reader, writer) < 0.15
        name = stand.toxic("latency", {"latency": 200})
        assert name == "latency_downstream"
        assert await ping(stand, reader, writer) >= 0.195
        stand.toxic("latency", {"latency": 200}, stream="upstream")
        assert await ping(stand, reader, writer) >= 0.39
        stand.proxied.change(name, {"attributes": {"latency": 0}})
        assert 0.195 <= await quickest(stand, reader, writer) < 0.39
        stand.proxied.clear()
        assert await quickest(stand, reader, writer) < 0.15
        assert all(not pipe.stages for link in stand.proxied._links for pipe in link.pipes.values())


@on_uvloop
async def test_toxics_act_in_the_order_in_which_they_were_added() -> None:
    async with standing() as stand:
        reader, writer = await stand.connect()
        stand.toxic("limit_data", {"bytes": 10})
        stand.toxic("slicer", {"average_size": 1})
        writer.write(b"0123456789abcdef")
        assert await reader.read() == b"0123456789"
        assert stand.effect("slicer_downstream")["bytes"] == 9, "of ten slices the last is what was left"


@on_uvloop
async def test_bandwidth_on_the_wire() -> None:
    async with standing() as stand:
        stand.toxic("bandwidth", {"rate": 400})
        reader, writer = await stand.connect()
        loop = asyncio.get_running_loop()
        took: list[float] = []
        while not took or (took[-1] > 0.31 and len(took) < 5):  # a machine that stalls does not stall each time
            began = loop.time()
            writer.write(bytes(100_000))
            await reader.readexactly(100_000)
            took.append(loop.time() - began)
        assert 0.19 < min(took) < 0.31


@on_uvloop
async def test_toxicity_is_drawn_for_each_connection_from_the_seed() -> None:
    async def befallen(seed: int) -> list[bool]:
        async with standing() as stand:
            stand.toxic("limit_data", {"bytes": 0}, toxicity=0.5, seed=seed)
            cut = []
            for _ in range(24):
                reader, writer = await stand.connect()
                writer.write(b"x")
                cut.append(await reader.read(1) == b"")
            assert stand.effect("limit_data_downstream")["connections"] == sum(cut)
            return cut

    first = await befallen(7)
    assert 3 < sum(first) < 21
    assert await befallen(7) == first
    assert await befallen(8) != first


@on_uvloop
async def test_a_black_hole_swallows_and_ends_when_it_is_removed() -> None:
    async with standing() as stand:
        reader, writer = await stand.connect()
        await ping(stand, reader, writer)
        name = stand.toxic("timeout", {"timeout": 0})
        writer.write(b"into the void")
        await stand.until(lambda: stand.effect(name)["bytes"] == 13, "the bytes are dropped")
        stand.proxied.remove(name)
        assert await reader.read() == b""


@on_uvloop
async def test_reset_peer_resets_both_sides() -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        try:
            await reader.read(100)
            seen.put_nowait("closed")
        except ConnectionResetError:
            seen.put_nowait("reset")

    async with standing(talk) as stand:
        name = stand.toxic("reset_peer", {"timeout": 0})
        reader, writer = await stand.connect()
        writer.write(b"hello")
        assert await refused(reader)
        assert await seen.get() == "reset"
        assert stand.effect(name) == {"connections": 1, "events": 1, "bytes": 0, "unreadable": 0}


@on_uvloop
async def test_slow_close_delays_the_end() -> None:
    async def goodbye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")

    async with standing(goodbye) as stand:
        stand.toxic("slow_close", {"delay": 300})
        loop = asyncio.get_running_loop()
        reader, _ = await stand.connect()
        assert await reader.readexactly(3) == b"bye"
        began = loop.time()
        assert await reader.read() == b""
        assert loop.time() - began > 0.2


@on_uvloop
async def test_a_cut_connection_whose_client_says_nothing_is_closed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.faults.proxy.link.LINGER_NS", 50_000_000)
    async with standing() as stand:
        stand.toxic("limit_data", {"bytes": 3})
        reader, writer = await stand.connect()
        writer.write(b"12345")
        assert await reader.read() == b"123"
        await stand.until(lambda: not stand.proxied._links, "the proxy does not wait for ever")


# ---------------------------------------------------------------- down and up


@on_uvloop
async def test_down_refuses_drops_and_keeps_its_port() -> None:
    async with standing() as stand:
        port = stand.port
        reader, writer = await stand.connect()
        await ping(stand, reader, writer)
        await stand.proxied.update({"enabled": False})
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await stand.connect()
        with pytest.raises(OSError, match="in use"), socket.socket() as thief:
            thief.bind(("127.0.0.1", port))
        assert stand.proxied.cut_off == 1
        await stand.proxied.update({"enabled": True})
        assert stand.port == port
        await ping(stand, *await stand.connect())


@on_uvloop
async def test_refused_connections_are_counted_where_that_is_permitted() -> None:
    def permitted() -> bool:
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0).close()
        except PermissionError:
            return False
        return True

    async with standing() as stand, standing() as other:
        await ping(stand, *await stand.connect())
        await stand.proxied.stop()
        await other.proxied.stop()
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await stand.connect()
        assert stand.proxied.refused == (3 if permitted() else None)
        await stand.proxied.start()
        await ping(stand, *await stand.connect())
        assert stand.proxied.refused == (3 if permitted() else None)
        assert other.proxied.refused == (0 if permitted() else None)


@on_uvloop
async def test_without_the_right_to_count_them_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(port: int) -> None:
        raise PermissionError(port)

    monkeypatch.setattr("busyhour.faults.proxy.collection.RefusalCounter", forbidden)
    async with standing() as stand:
        await stand.proxied.stop()
        with pytest.raises(ConnectionRefusedError):
            await stand.connect()
        assert stand.proxied.refused is None
        await stand.proxied.start()
        await ping(stand, *await stand.connect())


@on_uvloop
async def test_another_upstream_drops_what_is_open() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())

    async with standing() as stand, standing(shout) as other:
        reader, writer = await stand.connect()
        await ping(stand, reader, writer)
        await stand.proxied.update({"upstream": other.proxied.listen})
        assert await reader.read() == b""
        reader, writer = await stand.connect()
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"PING"


async def test_the_default_loop_serves_as_well() -> None:
    async with standing(echo) as stand:
        stand.toxic("latency", {"latency": 1, "jitter": 1})
        reader, writer = await stand.connect()
        await ping(stand, reader, writer)
        writer.write_eof()
        assert await reader.read() == b""
