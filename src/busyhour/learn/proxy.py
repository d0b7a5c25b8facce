"""The proxy: everything passes as it comes, both ways, and a student is told when.

HTTP with any body, streams chunk by chunk, and WebSockets message by message. What is changed: headers that concern one
connection only (see emulators/headers.py), a request's body that is compressed, which is passed on as what it says,
codings that could not be read (`Accept-Encoding` is cut down to gzip and deflate), and extensions of WebSockets, which
are not negotiated. Keys pass, and are kept nowhere.

Everything goes to the one upstream. A request in absolute form (RFC 9112, 3.2.2) is taken if it names this proxy; one
that names another host is refused with 421, for its client takes us for a forward proxy: what it sends is meant for
somebody else, and so is the key in it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import aiohttp
import yarl
from aiohttp import WSMsgType, web
from multidict import CIMultiDict

from busyhour.clock import SystemClock
from busyhour.emulators.headers import back, forth
from busyhour.emulators.twin import BODY_BYTES_AT_MOST, Unreadable, body_of, listening, reset
from busyhour.errors import PlanError, ServiceError
from busyhour.learn.student import Conversation, End, Exchange, Student

CONNECT_SECONDS = 10.0
_IDLE_SECONDS = 4.0
"""A connection to the vendor is not used again after so long: it might just be closing it, which would look like a
reset. uvicorn keeps idle connections for 5 s, most others longer."""
_MESSAGE_BYTES_AT_MOST = 16 * 1024 * 1024
_CLOSED_IN_ORDER = 1000
_BROKEN = (aiohttp.ClientError, ConnectionError, TimeoutError)
_CLOCK = SystemClock()
_Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[bool] | web.WebSocketResponse"


@dataclass(frozen=True)
class Upstream:
    """Where the vendor is: `origin` is http(s)://HOST[:PORT], `prefix` a path before the vendor's own, mostly ""."""

    origin: str
    prefix: str = ""

    @staticmethod
    def parse(text: str, api: str) -> Upstream:
        """`api`: the path with which the vendor's own begin ("/v1"); it may end the URL or not. Raises PlanError."""
        try:
            url = yarl.URL(text)
            fine = url.scheme in {"http", "https", "ws", "wss"} and bool(url.host)
        except ValueError:
            fine = False
        if not fine:
            raise PlanError(f"--upstream {text:.200}: no URL of a vendor; give one like https://api.openai.com/v1")
        if url.user or url.password or url.query_string or url.fragment:
            raise PlanError(f"--upstream {url.host}: give the URL alone, without a name, a key or a query in it")
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        path = url.raw_path.rstrip("/")
        return Upstream(str(url.with_scheme(scheme).origin()), path.removesuffix(api) if api else path)

    def url(self, raw_path: str) -> yarl.URL:
        """`raw_path` begins with a slash: anything else behind the origin would make it another."""
        if not raw_path.startswith("/"):
            raise ValueError(f"no path: {raw_path!r:.200}")
        return yarl.URL(self.origin + self.prefix + raw_path, encoded=True)


async def check_reachable(upstream: Upstream) -> None:
    """Connect once, with TLS where it is asked for. Raises ServiceError that says why it cannot be."""
    url = yarl.URL(upstream.origin)
    context = ssl.create_default_context() if url.scheme == "https" else None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    except TimeoutError:
        why = f"no connection within {CONNECT_SECONDS:g} s"
    except ssl.SSLError as problem:
        why = f"TLS failed: {getattr(problem, 'verify_message', '') or problem.reason or problem}"
    except OSError as problem:
        why = problem.strerror or str(problem)
    else:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return
    raise ServiceError(f"the upstream {upstream.origin} cannot be reached: {why}; check the URL and the network")


@asynccontextmanager
async def passing(upstream: Upstream, student: Student, port: int) -> AsyncIterator[int]:
    """Serve on 127.0.0.1 and yield the port. Raises ServiceError when it cannot be had."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_note_sent)
    trace.on_request_chunk_sent.append(_note_sent)
    async with (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS) as connector,
        _session(connector, trace_configs=[trace]) as session,
    ):
        app = web.Application(client_max_size=BODY_BYTES_AT_MOST)
        app.router.add_route("*", "/{rest:.*}", _Proxy(upstream, student, session, connector).handle)
        async with AsyncExitStack() as stack:
            try:
                bound = await stack.enter_async_context(listening(app, port))
            except OSError as problem:
                mend = "stop what holds it, or leave --port out for any free one"
                why = problem.strerror or problem
                raise ServiceError(f"port {port} of 127.0.0.1 cannot be had: {why}; {mend}") from None
            yield bound


def _session(connector: aiohttp.BaseConnector, **more: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        **more,
    )


@dataclass(slots=True)
class _Sending:
    """When the last byte of a request was handed to its socket."""

    sent_ns: int = 0


async def _note_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent_ns = _CLOCK.now_ns()


class _Refused(Exception):
    """The vendor answered a handshake with something else than 101."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__(answer.status)
        self.answer = answer


class _Astray(Exception):
    """A request for something else than a path of ours."""


@dataclass(frozen=True, slots=True)
class _Over:
    """How one direction of a WebSocket ended: `code` of its close frame, None without one."""

    code: int | None = None
    reason: bytes = b""
    sink_is_gone: bool = False


class _Proxy:
    def __init__(
        self,
        upstream: Upstream,
        student: Student,
        session: aiohttp.ClientSession,
        connector: aiohttp.BaseConnector,
    ) -> None:
        self._upstream = upstream
        self._student = student
        self._session = session
        self._connector = connector

    async def handle(self, request: web.Request) -> web.StreamResponse:
        try:
            target = _target(request)
        except _Astray:
            return _misdirected(self._upstream, request)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._socket(request, target)
        try:
            body = await body_of(request)
        except Unreadable as problem:
            return web.json_response({"error": f"{problem}."}, status=problem.status)
        exchange = self._student.exchange(request.method, request.path, request.query, body) or _Unheeded()
        how = End.LEFT
        try:
            response, how = await self._exchange(request, target, body, exchange)
            return response
        finally:
            exchange.ended(how, _CLOCK.now_ns())

    # ------------------------------------------------------------ HTTP

    async def _exchange(
        self, request: web.Request, target: str, body: bytes, exchange: Exchange
    ) -> tuple[web.StreamResponse, End]:
        sending = _Sending()
        try:
            answer = await self._session.request(
                request.method,
                self._upstream.url(target),
                headers=_to_vendor(request.headers),
                data=body or None,
                allow_redirects=False,
                trace_request_ctx=sending,
            )
        except aiohttp.ClientConnectorError as problem:
            return _unreachable(self._upstream, problem), End.LEFT  # it never arrived, and says nothing of the vendor
        except _BROKEN:
            reset(request)
            return web.Response(), End.BROKEN
        finally:  # a client that leaves before the answer has begun cancels us here: how long it had waited counts
            if sending.sent_ns:
                exchange.sent(sending.sent_ns)
        async with answer:
            exchange.answered(answer.status, answer.headers, _CLOCK.now_ns())
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=back(answer.headers))
            return response, await _pour(request, answer.content, response, exchange)

    # ------------------------------------------------------------ WebSockets

    async def _socket(self, request: web.Request, target: str) -> web.StreamResponse:
        conversation = self._student.conversation(request.path, request.query) or _Unheeded()
        opened: CIMultiDict[str] = CIMultiDict()

        async def judge(answer: aiohttp.ClientResponse) -> None:
            """The body of a refusal is gone once `ws_connect` has seen it: it is kept here."""
            if answer.status != 101:
                body = await answer.read()
                raise _Refused(web.Response(body=body, status=answer.status, headers=back(answer.headers)))
            opened.extend(back(answer.headers))

        async with _session(self._connector, raise_for_status=judge) as session:
            try:
                vendor = await session.ws_connect(
                    self._upstream.url(target),
                    headers=_to_vendor(request.headers),
                    protocols=_protocols(request.headers),
                    autoping=False,
                    autoclose=False,
                    max_msg_size=_MESSAGE_BYTES_AT_MOST,
                )
            except _Refused as refused:
                conversation.answered(refused.answer.status)
                return refused.answer
            except aiohttp.ClientConnectorError as problem:
                return _unreachable(self._upstream, problem)
            except _BROKEN:
                reset(request)
                return web.Response()
            conversation.answered(101)
            how = End.LEFT
            try:
                response, how = await _relay(request, vendor, opened, conversation)
                return response
            finally:
                conversation.ended(how, _CLOCK.now_ns())
                await vendor.close()


async def _pour(
    request: web.Request, source: aiohttp.StreamReader, response: web.StreamResponse, exchange: Exchange
) -> End:
    """The body, as it comes."""
    try:
        await response.prepare(request)
    except ConnectionError:
        return End.LEFT
    while True:
        try:
            chunk = await source.readany()
        except _BROKEN:
            reset(request)
            return End.BROKEN
        exchange.chunk(chunk, _CLOCK.now_ns())
        try:
            if not chunk:
                await response.write_eof()
                return End.WHOLE
            await response.write(chunk)
        except ConnectionError:
            return End.LEFT


async def _relay(
    request: web.Request,
    vendor: aiohttp.ClientWebSocketResponse[bool],
    headers: CIMultiDict[str],
    conversation: Conversation,
) -> tuple[web.StreamResponse, End]:
    chosen = (vendor.protocol,) if vendor.protocol else ()
    client = web.WebSocketResponse(
        autoping=False, autoclose=False, compress=False, protocols=chosen, max_msg_size=_MESSAGE_BYTES_AT_MOST
    )
    client.headers.update(headers)
    await client.prepare(request)
    down = asyncio.create_task(_pump(vendor, client, conversation.told))
    up = asyncio.create_task(_pump(client, vendor, conversation.asked))
    try:
        await asyncio.wait({down, up}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pumps = (down, up)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
    by_vendor = not down.cancelled()
    over = (down if by_vendor else up).result()
    if over.sink_is_gone:
        by_vendor = not by_vendor
    if over.code is not None:
        for socket in (client, vendor):
            await socket.close(code=over.code, message=over.reason)
        return client, End.WHOLE if by_vendor else End.LEFT
    if by_vendor:
        reset(request)
        return client, End.BROKEN
    return client, End.LEFT


async def _pump(source: _Socket, sink: _Socket, hear: Callable[[str | bytes, int], None]) -> _Over:
    """One direction, until it ends."""
    while True:
        message = await source.receive()
        at_ns = _CLOCK.now_ns()
        try:
            if message.type is WSMsgType.TEXT:
                hear(message.data, at_ns)
                await sink.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                hear(message.data, at_ns)
                await sink.send_bytes(message.data)
            elif message.type is WSMsgType.PING:
                await sink.ping(message.data)
            elif message.type is WSMsgType.PONG:
                await sink.pong(message.data)
            elif message.type is WSMsgType.CLOSE:
                return _Over(message.data or _CLOSED_IN_ORDER, (message.extra or "").encode())
            else:
                return _Over()
        except ConnectionError:
            return _Over(sink_is_gone=True)


# ---------------------------------------------------------------- headers


def _to_vendor(headers: Mapping[str, str]) -> CIMultiDict[str]:
    passed = forth(headers)
    codings = [part.strip() for part in passed.get("Accept-Encoding", "").split(",")]
    if "Accept-Encoding" in passed:
        readable = [part for part in codings if part.partition(";")[0] in ("gzip", "deflate", "identity")]
        passed["Accept-Encoding"] = ", ".join(readable) or "identity"
    return passed


def _protocols(headers: Mapping[str, str]) -> list[str]:
    return [part.strip() for part in headers.get("Sec-WebSocket-Protocol", "").split(",") if part.strip()]


def _target(request: web.Request) -> str:
    """The path and the query, as they are encoded. Raises _Astray."""
    raw = request.raw_path
    if raw.startswith("/"):
        return raw
    try:
        url = yarl.URL(raw, encoded=True)
        port = url.port
    except ValueError:
        raise _Astray from None
    ours = request.transport.get_extra_info("sockname")[1] if request.transport is not None else None
    if url.scheme != "http" or url.host not in ("127.0.0.1", "localhost") or port != ours:
        raise _Astray
    return url.raw_path_qs


def _misdirected(upstream: Upstream, request: web.Request) -> web.Response:
    why = f"the request is for {request.raw_path[:200]}, and this is no forward proxy"
    mend = f"all goes to {upstream.origin}: set it as the vendor's base URL, not as HTTP_PROXY"
    return web.json_response({"error": f"busyhour: {why}; {mend}."}, status=421)


def _unreachable(upstream: Upstream, problem: aiohttp.ClientConnectorError) -> web.Response:
    why = problem.os_error.strerror or str(problem.os_error)
    return web.json_response({"error": f"busyhour: {upstream.origin} cannot be reached: {why}."}, status=502)


class _Unheeded:
    """Whom nothing interests."""

    def sent(self, at_ns: int) -> None:
        pass

    def answered(self, status: int, headers: Mapping[str, str] | None = None, at_ns: int = 0) -> None:
        pass

    def chunk(self, data: bytes, at_ns: int) -> None:
        pass

    def asked(self, message: str | bytes, at_ns: int) -> None:
        pass

    def told(self, message: str | bytes, at_ns: int) -> None:
        pass

    def ended(self, how: End, at_ns: int) -> None:
        pass
