"""The HTTP workload on the wire: against aiohttp's server, and against bytes that no good server would send."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from random import Random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from busyhour.arrivals import Burst, Constant, Hold
from busyhour.model import MS
from busyhour.workloads.http import Check, Contains, Get, Http, JSONEquals, Post, Put

from .flooding import PHASE, Peer, certificate, flooded, raw_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_a_server_of_the_field_sees_what_was_asked_and_connections_are_kept_alive() -> None:
    seen: list[tuple[str, str, str, str]] = []
    peers = set()

    async def slots(request: web.Request) -> web.Response:
        peers.add(request.transport)
        seen.append((request.method, request.path_qs, request.headers.get("X-Tenant", ""), await request.text()))
        return web.json_response({"slots": [{"day": "Tuesday", "free": True}]})

    application = web.Application()
    application.router.add_route("*", "/slots", slots)
    tuesday: list[Check] = [JSONEquals("slots.0.day", "Tuesday"), JSONEquals("slots.0.free", True), Contains("Tues")]
    requests = [
        Get("/slots?day=2", headers={"X-Tenant": "anna"}, checks=tuesday),
        Post("/slots", json={"day": "ü"}, status=200, checks=tuesday),
        Put("/slots", body=b"raw"),
    ]
    async with TestServer(application) as server:
        done = await flooded(Http(requests, connections=1), str(server.make_url("/")), Constant(200, 0.15))
    assert done.outcomes == ["ok"] * 30
    assert done.total == 30
    assert len(peers) == 1
    assert seen[:3] == [
        ("GET", "/slots?day=2", "anna", ""),
        ("POST", "/slots", "", '{"day":"\\u00fc"}'),
        ("PUT", "/slots", "", "raw"),
    ]


async def test_a_wrong_answer_says_what_is_wrong_with_it() -> None:
    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "draining", "calls": 1}, status=int(request.query.get("status", 200)))

    application = web.Application()
    application.router.add_get("/health", health)
    checks: list[list[Check]] = [
        [JSONEquals("status", "ok")],
        [JSONEquals("calls", True)],
        [JSONEquals("calls.0", 1)],
        [Contains("fine")],
        [JSONEquals("", [])],
    ]
    requests = [Get("/health", checks=check) for check in checks]
    requests += [Get("/health?status=503"), Get("/nowhere"), Get("/health", status=201), Get("/nowhere", status=404)]
    async with TestServer(application) as server:
        done = await flooded(Http(requests), str(server.make_url("/")), Burst(len(requests)))
    assert sorted(done.outcomes) == [
        "http_200",
        "http_404",
        "http_503",
        "ok",
        "wrong answer: calls is not true",
        "wrong answer: no 'fine' in it",
        "wrong answer: no calls.0",
        'wrong answer: status is not "ok"',
        "wrong answer: the body is not []",
    ]
    (mark,) = done.run.marks("requests.failed")
    assert sum(map(int, map(str, mark.detail.values()))) == 8


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (OK, "ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nTrailer: 1\r\n\r\n", "ok"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok", "ok"),
        (b"HTTP/1.0 200 OK\r\n\r\nok", "ok"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "closed early"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "closed early"),
        (b"HTTP/1.1 200 OK\r\nContent-Len", "closed early"),
        (b"", "closed early"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "wrong answer: no 'ok' in it"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "wrong answer: no 'ok' in it"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "malformed answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "malformed answer"),
        (b"\x00\xff\x16\x03", "malformed answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "malformed answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok", "malformed answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "headers too large"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, "headers too large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 17000000\r\n\r\n" + b"x" * 17_000_000, "answer over 16 MB"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_every_end_of_an_answer(answer: bytes, outcome: str, at_once: bool) -> None:
    """Whole, and one byte at a time as far as the head goes: the outcome is the same."""

    async def talk(peer: Peer) -> None:
        await peer.request()
        pieces = [answer] if at_once else [*(answer[i : i + 1] for i in range(60)), answer[60:]]
        try:
            for piece in pieces:
                peer.writer.write(piece)
                await peer.writer.drain()
        except ConnectionError:  # it would not hear more
            return

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/", checks=[Contains("ok")])], timeout_seconds=5), url)
    assert done.outcomes == [outcome]
    assert (done.counts.started, done.counts.finished, done.counts.failed) == (1, 1, outcome != "ok")


async def test_a_reset_in_the_body_is_one() -> None:
    async def talk(peer: Peer) -> None:
        await peer.request()
        peer.writer.write(OK[:-1])
        await peer.writer.drain()
        await asyncio.sleep(0.02)  # so that it is read before the RST, which discards what is not
        peer.reset()

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/")]), url)
    assert done.outcomes == ["reset"]


async def test_a_connection_that_the_server_closed_between_two_requests_costs_none() -> None:
    """As a server does whose keep-alive has run out, while the next request is on its way. A POST is not repeated."""
    methods: list[bytes] = []

    async def talk(peer: Peer) -> None:
        methods.append((await peer.request())[:4])
        peer.writer.write(OK)
        methods.append((await peer.request())[:4])

    async with raw_server(talk) as url:
        gets = await flooded(Http([Get("/")], connections=1), url, Burst(4))
        assert gets.outcomes == ["ok"] * 4
        assert methods == [b"GET "] * 7  # the first once; each other was on a connection that was closed before it
        posts = await flooded(Http([Post("/")], connections=1), url, Burst(2))
    assert sorted(posts.outcomes) == ["closed early", "ok"]


async def test_two_answers_to_one_request_and_an_answer_to_none_end_the_connection() -> None:
    connections = 0

    async def talk(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.request()
        peer.writer.write(OK + OK)
        await peer.request()

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/")], connections=1), url, Burst(3))
    assert done.outcomes == ["ok"] * 3
    assert connections == 3


async def test_who_is_slow_is_given_up_and_the_time_runs_from_when_it_was_due() -> None:
    """One connection, 30 ms for each answer, all due at once: the k-th takes k times as long.

    The loop's timers count in ms, so that 30 ms may be over 1 ms early.
    """

    async def talk(peer: Peer) -> None:
        while await peer.request():
            await asyncio.sleep(0.03)
            peer.writer.write(OK)

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/")], connections=1, timeout_seconds=1), url, Burst(60))
    fine = [sample.value for sample in done.run.samples("requests", "latency_ms") if sample.value < 1e9]
    assert all(value >= 29 * (k + 1) for k, value in enumerate(fine))
    service = [sample.value for sample in done.run.samples("requests", "service_ms") for _ in range(sample.count)]
    service = service[: len(fine)]
    assert min(service) >= 29
    assert sum(service) <= 1.05 * max(fine), "one after the other: each takes its share of what the last one took"
    assert 2 <= done.outcomes.count("ok") <= 1000 / 29
    assert done.outcomes.count("timeout") == 60 - done.outcomes.count("ok") == done.counts.failed


async def test_nobody_there_and_nobody_answering() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        refused = await flooded(Http([Get("/")], connections=3), nobody, Constant(200, 0.1))
        busy = await flooded(Http([Get("/")]), nobody, Constant(5000, 0.3), at_once=1500)
    assert refused.outcomes == ["connect refused"] * 20
    assert (busy.counts.dropped, busy.counts.failed, busy.total) == (0, 1500, 1500)
    assert set(busy.outcomes) == {"connect refused"}
    assert 100 <= len(busy.outcomes) < 200  # some for people to look at, not a row for each

    async def silent(peer: Peer) -> None:
        await peer.request()
        await asyncio.Event().wait()

    async with raw_server(silent) as url:
        mute = await flooded(Http([Get("/")], timeout_seconds=0.1), url, Burst(3))
        assert mute.outcomes == ["timeout"] * 3
        drained = await flooded(Http([Get("/")], timeout_seconds=9), url, Burst(3), drain_seconds=0.1)
        assert drained.outcomes == ["cut off"] * 3
        assert drained.total == drained.counts.failed == 3
        stopped = await flooded(Http([Get("/")]), url, Burst(3), until=lambda counts: counts.started == 3)
        assert stopped.outcomes == ["cut off"] * 3
        assert stopped.total == 0  # what we stopped says nothing of the target


async def test_a_sequence_goes_on_until_it_fails_and_the_rest_is_not_absent() -> None:
    paths: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=503 if request.path == "/b" else 200)

    application = web.Application()
    application.router.add_get("/{name}", answer)
    sequences = [[Get("/a"), Get("/c")], [Get("/a"), Get("/b"), Get("/c"), Get("/d")]]
    async with TestServer(application) as server:
        done = await flooded(Http(sequences, connections=2), str(server.make_url("/")), Constant(100, 0.02))
    assert sorted(paths) == ["/a", "/a", "/b", "/c"]
    assert {o.id: o.outcome for o in done.run.operations("request")} == {
        f"{PHASE}/1": "ok",
        f"{PHASE}/1/2": "ok",
        f"{PHASE}/2": "ok",
        f"{PHASE}/2/2": "http_503",
    }
    (mark,) = done.run.marks("requests.failed")
    assert mark.detail == {"http_503": 1, "not reached": 2}
    assert done.total == 6
    assert done.counts.finished == 2


async def test_tls_with_a_certificate_that_is_trusted_or_not(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)

    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)

    async with raw_server(talk, server) as url:
        trusted = await flooded(Http([Get("/")], tls=client), url, Constant(200, 0.1))
        assert trusted.outcomes == ["ok"] * 20
        stranger = await flooded(Http([Get("/")]), url)
        assert stranger.outcomes == ["certificate refused: self-signed certificate"]
        plain = await flooded(Http([Get("/")]), url.replace("https", "http"))
        assert plain.outcomes[0] in {"closed early", "malformed answer", "reset"}
    async with raw_server(talk) as url:
        patient = Http([Get("/")], tls=client, timeout_seconds=0.2)
        assert (await flooded(patient, url.replace("http", "https"))).outcomes == ["timeout"]  # it waits for a request

    async def rude(peer: Peer) -> None:
        peer.writer.write(b"no TLS here, and never was\r\n")

    async with raw_server(rude) as url:
        refused = await flooded(Http([Get("/")], tls=client), url.replace("http", "https"))
    assert refused.outcomes[0].startswith(("TLS failed: ", "connect failed: ")), refused.outcomes


async def test_there_are_no_more_connections_than_were_granted_and_arrivals_without_room_are_dropped() -> None:
    open_now = most = 0

    async def talk(peer: Peer) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        while await peer.request():
            await asyncio.sleep(0.01)
            peer.writer.write(OK)
        open_now -= 1

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/")], connections=4), url, Burst(60), at_once=20)
        assert most == 4
        assert (done.counts.started, done.counts.dropped, done.total) == (20, 40, 20)
        held = await flooded(Http([Get("/")], connections=9), url, Hold(at_once=5, seconds=0.2))
    assert held.counts.finished == held.counts.started >= 5
    assert held.outcomes == ["ok"] * held.total
    assert most == 5


async def test_a_closed_load_ends_at_its_time_though_nothing_is_answered() -> None:
    async def talk(peer: Peer) -> None:
        await peer.request()
        await asyncio.sleep(3600)

    hold = Hold(at_once=5, seconds=0.2)
    async with raw_server(talk) as url, asyncio.timeout(60):  # and the requests would wait for an hour
        done = await flooded(Http([Get("/")], timeout_seconds=3600), url, hold, drain_seconds=0.2)
    assert (done.counts.started, done.counts.finished) == (5, 5)
    assert done.outcomes == ["cut off"] * 5


async def test_a_request_is_taken_up_when_it_is_due_and_never_before() -> None:
    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)

    async with raw_server(talk) as url:
        done = await flooded(Http([Get("/")]), url, Constant(100, 0.5))
    operations = done.run.operations("request")
    assert [o.due_ns - operations[0].due_ns for o in operations] == [k * 10 * MS for k in range(50)]
    assert all(o.began_ns is not None and o.began_ns >= o.due_ns for o in operations)
    lateness = done.run.samples("harness", "send_lateness_ms")
    assert sum(sample.count for sample in lateness) == 50


async def test_a_bug_of_ours_ends_the_run_and_is_not_taken_for_a_failure_of_the_target() -> None:
    class Broken:
        def wrong(self, body: bytes) -> str:
            raise LookupError(body)

    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(OK)

    async with raw_server(talk) as url:
        with pytest.raises(LookupError):
            await flooded(Http([Get("/", checks=[Broken()])]), url, Constant(100, 5))


async def test_whatever_a_server_says_every_request_has_one_outcome_and_the_run_goes_on() -> None:
    """Answers with bytes changed, lost and doubled at random; no two requests may share an answer's fate."""
    random = Random(7)
    good = [
        OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 100 C\r\n\r\n" + OK,
    ]

    def spoilt() -> bytes:
        answer = bytearray(random.choice(good))
        for _ in range(random.randrange(4)):
            at = random.randrange(len(answer))
            change = random.randrange(4)
            if change == 0:
                answer[at] = random.randrange(256)
            elif change == 1:
                del answer[at : at + random.randrange(1, 9)]
            elif change == 2:
                answer[at:at] = answer[at : at + 20]
            else:
                answer[at:at] = random.randbytes(3)
            answer = answer or bytearray(b"x")
        return bytes(answer)

    async def talk(peer: Peer) -> None:
        while await peer.request():
            peer.writer.write(spoilt())
            if random.random() < 0.2:
                return

    async with raw_server(talk) as url:
        workload = Http([Get("/", checks=[Contains("ok")]), Post("/")], connections=5, timeout_seconds=0.3)
        done = await flooded(workload, url, Constant(500, 1))
    assert done.counts.finished == done.counts.started == done.total == 500
    failed = [mark.detail.values() for mark in done.run.marks("requests.failed")]
    assert sum(int(str(count)) for counts in failed for count in counts) == done.counts.failed
    assert 0 < done.counts.failed < 500
