"""A twin before an upstream, byte by byte: what passes, what it makes of bad upstreams, and what it keeps to itself."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from busyhour.clock import SystemClock
from busyhour.emulators import Constant, Gemini, OpenAI
from busyhour.emulators.gemini.api import application as gemini
from busyhour.emulators.language_model import Settings
from busyhour.emulators.openai.application import application as openai
from busyhour.emulators.twin import Twin, listening, reset
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.provider import Slow
from busyhour.model import Operation

KEY = "sk-only-the-upstream-may-see-this"
ASK: dict[str, Any] = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
TOTAL = "busyhour.emulators.language_model.upstream.TOTAL_SECONDS"


def chunk(text: str, *, finish: str | None = None) -> bytes:
    form = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
    return f"data: {json.dumps(form)}\n\n".encode()


GOOD = [chunk("Hel"), chunk("lo"), chunk("", finish="stop"), b"data: [DONE]\n\n"]


@dataclass
class Scripted:
    """An upstream that sends what it is told to, and remembers what it was sent.

    then: what follows the pieces: "" for the end, "reset", or "wait" for ever.
    """

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    then: str = ""
    requests: list[tuple[web.Request, bytes]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request, await request.read()))
        response = web.StreamResponse(status=self.status, headers=self.headers)
        try:
            if self.then == "silent":
                await asyncio.sleep(60)
            await response.prepare(request)
            for piece in self.pieces if request.method != "HEAD" else ():
                await response.write(piece)
                await asyncio.sleep(0)
            if self.then == "wait":
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.left.set()
            raise
        if self.then == "reset":
            reset(request)
        return response

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self.handle)
        return app


@dataclass
class Stage:
    twin: Twin
    url: str
    session: aiohttp.ClientSession

    async def post(self, body: Any = None, path: str = "/v1/chat/completions", **more: Any) -> tuple[int, bytes]:
        async with self.session.post(self.url + path, json=ASK if body is None else body, **more) as answer:
            return answer.status, await answer.read()

    async def row(self) -> Operation:
        """The next witnessed operation: it may be written a moment after the client saw the end."""
        async with asyncio.timeout(60):
            while True:
                rows, _ = self.twin.drain()
                if rows:
                    return rows[0]
                await asyncio.sleep(0.002)


@asynccontextmanager
async def before(
    upstream: str, outcomes: Mapping[str, float] | None = None, *, build: Any = openai
) -> AsyncIterator[Stage]:
    service = Gemini(outcomes=outcomes or {}) if build is gemini else OpenAI(outcomes=outcomes or {})
    twin = Twin("a", service._behaviour, SystemClock())
    async with (
        listening(build(twin, {"upstream": upstream})) as port,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}, auto_decompress=False) as session,
    ):
        yield Stage(twin, f"http://127.0.0.1:{port}", session)


@asynccontextmanager
async def playing(
    script: Scripted, outcomes: Mapping[str, float] | None = None, *, prefix: str = "", build: Any = openai
) -> AsyncIterator[Stage]:
    async with (
        listening(script.application()) as port,
        before(f"http://127.0.0.1:{port}{prefix}", outcomes, build=build) as stage,
    ):
        yield stage


# ---------------------------------------------------------------- what passes


async def test_a_request_passes_as_it_came() -> None:
    script = Scripted(GOOD)
    async with playing(script, prefix="/openai/v1") as stage:
        raw = b' {"model":"m", "messages":[{"role":"user","content":"\\u00e9"}], "unknown": 1.0} '
        headers = {
            "X-Own": "ours",
            "Connection": "close, X-Hop",
            "X-Hop": "1",
            "TE": "trailers",
            "Content-Encoding": "gzip",
            "Accept-Encoding": "br",
        }
        url = yarl.URL(f"{stage.url}/v1/chat/completions?b=%2F&a=1&a=2", encoded=True)
        async with stage.session.post(url, data=gzip.compress(raw), headers=headers) as answer:
            assert await answer.read() == b"".join(GOOD)
        (request, body), *rest = script.requests
    assert (rest, request.method, request.raw_path) == ([], "POST", "/openai/v1/chat/completions?b=%2F&a=1&a=2")
    assert body == raw
    sent = {name.lower(): value for name, value in request.headers.items()}
    assert sent["authorization"] == f"Bearer {KEY}"
    assert (sent["x-own"], sent["accept-encoding"]) == ("ours", "identity")
    assert not {"x-hop", "te", "content-encoding", "transfer-encoding"} & sent.keys()
    assert sent["host"].startswith("127.0.0.1:")
    assert sent["host"] not in stage.url


async def test_an_answer_passes_as_it_comes_byte_for_byte() -> None:
    """However it is cut, whatever is in it; headers too, but for those of one connection."""
    pieces = [b"\xef\xbb\xbf: hello\r\n", b"\r\nda", b"ta: {}\r", b"\n\r\nnonsense\n\n\n", *GOOD, b"trailing \xff"]
    headers = {"Content-Type": "text/event-stream", "X-Request-Id": "req_1", "Set-Cookie": "a=1", "Keep-Alive": "9"}
    async with playing(Scripted(pieces, headers=headers)) as stage:
        async with stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK) as answer:
            assert await answer.read() == b"".join(pieces)
        row = await stage.row()
    assert answer.headers["X-Request-Id"] == "req_1"
    assert (answer.headers["Set-Cookie"], "Keep-Alive" in answer.headers) == ("a=1", False)
    assert (row.outcome, row.detail["reply"]) == ("ok", "Hello")


async def test_a_token_does_not_wait_for_the_next() -> None:
    async with playing(Scripted([chunk("Hel")], then="wait")) as stage:
        async with stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK) as answer:
            assert await asyncio.wait_for(answer.content.readany(), 60) == chunk("Hel")
        row = await stage.row()
    assert (row.outcome, row.detail["reply"], row.detail["tokens"]) == ("client closed", "Hel", 1)


async def test_the_upstream_knows_that_the_client_has_left() -> None:
    script = Scripted([chunk("Hel")], then="wait")
    async with playing(script) as stage:
        async with stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK) as answer:
            await answer.content.readany()
        await asyncio.wait_for(script.left.wait(), 60)


async def test_a_redirection_is_the_clients_to_follow() -> None:
    script = Scripted(status=307, headers={"Location": "http://elsewhere.invalid/"})
    async with playing(script) as stage:
        assert (await stage.post(allow_redirects=False))[0] == 307
        row = await stage.row()
    assert (row.outcome, len(script.requests)) == ("http_307", 1)


@pytest.mark.parametrize("then", ["", "reset"])
async def test_a_path_that_generates_nothing_passes_or_breaks_unwitnessed(then: str) -> None:
    script = Scripted([b"{}"], headers={"Content-Type": "application/json"}, then=then)
    async with playing(script) as stage:
        if then:
            with pytest.raises(aiohttp.ClientError):
                await stage.post(path="/v1/embeddings")
        else:
            assert await stage.post(path="/v1/embeddings") == (200, b"{}")
            async with stage.session.head(f"{stage.url}/v1/models") as answer:
                assert answer.status == 200
        assert stage.twin.drain() == ([], 0)
    assert script.requests[0][0].path == "/v1/embeddings"


async def test_the_targets_host_is_never_the_clients_choice() -> None:
    script = Scripted([b"{}"], headers={"Content-Type": "application/json"})
    async with playing(script) as stage:
        port = int(stage.url.rpartition(":")[2])
        for target in ("http://elsewhere.invalid/v1/models", "//elsewhere.invalid/v1/models"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 200")
            writer.close()
            await writer.wait_closed()
    assert [request.raw_path for request, _ in script.requests] == ["/v1/models", "//elsewhere.invalid/v1/models"]


# ---------------------------------------------------------------- bad upstreams


async def test_nobody_is_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with before(f"http://127.0.0.1:{port}/v1") as stage:
            status, body = await stage.post()
            row = await stage.row()
            other = await stage.post(path="/v1/embeddings")
    sentence = f"busyhour: the upstream http://127.0.0.1:{port} cannot be reached: Connection refused."
    assert (status, json.loads(body)["error"]["message"]) == (502, sentence)
    assert json.loads(body)["error"]["type"] == "server_error"
    assert other == (502, body)
    assert (row.outcome, row.detail["prompt"], row.detail["tokens"]) == ("http_502", "Hello", 0)


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed(tmp_path))
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server, before(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as stage:
        status, body = await stage.post()
    assert status == 502
    assert "cannot be reached: TLS failed: self-signed certificate" in json.loads(body)["error"]["message"]


def _self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    begins, ends = datetime(2020, 1, 1, tzinfo=UTC), datetime(2120, 1, 1, tzinfo=UTC)
    number = x509.random_serial_number()
    certificate = x509.CertificateBuilder(name, name, key.public_key(), number, begins, ends).sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def test_one_that_speaks_no_http() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-none\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, before(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as stage:
        status, body = await stage.post()
    assert (status, json.loads(body)["error"]["message"].endswith("cannot be reached: it speaks no HTTP.")) == (
        502,
        True,
    )


@pytest.mark.parametrize(
    ("pieces", "then", "outcome", "reply"),
    [
        (GOOD[:1], "reset", "reset", "Hel"),
        ([], "reset", "reset", ""),
        (GOOD[:1], "wait", "stall", "Hel"),
        ([b": nothing yet\n\n"], "wait", "no_token", ""),
    ],
)
async def test_one_that_breaks_off_or_stops_in_the_middle(
    pieces: list[bytes], then: str, outcome: str, reply: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TOTAL, 0.3)
    async with playing(Scripted(pieces, then=then)) as stage:
        with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
            await stage.post()
        row = await stage.row()
    assert (row.outcome, row.detail["reply"]) == (outcome, reply)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
async def test_one_that_never_answers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOTAL, 0.2)
    async with playing(Scripted(then="silent")) as stage:
        status, body = await stage.post(path=path)
        rows, _ = stage.twin.drain()
    assert (status, "has not answered within 0.2 s" in json.loads(body)["error"]["message"]) == (504, True)
    assert [row.outcome for row in rows] == (["http_504"] if "chat" in path else [])


async def test_a_client_that_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TOTAL, 1.5)
    script = Scripted([chunk("x" * 1_000_000)] * 20)
    async with playing(script) as stage, stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK):
        row = await stage.row()
    assert (row.outcome, row.detail["reply"]) == ("client closed", "x" * 4000)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([*GOOD[:2], b'data: {"choices": [\n\n', *GOOD[2:]], "malformed"),
        ([*GOOD[:2], b"data: 5\n\n", *GOOD[2:]], "malformed"),
        ([*GOOD[:2], b"data: {}, {}\n\n", *GOOD[2:]], "malformed"),
        ([*GOOD[:2], b"data: " + b"[" * 100_000 + b"\n\n", *GOOD[2:]], "malformed"),
        ([*GOOD[:2], b"data: " + b"x" * 5_000_000], "malformed"),
        (GOOD[:2], "truncate"),
        ([*GOOD[:2], b"data: [DO"], "truncate"),
        ([*GOOD[:2], b'data: {"error": {"message": "boom"}}\n\n'], "error"),
        ([*GOOD[:2], b"data: [DONE]\n\n"], "ok"),
    ],
)
async def test_what_a_stream_was_is_told_and_it_passes_untouched(pieces: list[bytes], outcome: str) -> None:
    async with playing(Scripted(pieces)) as stage:
        assert await stage.post() == (200, b"".join(pieces))
        row = await stage.row()
    assert (row.outcome, row.detail["reply"]) == (outcome, "Hello")
    assert stage.twin.as_json()["served"] == {outcome: 1}


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"<html>", b"\xff\x00", b"[1, 2]", b'[{"a": 1}'])
async def test_a_whole_body_that_is_none_passes_untouched(body: bytes) -> None:
    async with playing(Scripted([body], headers={"Content-Type": "application/json"})) as stage:
        assert await stage.post() == (200, body)
        row = await stage.row()
    assert row.outcome in ("malformed", "truncate")
    assert row.detail["tokens"] == 0


# ---------------------------------------------------------------- fates


@pytest.mark.parametrize("outcome", ["truncate", "malformed", "stall"])
@pytest.mark.parametrize("tokens", [1, 3, 20])
async def test_a_stream_is_cut_after_its_first_tokens(outcome: str, tokens: int) -> None:
    pieces = [chunk(f" {number}") for number in range(tokens)]
    async with playing(Scripted([*pieces, *GOOD[2:]]), {outcome: 1.0}) as stage:
        async with stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK) as answer:
            kept = b"".join(pieces[:8])
            assert await answer.content.readexactly(len(kept)) == kept
            if outcome == "stall":
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(answer.content.read(), 0.1)
            else:
                rest = await answer.read()
        row = await stage.row()
    if outcome != "stall":
        following = [*pieces, *GOOD[2:]][min(tokens, 8)]
        assert rest == (following[:-20] + b"\n\n" if outcome == "malformed" else b"")
    assert (row.outcome, row.detail["tokens"]) == (outcome, min(tokens, 8))


@pytest.mark.parametrize("outcome", ["truncate", "malformed", "stall"])
async def test_a_whole_body_is_cut_in_half(outcome: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode()
    async with playing(Scripted([body], headers={"Content-Type": "application/json"}), {outcome: 1.0}) as stage:
        async with stage.session.post(f"{stage.url}/v1/chat/completions", json=ASK) as answer:
            assert await answer.content.readexactly(len(body) // 2) == body[: len(body) // 2]
            assert int(answer.headers["Content-Length"]) == (len(body) if outcome == "stall" else len(body) // 2)
        row = await stage.row()
    assert (row.outcome, row.detail["reply"]) == (outcome, "Hello")


@pytest.mark.parametrize("outcome", ["truncate", "malformed", "stall", "no_token", "http_503"])
async def test_an_error_of_the_upstream_comes_before_a_fate(outcome: str) -> None:
    body = b'{"error": {"message": "teapot"}}'
    async with playing(Scripted([body], status=418), {outcome: 1.0}) as stage:
        status, said = await stage.post()
        row = await stage.row()
    expected = "http_503" if outcome == "http_503" else "http_418"
    assert (f"http_{status}", row.outcome, said == body) == (expected, expected, outcome != "http_503")
    assert stage.twin.as_json()["served"] == {expected: 1}


@pytest.mark.parametrize("outcome", ["truncate", "stall", "malformed"])
async def test_a_gemini_array_is_cut_too(outcome: str) -> None:
    def element(text: str) -> bytes:
        return json.dumps({"candidates": [{"content": {"parts": [{"text": text}]}}]}, indent=1).encode()

    body = b"[" + b"\n,\r\n".join(element(f" {number}") for number in range(20)) + b"\n]"
    kept = b"[" + b"\n,\r\n".join(element(f" {number}") for number in range(8))
    script = Scripted([body[:50], body[50:]], headers={"Content-Type": "application/json; charset=UTF-8"})
    async with playing(script, {outcome: 1.0}, build=gemini) as stage:
        asking = {"contents": [{"parts": [{"text": "Hello"}]}], "new": 1}
        path = "/v1beta/models/m:streamGenerateContent"
        async with stage.session.post(stage.url + path, json=asking) as answer:
            assert await answer.content.readexactly(len(kept)) == kept
        row = await stage.row()
    assert (row.outcome, row.detail["reply"]) == (outcome, " 0 1 2 3 4 5 6 7")
    assert (row.detail["model"], row.detail["prompt"]) == ("m", "Hello")


async def test_no_latency_can_be_set_where_none_is_added() -> None:
    service = OpenAI(name="llm", first_token=Constant(3_600_000), upstream="http://127.0.0.1:1/v1")
    slow = Slow(service, first_token=Constant(3000))
    async with service.running({}) as endpoint:
        with pytest.raises(PlanError, match="sets first_token, which llm does not have"):
            async with slow.injected({"llm": endpoint}, SystemClock()):
                raise AssertionError("it is injected")
        await service.behave(endpoint, {"outcomes": {"http_503": 1}})


# ---------------------------------------------------------------- secrets


async def test_the_key_is_nowhere_but_on_its_way(capfd: pytest.CaptureFixture[str]) -> None:
    """A real process before a scripted upstream, and then before none: rows, admin paths and output."""
    script = Scripted(GOOD)
    seen = []
    async with listening(script.application()) as port:
        service = OpenAI(upstream=f"http://127.0.0.1:{port}/v1")
        async with (
            service.running({}) as endpoint,
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
        ):
            async with session.post(f"{endpoint.url}/chat/completions?key={KEY}", json=ASK) as answer:
                seen.append(await answer.text())
            async with session.post(f"{endpoint.url}/nonsense", json=ASK) as answer:
                seen.append(await answer.text())
            origin = endpoint.url.removesuffix("/v1")
            for path in ("", "/behaviour", "/witnessed", "/nothing"):
                async with session.get(f"{origin}/_twin{path}") as answer:
                    seen.append(await answer.text())
    assert [request.headers["Authorization"] for request, _ in script.requests] == [f"Bearer {KEY}"] * 2
    assert '"reply": "Hello"' in "".join(seen)
    assert KEY not in "".join([*seen, *capfd.readouterr()])


async def test_a_process_refuses_what_its_parent_would() -> None:
    service = OpenAI()
    service._settings = Settings()
    object.__setattr__(service._settings, "upstream", "gopher://x")
    with pytest.raises(ServiceError, match="upstream is 'gopher://x'; it must be the http or https URL"):
        async with service.running({}):
            pass
