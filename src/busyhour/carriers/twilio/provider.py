"""Twilio's own words: the fields of its requests, its streams, its errors, its API's resources and refusals.

Fields: twilio.com/docs/voice/twiml#request-parameters. Errors: twilio.com/docs/api/errors. That the request for a media
stream is signed too: twilio.com/docs/global-infrastructure/firewall-configurations/media-streams-configuration.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from aiohttp import web

from busyhour.carriers.documents.call import DocumentCall
from busyhour.carriers.documents.courier import Request, Sign
from busyhour.carriers.documents.verbs import BadDocument, Grammar, Stream
from busyhour.carriers.media_stream import Channel, Message
from busyhour.carriers.serving import ApiRefusal
from busyhour.carriers.twilio.media import TwilioFrames
from busyhour.clock import wall_time
from busyhour.media.codec import Codec, codec

PCMU = codec("PCMU")
API_VERSION = "2010-04-01"
ERRORS: Mapping[str, str] = {
    "11750": "TwiML response body too large",
    "12100": "Document parse failure",
    "12200": "Schema validation warning",
    "12300": "Invalid Content-Type",
    "13223": "Dial: Invalid phone number format",
    "13310": "Gather: Invalid finishOnKey value",
    "31920": "Stream - WebSocket - Handshake Error",
    "31921": "Stream - WebSocket - Close Error",
    "31924": "Stream - WebSocket - Protocol Error",
}
ELSEWHERE = frozenset({"Echo", "Enqueue", "Leave", "Pay", "Prompt", "Queue", "Record", "Refer", "Sms"})


TWIML = Grammar(name="TwiML", elsewhere=ELSEWHERE)


class Refusal(ApiRefusal):
    """A refusal in the shape of Twilio's API: twilio.com/docs/usage/twilios-response."""

    def __init__(self, status: int, code: int, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{status} {code} {message}")

    def body(self) -> dict[str, Any]:
        more_info = f"https://www.twilio.com/docs/errors/{self.code}"
        return {"code": self.code, "message": self.message, "more_info": more_info, "status": self.status}


def sid(kind: str, random: Random) -> str:
    """An identifier as Twilio's: two letters, and 32 hexadecimal digits."""
    return f"{kind}{random.getrandbits(128):032x}"


@dataclass(frozen=True, eq=False)
class TwilioProvider:
    """A `Provider`, for one account. sign: its requests, those for a WebSocket too."""

    account_sid: str
    auth_token: str
    sign: Sign
    grammar: Grammar = TWIML
    document_parameter: str = "Twiml"

    def call_sid(self, random: Random) -> str:
        return sid("CA", random)

    def fields(self, call: DocumentCall) -> dict[str, str]:
        from_number, to_number = call.setup.from_number, call.setup.to_number
        return {
            "AccountSid": self.account_sid,
            "ApiVersion": API_VERSION,
            "CallSid": call.sid,
            "CallStatus": call.status,
            "Called": to_number,
            "Caller": from_number,
            "Direction": "inbound",
            "From": from_number,
            "To": to_number,
        }

    # ------------------------------------------------------------ streams

    def ear(self, _verb: Stream) -> Codec:
        return PCMU

    def channel(self, call: DocumentCall, verb: Stream) -> Channel:
        url = _without_query(call, verb.url)
        stream_sid = sid("MZ", call.random)
        parties = {"accountSid": self.account_sid, "callSid": call.sid}
        tracks = ["inbound", "outbound"] if verb.track == "both_tracks" else [verb.track.removesuffix("_track")]

        def greeting() -> Sequence[Message]:
            start: dict[str, Any] = {
                **parties,
                "streamSid": stream_sid,
                "tracks": tracks,
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
                "customParameters": dict(verb.parameters),
            }
            connected = Message("connected", {"protocol": "Call", "version": "1.0.0"}, numbered=False)
            return connected, Message("start", {"start": start})

        if verb.two_way and verb.track != "inbound_track":
            raise BadDocument(f"<Connect><Stream track={verb.track!r}>: a two-way stream has the inbound track only")
        one_way = "it is a <Start><Stream>, which is one-way: the caller hears nothing of it; use <Connect><Stream>"
        return Channel(
            id=stream_sid,
            url=url,
            mouth=PCMU,
            ear=PCMU,
            dialect=TwilioFrames(stream_sid),
            greeting=greeting,
            farewell=parties,
            deaf="" if verb.two_way else one_way,
            track=verb.track,
            name=verb.name or stream_sid,
            keys=verb.two_way,  # "DTMF is not yet supported with unidirectional Media Streams"
            headers=self._handshake(call, url),
        )

    def _handshake(self, call: DocumentCall, url: str) -> Mapping[str, str]:
        """By which an agent knows that it is Twilio who opens the socket, as by those of webhooks."""
        signed = self.sign(Request("GET", url, {}, b""), call.random, "") or {}
        return {name: value for name, value in signed.items() if name == "x-twilio-signature"}

    def key(self, digit: str) -> Mapping[str, Any]:
        return {"dtmf": {"track": "inbound_track", "digit": digit}}

    def error(self, code: str, detail: str) -> str:
        return f"error {code} ({ERRORS[code]}): {detail}"

    def stream_fields(self, _call: DocumentCall, channel: Channel, event: str, error: str) -> dict[str, str]:
        told = {"StreamSid": channel.id, "StreamName": channel.name, "StreamEvent": event, "Timestamp": wall_time()}
        return told | ({"StreamError": error} if error else {})

    # ------------------------------------------------------------ the API

    def resource(self, call: DocumentCall) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Calls/{call.sid}"
        parts = ("events", "notifications", "payments", "recordings", "siprec", "streams", "transcriptions")
        return {
            "account_sid": self.account_sid,
            "annotation": None,
            "answered_by": None,
            "api_version": API_VERSION,
            "caller_name": None,
            **call.resource_dates(),
            "direction": "inbound",
            "forwarded_from": None,
            "from": call.setup.from_number,
            "from_formatted": call.setup.from_number,
            "group_sid": None,
            "parent_call_sid": None,
            "phone_number_sid": "PN" + "0" * 32,
            "price": None,
            "price_unit": "USD",
            "queue_time": "0",
            "sid": call.sid,
            "status": call.status,
            "subresource_uris": {part: f"{uri}/{part.capitalize()}.json" for part in parts},
            "to": call.setup.to_number,
            "to_formatted": call.setup.to_number,
            "trunk_sid": None,
            "uri": uri + ".json",
        }

    def authenticate(self, request: web.Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            user = password = ""
        account = request.match_info.get("account", self.account_sid)
        if scheme.lower() != "basic" or (user, password) != (self.account_sid, self.auth_token):
            raise Refusal(401, 20003, "Authenticate")
        if account != self.account_sid:
            raise self.not_found(request.path)

    def not_found(self, path: str) -> ApiRefusal:
        return Refusal(404, 20404, f"The requested resource {path} was not found")

    def not_allowed(self) -> ApiRefusal:
        return Refusal(405, 20004, "Method not allowed")

    def malformed(self, detail: str) -> ApiRefusal:
        return Refusal(400, 20001, detail)

    def unexpected(self) -> ApiRefusal:
        return Refusal(500, 20500, "An internal server error has occurred")

    def invalid(self, parameter: str, detail: str) -> ApiRefusal:
        return Refusal(400, 21205 if parameter == "Url" else 20001, f"{parameter}: {detail}")

    def ended(self, path: str) -> ApiRefusal:
        return self.not_found(path)

    def not_in_progress(self) -> ApiRefusal:
        return Refusal(400, 21220, "Call is not in-progress. Cannot redirect.")


def _without_query(call: DocumentCall, url: str) -> str:
    """A <Stream>'s URL has no query string at Twilio: its parameters are what <Parameter> is for."""
    parts = urlsplit(url)
    if parts.query:
        call.warn(f"the query string of <Stream url={url!r}> is not passed on, as at Twilio: use <Parameter>")
    return urlunsplit(parts._replace(query="", fragment=""))
