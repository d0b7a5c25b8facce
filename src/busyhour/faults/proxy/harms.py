"""The faults of the byte path: a toxic put on a proxy for the phase, proven by its own count, and taken off again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.proxy.service import AdminAPI, NotThere
from busyhour.faults.proxy.toxic import KINDS, Form, Refusal, Stream
from busyhour.faults.undoing import aimed_at, to_the_end
from busyhour.model import JSON, Clock, Endpoint, Proof, Service


@dataclass(frozen=True, kw_only=True)
class Toxified:
    """A toxic on a proxy. type, stream, attributes: Toxiproxy's, or ours (see the proxy's reference); share: of the
    connections that meet it, drawn for each from `seed`. Its proof: what the toxic counted.

    Raises PlanError for a toxic that cannot be.
    """

    proxy: Service = field(kw_only=False)
    name: str
    type: str
    attributes: Mapping[str, JSON]
    stream: Stream = "downstream"
    share: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        try:
            form = Form.parse(self._form(), 0)
        except Refusal as refusal:
            raise PlanError(
                f"the fault {self.name!r} cannot be: {str(refusal).removeprefix('bad request body: ')}"
            ) from None
        if form.toxicity == 0:
            raise PlanError(f"the fault {self.name!r} befalls nobody: its share of connections is 0")

    @property
    def service(self) -> str:
        return self.proxy.name

    @property
    def claims(self) -> Sequence[Claim]:
        # Any number of kinds together, but none of them where there are no connections.
        connections = Claim(of=f"the connections of {self.service}", share=0.001)
        return [Claim(of=f"the {self.type} {self.stream} of {self.service}"), connections]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError when it is aimed at no proxy or is there already, ServiceError when that does not obey."""
        endpoint = aimed_at(self.name, self.service, endpoints)
        admin = _admin_of(self.name, self.service, endpoint)
        proof = _Counted(self, admin, await admin.effects())
        if await self._present(admin) is not None:
            raise PlanError(f"the fault {self.name!r} is injected already; name two faults of one kind apart")
        try:
            await admin.ask("POST", "proxies", self.service, "toxics", body=self._form())
            if not _same(await self._present(admin), self._form()):
                raise ServiceError(
                    f"the fault {self.name!r} did not take effect: {self.service} does not have its toxic"
                )
            yield proof
        finally:
            await to_the_end(self._undo(endpoint, admin, proof))

    def _form(self) -> dict[str, JSON]:
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.share,
            "attributes": dict(self.attributes),
            "seed": self.seed,
        }

    async def _present(self, admin: AdminAPI) -> Mapping[str, Any] | None:
        toxics = await admin.ask("GET", "proxies", self.service, "toxics")
        return next((toxic for toxic in toxics if toxic["name"] == self.name), None)

    async def _undo(self, endpoint: Endpoint, admin: AdminAPI, proof: _Counted) -> None:
        if not proc.tree(endpoint.pids):
            return  # a proxy that has died harms nobody any more; that it died is the engine's to tell
        await proof.read()
        with suppress(NotThere):  # it was never put there
            await admin.ask("DELETE", "proxies", self.service, "toxics", self.name)
        if await self._present(admin) is not None:
            raise ServiceError(f"the fault {self.name!r} could not be undone: {self.service} still has its toxic")


class _Counted:
    """What the toxic did since the injection, by the proxy's own count; final once the fault is undone."""

    def __init__(self, fault: Toxified, admin: AdminAPI, before: Mapping[str, Any]) -> None:
        self._fault = fault
        self._admin = admin
        self._before = before
        self._final: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._final or await self._now()

    async def read(self) -> None:
        """The last reading, before the undoing."""
        self._final = await self._now()

    async def _now(self) -> tuple[bool, str]:
        fault, now = self._fault, await self._admin.effects()
        effect = now["toxics"].get(fault.name)
        if effect is None:
            return False, f"{fault.service} does not have the toxic of {fault.name!r}"
        if effect["events"]:
            what = f"{effect['events']} {KINDS[fault.type].counts}"
            where = f"on {_number(effect['connections'], 'connection')} of {fault.service}"
            return True, f"{what} {where}" + (f", {_number(effect['bytes'], 'byte')}" if effect["bytes"] else "")
        if effect["unreadable"]:
            count = _number(effect["unreadable"], "connection")
            return False, f"{count} of {fault.service} carried what is not HTTP/1.1, which {fault.type} cannot read"
        return False, _nothing(fault.service, fault.type, self._before, now)


@dataclass(frozen=True)
class Down:
    """The proxy refuses connections, and those that were open are dropped. Toxiproxy's `enabled: false`.

    Its proof: the connections that were dropped, and those that were refused, which are counted from the wire where
    that is permitted (CAP_NET_RAW).
    """

    proxy: Service

    @property
    def name(self) -> str:
        return f"{self.proxy.name} down"

    @property
    def service(self) -> str:
        return self.proxy.name

    @property
    def claims(self) -> Sequence[Claim]:
        return [Claim(of=f"the connections of {self.service}")]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        endpoint = aimed_at(self.name, self.service, endpoints)
        admin = _admin_of(self.name, self.service, endpoint)
        proof = _Dropped(self.service, admin, await admin.effects())
        if not (await admin.ask("GET", "proxies", self.service))["enabled"]:
            raise PlanError(f"the fault {self.name!r} is injected already; one is enough")
        try:
            await self._enable(admin, enabled=False)
            yield proof
        finally:
            await to_the_end(self._undo(endpoint, admin, proof))

    async def _undo(self, endpoint: Endpoint, admin: AdminAPI, proof: _Dropped) -> None:
        if proc.tree(endpoint.pids):
            await proof.read()
            await self._enable(admin, enabled=True)

    async def _enable(self, admin: AdminAPI, *, enabled: bool) -> None:
        told = {"enabled": enabled}
        await admin.ask("PATCH", "proxies", self.service, body=told)
        if (await admin.ask("GET", "proxies", self.service))["enabled"] is not enabled:
            failure = "could not be undone" if enabled else "did not take effect"
            raise ServiceError(f"the fault {self.name!r} {failure}: {self.service} was told {told} and does not obey")


class _Dropped:
    """Whom it befell that the proxy was down; final once it is up again."""

    def __init__(self, service: str, admin: AdminAPI, before: Mapping[str, Any]) -> None:
        self._service = service
        self._admin = admin
        self._before = before
        self._final: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._final or await self._now()

    async def read(self) -> None:
        """The last reading, before the undoing."""
        self._final = await self._now()

    async def _now(self) -> tuple[bool, str]:
        now = await self._admin.effects()
        dropped = now["cut_off"] - self._before["cut_off"]
        words = f"{_number(dropped, 'connection')} of {self._service} dropped when it went down"
        if now["refused"] is None:
            return dropped > 0, f"{words}; those refused could not be counted, which needs CAP_NET_RAW"
        refused = now["refused"] - self._before["refused"]
        return dropped + refused > 0, f"{words}, {refused} refused while it was"


# ---------------------------------------------------------------- the catalogue: Toxiproxy's


def Latency(  # noqa: N802  (a noun in a plan)
    proxy: Service, ms: float, *, jitter_ms: float = 0, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """What passes comes later by `ms` +- `jitter_ms`. Toxiproxy's `latency`."""
    attributes = {"latency": ms, "jitter": jitter_ms}
    return _toxified(proxy, "latency", attributes, f"latency of {ms:g} ms", stream, share, seed)


def Bandwidth(  # noqa: N802  (a noun in a plan)
    proxy: Service, kilobytes_per_second: float, *, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """No more than so many kB (1000 bytes) a second pass on each connection; 0: none. Toxiproxy's `bandwidth`."""
    what = f"bandwidth of {kilobytes_per_second:g} kB/s"
    return _toxified(proxy, "bandwidth", {"rate": kilobytes_per_second}, what, stream, share, seed)


def Slicer(  # noqa: N802  (a noun in a plan)
    proxy: Service,
    *,
    average_bytes: int,
    variation_bytes: int = 0,
    delay_us: float = 0,
    stream: Stream = "downstream",
    share: float = 1,
    seed: int = 1,
) -> Toxified:
    """Data come in small segments, `delay_us` apart. Toxiproxy's `slicer`."""
    attributes = {"average_size": average_bytes, "size_variation": variation_bytes, "delay": delay_us}
    return _toxified(proxy, "slicer", attributes, f"slices of {average_bytes} bytes", stream, share, seed)


def SlowClose(  # noqa: N802  (a noun in a plan)
    proxy: Service, ms: float, *, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """Connections are closed `ms` later than they are. Toxiproxy's `slow_close`."""
    return _toxified(proxy, "slow_close", {"delay": ms}, f"closing {ms:g} ms late", stream, share, seed)


def Blackhole(  # noqa: N802  (a noun in a plan)
    proxy: Service, *, close_after_ms: float = 0, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """Data vanish, and the connection is closed after `close_after_ms` (0: stays open). Toxiproxy's `timeout`."""
    return _toxified(proxy, "timeout", {"timeout": close_after_ms}, "black hole", stream, share, seed)


def ResetPeer(  # noqa: N802  (a noun in a plan)
    proxy: Service, *, after_ms: float = 0, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """Connections are reset, `after_ms` after the first data. Toxiproxy's `reset_peer`."""
    return _toxified(proxy, "reset_peer", {"timeout": after_ms}, "resets", stream, share, seed)


def LimitData(  # noqa: N802  (a noun in a plan)
    proxy: Service,
    bytes: int,  # noqa: A002  (the unit)
    *,
    stream: Stream = "downstream",
    share: float = 1,
    seed: int = 1,
) -> Toxified:
    """Connections are closed after so many bytes. Toxiproxy's `limit_data`."""
    return _toxified(proxy, "limit_data", {"bytes": bytes}, f"cut after {bytes} bytes", stream, share, seed)


# ---------------------------------------------------------------- ours


def Corrupt(  # noqa: N802  (a noun in a plan)
    proxy: Service, *, byte_share: float, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """One bit is wrong in this share of the bytes."""
    return _toxified(proxy, "corrupt", {"share": byte_share}, f"corruption of {byte_share:g}", stream, share, seed)


def HttpStatus(  # noqa: N802  (a noun in a plan)
    proxy: Service,
    status: int,
    *,
    share: float = 1,
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
    seed: int = 1,
) -> Toxified:
    """A share of HTTP requests is answered with this status, and never reaches the upstream."""
    attributes: dict[str, JSON] = {"status": status, "share": share, "headers": dict(headers or {})}
    if body is not None:
        attributes["body"] = body
    return _requests(proxy, "http_status", attributes, f"HTTP {status}{_at(share)}", seed)


def StallAfter(  # noqa: N802  (a noun in a plan)
    proxy: Service,
    *,
    events: int | None = None,
    bytes: int | None = None,  # noqa: A002  (the unit)
    messages: int | None = None,
    stream: Stream = "downstream",
    share: float = 1,
    seed: int = 1,
) -> Toxified:
    """Answers stop coming, and stay open, after so many server-sent events, or bytes of a body, or WebSocket messages
    in this stream; share: of the answers, or WebSockets."""
    _one_of(proxy, "stall", events=events, bytes=bytes, messages=messages)
    if messages is not None:
        told: dict[str, JSON] = {"messages": messages, "share": share}
        return _requests(proxy, "ws_stall", told, f"stall after {messages} messages{_at(share)}", seed, stream)
    unit, count = ("events", events) if events is not None else ("bytes", bytes)
    told = {unit: count, "share": share}
    return _requests(proxy, "http_stall", told, f"stall after {count} {unit}{_at(share)}", seed, stream)


def TruncateAfter(  # noqa: N802  (a noun in a plan)
    proxy: Service,
    *,
    events: int | None = None,
    messages: int | None = None,
    code: int = 1011,
    stream: Stream = "downstream",
    share: float = 1,
    seed: int = 1,
) -> Toxified:
    """Answers end in good order after so many server-sent events, or after so many WebSocket messages in this stream
    with this close code (1006: without one)."""
    _one_of(proxy, "truncation", events=events, messages=messages)
    if messages is not None:
        told: dict[str, JSON] = {"messages": messages, "code": code, "share": share}
        return _requests(proxy, "ws_truncate", told, f"cut after {messages} messages{_at(share)}", seed, stream)
    told = {"events": events, "share": share}
    return _requests(proxy, "sse_truncate", told, f"cut after {events} events{_at(share)}", seed, stream)


def MalformedEvent(  # noqa: N802  (a noun in a plan)
    proxy: Service, *, event: int = 1, share: float = 1, seed: int = 1
) -> Toxified:
    """The data of the event of this number, from 1, are no JSON; share: of the streams of server-sent events."""
    told: dict[str, JSON] = {"event": event, "share": share}
    return _requests(proxy, "sse_malformed", told, f"event {event} malformed{_at(share)}", seed)


def MalformedMessage(  # noqa: N802  (a noun in a plan)
    proxy: Service, *, message: int = 1, stream: Stream = "downstream", share: float = 1, seed: int = 1
) -> Toxified:
    """The WebSocket message of this number, from 1, in this stream is no JSON, and no sound; share: of WebSockets."""
    told: dict[str, JSON] = {"message": message, "share": share}
    return _requests(proxy, "ws_malformed", told, f"message {message} malformed{_at(share)}", seed, stream)


def _toxified(
    proxy: Service, kind: str, attributes: Mapping[str, JSON], what: str, stream: Stream, share: float, seed: int
) -> Toxified:
    direction = " upstream" if stream == "upstream" else ""
    name = f"{proxy.name} {what}{direction}{_at(share)}"
    return Toxified(proxy, name=name, type=kind, attributes=attributes, stream=stream, share=share, seed=seed)


def _requests(
    proxy: Service, kind: str, attributes: Mapping[str, JSON], what: str, seed: int, stream: Stream = "downstream"
) -> Toxified:
    direction = " upstream" if stream == "upstream" else ""
    return Toxified(
        proxy, name=f"{proxy.name} {what}{direction}", type=kind, attributes=attributes, stream=stream, seed=seed
    )


def _at(share: float) -> str:
    return "" if share == 1 else f" at {share:.3g}"


def _one_of(proxy: Service, what: str, **counts: int | None) -> None:
    given = [name for name, count in counts.items() if count is not None]
    if len(given) != 1:
        names = " or ".join(counts)
        raise PlanError(f"a {what} of {proxy.name} needs one of {names}; it was given {', '.join(given) or 'none'}")


def _admin_of(fault: str, service: str, endpoint: Endpoint) -> AdminAPI:
    if not isinstance(endpoint.handle, AdminAPI):
        raise PlanError(
            f"the fault {fault!r} needs a proxy, and {service} is none; put Proxy({service}) behind it in the plan's "
            "services, and aim the fault at that"
        )
    return endpoint.handle


def _nothing(service: str, kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    connections = now["accepted"] - before["accepted"]
    passed = sum(now["bytes"].values()) - sum(before["bytes"].values())
    if unreachable := now["unreachable"] - before["unreachable"]:
        return f"nothing met {kind}: {now['last_problem']} ({_number(unreachable, 'time')})"
    if not connections and not passed:
        return f"nobody passed through {service} while it was injected"
    return f"{_number(connections, 'new connection')} and {_number(passed, 'byte')} passed {service}; none met {kind}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _same(toxic: Mapping[str, Any] | None, told: Mapping[str, Any]) -> bool:
    """The proxy adds the attributes that were not given."""
    if toxic is None:
        return False
    plain = all(toxic.get(key, 0) == value for key, value in told.items() if key != "attributes")
    return plain and all(toxic["attributes"].get(key) == value for key, value in told["attributes"].items())
