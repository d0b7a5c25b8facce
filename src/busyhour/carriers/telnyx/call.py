"""One call: parked, answered, perhaps transferred, ended; its webhooks, its media stream and its caller's line.

    parked --answer--> answered --transfer--> transferred
       |                  |                       |
       +--reject/hangup---+-----hangup, lost------+--> ended

What the agent's commands do is here; how they arrive is in `commands`, what the caller does is in `line`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from random import Random
from typing import Any, Literal

from busyhour.carriers.agent_socket import Closed
from busyhour.carriers.background import Errands
from busyhour.carriers.endings import End
from busyhour.carriers.media_stream import Channel, MediaStream
from busyhour.carriers.places import drawn_uuid, reachable
from busyhour.carriers.sounds import SAID_MAX, Player, press_keys
from busyhour.carriers.telnyx import params
from busyhour.carriers.telnyx.endings import REJECTED_WITH
from busyhour.carriers.telnyx.exchange import Exchange, Ids
from busyhour.carriers.telnyx.params import Stream
from busyhour.carriers.telnyx.refusals import Refusal, Unsupported, invalid, not_answered, unsupported
from busyhour.carriers.telnyx.sounds import Sounds
from busyhour.carriers.telnyx.stream import channel_of
from busyhour.carriers.telnyx.transfer import put_through
from busyhour.carriers.telnyx.webhooks import Delivery, Event, utc_now
from busyhour.errors import TWIN_CANNOT, PlanError
from busyhour.media.leg import Leg
from busyhour.model import JSON, MS, SECOND, CallFailed, CallSetup

TRAIL_MAX = 1000
WEBHOOKS_PENDING_MAX = 500
CLOSE_SECONDS = 1.0


class Call:
    """The carrier's side of one incoming call of the agent."""

    def __init__(self, exchange: Exchange, setup: CallSetup, target_url: str, webhook_url: str, random: Random) -> None:
        self.exchange = exchange
        self.setup = setup
        self.ids = Ids.drawn(random)
        self.random = random
        self.trail: deque[tuple[int, str]] = deque(maxlen=TRAIL_MAX)
        self._said: deque[str] = deque(maxlen=SAID_MAX)  # by the carrier's own voice, for the agent
        self.command_ids: dict[str, int] = {}
        self.commands = 0
        self.client_state: str | None = None
        self.state: Literal["parked", "answered", "transferred", "ended"] = "parked"
        self.end: End | None = None
        self.hooks = params.Hooks(url=webhook_url)
        self.clock = exchange.clock
        self.media = MediaStream(
            self,
            studio=exchange.studio,
            background=exchange.background,
            jitter_buffer_ns=exchange.manners.jitter_buffer_ms * MS,
            record_ns=setup.record_ns,
        )
        self.target_url = target_url
        self._start_time = utc_now()
        self._end_time = ""
        self._began_ns = exchange.clock.now_ns()
        loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = loop.create_future()
        self.answered_ns = 0
        self._opened: asyncio.Future[None] = loop.create_future()
        self._over: asyncio.Future[None] = loop.create_future()
        self._trouble: CallFailed | None = None  # why there are no media so far
        self._dialling: CallFailed | None = None  # and what it is if the handshake under way comes too late
        self._refused = ""  # the last command that was, and why
        self.bridged: tuple[Ids, dict[str, Any]] | None = None  # the leg that the caller was transferred to
        self._errands = Errands(exchange.background)
        self._sounds = Sounds(self, Player(self.media, self.clock, exchange.session), self._errands.spawn)

    # ------------------------------------------------------------ telling

    def note(self, text: str) -> None:
        self.trail.append((self.clock.now_ns(), text))

    def event(self, type_: str, ids: Ids | None = None, **payload: Any) -> asyncio.Task[Delivery] | None:
        """Send a webhook in the background. `ids`: of another leg than the caller's."""
        self.note(f"event {type_}")
        if self.exchange.webhooks is None:
            return None
        if self._errands.awaited >= WEBHOOKS_PENDING_MAX:
            self.note(f"webhook {type_} was given up: {WEBHOOKS_PENDING_MAX} are waiting to be delivered")
            return None
        named = ids or self.ids
        content = {
            "call_control_id": named.control,
            "call_leg_id": named.leg,
            "call_session_id": named.session,
            "client_state": self.client_state,
            "connection_id": self.exchange.connection_id,
        }
        task = self.exchange.webhooks.post(
            Event(
                type=type_,
                id=drawn_uuid(self.random),
                payload=content | payload,
                url=self.hooks.url,
                told=self.note,
                retries_ms=self.hooks.retries_ms.get(type_),
            ),
            self.random,
        )
        self._errands.await_(task)
        return task

    def status(self) -> dict[str, Any]:
        """What `GET /v2/calls/{id}` answers."""
        alive = self.end is None
        known = {
            "call_control_id": self.ids.control,
            "call_leg_id": self.ids.leg,
            "call_session_id": self.ids.session,
            "call_duration": (self.clock.now_ns() - self._began_ns) // SECOND,
            "client_state": self.client_state,
            "is_alive": alive,
            "record_type": "call",
            "start_time": self._start_time,
        }
        return known if alive else known | {"end_time": self._end_time}

    def detail(self) -> dict[str, JSON]:
        """What a person should know of this call beside its outcome; empty if nothing."""
        return {**self.media.detail(), **({"carrier_said": list(self._said)} if self._said else {})}

    def numbers(self) -> dict[str, Any]:
        return {"from": self.setup.from_number, "to": self.setup.to_number}

    # ------------------------------------------------------------ the caller's side

    async def ring(self) -> None:
        """Announce the call to the agent and wait until it answers and its media flow. Raises CallFailed."""
        deadline_ns = self.clock.now_ns() + self.setup.answer_within_ns
        announced = self.event("call.initiated", **self._initiated(), **self.numbers())
        waiting: set[asyncio.Future[Any]] = {self._answered, self._over}
        if announced is not None:
            waiting.add(announced)
        while not (self._answered.done() or self._over.done()):
            done = await self._wait(waiting, deadline_ns)
            if not done:
                raise self._unanswered(announced)
            # An agent may answer from inside its webhook handler; then what the handler says later is not waited for.
            if announced in done and not (self._answered.done() or self._over.done()):
                self._require_delivery(announced.result())
                waiting.discard(announced)
        await self._until_media(self.clock.now_ns() + round(self.exchange.manners.media_within_seconds * SECOND))

    def _initiated(self) -> dict[str, Any]:
        number = self.setup.from_number
        return {
            "caller_id_name": number,
            "calling_party_type": "pstn",
            "connection_codecs": "PCMU,PCMA",
            "custom_headers": [],
            "direction": "incoming",
            "from_sip_uri": f"{number}@127.0.0.1:5060",
            "offered_codecs": self.setup.codec,
            "shaken_stir_attestation": "A",
            "shaken_stir_validated": True,
            "sip_headers": [],
            "start_time": self._start_time,
            "state": "parked",
            "tags": [],
            "to_sip_uri": f"{self.setup.to_number}@127.0.0.1:5060",
        }

    def _require_delivery(self, delivery: Delivery) -> None:
        if delivery.outcome != "delivered":
            raise self._failed(f"webhook {delivery.outcome}", f"call.initiated to {self.hooks.url}: {delivery.detail}")

    def _unanswered(self, announced: asyncio.Task[Delivery] | None) -> CallFailed:
        seconds = self.setup.answer_within_ns / SECOND
        if announced is not None and not announced.done():
            return self._failed("webhook unanswered", f"call.initiated to {self.hooks.url}: no answer in {seconds:g} s")
        return self._failed("no answer", f"no answer command within {seconds:g} s{self._refused}")

    async def connect(self, stream: Stream) -> None:
        """A call without call control: open its media stream. Raises CallFailed, PlanError for a codec there is not."""
        try:
            channel = channel_of(self, stream)
        except Refusal as refusal:
            raise PlanError(refusal.detail) from refusal
        self.media.prepare(channel)
        self.state = "answered"
        self._answered.set_result(None)
        self.answered_ns = self.clock.now_ns()
        self.media.open(channel)
        await self._until_media(self.clock.now_ns() + self.setup.answer_within_ns)

    async def _until_media(self, deadline_ns: int) -> None:
        """Wait until the media stream is open. Raises CallFailed."""
        await self._wait({self._opened, self._over}, deadline_ns)
        if self.end is not None:
            raise self._failure_of(self.end)
        if not self._opened.done():
            nothing = CallFailed("no media", "answered, but no media stream was started")
            trouble = self._trouble or self._dialling or nothing
            raise self._failed(trouble.reason, trouble.detail)

    def _failure_of(self, end: End) -> CallFailed:
        """What an end before media is called."""
        if end.why in ("rejected", "media refused", "protocol error", "lost", TWIN_CANNOT):
            return CallFailed(end.why, end.detail)
        if end.why == "transferred":
            return CallFailed("no media", f"transferred {end.detail} before any media")
        if self._answered.done():
            trouble = self._trouble or CallFailed("no media")
            return CallFailed(trouble.reason, f"{end.why} by the {end.by} before media; {trouble.detail}".rstrip("; "))
        return CallFailed("rejected", end.detail or f"{end.why} by the {end.by} before it was answered")

    def _failed(self, reason: str, detail: str) -> CallFailed:
        """The caller gives up."""
        cancelled = {} if self._answered.done() else {"cause": "originator_cancel", "sip": "487"}
        self.finish(End(why=reason, by="caller", detail=detail, **cancelled))
        return CallFailed(reason, detail)

    async def _wait(self, futures: set[asyncio.Future[Any]], until_ns: int) -> set[asyncio.Future[Any]]:
        """Those that are done, as soon as one is; none when it is late."""
        seconds = max(0, until_ns - self.clock.now_ns()) / SECOND
        done, _ = await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return done

    @property
    def leg(self) -> Leg:
        """The caller's mouth and ear; there is one once media are open."""
        assert self.media.leg is not None
        return self.media.leg

    def press(self, digit: str) -> None:
        """The caller presses a key."""
        self.note(f"the caller presses {digit}")
        self.media.say("dtmf", {"occurred_at": utc_now(), "dtmf": {"digit": digit}})
        self.event("call.dtmf.received", digit=digit, **self.numbers())

    def hang_up(self) -> None:
        self.finish(End(why="hung up", by="caller"))

    async def release(self) -> None:
        """The caller is gone: end the call if it lasts, and wait, bounded, for what is still under way."""
        self.hang_up()
        webhooks = self.exchange.webhooks
        seconds = CLOSE_SECONDS if webhooks is None else webhooks.patience_seconds
        await self._errands.settled(seconds)
        vars(self).pop("_sounds", None)  # it refers to the call, and the garbage collector is held off

    # ------------------------------------------------------------ the agent's commands

    def refused(self, command: str, refusal: Refusal) -> None:
        self.note(f"command {command} -> {refusal.status} {refusal.code} {refusal.detail}")
        self._refused = f"; its command {command} was refused: {refusal.detail}"
        if isinstance(refusal, Unsupported):  # what follows says nothing of the agent: Telnyx would have obeyed
            self.finish(End(why=TWIN_CANNOT, by="carrier", detail=refusal.detail, cause="unspecified"))

    def answer(self, body: Mapping[str, Any]) -> None:
        if self.state != "parked":
            raise Refusal(422, "10015", "Bad Request", "This call has already been answered.")
        hooks = params.hooks(body)
        channel = self._asked_channel(body, required=False)
        self._hook(hooks)
        self.state = "answered"
        self._answered.set_result(None)
        self.answered_ns = self.clock.now_ns()
        self._errands.spawn(self._take(channel))

    async def _take(self, channel: Channel | None) -> None:
        await self.pause(self.exchange.manners.effect_after_ms * MS)
        self.event("call.answered", state="answered", start_time=self._start_time, custom_headers=[], **self.numbers())
        if channel is not None:
            self.media.open(channel)

    def start_stream(self, body: Mapping[str, Any]) -> None:
        self._require_answer("streaming_start")
        channel = self._asked_channel(body, required=True)
        assert channel is not None
        self._errands.spawn(self._restart(channel))

    async def _restart(self, channel: Channel) -> None:
        await self.pause(self.exchange.manners.effect_after_ms * MS)
        self.media.open(channel)

    def stop_stream(self, body: Mapping[str, Any]) -> None:
        self._require_answer("streaming_stop")
        stream_id = params.text(body, "stream_id")
        channel = self.media.channel
        if stream_id and (channel is None or stream_id != channel.id):
            raise invalid("stream_id", "there is no such stream on this call.")
        self.media.stop()

    def speak(self, body: Mapping[str, Any]) -> None:
        self._require_answer("speak")
        speech = params.speech(body)
        self._sounds.add(speech)
        self._said.append(" ".join(speech.text.split()))

    def start_playback(self, body: Mapping[str, Any]) -> None:
        self._require_answer("playback_start")
        self._sounds.add(params.playback(body))

    def stop_playback(self, body: Mapping[str, Any]) -> None:
        self._require_answer("playback_stop")
        self._sounds.stop(everything=params.text(body, "stop", choices=("current", "all")) == "all")

    def send_dtmf(self, body: Mapping[str, Any]) -> None:
        self._require_answer("send_dtmf")
        self._errands.spawn(press_keys(lambda: self.media.leg, params.digits(body), self.clock))

    def transfer(self, body: Mapping[str, Any]) -> None:
        if self.state == "transferred":
            raise unsupported("a second transfer", "The first one was answered.")
        transfer = params.transfer(body)
        self._hook(params.hooks(body))
        self._errands.spawn(put_through(self, transfer))

    def hangup(self, body: Mapping[str, Any]) -> None:
        reason = params.text(body, "reason")
        if any(character in '"\\' or not character.isprintable() or character > "\uffff" for character in reason):
            raise invalid("reason", "must not contain quotation marks, backslashes or control characters.")
        if self.state == "parked":
            self.finish(End(why="rejected", by="agent", detail="hung up before it was answered", sip="603"))
        else:
            self.finish(End(why="hung up", by="agent"))

    def reject(self, body: Mapping[str, Any]) -> None:
        cause = params.cause(body)
        if self.state != "parked":
            raise Refusal(422, "10015", "Bad Request", "This call has already been answered; use hangup.")
        hangup_cause, sip = REJECTED_WITH[cause]
        self.finish(End(why="rejected", by="agent", detail=cause, cause=hangup_cause, sip=sip))

    def update_client_state(self, body: Mapping[str, Any]) -> None:
        params.text(body, "client_state", required=True)  # any command may carry one, and `commands` has stored it

    def _asked_channel(self, body: Mapping[str, Any], *, required: bool) -> Channel | None:
        """The stream that a command asks for, claimed. Raises Refusal."""
        try:
            stream = params.stream(body, call_codec=self.setup.codec, required=required)
            channel = None if stream is None else channel_of(self, stream)
        except Refusal as refusal:
            self._trouble = CallFailed("no media", f"the stream was refused: {refusal.detail}")
            raise
        if channel is not None:
            self.media.prepare(channel)
            if not self.may_reach(channel.url):
                self.note(f"stream_url {channel.url} is neither on this machine nor on the target's")
        return channel

    def _require_answer(self, command: str) -> None:
        if self.state == "parked":
            raise not_answered(command)

    def _hook(self, hooks: params.Hooks) -> None:
        url = self.hooks.url
        if hooks.url and reachable(hooks.url, self.target_url):
            url = hooks.url
        elif hooks.url:
            self.note(f"webhook_url {hooks.url} is not on this machine: webhooks still go to {url}")
        self.hooks = params.Hooks(url=url, retries_ms={**self.hooks.retries_ms, **hooks.retries_ms})

    # ------------------------------------------------------------ the media stream (the stream calls these)

    def stream_dialled(self, channel: Channel) -> None:
        self._trouble = None
        self._dialling = CallFailed("media refused", f"{channel.url}: no answer to the WebSocket handshake in time")

    def stream_opened(self, channel: Channel) -> None:
        self._trouble = self._dialling = None
        self.event("streaming.started", stream_url=channel.url)
        if not self._opened.done():
            self._opened.set_result(None)

    def stream_refused(self, channel: Channel, detail: str) -> None:
        self.note(f"media refused: {detail}")
        self._trouble = CallFailed("media refused", detail)
        if self.exchange.manners.socket_is_call:
            self.finish(End(why="media refused", by="agent", detail=detail))
            return
        self.event(
            "streaming.failed",
            failure_reason="connection_failed",
            stream_id=channel.id,
            stream_params={"stream_url": channel.url, "track": channel.track},
            stream_type="websocket",
        )

    def stream_stopped(self, channel: Channel) -> None:
        self.event("streaming.stopped", stream_url=channel.url)

    def stream_lost(self, _channel: Channel, closed: Closed) -> None:
        """The agent has closed the media socket, or it broke.

        At Telnyx that does not end the call: the caller hears silence until somebody hangs up. So the agent has a
        moment to hang up, or to do something else with the call; then the caller has lost it.
        """
        self.note(closed.how)
        if self.exchange.manners.socket_is_call:
            self.finish(
                End(why="hung up", by="agent") if closed.clean else End(why="lost", by="agent", detail=closed.how)
            )
        else:
            self._errands.spawn(self._lose(closed, self.clock.now_ns()))

    async def _lose(self, closed: Closed, at_ns: int) -> None:
        commands = self.commands
        seconds = self.exchange.manners.hangup_within_seconds
        await self.pause(round(seconds * SECOND))
        if self.commands == commands and not self._sounds.playing:
            detail = f"{closed.how}, and no command followed within {seconds:g} s"
            self.finish(End(why="lost", by="carrier", detail=detail), at_ns)

    def protocol_broken(self, detail: str) -> None:
        self.note(f"protocol error: {detail}")
        self.finish(End(why="protocol error", by="carrier", detail=detail, cause="unspecified"))

    # ------------------------------------------------------------ the stage of Sounds

    async def until_open(self) -> int:
        await asyncio.shield(self._opened)
        assert self.media.ear is not None
        return self.media.ear.rate_hz

    def may_reach(self, url: str) -> bool:
        return reachable(url, self.target_url)

    # ------------------------------------------------------------ the end

    def finish(self, end: End, at_ns: int | None = None) -> None:
        """End the call, once; a second end changes nothing."""
        if self.end is not None:
            return
        was_answered = self._answered.done()
        self.end = end
        self.state = "ended"
        self._end_time = utc_now()
        self.note(f"{end.why} by the {end.by}" + (f": {end.detail}" if end.detail else ""))
        self._sounds.end()
        self.media.end(at_ns or self.clock.now_ns(), end.why, end.detail)
        self._tell_hangup(end, was_answered)
        self._errands.cancel()
        self.exchange.forget(self)
        self._over.set_result(None)

    def _tell_hangup(self, end: End, was_answered: bool) -> None:
        source = {"agent": "callee", "caller": "caller", "carrier": "unknown"}[end.by]
        told: dict[str, Any] = {
            "state": "hangup",
            "hangup_cause": end.cause,
            "hangup_source": source,
            "sip_hangup_cause": end.sip,
            "start_time": self._start_time,
            "end_time": self._end_time,
            "custom_headers": [],
            "sip_headers": [],
            "tags": [],
        }
        if self.bridged is not None:
            other, fields = self.bridged
            self.event("call.hangup", other, **told | fields)
        if was_answered:
            told["call_quality_stats"] = self._quality()
        self.event("call.hangup", calling_party_type="pstn", **told, **self.numbers())

    def _quality(self) -> dict[str, Any]:
        """`call_quality_stats`: strings, of a line without losses of its own."""
        counts = self.media.counts()
        inbound = {
            "jitter_max_variance": "0.00",
            "jitter_packet_count": "0",
            "mos": "4.50",
            "packet_count": str(counts.sent),
            "skip_packet_count": str(counts.skipped),
        }
        return {"inbound": inbound, "outbound": {"packet_count": str(counts.received), "skip_packet_count": "0"}}

    async def pause(self, duration_ns: int) -> None:
        await self.clock.sleep_until(self.clock.now_ns() + duration_ns)
