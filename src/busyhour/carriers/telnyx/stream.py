"""A media stream as a Telnyx command asks for it, made ready to be opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from busyhour.carriers.media_stream import Channel, Message
from busyhour.carriers.places import drawn_uuid
from busyhour.carriers.telnyx.media import ErrorShape, TelnyxFrames
from busyhour.carriers.telnyx.params import Format, Stream
from busyhour.carriers.telnyx.refusals import Refusal, unsupported
from busyhour.media.codec import Codec, codec

if TYPE_CHECKING:
    from busyhour.carriers.telnyx.call import Call


def channel_of(call: Call, stream: Stream) -> Channel:
    """Raises Refusal when there is a stream already, or no way to carry this one."""
    if call.media.channel is not None:
        raise Refusal(422, "10015", "Bad Request", "Media streaming is already in progress on this call.")
    manners = call.exchange.manners
    little_endian = manners.l16_little_endian
    ear = codec_of(stream.back or stream.forth, little_endian=little_endian)
    if call.media.ear not in (None, ear):
        assert call.media.ear is not None
        raise unsupported("another codec on the second stream of a call", f"Use {call.media.ear.name} again.")
    parties = {"user_id": call.exchange.user_id, "call_control_id": call.ids.control}

    def start() -> Mapping[str, Any]:
        return {**parties, "call_session_id": call.ids.session, **call.numbers(), "client_state": call.client_state}

    return channel(
        stream,
        stream_id=drawn_uuid(call.random),
        start=start,
        farewell=parties,
        error_shape=manners.error_shape,
        little_endian=manners.l16_little_endian,
    )


def channel(
    stream: Stream,
    *,
    stream_id: str,
    start: Callable[[], Mapping[str, Any]],
    farewell: Mapping[str, Any],
    error_shape: ErrorShape = "payload",
    little_endian: bool = False,
    name: str = "",
) -> Channel:
    """`start`: whose stream it is, when its start is told. Raises Refusal for a rate that a codec has not."""
    token = {"x-telnyx-streaming-auth-token": stream.auth_token} if stream.auth_token else {}

    def greeting() -> Sequence[Message]:
        content: dict[str, Any] = {
            **start(),
            "tags": [],
            "custom_parameters": dict(stream.custom_parameters),
            "media_format": {"encoding": stream.forth.name, "sample_rate": stream.forth.rate_hz, "channels": 1},
        }
        connected = Message("connected", {"version": "1.0.0"} | token, numbered=False)
        return connected, Message("start", {"start": content})

    return Channel(
        id=stream_id,
        url=stream.url,
        mouth=codec_of(stream.forth, little_endian=little_endian),
        ear=codec_of(stream.back or stream.forth, little_endian=little_endian),
        dialect=TelnyxFrames(stream_id, error_shape),
        greeting=greeting,
        farewell=farewell,
        deaf=_deaf(stream),
        track=stream.track,
        name=name,
        headers=token,
    )


def codec_of(format_: Format, *, little_endian: bool) -> Codec:
    """Raises Refusal for a rate that the codec has not."""
    try:
        return codec(format_.name, format_.rate_hz, little_endian=little_endian and format_.name == "L16")
    except ValueError as problem:
        raise unsupported(f"{format_.name} at {format_.rate_hz} Hz", f"{problem}.") from None


def _deaf(stream: Stream) -> str:
    if stream.back is not None:
        return ""
    if stream.mode == "mp3":
        return "the stream's bidirectional mode is mp3, which busyhour does not decode: the caller hears nothing of it"
    return (
        'the stream has no bidirectional mode "rtp" (stream_bidirectional_mode, in TeXML bidirectionalMode): Telnyx '
        "drops the audio silently, the caller hears nothing"
    )
