"""One call: ringing, answered by the first verb of a document, perhaps transferred, ended.

    ringing --a verb--> in progress --Dial--> transferred
       |                     |                    |
       +--Reject, no answer--+--Hangup, no verb left, the API, the caller--> ended

What documents say is carried out by `script`; this is what happens then, and what the agent is told of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from busyhour.carriers.agent_socket import Closed
from busyhour.carriers.background import Errands
from busyhour.carriers.documents.exchange import Exchange, mail_date
from busyhour.carriers.documents.gathering import Gathering
from busyhour.carriers.documents.script import Script, Source
from busyhour.carriers.documents.verbs import BadDocument, Gather, Stream
from busyhour.carriers.endings import End
from busyhour.carriers.media_stream import Channel, MediaStream
from busyhour.carriers.places import joined, reachable
from busyhour.carriers.sounds import SAID_MAX, Player
from busyhour.media.codec import codec
from busyhour.media.leg import Leg
from busyhour.model import JSON, MS, SECOND, CallFailed, CallSetup

TRAIL_MAX = 1000
WARNINGS_MAX = 10
CALLBACKS_PENDING_MAX = 100


class DocumentCall:
    """The carrier's side of one incoming call of the agent."""

    def __init__(self, exchange: Exchange, setup: CallSetup, target_url: str, source: Source, random: Random) -> None:
        self.exchange = exchange
        self.setup = setup
        self.target_url = target_url
        self.random = random
        self.clock = exchange.clock
        self.sid = exchange.provider.call_sid(random)
        self.trail: deque[tuple[int, str]] = deque(maxlen=TRAIL_MAX)
        self.end: End | None = None
        self.answered_ns = 0
        self.began_ns = self.clock.now_ns()
        self.ended_ns = 0
        self.began_date = mail_date()
        self.ended_date = ""
        manners = exchange.manners
        self.fallback_url = joined(target_url, manners.fallback_path) if manners.fallback_path else ""
        self.status_url = joined(target_url, manners.status_path) if manners.status_path else ""
        self.media = MediaStream(
            self,
            studio=exchange.studio,
            background=exchange.background,
            jitter_buffer_ns=manners.jitter_buffer_ms * MS,
            record_ns=setup.record_ns,
        )
        self.player = Player(self.media, self.clock, exchange.courier.session)
        self.voice_url = source.url
        self._source = source
        loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = loop.create_future()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._stream_over: asyncio.Future[None] = loop.create_future()
        self._stream_callbacks: dict[str, tuple[str, str]] = {}  # by channel: URL and method
        self._stream_awaited = ""  # the channel that <Connect> waits for
        self._two_way = False  # the document has a stream that the caller hears
        self._aside: set[str] = set()  # channels of forks beside such a stream: what becomes of them ends no call
        self._gathering: Gathering | None = None
        self._trouble: CallFailed | None = None  # what became of the last stream, if nothing good
        self._dialling: CallFailed | None = None  # and what it is if the handshake under way comes too late
        self._callbacks = 0
        self._warnings: list[str] = []
        self._said: deque[str] = deque(maxlen=SAID_MAX)
        self._errands = Errands(exchange.background)
        self._script = Script(self)
        self._scripting: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ telling

    def note(self, text: str) -> None:
        self.trail.append((self.clock.now_ns(), text))

    def warn(self, text: str) -> None:
        """Something that the carrier only warns of: for the trail and for the line's detail."""
        self.note(f"warning: {text}")
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(text)

    def say(self, text: str) -> None:
        """The carrier's own voice is going to say it for the agent."""
        self.note(f'says "{text[:60]}"')
        self._said.append(text)

    def detail(self) -> dict[str, JSON]:
        """What a person should know of this call beside its outcome; empty if nothing."""
        told: dict[str, JSON] = {"warnings": list(self._warnings), "carrier_said": list(self._said)}
        return self.media.detail() | {name: texts for name, texts in told.items() if texts}

    @property
    def answered(self) -> bool:
        return self._answered.done()

    @property
    def status(self) -> str:
        """In the words of the carriers: `CallStatus`."""
        if self.end is None:
            return "in-progress" if self.answered else "ringing"
        if self.answered:
            return "completed"
        if self.end.why == "rejected":
            return "busy" if self.end.detail == "busy" else "no-answer"
        return "canceled" if self.end.by == "caller" else "failed"

    @property
    def duration_seconds(self) -> int:
        """Since the answer, as it is billed: each second that has begun."""
        until_ns = self.ended_ns or self.clock.now_ns()
        return -(-(until_ns - self.answered_ns) // SECOND) if self.answered else 0

    def _progress(self, event: str) -> None:
        """Tell the status callback, if there is one."""
        if not self.status_url or event not in self.exchange.manners.status_events:
            return
        told = {"CallbackSource": "call-progress-events", "SequenceNumber": str(self._callbacks)}
        told |= {"Timestamp": mail_date(), "CallStatus": "initiated" if event == "initiated" else self.status}
        if event == "completed":
            told |= {"CallDuration": str(self.duration_seconds), "Duration": str(-(-self.duration_seconds // 60))}
        self._callbacks += 1
        self._call_back(self.status_url, "POST", told)

    def _call_back(self, url: str, method: str, told: Mapping[str, str]) -> None:
        if not self.may_reach(url):
            self.note(f"{url} is neither on this machine nor where the target is: no callback")
        elif self._errands.awaited >= CALLBACKS_PENDING_MAX:
            self.note(f"a callback to {url} was given up: {CALLBACKS_PENDING_MAX} are waiting to be delivered")
        else:
            fields = self.exchange.provider.fields(self) | dict(told)
            asking = self.exchange.courier.ask(url, method, fields, random=self.random, told=self.note)
            self._errands.await_(self.exchange.background.spawn(asking))

    # ------------------------------------------------------------ the caller's side

    async def ring(self) -> None:
        """Ask the agent what to do, and wait until it is heard or its media flow. Raises CallFailed."""
        deadline_ns = self.clock.now_ns() + self.setup.answer_within_ns
        self._progress("initiated")
        self._progress("ringing")
        self._scripting = self._errands.spawn(self._script.run(self._source))
        await self._wait({self._answered, self._over}, deadline_ns)
        if not (self._answered.done() or self._over.done()):
            raise self._unanswered()
        within_seconds = self.exchange.manners.media_within_seconds
        await self._wait({self._opened, self._over}, self.clock.now_ns() + round(within_seconds * SECOND))
        if self.end is not None:
            raise self._failure_of(self.end)
        if not self._opened.done():
            nothing = CallFailed("no media", f"answered, but for {within_seconds:g} s nothing was played or streamed")
            raise self._failed(self._trouble or self._dialling or nothing)

    def _unanswered(self) -> CallFailed:
        seconds = self.setup.answer_within_ns / SECOND
        if self._script.asking:
            return self._failed(
                CallFailed("webhook unanswered", f"{self._script.asking}: no answer within {seconds:g} s")
            )
        return self._failed(CallFailed("no answer", f"no verb that answers the call within {seconds:g} s"))

    def _failure_of(self, end: End) -> CallFailed:
        """What an end before media is called."""
        if end.why in ("hung up", "transferred"):
            trouble = self._trouble or CallFailed("no media")
            how = f"transferred {end.detail}" if end.why == "transferred" else f"hung up by the {end.by}"
            return CallFailed(trouble.reason, f"{how} before any media; {trouble.detail}".rstrip("; "))
        return CallFailed(end.why, end.detail)

    def _failed(self, failure: CallFailed) -> CallFailed:
        """The caller gives up."""
        self.finish(End(why=failure.reason, by="caller", detail=failure.detail))
        return failure

    async def _wait(self, futures: set[asyncio.Future[None]], until_ns: int) -> None:
        """Until one is done, or it is late."""
        seconds = max(0, until_ns - self.clock.now_ns()) / SECOND
        await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    @property
    def leg(self) -> Leg:
        """The caller's mouth and ear; there is one once something can be heard."""
        assert self.media.leg is not None
        return self.media.leg

    def press(self, digit: str) -> None:
        """The caller presses a key."""
        self.note(f"the caller presses {digit}")
        self.media.press(self.exchange.provider.key(digit))
        if self._gathering is not None:
            self._gathering.press(digit)

    def hang_up(self) -> None:
        self.finish(End(why="hung up", by="caller"))

    async def release(self) -> None:
        """The caller is gone: end the call if it lasts, and wait, bounded, for what is still under way."""
        self.hang_up()
        await self._errands.settled(self.exchange.manners.settle_seconds)
        vars(self).pop("_script", None)  # which refers to the call: the garbage collector is held off
        self._scripting = None

    # ------------------------------------------------------------ the API

    def redirect(self, source: Source) -> None:
        """The agent wants something else to be done from now on."""
        self.note("the agent redirects the call")
        if self._scripting is not None:
            self._scripting.cancel()
        self.player.cut()
        self.player.begin()
        self.media.stop()
        self._scripting = self._errands.spawn(self._script.run(source))

    def hung_up_by_agent(self) -> None:
        self.finish(End(why="hung up", by="agent"))

    # ------------------------------------------------------------ what documents do (the script calls these)

    def take(self) -> None:
        """The call is answered, with the first verb that can be heard."""
        if self._answered.done() or self.end is not None:
            return
        self._answered.set_result(None)
        self.answered_ns = self.clock.now_ns()
        self.note("answered")
        self._progress("answered")

    def expect(self, streams: Iterable[Stream]) -> None:
        """The streams of the document that is going to be carried out: the first that is two-way, or else the first,
        decides in what the caller hears."""
        forks_last = sorted(streams, key=lambda verb: not verb.two_way)
        self._two_way = any(verb.two_way for verb in forks_last)
        first = next(iter(forks_last), None)
        if first is None or self.media.leg is not None:
            return
        try:
            self.media.give_ear(self.exchange.provider.ear(first))
        except (BadDocument, CallFailed) as problem:
            self.note(f"{problem}")  # told again, and as a failure, when it comes to that stream

    def sound_rate_hz(self) -> int:
        """The caller is going to hear something: open their ear. In Hz."""
        leg = self.media.give_ear(self.media.ear or codec("PCMU"))
        if not self._opened.done():
            leg.open(self.clock.now_ns())
            self._opened.set_result(None)
        assert self.media.ear is not None
        return self.media.ear.rate_hz

    def open_stream(self, channel: Channel, callback_url: str, verb: Stream) -> asyncio.Future[None]:
        """Dial the agent's socket; done when that stream is over, or was refused."""
        self._stream_over = asyncio.get_running_loop().create_future()
        self._stream_awaited = channel.id
        self._stream_callbacks[channel.id] = callback_url, verb.status_method
        self.media.prepare(channel)
        self.media.open(channel)
        return self._stream_over

    def open_fork(self, channel: Channel, callback_url: str, verb: Stream) -> None:
        """Dial the agent's socket for a one-way stream, which goes on beside what follows, and until the call ends.

        Beside a stream that the caller hears, that one decides when the call is open and how it ends.
        """
        self._stream_callbacks[channel.id] = callback_url, verb.status_method
        if self._two_way:
            self._aside.add(channel.id)
        self.media.fork(channel, opens=not self._two_way)

    def stop_stream(self, name: str) -> None:
        self.media.stop_named(name)

    def gather(self, verb: Gather) -> Gathering:
        """From now on keys are gathered."""
        self._gathering = Gathering(verb, self.player.cut)
        return self._gathering

    def gathered(self) -> None:
        self._gathering = None
        self.player.begin()

    def transferred(self, number: str) -> None:
        """The caller is with somebody else."""
        self.note(f"the caller is connected with {number}")
        if self._opened.done():
            self.leg.end(self.clock.now_ns(), "transferred")
        else:
            self.finish(End(why="transferred", by="agent", detail=f"to {number}"))

    def nothing_left(self) -> None:
        """The last verb is done: the carrier hangs up, and what became of the media is why."""
        if self._trouble is not None:
            self.finish(End(why=self._trouble.reason, by="carrier", detail=self._trouble.detail))
        elif self._opened.done():
            self.finish(End(why="hung up", by="agent", detail=""))
        else:
            detail = "the document is at its end, and nothing was played or streamed: it has no <Connect><Stream>"
            self.finish(End(why="no media", by="carrier", detail=detail))

    def fail(self, reason: str, detail: str) -> None:
        self.finish(End(why=reason, by="carrier", detail=detail))

    async def until_over(self) -> None:
        await asyncio.shield(self._over)

    async def pause(self, duration_ns: int) -> None:
        await self.clock.sleep_until(self.clock.now_ns() + duration_ns)

    # ------------------------------------------------------------ the media stream (the stream calls these)

    def may_reach(self, url: str) -> bool:
        return reachable(url, self.target_url)

    def stream_dialled(self, channel: Channel) -> None:
        if channel.id not in self._aside:
            why = f"{channel.url}: no answer to the WebSocket handshake in time"
            self._trouble, self._dialling = None, CallFailed("media refused", why)

    def stream_opened(self, channel: Channel) -> None:
        self._tell_stream(channel, "stream-started")
        if channel.id in self._aside:
            return
        self._trouble = self._dialling = None
        if not self._opened.done():
            self._opened.set_result(None)

    def stream_refused(self, channel: Channel, detail: str) -> None:
        said = self.exchange.provider.error("31920", detail)
        if channel.id not in self._aside:
            self._trouble = CallFailed("media refused", said)
        self.note(f"media refused: {said}")
        self._tell_stream(channel, "stream-error", said)
        self._stream_done(channel)

    def stream_stopped(self, channel: Channel) -> None:
        self._tell_stream(channel, "stream-stopped")
        self._stream_done(channel)

    def stream_lost(self, channel: Channel, closed: Closed) -> None:
        """The agent has closed the media socket, or it broke: what stands after <Connect> is next."""
        self.note(closed.how)
        if not closed.clean:
            said = self.exchange.provider.error("31921", closed.how)
            if channel.id not in self._aside:
                self._trouble = CallFailed("lost", said)
            self._tell_stream(channel, "stream-error", said)

    def protocol_broken(self, detail: str) -> None:
        said = self.exchange.provider.error("31924", detail)
        self.note(f"protocol error: {said}")
        if self.media.channel is not None:
            self._tell_stream(self.media.channel, "stream-error", said)
        self.finish(End(why="protocol error", by="carrier", detail=said))

    def _stream_done(self, channel: Channel) -> None:
        if channel.id == self._stream_awaited and not self._stream_over.done():
            self._stream_over.set_result(None)

    def _tell_stream(self, channel: Channel, event: str, error: str = "") -> None:
        url, method = self._stream_callbacks[channel.id]
        if url:
            self._call_back(url, method, self.exchange.provider.stream_fields(self, channel, event, error))

    # ------------------------------------------------------------ the end

    def finish(self, end: End) -> None:
        """End the call, once; a second end changes nothing."""
        if self.end is not None:
            return
        self.end = end
        self.ended_ns, self.ended_date = self.clock.now_ns(), mail_date()
        self.note(f"{end.why} by the {end.by}" + (f": {end.detail}" if end.detail else ""))
        self.media.end(self.ended_ns, end.why, end.detail)
        self._progress("completed")
        self._errands.cancel()
        self.exchange.forget(self)
        self._over.set_result(None)

    def resource_dates(self) -> dict[str, Any]:
        """What the API says of its times, in RFC 2822."""
        return {
            "date_created": self.began_date,
            "date_updated": self.ended_date or self.began_date,
            "start_time": self.began_date,
            "end_time": self.ended_date or None,
            "duration": str(self.duration_seconds) if self.end is not None else None,
        }
