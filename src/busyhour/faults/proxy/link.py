"""One connection through the proxy: two sockets, and a row of stages for each of its two streams.

Data go on in the callback in which they came. A sender is not read from while its receiver, or a stage, holds more than
it has room for, so that memory is bounded however slow a reader is. A half that is closed (FIN) is closed on the other
side when all before it has gone on; a connection that is broken (RST) is broken there.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from busyhour.faults.proxy.aware import Exchange
from busyhour.faults.proxy.flow import Flow, Grasp, Stage
from busyhour.faults.proxy.stages import STAGES
from busyhour.faults.proxy.toxic import STREAMS, Stream, Toxic
from busyhour.model import SECOND
from busyhour.timers import Alarm, Alarms

WRITE_ROOM_BYTES = 256 * 1024
LINGER_NS = 5 * SECOND
"""How long, after a stream was cut in good order, its receiver may take to say goodbye."""
_ABORT = struct.pack("ii", 1, 0)  # lingering for zero seconds makes close() send RST (RFC 9293, 3.10.5)


class Side(asyncio.Protocol):
    """One of the two sockets."""

    def __init__(self, joined: Callable[[Side], None]) -> None:
        self.outgoing: Pipe | None = None
        self.incoming: Pipe
        self.lost: Callable[[Side], None] = lambda side: None
        self.gone = False
        self._has_ended = False
        self._early = b""
        self.abandoned = False  # by us: what it says is of no interest any more
        self._joined = joined
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_ROOM_BYTES)
        self._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._joined(self)

    def data_received(self, data: bytes) -> None:
        pipe = self.outgoing
        if pipe is None:
            self._early += data
            self.read(on=False)  # not before: in connection_made uvloop does not read yet, and cannot be paused
            return
        pipe.count += len(data)
        pipe.first.feed(data)
        if pipe.stages:
            pipe.balance()

    def eof_received(self) -> bool:
        self._has_ended = True
        if self.outgoing is not None:
            self.outgoing.first.end(reset=False)
        return True  # the other half stays open

    def pause_writing(self) -> None:
        self.incoming.sink_is_full = True
        self.incoming.balance()

    def resume_writing(self) -> None:
        self.incoming.sink_is_full = False
        self.incoming.balance()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self.lost(self)

    def begin(self) -> None:
        """The link stands: what came before it did goes on, and what comes."""
        early, self._early = self._early, b""
        if early:
            self.data_received(early)
        if self._has_ended:
            self.eof_received()
        if self.gone:
            self.lost(self)
        self.read(on=True)

    @property
    def is_open(self) -> bool:
        return not self.gone and not self._transport.is_closing()

    def read(self, *, on: bool) -> None:
        if self.is_open and not self._has_ended:
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def write(self, data: bytes) -> None:
        if self.is_open:
            self._transport.write(data)

    def finish(self) -> None:
        """FIN, behind what is still to be sent."""
        if self.is_open:
            self._transport.write_eof()

    def close(self) -> None:
        """Once all is sent."""
        if self.is_open:
            self._transport.close()

    def abandon(self) -> None:
        """At once, without a reset of our own making."""
        self.abandoned = True
        if not self.gone:
            self._transport.abort()

    def reset(self) -> None:
        """RST, now."""
        self.abandoned = True
        if self.is_open:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        if not self.gone:
            self._transport.abort()


class Pipe:
    """One stream: from a side, through the stages, to the other side, of which it is the last flow."""

    def __init__(self, source: Side, sink: Side, delivered: Callable[[], None]) -> None:
        self.source, self.sink = source, sink
        self.stages: list[tuple[Toxic | None, Stage]] = []  # None: its toxic is gone, it only mends what follows
        self.first: Flow = self
        self.count = 0
        self.sink_is_full = False
        self.over = False  # its end has been handed to the sink
        self._delivered = delivered
        self._paused = False

    def feed(self, data: bytes) -> None:
        if not self.over:
            self.sink.write(data)

    def end(self, *, reset: bool) -> None:
        if reset:
            self.sink.reset()
        elif not self.over:
            self.sink.finish()
        self.over = True
        self._delivered()

    def balance(self) -> None:
        """Stop reading from the source, or go on."""
        share = 0.5 if self._paused else 1
        held_up = self.sink_is_full or any(stage.held_bytes > stage.room_bytes * share for _, stage in self.stages)
        if held_up is not self._paused:
            self._paused = held_up
            self.source.read(on=not held_up)

    def relieved(self) -> None:
        if self._paused:
            self.balance()

    def install(self, toxic: Toxic, stage: Stage) -> None:
        self.stages.append((toxic, stage))
        self._wire()

    def of(self, toxic: Toxic) -> Stage | None:
        return next((stage for owner, stage in self.stages if owner is toxic), None)

    def uninstall(self, toxic: Toxic) -> None:
        """Release the toxic's stage, if it has one here."""
        if (stage := self.of(toxic)) is not None:
            index = self.stages.index((toxic, stage))
            if stage.release():
                del self.stages[index]
            else:
                self.stages[index] = (None, stage)
            self._wire()
            self.balance()

    def discard(self) -> None:
        for _, stage in self.stages:
            stage.discard()

    def _wire(self) -> None:
        following: Flow = self
        for _, stage in reversed(self.stages):
            stage.out = following
            following = stage
        self.first = following


class Link:
    """A connection of a client, and the one to the upstream that was made for it."""

    def __init__(
        self, *, number: int, alarms: Alarms, client: Side, upstream: Side, over: Callable[[Link], None]
    ) -> None:
        self.number = number
        self._alarms = alarms
        self._client, self._upstream = client, upstream
        self._over = over
        self._lingering: Alarm | None = None
        self._closed = False
        up, down = Pipe(client, upstream, self._settle), Pipe(upstream, client, self._settle)
        self.pipes: dict[Stream, Pipe] = {"upstream": up, "downstream": down}
        client.outgoing = upstream.incoming = up
        client.incoming = upstream.outgoing = down
        client.lost = upstream.lost = self._lost

    def install(self, toxic: Toxic) -> None:
        """Put the toxic's stages at the end of the rows, if it befalls this connection and is not there yet."""
        if self._closed or not toxic.befalls(self.number) or any(pipe.of(toxic) for pipe in self.pipes.values()):
            return
        form = toxic.form
        if form.type in STAGES:
            self.pipes[form.stream].install(toxic, STAGES[form.type](self._grasp(toxic, form.stream)))
        else:
            upward, downward = (self._grasp(toxic, stream) for stream in STREAMS)
            exchange = Exchange(toxic, upward, downward)
            self.pipes["upstream"].install(toxic, exchange.requests)
            self.pipes["downstream"].install(toxic, exchange.responses)

    def uninstall(self, toxic: Toxic) -> None:
        for pipe in self.pipes.values():
            pipe.uninstall(toxic)

    def change(self, toxic: Toxic) -> None:
        """The toxic's form is another."""
        if not toxic.befalls(self.number):
            self.uninstall(toxic)
            return
        self.install(toxic)
        for pipe in self.pipes.values():
            if (stage := pipe.of(toxic)) is not None:
                stage.changed()
                pipe.balance()

    def reset(self) -> None:
        """Break both sides with a TCP reset."""
        self._client.reset()
        self._upstream.reset()
        self._settle()

    def abort(self) -> None:
        """Close both sides, whatever is on its way."""
        self._client.abandon()
        self._upstream.abandon()
        self._settle()

    def _grasp(self, toxic: Toxic, stream: Stream) -> Grasp:
        pipe = self.pipes[stream]
        return Grasp(
            toxic=toxic,
            alarms=self._alarms,
            random=toxic.random(self.number),
            fresh=not any(each.count for each in self.pipes.values()),
            reset=self.reset,
            abandon=lambda: self._abandon(pipe.source),
            relieved=pipe.relieved,
        )

    def _abandon(self, side: Side) -> None:
        side.abandon()
        self._settle()

    def _lost(self, side: Side) -> None:
        """A side is gone. What it had sent goes on; then the other learns that the connection is broken."""
        if not side.abandoned and not self._closed:
            pipe = self._outgoing(side)
            if pipe.over:
                pipe.sink.reset()
            else:
                pipe.first.end(reset=True)
        self._settle()

    def _settle(self) -> None:
        """Close what is over; forget the link when both sides are gone."""
        sides = (self._client, self._upstream)
        if all(side.gone for side in sides):
            self._forget()
        elif not self._closed and all(pipe.over for pipe in self.pipes.values()):
            self._closed = True
            for side in sides:
                side.close()
        elif self._lingering is None and any(side.abandoned and self._outgoing(side).over for side in sides):
            self._lingering = self._alarms.at(self._alarms.now_ns() + LINGER_NS, self.abort)

    def _outgoing(self, side: Side) -> Pipe:
        return self.pipes["upstream" if side is self._client else "downstream"]

    def _forget(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        self._closed = True
        for pipe in self.pipes.values():
            pipe.discard()
        self._over(self)
