"""What the calls of one carrier share, and what sets carriers of documents apart from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from busyhour.carriers.background import Background
from busyhour.carriers.documents.courier import Courier
from busyhour.carriers.documents.verbs import Grammar, Stream
from busyhour.carriers.endings import Ended, TransferEnd
from busyhour.carriers.media_stream import Channel
from busyhour.carriers.serving import ApiRefusal
from busyhour.clock import unix_seconds
from busyhour.media.codec import Codec
from busyhour.media.studio import Studio
from busyhour.model import Clock

if TYPE_CHECKING:
    from busyhour.carriers.documents.call import DocumentCall


class Provider(Protocol):
    """Twilio or Telnyx's TeXML: the same documents, each in its own words."""

    @property
    def grammar(self) -> Grammar: ...

    @property
    def document_parameter(self) -> str:
        """Of the API: the parameter that holds a document ("Twiml")."""
        ...

    def call_sid(self, random: Random) -> str: ...

    def fields(self, call: DocumentCall) -> dict[str, str]:
        """What every request says of the call."""
        ...

    def channel(self, call: DocumentCall, verb: Stream) -> Channel:
        """Raises BadDocument when nobody could carry such a stream, CallFailed when the twin cannot."""
        ...

    def ear(self, verb: Stream) -> Codec:
        """In what the caller hears the agent on that stream. Raises BadDocument, CallFailed."""
        ...

    def key(self, digit: str) -> Mapping[str, Any]:
        """What a "dtmf" event holds."""
        ...

    def error(self, code: str, detail: str) -> str:
        """How the carrier names one of its errors in a callback and in our messages."""
        ...

    def stream_fields(self, call: DocumentCall, channel: Channel, event: str, error: str) -> dict[str, str]:
        """What a stream's status callback holds; `event` is "stream-started", "stream-stopped" or "stream-error"."""
        ...

    def resource(self, call: DocumentCall) -> dict[str, Any]:
        """The call, as the API shows it."""
        ...

    # the API's refusals, in the carrier's shape

    def authenticate(self, request: web.Request) -> None: ...

    def not_found(self, path: str) -> ApiRefusal: ...

    def not_allowed(self) -> ApiRefusal: ...

    def malformed(self, detail: str) -> ApiRefusal: ...

    def unexpected(self) -> ApiRefusal: ...

    def invalid(self, parameter: str, detail: str) -> ApiRefusal: ...

    def ended(self, path: str) -> ApiRefusal:
        """The call that is to be hung up is over."""
        ...

    def not_in_progress(self) -> ApiRefusal:
        """The call that is to be redirected is not answered yet, or over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How the carrier behaves where the vendor leaves it open or the world decides."""

    media_within_seconds: float = 5.0  # from the answer to the first sound or the open media socket
    transfer: TransferEnd = "answered"
    transfer_after_ms: int = 300
    jitter_buffer_ms: int = 0
    status_path: str = ""  # on the target; "": nobody is told of the call's progress
    status_events: Sequence[str] = ("initiated", "ringing", "answered", "completed")
    fallback_path: str = ""  # on the target; asked when the voice URL fails
    settle_seconds: float = 2.0  # how long an ended call waits for its last callbacks


@dataclass(kw_only=True, eq=False)
class Exchange:
    """Shared by the calls of one running carrier."""

    clock: Clock
    studio: Studio
    background: Background
    provider: Provider
    manners: Manners
    courier: Courier
    calls: dict[str, DocumentCall] = field(default_factory=dict)
    ended: Ended[dict[str, Any]] = field(default_factory=Ended)  # as the API shows them

    def forget(self, call: DocumentCall) -> None:
        """The call has ended: keep only what late requests are answered with."""
        if self.calls.pop(call.sid, None) is not None:
            self.ended.add(call.sid, self.provider.resource(call), self.clock.now_ns())


def mail_date() -> str:
    """Now, as both carriers write it: RFC 2822, in UTC."""
    return formatdate(unix_seconds()).replace("-0000", "+0000")
