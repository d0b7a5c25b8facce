"""The media stream of one call: the socket to the agent at one end, the caller's leg at the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pybase64
from picows import WSCloseCode

from busyhour.carriers.telnyx.exchange import drawn_uuid, reachable
from busyhour.carriers.telnyx.media import Counts, MediaSocket, Refused
from busyhour.carriers.telnyx.params import Format, Stream
from busyhour.carriers.telnyx.refusals import Refusal, unsupported
from busyhour.errors import ProtocolError
from busyhour.media.codec import FRAMES_PER_SECOND, Codec, codec, resample
from busyhour.media.leg import Leg
from busyhour.model import JSON, MS

if TYPE_CHECKING:
    from busyhour.carriers.telnyx.call import Call

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 1.0


class MediaStream:
    """At most one stream at a time; the leg outlives it, so that `speak` is heard after `streaming_stop`."""

    def __init__(self, call: Call) -> None:
        self.leg: Leg | None = None
        self.stream_id = ""
        self._counts = Counts()  # of the sockets that are closed
        self._call = call
        self._exchange = call.exchange
        self._clock = call.exchange.clock
        self._socket: MediaSocket | None = None
        self._stream: Stream | None = None  # from the command that asks for it until it has stopped or failed
        self._mode = ""  # of the last stream
        self._ear: Codec | None = None
        self._transcode: Callable[[bytes], bytes] | None = None

    # ------------------------------------------------------------ opening and closing

    def prepare(self, stream: Stream) -> None:
        """Claim the stream, make the caller's leg. Raises Refusal when there is a stream, or no way to carry it."""
        if self._stream is not None:
            raise Refusal(422, "10015", "Bad Request", "Media streaming is already in progress on this call.")
        mouth = self._codec(stream.forth)
        ear = self._codec(stream.back or stream.forth)
        if self.leg is None:
            self._ear = ear
            jitter_buffer_ns = self._exchange.manners.jitter_buffer_ms * MS
            self.leg = Leg(
                studio=self._exchange.studio,
                codec=ear,
                clock=self._clock,
                send=self._send,
                jitter_buffer_ns=jitter_buffer_ns,
                failed=self._failed,
            )
        elif ear != self._ear:
            raise unsupported("another codec on the second stream of a call", f"Use {self.ear.name} again.")
        self._transcode = None if mouth == ear else _transcoder(ear, mouth)
        self._stream = stream
        self._mode = stream.mode
        self.stream_id = drawn_uuid(self._call.random)

    @property
    def ear(self) -> Codec:
        """What the leg hears; known once a stream was prepared."""
        assert self._ear is not None
        return self._ear

    def _codec(self, format_: Format) -> Codec:
        little = self._exchange.manners.l16_little_endian and format_.name == "L16"
        try:
            return codec(format_.name, format_.rate_hz, little_endian=little)
        except ValueError as problem:
            raise unsupported(f"{format_.name} at {format_.rate_hz} Hz", f"{problem}.") from None

    def open(self, stream: Stream) -> None:
        """Dial the agent in the background."""
        # Not a task of the call: a half-open socket is to be closed when the call ends, not to be left behind.
        self._exchange.background.spawn(self._open(stream))

    async def _open(self, stream: Stream) -> None:
        assert self.leg is not None
        if self._stream is not stream:  # stopped before it began
            return
        socket = MediaSocket(
            stream_id=self.stream_id,
            owner=self,
            clock=self._clock,
            error_shape=self._exchange.manners.error_shape,
            bytes_per_second=self.ear.frame_bytes * FRAMES_PER_SECOND,
        )
        self._socket = socket
        self._note_tracks(stream)
        try:
            if not reachable(stream.url, self._call.target_url):
                raise Refused(f"{stream.url} is neither on this machine nor where the target is; set its public URL")
            headers = {"x-telnyx-streaming-auth-token": stream.auth_token} if stream.auth_token else {}
            self._call.stream_dialled(stream)
            await socket.open(stream.url, headers=headers, timeout_seconds=CONNECT_SECONDS)
        except Refused as refused:
            if self._socket is socket:
                self._forget()
                self._call.stream_refused(stream, str(refused))
            return
        closed = await socket.closed()
        if self._socket is socket:  # it was not we who closed it
            self._forget()
            self._call.stream_stopped(stream)
            self._call.stream_lost(closed)

    def _note_tracks(self, stream: Stream) -> None:
        if stream.track != "inbound_track":
            self._call.note(f"stream_track is {stream.track}: busyhour sends the inbound track only")

    def stop(self) -> None:
        """The agent wants no more of it, or the call is over."""
        socket, stream = self._socket, self._stream
        self._forget()
        if socket is None or stream is None:
            return
        if socket.opened:
            content = {"user_id": self._exchange.user_id, "call_control_id": self._call.ids.control}
            socket.say("stop", {"stop": content})
            self._call.stream_stopped(stream)
        socket.close()
        asyncio.get_running_loop().call_later(CLOSE_SECONDS, socket.abort)

    def end(self, at_ns: int, why: str, detail: str) -> None:
        """The call is over."""
        if self._socket is not None and why == "protocol error":
            self._socket.close(WSCloseCode.POLICY_VIOLATION)
        self.stop()
        if self.leg is not None:
            self.leg.end(at_ns, why, detail)

    def _forget(self) -> None:
        if self._socket is not None:
            self._counts += self._socket.counts
        self._socket = self._stream = None

    # ------------------------------------------------------------ what the socket hears

    def socket_opened(self, at_ns: int) -> None:
        socket, stream, call = self._socket, self._stream, self._call
        assert socket is not None
        assert stream is not None
        token = {"x-telnyx-streaming-auth-token": stream.auth_token} if stream.auth_token else {}
        socket.say("connected", {"version": "1.0.0"} | token, numbered=False)
        start: dict[str, Any] = {
            "user_id": self._exchange.user_id,
            "call_control_id": call.ids.control,
            "call_session_id": call.ids.session,
            "from": call.setup.from_number,
            "to": call.setup.to_number,
            "client_state": call.client_state,
            "tags": [],
            "custom_parameters": dict(stream.custom_parameters),
            "media_format": {"encoding": stream.forth.name, "sample_rate": stream.forth.rate_hz, "channels": 1},
        }
        socket.say("start", {"start": start})
        assert self.leg is not None
        self.leg.open(at_ns)
        call.note(f"media stream open: {stream.url}")
        call.stream_opened(stream)

    def heard_media(self, payload_b64: bytes, at_ns: int) -> None:
        stream = self._stream
        if stream is not None and stream.back is None:
            self._counts.dropped += 1
            if self._counts.dropped == 1:
                self._call.note(f"audio of the agent dropped: {self._why_dropped()}")
            return
        assert self.leg is not None
        # A leg that refuses has ended, and told `_failed`.
        with suppress(ProtocolError):
            self.leg.media(payload_b64, at_ns)

    def _failed(self, failure: ProtocolError) -> None:
        self._call.protocol_broken(str(failure))

    def heard_mark(self, name: str, at_ns: int) -> None:
        self._call.note(f"mark {name}")
        assert self.leg is not None
        try:
            self.leg.mark(name, at_ns, self._return_mark)
        except ProtocolError as failure:
            self._failed(failure)

    def _return_mark(self, name: str) -> None:
        self._call.note(f"mark {name} played")
        self.say("mark", {"mark": {"name": name}})

    def heard_clear(self, at_ns: int) -> None:
        self._call.note("clear")
        self.clear(at_ns)

    def broke_protocol(self, detail: str) -> None:
        self._call.protocol_broken(detail)

    # ------------------------------------------------------------ what the caller does

    def clear(self, at_ns: int) -> None:
        """Drop what is queued for the caller, and return the marks that stood in it."""
        if self.leg is not None:
            for name in self.leg.clear(at_ns):
                self._return_mark(name)

    def say(self, event: str, content: Mapping[str, Any]) -> None:
        if self._socket is not None:
            self._socket.say(event, content)

    def _send(self, payload_b64: bytes, chunk: int) -> None:
        if self._socket is not None:
            payload = payload_b64 if self._transcode is None else self._transcode(payload_b64)
            self._socket.send_audio(payload, chunk)

    # ------------------------------------------------------------ figures

    def detail(self) -> dict[str, JSON]:
        """What a person should know of this stream; empty if nothing."""
        counts = self._all_counts()
        told: dict[str, JSON] = {}
        if counts.dropped:
            told["dropped_frames"] = counts.dropped
            told["dropped_because"] = self._why_dropped()
        if counts.malformed:
            told["malformed_frames"] = counts.malformed
        if counts.skipped:
            told["unread_frames"] = counts.skipped
        return told

    def quality(self) -> dict[str, Any]:
        """`call_quality_stats`: strings, of a line without losses of its own."""
        counts = self._all_counts()
        inbound = {
            "jitter_max_variance": "0.00",
            "jitter_packet_count": "0",
            "mos": "4.50",
            "packet_count": str(counts.sent),
            "skip_packet_count": str(counts.skipped),
        }
        return {"inbound": inbound, "outbound": {"packet_count": str(counts.received), "skip_packet_count": "0"}}

    def _all_counts(self) -> Counts:
        return self._counts + self._socket.counts if self._socket is not None else self._counts

    def _why_dropped(self) -> str:
        if self._mode == "mp3":
            return "stream_bidirectional_mode is mp3, which busyhour does not decode: the caller hears nothing of it"
        return 'stream_bidirectional_mode is not "rtp": Telnyx drops the audio silently, the caller hears nothing'


def _transcoder(from_codec: Codec, to_codec: Codec) -> Callable[[bytes], bytes]:
    """Frames of one codec to frames of another, for agents that hear in one and speak in another."""

    def transcode(payload_b64: bytes) -> bytes:
        samples = from_codec.decode(pybase64.b64decode(payload_b64))
        return pybase64.b64encode(to_codec.encode(resample(samples, from_codec.rate_hz, to_codec.rate_hz)))

    return transcode
