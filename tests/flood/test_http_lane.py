"""Requests by the compiled lane, held against the long way: httptools on the answers, and asyncio's transports."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fastlane.rig import LANE, compiled

from busyhour.arrivals import Burst, Constant
from busyhour.workloads.http import Contains, Get, Http, Post, Request
from busyhour.workloads.http.connection import Connection
from busyhour.workloads.http.flood import Flood

from .flooding import Flooded, Peer, flooded, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

# ---------------------------------------------------------------- what an answer says

LINES = st.sampled_from([
    b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 301 ", b"HTTP/1.1 599 x", b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 100 Continue", b"HTTP/1.0 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 20 OK",
    b"HTTP/1.1 2000 OK", b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 200 \xc3\xbc", b"HTTP/1.1 200 O\tK",
])  # fmt: skip
HEADERS = st.sampled_from([
    b"Content-Length: 2", b"content-length:2", b"CONTENT-LENGTH: 02", b"Content-Length: 2 ", b"Content-Length:  2",
    b"Content-Length: 3", b"Content-Length: ", b"Content-Length: +2", b"Content-Length: 2, 2", b"Content-Length : 2",
    b"Content-Length: 99999999999999999999", b"Connection: keep-alive", b"connection: Keep-Alive", b"Connection: close",
    b"Connection: keep-alive, close", b"Connection:", b"Connection: upgrade", b"Proxy-Connection: close",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Upgrade: h2c", b"Date: today", b"X:", b": x", b"",
    b" folded", b"\tfolded", b"X-Y_Z: \xff", b"X: a\tb", b"X: a\x00b", b"X y: z", b"no colon", b"Trailer: x", b"TE: x",
    b"Keep-Alive: timeout=5", b"X: " + b"y" * 300, b"Set-Cookie: a=b; c", b"X!: 1", b"X: a\rb",
])  # fmt: skip
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" \r\n"])
USUAL = st.lists(st.sampled_from([b"Date: today", b"Server: x", b"Keep-Alive: timeout=5", b"Connection: keep-alive"]))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    headers = draw(USUAL) + draw(st.lists(HEADERS, max_size=3))
    headers.insert(draw(st.integers(0, len(headers))), b"Content-Length: 2")
    lines = [draw(LINES | st.just(b"HTTP/1.1 200 OK")), *headers]
    end = draw(ENDS) if draw(st.booleans()) else b"\r\n"
    body = draw(st.sampled_from([b"ok", b"", b"o", b"okk", OK, b"\r\n"]))
    whole = end.join([*lines, b"", b""]) + body
    at = draw(st.integers(0, len(whole)))
    changed = whole[:at] + draw(st.binary(max_size=3)) + whole[at:]
    return draw(st.sampled_from([whole, whole, whole, whole[:at], changed]))


@dataclass
class Judge:
    """What llhttp says: the status, the body, and whether the connection stays, of each answer."""

    found: list[tuple[int, bytes, bool]] = field(default_factory=list)
    body: bytes = b""

    def read(self, data: bytes) -> str:
        self.parser = httptools.HttpResponseParser(self)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            return str(error)
        return ""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_status_code(), self.body, self.parser.should_keep_alive()))


@compiled
@given(answers())
def test_an_answer_that_the_lane_takes_is_to_llhttp_the_same(answer: bytes) -> None:
    taken = importlib.import_module(LANE).plain_answer(answer)
    if taken is None:
        return
    status, head = taken
    judge = Judge()
    assert judge.read(answer) == ""
    assert judge.found == [(status, answer[head:], True)]


@compiled
@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\ndate: Sat, 21 Nov 2026 20:15:56 GMT\r\nserver: uvicorn\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nX-Request-Id: 7f\r\nKeep-Alive: timeout=5\r\nContent-Length: 1\r\nA-B: /a?b=\r\n\r\n.",
    ],
)
def test_the_lane_takes_what_servers_send_and_nothing_less_or_more(answer: bytes) -> None:
    plain_answer = importlib.import_module(LANE).plain_answer
    assert plain_answer(answer) == (int(answer[9:12]), answer.index(b"\r\n\r\n") + 4)
    assert [plain_answer(answer[:size]) for size in range(len(answer))] == [None] * len(answer)
    assert plain_answer(answer + b"x") is None


# ---------------------------------------------------------------- over sockets


@pytest.fixture
def by_transports(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many pieces of answers the long way had to read."""
    count: Counter[str] = Counter()
    data_received = Connection.data_received

    def counting(self: Connection, data: bytes) -> None:
        count["pieces"] += 1
        data_received(self, data)

    monkeypatch.setattr(Connection, "data_received", counting)
    return count


@compiled
async def test_nearly_all_answers_are_taken_by_the_lane(by_transports: Counter[str]) -> None:
    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)

    workload = Http([Get("/"), Get("/b", checks=[Contains("ok")]), Get("/c", status=200)], connections=2)
    async with raw_server(talk) as url:
        done = await flooded(workload, url, Constant(500, 0.3))
    assert set(done.outcomes) == {"ok"}
    assert done.counts.finished == done.total == 150
    assert by_transports["pieces"] <= 2  # the first of each connection


def answer_of(random: Random) -> tuple[bytes, bool]:
    """An answer or what has become of one, and whether the connection ends with it."""
    good = [
        OK,
        b"HTTP/1.1 200 OK\r\nDate: now\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nok!!",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"ok" * 50_000,
    ]
    answer = bytearray(random.choice([*good, OK, OK, OK]))
    spoilt = random.random() < 0.2
    if spoilt:
        at = random.randrange(min(len(answer), 60))
        answer[at : at + random.randrange(3)] = random.randbytes(random.randrange(3))
    return bytes(answer), spoilt or random.random() < 0.1


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def spoken_to(requests: list[Request], *, seed: int) -> Flooded:
    """One connection at a time and one request after another, so that chance has no say in which answer is whose."""
    random = Random(seed)

    async def talk(peer: Peer) -> None:
        while await peer.request():
            answer, last = answer_of(random)
            cut = random.randrange(len(answer)) if random.random() < 0.2 else len(answer)
            pause = random.random() < 0.5
            try:
                peer.writer.write(answer[:cut])
                await turns(20 * pause)  # so that it comes in two pieces
                peer.writer.write(answer[cut:])
                await peer.writer.drain()
            except ConnectionError:
                return
            if last:
                return

    async with raw_server(talk) as url:
        return await flooded(Http(requests, connections=1, timeout_seconds=60), url, Burst(120))


@compiled
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_a_server_says_comes_out_as_without_the_lane(
    seed: int, monkeypatch: pytest.MonkeyPatch, by_transports: Counter[str]
) -> None:
    requests = [Get("/"), Post("/", json={"a": 1}), Get("/c", checks=[Contains("ok")]), Get("/d", status=503)]
    by_lane = await spoken_to(requests, seed=seed)
    pieces = by_transports["pieces"]
    monkeypatch.setattr(Flood, "read_directly", lambda _: None)
    by_python = await spoken_to(requests, seed=seed)
    told = [
        ([(o.id, o.outcome, o.detail["status"]) for o in done.run.operations("request")], done.counts)
        for done in (by_lane, by_python)
    ]
    assert told[0] == told[1]
    assert len(set(by_lane.outcomes)) >= 4
    assert pieces < by_transports["pieces"] - pieces


async def test_a_request_that_does_not_fit_into_the_socket_is_sent_whole() -> None:
    bodies: list[bytes] = []

    async def talk(peer: Peer) -> None:
        while request := await peer.request():
            bodies.append(request.partition(b"\r\n\r\n")[2])
            peer.writer.write(OK)

    big = Random(1).randbytes(8_000_000)
    async with raw_server(talk) as url:
        workload = Http([Get("/"), Post("/", body=big), Post("/", body=b"x")], connections=1)
        done = await flooded(workload, url, Burst(9))
    assert done.outcomes == ["ok"] * 9
    assert bodies == [b"", big, b"x"] * 3


async def test_a_server_that_closes_what_is_idle_or_resets_what_is_under_way() -> None:
    async def talk(peer: Peer) -> None:
        for _ in range(3):  # the second and the third are the lane's
            if not await peer.request():
                return
            peer.writer.write(OK)
        if b"/last" in await peer.request():
            peer.reset()

    async with raw_server(talk) as url:
        idle = await flooded(Http([Get("/")], connections=1), url, Constant(200, 0.1))
        reset = await flooded(Http([Post("/last")], connections=1), url, Burst(8))
    assert idle.outcomes == ["ok"] * 20
    assert Counter(reset.outcomes) == {"ok": 6, "reset": 2}


async def test_an_answer_without_a_length_that_is_reset_is_not_taken_for_whole() -> None:
    async def talk(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            peer.writer.write(OK)
        await peer.request()
        peer.writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf of")
        await turns(20)  # it is read
        peer.reset()

    async with raw_server(talk) as url:
        done = await flooded(Http([Post("/")], connections=1), url, Burst(6))
    assert done.outcomes == ["ok", "ok", "reset"] * 2


async def test_a_connection_that_the_lane_finds_broken_is_told_as_by_its_transport(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[Connection] = []
    join = Connection.join

    def joining(self: Connection) -> None:
        join(self)
        found.append(self)

    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)
            if len(found) == 1:
                await peer.request()
                found[0].cut(ConnectionResetError())
                return

    monkeypatch.setattr(Connection, "join", joining)
    async with raw_server(talk) as url:
        done = await flooded(Http([Post("/")], connections=1), url, Burst(4))
    assert done.outcomes.count("reset") == 1
    assert done.outcomes.count("ok") == done.total - 1 == 3


async def test_no_descriptor_is_left_over() -> None:
    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)

    def ours() -> int:
        return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

    async with raw_server(talk) as url:
        await flooded(Http([Get("/")], connections=5), url, Burst(50))  # what the loop opens once, it has
        await turns(50)
        before = ours()
        for _ in range(3):
            await flooded(Http([Get("/")], connections=5), url, Burst(50))
            await flooded(Http([Get("/")], connections=5), url, Burst(50), until=lambda counts: counts.started > 0)
        await turns(50)
        assert ours() <= before
