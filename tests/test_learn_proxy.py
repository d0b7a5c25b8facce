"""The recording proxy changes nothing, goes to its upstream alone, and sees clients leave."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from busyhour.clock import SystemClock
from busyhour.emulators.twin import listening, reset
from busyhour.errors import ServiceError
from busyhour.learn.lessons import Lessons
from busyhour.learn.llm import OPENAI, LanguageModel
from busyhour.learn.proxy import Upstream, check_reachable, passing
from busyhour.learn.student import Student
from busyhour.model import MS

CLOCK = SystemClock()


@asynccontextmanager
async def proxied(upstream: str, student: Student) -> AsyncIterator[str]:
    async with passing(Upstream.parse(upstream, ""), student, 0) as port:
        yield f"http://127.0.0.1:{port}"


# ---------------------------------------------------------------- nothing is changed


class Vendor:
    """A server that answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.raw_path, headers, await request.read()))
        if request.path == "/reset":
            reset(request)
        if request.path in ("/zipped", "/cut"):
            response = web.StreamResponse(headers={"Content-Length": "100", "X-Two": "2"})
            await response.prepare(request)
            if request.path == "/cut":
                await response.write(b"half")
                reset(request)
                return response
        if request.path == "/refused":
            return web.json_response({"why": "no"}, status=402, headers={"dg-error": "no money"})
        if request.path == "/gzip":
            body = gzip.compress(b"data: {}\n\n")
            return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/event-stream"})
        if request.headers.get("Upgrade"):
            return await self.socket(request)
        return web.Response(text="hello", status=207, reason="Odd", headers=[("X-Two", "a"), ("X-Two", "b")])

    async def socket(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoping=False, protocols=("token",), max_msg_size=0)
        ws.headers["x-request-id"] = "r1"
        await ws.prepare(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data.upper())
            elif message.type is WSMsgType.BINARY and message.data == b"die":
                reset(request)
            elif message.type is WSMsgType.BINARY and message.data == b"close":
                await ws.close(code=4001, message=b"enough")
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data[::-1])
            elif message.type is WSMsgType.PING:
                await ws.pong(message.data)
        return ws


@asynccontextmanager
async def between() -> AsyncIterator[tuple[Vendor, str, aiohttp.ClientSession]]:
    vendor = Vendor()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", vendor.handle)
    async with (
        listening(app) as port,
        proxied(f"http://127.0.0.1:{port}", LanguageModel(Lessons(), OPENAI)) as origin,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        yield vendor, origin, session


async def test_requests_and_answers_pass_as_they_are() -> None:
    async with between() as (vendor, origin, session):
        headers = {"Authorization": "Bearer secret", "X-Odd": "ä", "Accept-Encoding": "br, gzip", "User-Agent": "me"}
        async with session.put(f"{origin}/a%2Fb/c?q=%20x&q=2", data=b"\x00\xff", headers=headers) as answer:
            assert (answer.status, answer.reason, await answer.text()) == (207, "Odd", "hello")
            assert answer.headers.getall("X-Two") == ["a", "b"]
        method, path, passed, body = vendor.seen[0]
        assert (method, path, body) == ("PUT", "/a%2Fb/c?q=%20x&q=2", b"\x00\xff")
        assert passed["authorization"] == "Bearer secret"
        assert passed["user-agent"] == "me"
        assert passed["accept-encoding"] == "gzip"  # what we could not read is not asked for
        assert passed["host"] != origin.removeprefix("http://")
        async with session.get(f"{origin}/gzip") as answer:
            assert gzip.decompress(await answer.read()) == b"data: {}\n\n"
            assert answer.headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate"])
async def test_a_compressed_request_passes_as_what_it_says(coding: str) -> None:
    body = b'{"model": "m"}'
    packed = gzip.compress(body) if coding.lower() == "gzip" else zlib.compress(body)
    async with between() as (vendor, origin, session):
        async with session.post(f"{origin}/v1/files", data=packed, headers={"Content-Encoding": coding}) as answer:
            assert answer.status == 207
        _, _, passed, received = vendor.seen[0]
        assert received == body
        assert "content-encoding" not in passed
        assert passed["content-length"] == str(len(body))


async def test_breaks_pass_too() -> None:
    async with between() as (_, origin, session):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(f"{origin}/reset", data=b"x")
        async with session.get(f"{origin}/cut") as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()


async def test_sockets_pass_as_they_are() -> None:
    async with (
        between() as (vendor, origin, session),
        session.ws_connect(f"{origin}/s?x=1", protocols=("token", "key"), autoping=False, autoclose=False) as ws,
    ):
        assert ws.protocol == "token"
        assert vendor.seen[0][2]["sec-websocket-protocol"] == "token,key"
        await ws.send_str("hällo")
        assert (await ws.receive()).data == "HÄLLO"
        await ws.send_bytes(b"\x01\x02")
        assert (await ws.receive()).data == b"\x02\x01"
        await ws.ping(b"p")
        pong = await ws.receive()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"p")
        await ws.send_bytes(b"close")
        closed = await ws.receive()
        assert (closed.type, closed.data, closed.extra) == (WSMsgType.CLOSE, 4001, "enough")


async def test_a_socket_that_breaks_or_is_refused_is_so_for_the_client() -> None:
    async with between() as (_, origin, session):
        async with session.ws_connect(f"{origin}/s") as ws:
            await ws.send_bytes(b"die")
            assert (await ws.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
            assert ws.close_code == 1006
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        async with session.get(f"{origin}/refused", headers={**upgrade, "Sec-WebSocket-Key": "x" * 24}) as answer:
            assert (answer.status, await answer.json()) == (402, {"why": "no"})
            assert answer.headers["dg-error"] == "no money"


async def test_a_vendor_that_is_gone_is_a_502_and_teaches_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        lessons = Lessons()
        async with proxied(nowhere, LanguageModel(lessons, OPENAI)) as origin, aiohttp.ClientSession() as session:
            async with session.post(f"{origin}/v1/chat/completions", json={}) as answer:
                assert answer.status == 502
                assert f"busyhour: {nowhere} cannot be reached: " in (await answer.json())["error"]
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(f"{origin}/v1/listen")
        assert lessons.profile(vendor="openai", upstream="", learned="") is None
        with pytest.raises(ServiceError, match=f"the upstream {nowhere} cannot be reached: .*; check the URL"):
            await check_reachable(Upstream.parse(nowhere, ""))


# ---------------------------------------------------------------- nothing goes elsewhere


async def asked_raw(origin: str, request_line: str, *headers: str) -> str:
    """The whole answer to a request whose target is written as it stands."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(origin.rpartition(":")[2]))
    try:
        head = [request_line, "Host: 127.0.0.1", "Connection: close", *headers]
        writer.write("\r\n".join([*head, "", ""]).encode())
        return (await asyncio.wait_for(reader.read(), 60)).decode()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_request_in_absolute_form_that_names_us_is_taken(host: str) -> None:
    async with between() as (vendor, origin, _):
        port = origin.rpartition(":")[2]
        answer = await asked_raw(origin, f"GET http://{host}:{port}/a%2Fb?q=%20 HTTP/1.1")
        assert answer.startswith("HTTP/1.1 207 Odd")
        assert vendor.seen[0][1] == "/a%2Fb?q=%20"


UPGRADE = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + "x" * 24)


@pytest.mark.parametrize("headers", [(), UPGRADE], ids=["http", "websocket"])
@pytest.mark.parametrize(
    "target",
    [
        "http://api.vendor.example/v1/chat",
        "http://127.0.0.1:9/v1/chat",
        "https://127.0.0.1:{port}/v1/chat",
        "http://user@127.0.0.1:9/",
    ],
)
async def test_a_request_for_another_host_is_refused_and_goes_nowhere(target: str, headers: tuple[str, ...]) -> None:
    async with between() as (vendor, origin, _):
        target = target.format(port=origin.rpartition(":")[2])
        answer = await asked_raw(origin, f"GET {target} HTTP/1.1", *headers)
        assert answer.startswith("HTTP/1.1 421 ")
        assert f"the request is for {target}, and this is no forward proxy; all goes to http://127.0.0.1:" in answer
        assert "set it as the vendor's base URL, not as HTTP_PROXY" in answer
        assert vendor.seen == []


async def test_what_the_parser_lets_through_makes_no_other_host() -> None:
    async with between() as (vendor, origin, _):
        for line in ("GET @127.0.0.1:9/", "CONNECT 127.0.0.1:9", "GET .vendor.example/", "OPTIONS *"):
            assert (await asked_raw(origin, f"{line} HTTP/1.1")).partition(" ")[2][:1] == "4"
        assert (await asked_raw(origin, "GET //127.0.0.1:9/x HTTP/1.1")).startswith("HTTP/1.1 207 ")
        assert [path for _, path, _, _ in vendor.seen] == ["//127.0.0.1:9/x"]
    with pytest.raises(ValueError, match="no path"):
        Upstream("https://api.vendor.example").url("http://elsewhere/")


# ---------------------------------------------------------------- clients that leave


async def test_a_client_that_leaves_before_the_answer_has_begun_has_waited() -> None:
    asked, lessons = asyncio.Event(), Lessons()

    async def hang(request: web.Request) -> web.Response:
        await request.read()
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", hang)
    async with listening(app) as port, proxied(f"http://127.0.0.1:{port}", LanguageModel(lessons, OPENAI)) as origin:
        async with aiohttp.ClientSession() as session:
            began_ns = CLOCK.now_ns()
            leaving = asyncio.ensure_future(session.post(f"{origin}/v1/chat/completions", json={"stream": True}))
            await asyncio.wait_for(asked.wait(), 60)
            asked_ns = CLOCK.now_ns()
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        left_ns = CLOCK.now_ns()
        async with asyncio.timeout(60):
            while not lessons.waits:  # noqa: ASYNC110  (the proxy sets no event when it sees a client gone)
                await asyncio.sleep(0.01)
        seen_ns = CLOCK.now_ns()
    waits = lessons.waits["first_token"]
    assert (waits.came, waits.abandoned, lessons.finished) == (0, 1, 0)
    assert left_ns - asked_ns <= waits.curve().longest_ms * MS + MS <= seen_ns - began_ns + 2 * MS
