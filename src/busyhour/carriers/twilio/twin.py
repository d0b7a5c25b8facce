"""The carrier itself: a Service that places calls; and its media stream alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import ClassVar
from xml.sax.saxutils import quoteattr

from busyhour.carriers.documents.exchange import Exchange, Manners
from busyhour.carriers.documents.office import VICES, dialled, opened
from busyhour.carriers.documents.script import Ask, Given
from busyhour.carriers.endings import TransferEnd
from busyhour.carriers.line import CallerLine
from busyhour.carriers.places import next_call
from busyhour.carriers.serving import not_running
from busyhour.carriers.twilio.provider import API_VERSION, TwilioProvider, sid
from busyhour.carriers.twilio.signing import Signature, Signer
from busyhour.disturbance import MEDIA, STREAMS, Kind
from busyhour.model import CallSetup, Endpoint, Sample
from busyhour.share import WHOLE, Share


@dataclass(kw_only=True, eq=False)
class Twilio:
    """A twin of Twilio's programmable voice: asks the agent's voice URL for TwiML, carries it out, opens its media
    stream, and has the calls API that hangs up and redirects.

    It runs in the process of the harness, because the stamps on the audio must be made where they are judged; its API
    has a loopback port of its own. `Endpoint.url` is what the agent wants instead of https://api.twilio.com;
    `account_sid` and `auth_token` (drawn from the seed unless given) are its TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN.
    Paths are on the target; "" for those of callbacks means that there is none. Shares are between 0 and 1.
    """

    name: str = "twilio"
    seed: int = 0
    port: int = 0
    account_sid: str = ""
    auth_token: str = ""
    webhook_path: str = "/api/twilio/voice"
    fallback_path: str = ""  # asked when the voice URL fails
    status_path: str = ""
    status_events: Sequence[str] = ("initiated", "ringing", "answered", "completed")
    webhook_retries: int = 1  # of a connection that could not be made; an answer is an answer
    webhook_timeout_seconds: float = 15.0
    signature: Signature = "valid"
    signature_share: float = 1.0  # of the requests that are signed as `signature` says
    transfer: TransferEnd = "answered"
    transfer_after_ms: int = 300
    media_within_seconds: float = 5.0  # from the answer to the first sound or the open media socket
    jitter_buffer_ms: int = 0
    _exchange: Exchange | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)
    vices: ClassVar[frozenset[Kind]] = VICES

    def __post_init__(self) -> None:
        random = Random(f"twilio account {self.seed}")
        drawn_sid, drawn_token = sid("AC", random), f"{random.getrandbits(128):032x}"
        self.account_sid = self.account_sid or drawn_sid
        self.auth_token = self.auth_token or drawn_token

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        sign = Signer(self.auth_token, self.signature, self.signature_share).headers
        async with opened(
            provider=TwilioProvider(self.account_sid, self.auth_token, sign),
            manners=self._manners(),
            sign=sign,
            webhook_timeout_seconds=self.webhook_timeout_seconds,
            webhook_retries=self.webhook_retries,
            port=self.port,
            name=self.name,
            api_prefix=f"/{API_VERSION}/Accounts",
            api_suffix=".json",
        ) as (exchange, port):
            self._exchange = exchange
            try:
                yield Endpoint(f"http://127.0.0.1:{port}", handle=exchange.studio.disturbance)
            finally:
                self._exchange = None

    def of_share(self, share: Share) -> Twilio:
        part = replace(self, port=0)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        if self._exchange is None:
            raise not_running(self.name)
        self._dialled, random = next_call(f"twilio call {self.seed}", self._dialled, self._share, _call_sid)
        source = Ask(target.url.rstrip("/") + self.webhook_path)
        return dialled(self._exchange, target, call, source=source, random=random)

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._exchange.studio.wheel.drain(now_ns) if self._exchange is not None else []

    def _manners(self) -> Manners:
        return Manners(
            media_within_seconds=self.media_within_seconds,
            transfer=self.transfer,
            transfer_after_ms=self.transfer_after_ms,
            jitter_buffer_ms=self.jitter_buffer_ms,
            status_path=self.status_path,
            status_events=self.status_events,
            fallback_path=self.fallback_path,
        )


@dataclass(kw_only=True, eq=False)
class TwilioStream:
    """Twilio's media socket alone: dials the `ws://` URL that is the target's, as `<Connect><Stream>` does, and asks
    nobody for TwiML. Whoever closes the socket has hung up."""

    name: str = "twilio-stream"
    seed: int = 0
    media_within_seconds: float = 5.0
    jitter_buffer_ms: int = 0
    custom_parameters: Mapping[str, str] = field(default_factory=dict)
    _exchange: Exchange | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)
    vices: ClassVar[frozenset[Kind]] = MEDIA | STREAMS

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        account = Twilio(seed=self.seed)
        sign = Signer(account.auth_token, "valid", 1.0).headers  # of what it has nobody to send to
        async with opened(
            provider=TwilioProvider(account.account_sid, account.auth_token, sign),
            manners=Manners(media_within_seconds=self.media_within_seconds, jitter_buffer_ms=self.jitter_buffer_ms),
            sign=sign,
            webhook_timeout_seconds=account.webhook_timeout_seconds,
            webhook_retries=0,
            port=0,
            name=self.name,
            api_prefix=f"/{API_VERSION}/Accounts",
            api_suffix=".json",
            vices=self.vices,
        ) as (exchange, _):
            self._exchange = exchange
            try:
                yield Endpoint("", handle=exchange.studio.disturbance)
            finally:
                self._exchange = None

    def of_share(self, share: Share) -> TwilioStream:
        part = replace(self)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        if self._exchange is None:
            raise not_running(self.name)
        self._dialled, random = next_call(f"twilio call {self.seed}", self._dialled, self._share, _call_sid)
        return dialled(
            self._exchange, target, call, source=Given(self._document(target.url), target.url), random=random
        )

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._exchange.studio.wheel.drain(now_ns) if self._exchange is not None else []

    def _document(self, url: str) -> str:
        given = (
            f"<Parameter name={quoteattr(name)} value={quoteattr(value)}/>"
            for name, value in self.custom_parameters.items()
        )
        return f"<Response><Connect><Stream url={quoteattr(url)}>{''.join(given)}</Stream></Connect></Response>"


def _call_sid(random: Random) -> str:
    return sid("CA", random)
