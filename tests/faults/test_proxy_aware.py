"""Toxics that read HTTP, events and WebSockets, against aiohttp's server and client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from .proxied import Stand, standing

EVENTS = 6


class Vendor:
    """A server with JSON, events and WebSockets; counts what reached it."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.heard: list[str] = []
        self.closed: asyncio.Queue[tuple[int | None, list[str]]] = asyncio.Queue()
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()  # events after the third wait for it
        self.gate.set()

    async def plain(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        return web.json_response({"you": (await request.text())[:20], "pad": "x" * 2000})

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        if "length" in request.query:
            response.content_length = sum(len(event(number)) for number in range(1, EVENTS + 1))
        try:
            await response.prepare(request)
            for number in range(1, EVENTS + 1):
                if number == 4:
                    await self.gate.wait()
                await response.write(event(number))
                await asyncio.sleep(0)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled.set()
            raise
        return response

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(compress=False)
        await websocket.prepare(request)
        heard = []
        try:
            async for message in websocket:
                heard.append(str(message.data))
                await websocket.send_str(json.dumps({"heard": str(message.data)}))
        finally:  # it is cancelled when its connection is lost
            self.closed.put_nowait((websocket.close_code, heard))
        return websocket

    @asynccontextmanager
    async def behind(self) -> AsyncIterator[Stand]:
        """The proxy in front of it."""
        app = web.Application()
        app.router.add_route("*", "/plain", self.plain)
        app.router.add_route("*", "/events", self.events)
        app.router.add_get("/socket", self.socket)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with standing(upstream=runner.addresses[0][1]) as stand:
                yield stand
        finally:
            self.gate.set()
            await runner.cleanup()


def event(number: int) -> bytes:
    return b'data: {"number": %d}\n\n' % number


@asynccontextmanager
async def talking(vendor: Vendor, *, connections: int = 1) -> AsyncIterator[tuple[Stand, aiohttp.ClientSession]]:
    """A client that uses one connection for everything, as long as it lasts."""
    async with vendor.behind() as stand:
        connector = aiohttp.TCPConnector(limit=connections)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(stand.url, connector=connector, timeout=timeout) as session:
            yield stand, session


async def read(session: aiohttp.ClientSession, path: str = "/events") -> bytes:
    async with session.get(path) as response:
        return await response.read()


# ---------------------------------------------------------------- http_status


async def test_a_status_in_place_of_the_upstream_on_a_connection_that_lives_on() -> None:
    vendor = Vendor()
    async with talking(vendor) as (stand, session):
        name = stand.toxic(
            "http_status", {"status": 429, "body": '{"error": "slow down"}', "headers": {"Retry-After": "7"}}
        )
        for method, body in (("GET", None), ("POST", b"x" * 100_000), ("POST", None)):
            async with session.request(method, "/plain", data=body) as response:
                assert (response.status, response.reason) == (429, "Too Many Requests")
                assert response.headers["Retry-After"] == "7"
                assert await response.json() == {"error": "slow down"}
        async with session.head("/plain") as response:
            assert (response.status, response.headers["Content-Length"]) == (429, "22")
        assert vendor.requests == []
        stand.proxied.remove(name)
        async with session.post("/plain", data="hello") as response:
            assert (await response.json())["you"] == "hello"
        assert vendor.requests == ["POST /plain"]
        assert stand.proxied.accepted == 1, "all of it on one connection"


async def test_a_share_of_requests_comes_from_the_seed_and_the_rest_reaches_the_upstream() -> None:
    async def statuses(seed: int) -> list[int]:
        vendor = Vendor()
        async with talking(vendor) as (stand, session):
            stand.toxic("http_status", {"status": 503, "share": 0.4}, seed=seed, name="brown out")
            found = []
            for _ in range(40):
                async with session.post("/plain", data="hello", headers={"x": "y"}) as response:
                    found.append(response.status)
                    told = await response.json()
                    assert told.get("you") == ("hello" if response.status == 200 else None)
            assert stand.effect("brown out")["events"] == found.count(503)
            assert len(vendor.requests) == found.count(200)
            assert stand.proxied.accepted == 1
            return found

    first = await statuses(1)
    assert 8 < first.count(503) < 26
    assert await statuses(1) == first
    assert await statuses(2) != first


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    vendor = Vendor()
    async with vendor.behind() as stand:
        stand.toxic("http_status", {"status": 503, "share": 0.5}, seed=3)
        reader, writer = await stand.connect()
        asked = b"".join(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n" for _ in range(9))
        writer.write(asked + b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        heads = [part for part in (await reader.read()).split(b"HTTP/1.1 ") if part]
        codes = [part[:3] for part in heads]
        assert len(codes) == 10
        assert set(codes) == {b"200", b"503"}
        assert all((b"pad" in part) == (part[:3] == b"200") for part in heads)


async def test_a_client_that_waits_for_continue_or_speaks_1_0_is_answered_and_closed() -> None:
    vendor = Vendor()
    for head in (
        b"POST /plain HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ):
        async with vendor.behind() as stand:
            stand.toxic("http_status", {"status": 500})
            reader, writer = await stand.connect()
            writer.write(head)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
            assert b"\r\nconnection: close\r\n" in answer
            assert answer.endswith(b'{"error": {"message": "500 Internal Server Error", "code": 500}}')


async def test_what_is_not_http_passes_and_is_told() -> None:
    async with standing() as stand:
        name = stand.toxic("http_status", {"status": 500})
        reader, writer = await stand.connect()
        for said in (b"*1\r\n$4\r\nPING\r\n", b"\x16\x03\x01"):
            writer.write(said)
            assert await reader.readexactly(len(said)) == said
        assert stand.effect(name) == {"connections": 0, "events": 0, "bytes": 0, "unreadable": 1}


async def test_an_open_connection_is_harmed_from_its_next_request_on() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    async with talking(vendor) as (stand, session):
        async with session.get("/events") as response:
            assert await response.content.readuntil(b"3}\n\n") == b"".join(event(number) for number in (1, 2, 3))
            name = stand.toxic("sse_malformed", {"event": 1})
            stand.toxic("sse_truncate", {"events": 1})
            vendor.gate.set()
            assert await response.read() == b"".join(event(number) for number in (4, 5, 6))
        assert await read(session) == b"data: {" + b"~" * len(b'"number": 1}') + b"\n\n"
        assert stand.proxied.accepted == 1
        assert stand.effect(name) == {"connections": 1, "events": 1, "bytes": len(event(1)), "unreadable": 0}


async def test_a_request_is_answered_when_all_of_it_has_come_even_if_the_toxic_goes_meanwhile() -> None:
    vendor = Vendor()
    async with vendor.behind() as stand:
        name = stand.toxic("http_status", {"status": 503})
        reader, writer = await stand.connect()
        writer.write(b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        await stand.until(lambda: stand.proxied.received_bytes("upstream") > 50, "the head is there")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        stand.proxied.remove(name)
        writer.write(b"56789GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answers = await reader.read()
        assert answers.startswith(b"HTTP/1.1 503 ")
        assert answers.count(b"HTTP/1.1 200 OK") == 1
        assert vendor.requests == ["GET /plain"]


async def test_an_upload_that_is_under_way_is_left_alone_and_the_next_request_is_not() -> None:
    vendor = Vendor()
    async with vendor.behind() as stand:
        reader, writer = await stand.connect()
        writer.write(b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234")
        await stand.until(lambda: stand.proxied.received_bytes("upstream") > 50, "the head is there")
        name = stand.toxic("http_status", {"status": 503})
        writer.write(b"56789")
        assert (await reader.readuntil(b"\r\n")) == b"HTTP/1.1 200 OK\r\n"
        await reader.readuntil(b"}")
        writer.write(b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert stand.effect(name)["unreadable"] == 0


async def test_a_truncation_that_is_removed_in_mid_chunk_keeps_the_framing_whole() -> None:
    gate = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def in_two_halves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"%x\r\n" % (2 * len(event(1))) + event(1))
            await gate.wait()
            writer.write(event(2) + b"\r\n0\r\n\r\n")

    async with standing(in_two_halves) as stand, aiohttp.ClientSession(stand.url) as session:
        name = stand.toxic("sse_truncate", {"events": 2})
        async with session.get("/") as response:
            await response.content.readexactly(len(event(1)))
            stand.proxied.remove(name)
            gate.set()
            assert await response.read() == event(2)
        assert await read(session, "/") == event(1) + event(2)
        assert stand.proxied.accepted == 1


# ---------------------------------------------------------------- streams of events


async def test_a_stream_is_truncated_in_good_order_and_the_upstream_learns_of_it() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    async with talking(vendor) as (stand, session):
        name = stand.toxic("sse_truncate", {"events": 2})
        assert await read(session) == event(1) + event(2)
        async with asyncio.timeout(60):
            await vendor.cancelled.wait()
        assert stand.effect(name)["events"] == 1
        async with session.get("/plain") as response:
            assert response.status == 200, "other answers are not touched"
        stand.proxied.remove(name)
        vendor.gate.set()
        assert await read(session) == b"".join(event(number) for number in range(1, 7))


async def test_a_truncated_stream_of_known_length_is_cut_off() -> None:
    async with talking(Vendor()) as (stand, session):
        stand.toxic("sse_truncate", {"events": 2})
        with pytest.raises(aiohttp.ClientPayloadError):
            await read(session, "/events?length")


async def test_a_truncation_that_is_removed_before_its_time_leaves_the_stream_whole() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    async with talking(vendor) as (stand, session), session.get("/events") as warm:
        assert warm.status == 200
        name = stand.toxic("sse_truncate", {"events": 5})
        vendor.gate.set()
        await warm.read()
        vendor.gate.clear()
        async with session.get("/events") as response:
            await response.content.readuntil(b"3}\n\n")
            stand.proxied.remove(name)
            vendor.gate.set()
            assert await response.read() == b"".join(event(number) for number in (4, 5, 6))
        assert await read(session) == b"".join(event(number) for number in range(1, 7))
        assert stand.proxied.accepted == 1


@pytest.mark.parametrize("path", ["/events", "/events?length"])
async def test_one_event_is_malformed(path: str) -> None:
    async with talking(Vendor()) as (stand, session):
        name = stand.toxic("sse_malformed", {"event": 3})
        parts = (await read(session, path)).split(b"\n\n")
        assert parts[2] == b"data: {" + b"~" * len(b'"number": 3}')
        assert [json.loads(part[6:])["number"] for index, part in enumerate(parts[:6]) if index != 2] == [1, 2, 4, 5, 6]
        assert await read(session, "/plain")
        assert stand.effect(name)["events"] == 1


@pytest.mark.parametrize(
    ("attributes", "path", "received"),
    [
        ({"events": 2}, "/events", len(event(1) + event(2))),
        ({"events": 0}, "/events", 0),
        ({"bytes": 30}, "/events", 30),
        ({"bytes": 700}, "/plain", 700),
    ],
)
async def test_an_answer_stalls_and_the_connection_stays_open(
    attributes: dict[str, Any], path: str, received: int
) -> None:
    async with talking(Vendor()) as (stand, session):
        name = stand.toxic("http_stall", attributes)
        async with session.get(path) as response:
            assert response.status == 200
            assert len(await response.content.readexactly(received)) == received
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await response.content.readany()
            assert stand.effect(name)["events"] == 1
            stand.proxied.remove(name)
            with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError)):
                await response.read()
        assert await read(session, "/plain")


async def test_a_client_that_leaves_a_stalled_answer_leaves_nothing_behind() -> None:
    vendor = Vendor()
    vendor.gate.clear()
    async with talking(vendor) as (stand, session):
        stand.toxic("http_stall", {"events": 1})
        async with session.get("/events") as response:
            await response.content.readexactly(len(event(1)))
        async with asyncio.timeout(60):
            await vendor.cancelled.wait()
        await stand.until(lambda: not stand.proxied._links, "the link is forgotten")


async def test_an_encoded_body_passes() -> None:
    async def encoded(request: web.Request) -> web.Response:
        headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
        return web.Response(body=b"\x1f\x8bdata: 1\n\ndata: 2\n\n", headers=headers)

    app = web.Application()
    app.router.add_get("/", encoded)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with standing(upstream=runner.addresses[0][1]) as stand:
        name = stand.toxic("sse_truncate", {"events": 1})
        async with aiohttp.ClientSession(stand.url, auto_decompress=False) as session:
            assert await read(session, "/") == b"\x1f\x8bdata: 1\n\ndata: 2\n\n"
        assert stand.effect(name)["events"] == 0
    await runner.cleanup()


# ---------------------------------------------------------------- WebSockets


@asynccontextmanager
async def websocket(vendor: Vendor) -> AsyncIterator[tuple[Stand, aiohttp.ClientWebSocketResponse]]:
    async with talking(vendor) as (stand, session):
        yield stand, await session.ws_connect("/socket", autoping=False)


async def say(socket: aiohttp.ClientWebSocketResponse, text: str) -> aiohttp.WSMessage:
    await socket.send_str(text)
    return await socket.receive(timeout=60)


@pytest.mark.parametrize("size", [10, 1000, 100_000])
async def test_a_websocket_is_closed_with_a_code_after_so_many_messages(size: int) -> None:
    vendor = Vendor()
    async with talking(vendor) as (stand, session):
        name = stand.toxic("ws_truncate", {"messages": 2, "code": 1013, "reason": "try again later"})
        async with session.ws_connect("/socket") as socket:
            for letter in "ab":
                assert json.loads((await say(socket, letter * size)).data) == {"heard": letter * size}
            closed = await say(socket, "c")
            assert (closed.type, closed.data, closed.extra) == (WSMsgType.CLOSE, 1013, "try again later")
        assert stand.effect(name)["events"] == 1
        code, heard = await asyncio.wait_for(vendor.closed.get(), 60)
        assert heard == ["a" * size, "b" * size]
        assert code in {None, 1006}, "its connection was lost"


async def test_the_server_may_be_told_goodbye_in_the_clients_name() -> None:
    vendor = Vendor()
    async with talking(vendor) as (stand, session):
        stand.toxic("ws_truncate", {"messages": 1, "code": 1001}, stream="upstream")
        async with session.ws_connect("/socket") as socket:
            await socket.send_str("a")
            code, heard = await asyncio.wait_for(vendor.closed.get(), 60)
            assert (code, heard) == (1001, ["a"])
            assert (await socket.receive(timeout=60)).type in {WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.TEXT}


async def test_a_websocket_stalls_in_one_stream_and_speaks_on_in_the_other() -> None:
    vendor = Vendor()
    async with talking(vendor) as (stand, session):
        name = stand.toxic("ws_stall", {"messages": 1})
        socket = await session.ws_connect("/socket")
        assert (await say(socket, "a")).data == '{"heard": "a"}'
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(say(socket, "b"), 0.1)
        await socket.send_str("c")
        stand.proxied.remove(name)
        assert (await socket.receive(timeout=60)).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        await socket.close()
        _, heard = await asyncio.wait_for(vendor.closed.get(), 60)
        assert heard[:2] == ["a", "b"]


@pytest.mark.parametrize("stream", ["upstream", "downstream"])
async def test_one_message_of_a_websocket_is_malformed(stream: str) -> None:
    async with talking(Vendor()) as (stand, session):
        name = stand.toxic("ws_malformed", {"message": 2}, stream=stream)
        async with session.ws_connect("/socket") as socket:
            texts = [(await say(socket, text)).data for text in ("one", "two", "three")]
        spoilt = '{"heard": "~~~"}' if stream == "upstream" else "~" * len('{"heard": "two"}')
        assert texts == ['{"heard": "one"}', spoilt, '{"heard": "three"}']
        assert stand.effect(name)["events"] == 1


async def test_a_websocket_that_was_open_before_is_left_alone() -> None:
    async with talking(Vendor(), connections=2) as (stand, session):
        async with session.ws_connect("/socket") as socket:
            assert (await say(socket, "a")).data == '{"heard": "a"}'
            name = stand.toxic("ws_truncate", {"messages": 0})
            for letter in "bcd":
                assert (await say(socket, letter)).data == json.dumps({"heard": letter})
            async with session.ws_connect("/socket") as other:
                assert (await other.receive(timeout=60)).data == 1011
        assert stand.effect(name)["connections"] == 1


async def test_everything_passes_byte_for_byte_while_toxics_look_on() -> None:
    """All that reads the stream is there, and befalls nothing: what arrives is what was sent."""
    vendor = Vendor()
    async with vendor.behind() as stand:
        asked = (
            b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
            b"POST /plain HTTP/1.1\r\nHost:x\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n"
            b"HEAD /plain HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )

        async def answers() -> bytes:
            reader, writer = await stand.connect()
            for index in range(len(asked)):
                writer.write(asked[index : index + 1])
                await asyncio.sleep(0)
            return b"\r\n".join(line for line in (await reader.read()).split(b"\r\n") if not line.startswith(b"Date:"))

        without = await answers()
        stand.toxic("sse_truncate", {"events": 100})
        stand.toxic("sse_malformed", {"event": 100})
        stand.toxic("http_stall", {"bytes": 1_000_000})
        stand.toxic("http_status", {"status": 500, "share": 1e-9})
        stand.toxic("ws_truncate", {"messages": 100})
        assert await answers() == without
        assert stand.effect("sse_truncate_downstream")["unreadable"] == 0
