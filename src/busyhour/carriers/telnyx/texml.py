"""TeXML: Telnyx calls that documents tell what to do, with Telnyx's media stream.

Requests: developers.telnyx.com/docs/voice/programmable-voice/texml-instruction-fetching. Streams: .../texml-verbs/
stream. API: the `texml.accounts.calls` of the vendor's SDK; its refusals are in the shape of Telnyx's other errors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, cast

from aiohttp import web

from busyhour.carriers.documents.call import DocumentCall
from busyhour.carriers.documents.courier import Request
from busyhour.carriers.documents.exchange import Exchange, Manners
from busyhour.carriers.documents.office import VICES, dialled, opened
from busyhour.carriers.documents.script import Ask
from busyhour.carriers.documents.verbs import BadDocument, Grammar
from busyhour.carriers.documents.verbs import Stream as StreamVerb
from busyhour.carriers.endings import TransferEnd
from busyhour.carriers.line import CallerLine
from busyhour.carriers.media_stream import Channel
from busyhour.carriers.places import drawn_uuid, next_call
from busyhour.carriers.serving import ApiRefusal, not_running
from busyhour.carriers.telnyx import params, refusals
from busyhour.carriers.telnyx.exchange import Ids
from busyhour.carriers.telnyx.media import ErrorShape
from busyhour.carriers.telnyx.stream import channel, codec_of
from busyhour.carriers.telnyx.webhooks import Signature, Signer, utc_now
from busyhour.disturbance import Kind
from busyhour.errors import TWIN_CANNOT
from busyhour.media.codec import Codec
from busyhour.model import CallFailed, CallSetup, Endpoint, Sample
from busyhour.share import WHOLE, Share

TEXML = Grammar(
    name="TeXML",
    elsewhere=frozenset({"AIGather", "Conference", "Enqueue", "Leave", "Queue", "Record", "Refer", "Siprec"}),
    gather_elsewhere=frozenset({"invalidDigitsAction", "minDigits", "validDigits"}),
    gather_asks_itself=False,
)
# The attributes of <Stream>, as the parameters of a command that asks for the same.
PARAMETERS: Mapping[str, str] = {
    "url": "stream_url",
    "track": "stream_track",
    "codec": "stream_codec",
    "bidirectionalMode": "stream_bidirectional_mode",
    "bidirectionalCodec": "stream_bidirectional_codec",
    "authToken": "stream_auth_token",
}


@dataclass(frozen=True, eq=False)
class TexmlProvider:
    """A `Provider`, for one account."""

    account_sid: str
    connection_id: str
    api_key: str
    error_shape: ErrorShape
    l16_little_endian: bool
    grammar: Grammar = TEXML
    document_parameter: str = "Texml"

    def call_sid(self, random: Random) -> str:
        return Ids.drawn(random).control

    def fields(self, call: DocumentCall) -> dict[str, str]:
        return {
            "AccountSid": self.account_sid,
            "ApiVersion": "2010-04-01",
            "CallSid": call.sid,
            "CallSidLegacy": call.sid,
            "CallStatus": call.status,
            "CallerId": call.setup.from_number,
            "ConnectionId": self.connection_id,
            "Direction": "inbound",
            "From": call.setup.from_number,
            "To": call.setup.to_number,
        }

    # ------------------------------------------------------------ streams

    def ear(self, verb: StreamVerb) -> Codec:
        stream = _asked(verb)
        try:
            return codec_of(stream.back or stream.forth, little_endian=self.l16_little_endian)
        except refusals.Refusal as refusal:
            raise _failure(refusal) from None

    def channel(self, call: DocumentCall, verb: StreamVerb) -> Channel:
        ear = self.ear(verb)
        parties = {"user_id": self.account_sid, "call_control_id": call.sid}

        def start() -> Mapping[str, Any]:
            numbers = {"from": call.setup.from_number, "to": call.setup.to_number}
            return {**parties, "call_session_id": call.sid, **numbers, "client_state": None}

        try:
            made = channel(
                _asked(verb),
                stream_id=drawn_uuid(call.random),
                start=start,
                farewell=parties,
                error_shape=self.error_shape,
                little_endian=self.l16_little_endian,
                name=verb.name,
            )
        except refusals.Refusal as refusal:
            raise _failure(refusal) from None
        if call.media.ear in (None, ear):
            return made
        if made.deaf:  # nothing of it is heard: it hears what the leg hears, in its own codec
            assert call.media.ear is not None
            return replace(made, ear=call.media.ear)
        raise CallFailed(TWIN_CANNOT, "busyhour's twin does not change the codec of the caller's ear within a call")

    def key(self, digit: str) -> Mapping[str, Any]:
        return {"occurred_at": utc_now(), "dtmf": {"digit": digit}}

    def error(self, _code: str, detail: str) -> str:
        return detail

    def stream_fields(self, call: DocumentCall, channel: Channel, event: str, error: str) -> dict[str, str]:
        told = {"StreamSid": channel.id, "StreamName": channel.name, "StreamEvent": event, "Timestamp": utc_now()}
        return told | ({"StreamError": error} if error else {})

    # ------------------------------------------------------------ the API

    def resource(self, call: DocumentCall) -> dict[str, Any]:
        return {
            "account_sid": self.account_sid,
            "answered_by": None,
            "caller_name": call.setup.from_number,
            **call.resource_dates(),
            "direction": "inbound",
            "from": call.setup.from_number,
            "from_formatted": call.setup.from_number,
            "price": None,
            "price_unit": "USD",
            "sid": call.sid,
            "status": call.status,
            "to": call.setup.to_number,
            "to_formatted": call.setup.to_number,
            "uri": f"/v2/texml/Accounts/{self.account_sid}/Calls/{call.sid}",
        }

    def authenticate(self, request: web.Request) -> None:
        refusals.authenticate(request, self.api_key)

    def not_found(self, _path: str) -> ApiRefusal:
        return refusals.not_found()

    def not_allowed(self) -> ApiRefusal:
        return refusals.not_found()

    def malformed(self, detail: str) -> ApiRefusal:
        return refusals.malformed(detail)

    def unexpected(self) -> ApiRefusal:
        return refusals.unexpected()

    def invalid(self, parameter: str, detail: str) -> ApiRefusal:
        return refusals.invalid(parameter, detail)

    def ended(self, _path: str) -> ApiRefusal:
        return refusals.ended()

    def not_in_progress(self) -> ApiRefusal:
        return refusals.ended()


def _failure(refusal: refusals.Refusal) -> BadDocument | CallFailed:
    """What a <Stream> is that would be refused as a command: the agent's mistake, or more than the twin can."""
    detail = f"<Stream>: {refusal.detail}"
    return CallFailed(TWIN_CANNOT, detail) if isinstance(refusal, refusals.Unsupported) else BadDocument(detail)


def _asked(verb: StreamVerb) -> params.Stream:
    """What the noun asks for, checked as the same wish of a command is. Raises BadDocument, CallFailed."""
    body: dict[str, Any] = {PARAMETERS[name]: value for name, value in verb.attributes.items() if name in PARAMETERS}
    rate = verb.attributes.get("bidirectionalSamplingRate", "8000")
    body["stream_bidirectional_sampling_rate"] = int(rate) if rate.isdecimal() and len(rate) < 9 else rate
    body["custom_parameters"] = [{"name": name, "value": value} for name, value in verb.parameters.items()]
    try:
        stream = params.stream(body, call_codec="PCMU", required=True)
    except refusals.Refusal as refusal:
        raise _failure(refusal) from None
    assert stream is not None
    return stream


@dataclass(kw_only=True, eq=False)
class TeXML:
    """A twin of Telnyx's TeXML: asks the agent's URL for TeXML, carries it out, opens the media stream of Telnyx, and
    has the API that hangs up and redirects.

    As `Telnyx`, but calls are told what to do by documents. `Endpoint.url` is what the agent wants as base URL instead
    of https://api.telnyx.com/v2; `public_key` is its TELNYX_PUBLIC_KEY, `account_sid` its account. Paths are on the
    target; "" for those of callbacks means that there is none. Shares are between 0 and 1.
    """

    name: str = "texml"
    seed: int = 0
    port: int = 0
    api_key: str = ""  # "" accepts any bearer
    webhook_path: str = "/api/texml/voice"
    fallback_path: str = ""  # asked when the first URL fails
    status_path: str = ""
    status_events: Sequence[str] = ("initiated", "ringing", "answered", "completed")
    webhook_retries: int = 1
    webhook_timeout_seconds: float = 5.0
    signature: Signature = "valid"
    signature_share: float = 1.0  # of the requests that are signed as `signature` says
    transfer: TransferEnd = "answered"
    transfer_after_ms: int = 300
    media_within_seconds: float = 5.0  # from the answer to the first sound or the open media socket
    jitter_buffer_ms: int = 0
    error_shape: ErrorShape = "payload"
    l16_little_endian: bool = False
    public_key: str = field(init=False)
    account_sid: str = field(init=False)
    _exchange: Exchange | None = field(default=None, init=False, repr=False)
    _dialled: int = field(default=0, init=False, repr=False)
    _share: Share = field(default=WHOLE, init=False, repr=False)
    vices: ClassVar[frozenset[Kind]] = VICES

    def __post_init__(self) -> None:
        self._signer = Signer(self.seed)
        self.public_key = self._signer.public_key
        self._random = Random(f"texml account {self.seed}")
        self.account_sid = drawn_uuid(self._random)

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        provider = TexmlProvider(
            account_sid=self.account_sid,
            connection_id=str(self._random.randrange(10**18, 10**19)),
            api_key=self.api_key,
            error_shape=self.error_shape,
            l16_little_endian=self.l16_little_endian,
        )
        async with opened(
            provider=provider,
            manners=self._manners(),
            sign=self._signed,
            webhook_timeout_seconds=self.webhook_timeout_seconds,
            webhook_retries=self.webhook_retries,
            port=self.port,
            name=self.name,
            api_prefix="/v2/texml/Accounts",
            api_suffix="",
        ) as (exchange, port):
            self._exchange = exchange
            try:
                yield Endpoint(f"http://127.0.0.1:{port}/v2", handle=exchange.studio.disturbance)
            finally:
                self._exchange = None

    def of_share(self, share: Share) -> TeXML:
        part = replace(self, port=0)
        part._share = share
        return part

    def dial(self, target: Endpoint, call: CallSetup) -> AbstractAsyncContextManager[CallerLine]:
        if self._exchange is None:
            raise not_running(self.name)
        self._dialled, random = next_call(f"texml call {self.seed}", self._dialled, self._share, _call_sid)
        source = Ask(target.url.rstrip("/") + self.webhook_path)
        return dialled(self._exchange, target, call, source=source, random=random)

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """How late the frames were sent since the last call."""
        return self._exchange.studio.wheel.drain(now_ns) if self._exchange is not None else []

    def _signed(self, request: Request, random: Random, forged: str) -> Mapping[str, str]:
        how: Signature = self.signature if random.random() < self.signature_share else "valid"
        if forged:
            how = cast(Signature, forged)  # the fault has checked it
        return {"user-agent": "telnyx-webhooks"} | self._signer.headers(request.body, how)

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


def _call_sid(random: Random) -> str:
    return Ids.drawn(random).control
