"""The carriers themselves: Services that place calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar

from busyhour.carriers.background import Background
from busyhour.carriers.endings import TransferEnd
from busyhour.carriers.line import CallerLine
from busyhour.carriers.places import drawn_uuid, next_call
from busyhour.carriers.serving import SETTLE_SECONDS, client, not_running, serving
from busyhour.carriers.telnyx.call import Call
from busyhour.carriers.telnyx.commands import application
from busyhour.carriers.telnyx.exchange import Exchange, Ids, Manners
from busyhour.carriers.telnyx.media import ErrorShape
from busyhour.carriers.telnyx.params import Format, Stream
from busyhour.carriers.telnyx.webhooks import Habits, Signature, Signer, Webhooks
from busyhour.disturbance import COMMANDS, MEDIA, STREAMS, WEBHOOKS, Kind
from busyhour.media.studio import Studio
from busyhour.model import CallSetup, Endpoint, Sample
from busyhour.share import WHOLE, Share


@dataclass(kw_only=True, eq=False)
class Telnyx:
    """A twin of Telnyx Call Control v2: webhooks to the agent, its commands, its media socket.

    It runs in the process of the harness, because the stamps on the audio must be made where they are judged; its API
    has a loopback port of its own. `Endpoint.url` is what the agent wants as base URL instead of
    https://api.telnyx.com/v2, and `public_key` as TELNYX_PUBLIC_KEY. Shares are between 0 and 1.
    """

    name: str = "telnyx"
    seed: int = 0
    port: int = 0
    api_key: str = ""  # "" accepts any bearer
    webhook_path: str = "/api/telnyx/webhook"
    webhook_retries: int = 2
    webhook_retry_ms: int = 250  # before the first retry; each later one waits twice as long
    webhook_timeout_seconds: float = 2.0
    duplicate_share: float = 0.0  # of the webhooks, delivered twice
    late_share: float = 0.0  # of the webhooks, so late that later ones overtake them
    late_ms: int = 250
    signature: Signature = "valid"
    signature_share: float = 1.0  # of the webhooks that are signed as `signature` says
    command_error_share: float = 0.0  # of the commands, answered with 500
    transfer: TransferEnd = "answered"
    transfer_after_ms: int = 300
    media_within_seconds: float = 5.0
    hangup_within_seconds: float = 1.0  # after the agent closed its media socket; then the call is "lost"
    effect_after_ms: int = 10
    jitter_buffer_ms: int = 0
    error_shape: ErrorShape = "payload"
    l16_little_endian: bool = False
    public_key: str = field(init=False)
    _exchange: Exchange | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)
    vices: ClassVar[frozenset[Kind]] = MEDIA | STREAMS | COMMANDS | WEBHOOKS

    def __post_init__(self) -> None:
        self._signer = Signer(self.seed)
        self.public_key = self._signer.public_key

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        studio = Studio(vices=self.vices)
        async with (
            studio.turning(),
            client(self.webhook_timeout_seconds) as session,
            Background(SETTLE_SECONDS) as background,
        ):
            random = Random(f"telnyx account {self.seed}")
            exchange = Exchange(
                clock=studio.clock,
                studio=studio,
                background=background,
                manners=self._manners(),
                connection_id=str(random.randrange(10**18, 10**19)),
                user_id=drawn_uuid(random),
                session=session,
                webhooks=Webhooks(
                    habits=self._habits(),
                    signer=self._signer,
                    session=session,
                    background=background,
                    clock=studio.clock,
                    disturbance=studio.disturbance,
                ),
            )
            async with serving(application(exchange, self.api_key), self.port, self.name) as port:
                self._exchange = exchange
                try:
                    yield Endpoint(f"http://127.0.0.1:{port}/v2", handle=studio.disturbance)
                finally:
                    self._exchange = None
                    await _released(exchange)

    def of_share(self, share: Share) -> Telnyx:
        part = replace(self, port=0)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        return self._dial(target, call)

    @asynccontextmanager
    async def _dial(self, target: Endpoint, setup: CallSetup) -> AsyncIterator[CallerLine]:
        exchange = _running(self._exchange, self.name)
        await exchange.studio.wheel.admitted()
        self._dialled, random = next_call(f"telnyx call {self.seed}", self._dialled, self._share, _call_control_id)
        webhook_url = target.url.rstrip("/") + self.webhook_path
        call = Call(exchange, setup, target.url, webhook_url, random)
        exchange.calls[call.ids.control] = call
        try:
            await call.ring()
            yield CallerLine(call)
        finally:
            await call.release()

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._exchange.studio.wheel.drain(now_ns) if self._exchange is not None else []

    def _manners(self) -> Manners:
        return Manners(
            media_within_seconds=self.media_within_seconds,
            hangup_within_seconds=self.hangup_within_seconds,
            effect_after_ms=self.effect_after_ms,
            transfer=self.transfer,
            transfer_after_ms=self.transfer_after_ms,
            jitter_buffer_ms=self.jitter_buffer_ms,
            error_shape=self.error_shape,
            l16_little_endian=self.l16_little_endian,
            command_error_share=self.command_error_share,
        )

    def _habits(self) -> Habits:
        return Habits(
            retries=self.webhook_retries,
            retry_ms=self.webhook_retry_ms,
            timeout_seconds=self.webhook_timeout_seconds,
            duplicate_share=self.duplicate_share,
            late_share=self.late_share,
            late_ms=self.late_ms,
            signature=self.signature,
            signature_share=self.signature_share,
        )


@dataclass(kw_only=True, eq=False)
class TelnyxStream:
    """Telnyx's media socket alone: dials the `ws://` URL that is the target's, with no webhooks and no commands.

    Whoever closes the socket has hung up.
    """

    name: str = "telnyx-stream"
    seed: int = 0
    rate_hz: int | None = None  # of L16; unless told, 16,000
    jitter_buffer_ms: int = 0
    error_shape: ErrorShape = "payload"
    l16_little_endian: bool = False
    auth_token: str = ""
    custom_parameters: Mapping[str, str] = field(default_factory=dict)
    _exchange: Exchange | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)
    vices: ClassVar[frozenset[Kind]] = MEDIA | STREAMS

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        studio = Studio(vices=self.vices)
        async with studio.turning(), Background(SETTLE_SECONDS) as background:
            random = Random(f"telnyx account {self.seed}")
            manners = Manners(
                jitter_buffer_ms=self.jitter_buffer_ms,
                error_shape=self.error_shape,
                l16_little_endian=self.l16_little_endian,
                socket_is_call=True,
            )
            exchange = Exchange(
                clock=studio.clock,
                studio=studio,
                background=background,
                manners=manners,
                connection_id=str(random.randrange(10**18, 10**19)),
                user_id=drawn_uuid(random),
            )
            self._exchange = exchange
            try:
                yield Endpoint("", handle=studio.disturbance)
            finally:
                self._exchange = None
                await _released(exchange)

    def of_share(self, share: Share) -> TelnyxStream:
        part = replace(self)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        return self._dial(target, call)

    @asynccontextmanager
    async def _dial(self, target: Endpoint, setup: CallSetup) -> AsyncIterator[CallerLine]:
        exchange = _running(self._exchange, self.name)
        await exchange.studio.wheel.admitted()
        self._dialled, random = next_call(f"telnyx call {self.seed}", self._dialled, self._share, _call_control_id)
        call = Call(exchange, setup, target.url, "", random)
        exchange.calls[call.ids.control] = call
        rate_hz = (self.rate_hz or 16000) if setup.codec == "L16" else 8000
        audio = Format(setup.codec, rate_hz)
        stream = Stream(
            url=target.url,
            track="inbound_track",
            forth=audio,
            back=audio,
            mode="rtp",
            auth_token=self.auth_token,
            custom_parameters=self.custom_parameters,
        )
        try:
            await call.connect(stream)
            yield CallerLine(call)
        finally:
            await call.release()

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._exchange.studio.wheel.drain(now_ns) if self._exchange is not None else []


def _call_control_id(random: Random) -> str:
    return Ids.drawn(random).control


async def _released(exchange: Exchange) -> None:
    """End the calls that are left: nobody should be, for calls are dialled inside of `running`."""
    await asyncio.gather(*(call.release() for call in list(exchange.calls.values())))


def _running(exchange: Exchange | None, name: str) -> Exchange:
    if exchange is None:
        raise not_running(name)
    return exchange
