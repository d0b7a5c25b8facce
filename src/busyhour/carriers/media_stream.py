"""The media stream of one call: the socket to the agent at one end, the caller's leg at the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pybase64
from picows import WSCloseCode

from busyhour.carriers.agent_socket import Closed, Refused
from busyhour.carriers.background import Background
from busyhour.carriers.media_socket import Counts, Dialect, MediaSocket
from busyhour.errors import ProtocolError
from busyhour.media.codec import FRAMES_PER_SECOND, Codec, resample
from busyhour.media.leg import Leg
from busyhour.media.studio import Studio
from busyhour.model import JSON, MS, Samples

CONNECT_SECONDS = 5.0
FORKS_MAX = 16  # in one call


@dataclass(frozen=True, slots=True)
class Message:
    """An event on the media socket; `numbered` if it says of which stream it is, and its place in it."""

    event: str
    content: Mapping[str, Any]
    numbered: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Channel:
    """A media stream as the agent asked for it, and as the carrier writes it."""

    id: str
    url: str
    mouth: Codec  # in which the agent hears the caller
    ear: Codec  # in which the agent speaks
    dialect: Dialect
    greeting: Callable[[], Sequence[Message]]  # what the agent is told when the socket is open
    farewell: Mapping[str, Any]  # the content of "stop"
    deaf: str = ""  # why the caller hears nothing of the agent's audio on this stream; "": it is heard
    keys: bool = True  # the agent is told what the caller presses
    track: str = "inbound_track"
    name: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


class Owner(Protocol):
    """The call: whom the stream tells what becomes of it."""

    def note(self, text: str) -> None: ...

    def may_reach(self, url: str) -> bool: ...

    def stream_dialled(self, channel: Channel) -> None: ...

    def stream_opened(self, channel: Channel) -> None: ...

    def stream_refused(self, channel: Channel, detail: str) -> None: ...

    def stream_stopped(self, channel: Channel) -> None:
        """It was open, and is not any more, whoever wanted that."""
        ...

    def stream_lost(self, channel: Channel, closed: Closed) -> None:
        """The agent has closed the socket, or it broke. `stream_stopped` was told before."""
        ...

    def protocol_broken(self, detail: str) -> None: ...


class _Nobody:
    """The owner of a stream whose call is over: the call and its parts would else keep one another alive, and during a
    run the garbage collector is held off."""

    def note(self, text: str) -> None: ...

    def may_reach(self, url: str) -> bool:
        return False

    def stream_dialled(self, channel: Channel) -> None: ...

    def stream_opened(self, channel: Channel) -> None: ...

    def stream_refused(self, channel: Channel, detail: str) -> None: ...

    def stream_stopped(self, channel: Channel) -> None: ...

    def stream_lost(self, channel: Channel, closed: Closed) -> None: ...

    def protocol_broken(self, detail: str) -> None: ...


class MediaStream:
    """At most one stream at a time; the leg outlives it, so that what the carrier itself plays is heard after it.

    Beside it there may be forks: streams of the same leg that are sent what the caller says, and of which nothing is
    heard. It is the stage of the carrier's `Player`.
    """

    def __init__(
        self, owner: Owner, *, studio: Studio, background: Background, jitter_buffer_ns: int, record_ns: int = 0
    ) -> None:
        self.leg: Leg | None = None
        self.channel: Channel | None = None  # from `prepare` until it has stopped or failed
        self._owner: Owner = owner
        self._studio = studio
        self._clock = studio.clock
        self._background = background
        self._jitter_buffer_ns = jitter_buffer_ns
        self._record_ns = record_ns
        self._counts = Counts()  # of the sockets that are closed
        self._socket: MediaSocket | None = None
        self._deaf = ""  # of the last stream that was
        self._nonsense = ""  # the first malformed frame
        self._ear: Codec | None = None
        self._transcode: Callable[[bytes], bytes] | None = None
        self._forks: list[MediaStream] = []
        self._is_fork = False
        self._opens_leg = True

    # ------------------------------------------------------------ opening and closing

    @property
    def ear(self) -> Codec | None:
        """What the leg hears in: it is the same for the whole call."""
        return self._ear

    def give_ear(self, ear: Codec) -> Leg:
        """The caller's leg; made now if there is none yet."""
        if self.leg is None:
            self._ear = ear
            self.leg = Leg(
                studio=self._studio,
                codec=ear,
                clock=self._clock,
                send=self._send,
                jitter_buffer_ns=self._jitter_buffer_ns,
                failed=self._failed,
                record_ns=self._record_ns,
            )
        return self.leg

    def prepare(self, channel: Channel) -> None:
        """Claim the stream, make the caller's leg. There must be no other stream, and no other ear."""
        if self.channel is not None or self._ear not in (None, channel.ear):
            raise RuntimeError("one stream at a time, and one codec for the caller's ear")
        self.give_ear(channel.ear)
        self._transcode = None if channel.mouth == channel.ear else _transcoder(channel.ear, channel.mouth)
        self.channel = channel

    def open(self, channel: Channel) -> None:
        """Dial the agent in the background."""
        # Not a task of the call: a half-open socket is to be closed when the call ends, not to be left behind.
        self._background.spawn(self._open(channel))

    @property
    def forks(self) -> int:
        """How many there have been."""
        return len(self._forks)

    def fork(self, channel: Channel, *, opens: bool) -> None:
        """Dial the agent for a stream beside this one; `opens`: with it the caller begins to be heard."""
        fork = MediaStream(
            self._owner, studio=self._studio, background=self._background, jitter_buffer_ns=self._jitter_buffer_ns
        )
        fork.leg, fork._ear = self.give_ear(self._ear or channel.ear), self._ear
        fork._is_fork, fork._opens_leg = True, opens
        self._forks.append(fork)
        self._shorten()
        fork.prepare(channel)
        fork.open(channel)

    def stop_named(self, name: str) -> None:
        """The stream, or the fork, of that name; "": all of them."""
        for stream in (self, *self._forks):
            if stream.channel is not None and name in ("", stream.channel.name):
                stream.stop()

    async def _open(self, channel: Channel) -> None:
        if self.channel is not channel:  # stopped before it began
            return
        socket = MediaSocket(
            dialect=channel.dialect,
            owner=self,
            clock=self._clock,
            bytes_per_second=channel.ear.frame_bytes * FRAMES_PER_SECOND,
            inbox=self._studio.inbox,
        )
        self._socket = socket
        if channel.track != "inbound_track":
            self._owner.note(f"the stream's track is {channel.track}: busyhour sends the inbound track only")
        try:
            if not self._owner.may_reach(channel.url):
                raise Refused(f"{channel.url} is neither on this machine nor where the target is; set its public URL")
            if (trouble := self._studio.disturbance).befalling("stream.refused", channel.id) is not None:
                trouble.count("stream.refused")
                raise Refused(f"{channel.url}: the carrier does not get through to it")
            self._owner.stream_dialled(channel)
            await socket.open(channel.url, headers=channel.headers, timeout_seconds=CONNECT_SECONDS)
        except Refused as refused:
            socket.close()
            if self._socket is socket:
                self._forget()
                self._owner.stream_refused(channel, str(refused))
            return
        closed = await socket.closed()
        if self._socket is socket:  # it was not we who closed it
            self._forget()
            self._owner.stream_stopped(channel)
            self._owner.stream_lost(channel, closed)

    def stop(self) -> None:
        """The agent wants no more of it, or the call is over."""
        self._studio.inbox.read()  # what it said before that
        socket, channel = self._socket, self.channel
        self._forget()
        if socket is None or channel is None:
            return
        if socket.opened:
            socket.say("stop", {"stop": channel.farewell})
            self._owner.stream_stopped(channel)
        socket.close()

    def end(self, at_ns: int, why: str, detail: str) -> None:
        """The call is over."""
        self._studio.inbox.read()
        for stream in (self, *self._forks):
            if stream._socket is not None and why == "protocol error":
                stream._socket.close(WSCloseCode.POLICY_VIOLATION)
            stream.stop()
        if self.leg is not None:
            self.leg.end(at_ns, why, detail)
        for stream in (self, *self._forks):
            stream._owner = _Nobody()

    def _forget(self) -> None:
        if self._socket is not None:
            self._counts += self._socket.counts
        self._socket = self.channel = None
        self._shorten()

    # ------------------------------------------------------------ what the socket hears

    def socket_opened(self, at_ns: int) -> None:
        socket, channel = self._socket, self.channel
        assert socket is not None
        assert channel is not None
        assert self.leg is not None
        for message in channel.greeting():
            socket.say(message.event, message.content, numbered=message.numbered)
        if not channel.deaf:
            socket.hear_by(self.leg)
        self._shorten()
        if self._opens_leg:
            self.leg.open(self.leg.opened_ns or at_ns)
        self._owner.note(f"media stream open: {channel.url}")
        self._owner.stream_opened(channel)
        if (vice := self._studio.disturbance.befalling("stream.broken", channel.id)) is not None:
            self._background.spawn(self._break(socket, at_ns + round(vice.ms * MS)))

    async def _break(self, socket: MediaSocket, at_ns: int) -> None:
        """The fault stream.broken: what is left of the stream then is gone, and nobody takes his leave."""
        await self._clock.sleep_until(at_ns)
        if self._socket is socket:
            self._studio.disturbance.count("stream.broken")
            socket.break_off()

    def _shorten(self) -> None:
        """Let the leg's frames go the shortest way to the socket: most streams have no fork, and one codec."""
        if self._is_fork or self.leg is None:
            return
        if self._socket is not None and self._transcode is None and not self._forks:
            self.leg.send_by(self._socket.send_audio, self._socket)
        else:
            self.leg.send_by(self._send)

    def heard_media(self, octets: bytes, at_ns: int) -> None:
        channel = self.channel
        if channel is not None and channel.deaf:
            self._counts.dropped += 1
            if self._counts.dropped == 1:
                self._deaf = channel.deaf
                self._owner.note(f"audio of the agent dropped: {channel.deaf}")
            return
        assert self.leg is not None
        self.leg.octets(octets, at_ns)

    def _failed(self, failure: ProtocolError) -> None:
        self._owner.protocol_broken(str(failure))

    def heard_mark(self, name: str, at_ns: int) -> None:
        if self._studio.disturbance.cut():
            return
        self._owner.note(f"mark {name}")
        assert self.leg is not None
        try:
            self.leg.mark(name, at_ns, self._return_mark)
        except ProtocolError as failure:
            self._failed(failure)

    def _return_mark(self, name: str) -> None:
        self._owner.note(f"mark {name} played")
        self.say("mark", {"mark": {"name": name}})

    def heard_clear(self, at_ns: int) -> None:
        if self._studio.disturbance.cut():
            return
        if self._is_fork:
            self._owner.note("clear on a one-way stream: nothing of it is queued")
            return
        self._owner.note("clear")
        self.clear(at_ns)

    def heard_malformed(self, detail: str) -> None:
        if not self._nonsense:
            self._nonsense = detail
            self._owner.note(f"malformed frame: {detail}")

    def broke_protocol(self, detail: str) -> None:
        self._owner.protocol_broken(detail)

    # ------------------------------------------------------------ what the caller does

    def clear(self, at_ns: int) -> None:
        """Drop what is queued for the caller, and return the marks that stood in it."""
        if self.leg is not None:
            for name in self.leg.clear(at_ns):
                self._return_mark(name)

    def play(self, samples: Samples) -> int:
        """Let the caller hear what the carrier itself plays, behind what is queued; when it will have been played."""
        assert self.leg is not None
        now_ns = self._clock.now_ns()
        try:
            return self.leg.play(samples, now_ns)
        except ProtocolError:  # the agent's own audio fills the queue, and has ended the call
            return now_ns

    def silence(self) -> None:
        self.clear(self._clock.now_ns())

    def say(self, event: str, content: Mapping[str, Any]) -> None:
        if self._socket is not None and not self._studio.disturbance.cut():
            self._socket.say(event, content)

    def press(self, key: Mapping[str, Any]) -> None:
        """Tell the agent of a key, on each stream on which the carrier does."""
        for stream in (self, *self._forks):
            if stream.channel is not None and stream.channel.keys:
                stream.say("dtmf", key)

    def _send(self, payload_b64: bytes, chunk: int) -> None:
        for fork in self._forks:
            fork._send(payload_b64, chunk)
        if self._socket is not None:
            payload = payload_b64 if self._transcode is None else self._transcode(payload_b64)
            self._socket.send_audio(payload, chunk)

    def may_reach(self, url: str) -> bool:
        return self._owner.may_reach(url)

    # ------------------------------------------------------------ figures

    def detail(self) -> dict[str, JSON]:
        """What a person should know of this call's streams; empty if nothing."""
        counts = self.counts()
        told: dict[str, JSON] = {}
        if counts.dropped:
            told["dropped_frames"] = counts.dropped
            told["dropped_because"] = self._first("_deaf")
        if counts.malformed:
            told["malformed_frames"] = counts.malformed
            told["malformed_first"] = self._first("_nonsense")
        if counts.skipped:
            told["unread_frames"] = counts.skipped
        return told

    def counts(self) -> Counts:
        """Of all streams of this call."""
        found = self._counts + self._socket.counts if self._socket is not None else self._counts
        return sum((fork.counts() for fork in self._forks), found)

    def _first(self, what: str) -> str:
        """The first of the streams that has it to tell."""
        return next((told for stream in (self, *self._forks) if (told := getattr(stream, what))), "")


def _transcoder(from_codec: Codec, to_codec: Codec) -> Callable[[bytes], bytes]:
    """Frames of one codec to frames of another, for agents that hear in one and speak in another."""

    def transcode(payload_b64: bytes) -> bytes:
        samples = from_codec.decode(pybase64.b64decode(payload_b64))
        return pybase64.b64encode(to_codec.encode(resample(samples, from_codec.rate_hz, to_codec.rate_hz)))

    return transcode
