"""The calls that are open, and what the carrier's webhooks do to them.

Webhooks come late, twice, and in any order; commands may be lost. So an event is taken once by its id, a call that has
ended stays ended, and nothing waits for an event without a bound.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from voice_agent.burdens import Burdens
from voice_agent.call import Conversation
from voice_agent.equipment import Equipment
from voice_agent.log import Log
from voice_agent.media import MediaSocket
from voice_agent.parting import broken_off
from voice_agent.summary import sum_up
from voice_agent.telnyx import CallOver, CommandFailed, NoPhone, Phone, TelnyxCall

_REMEMBERED = 10_000  # event ids, and ended calls
_ANSWERED_SECONDS = 1.0  # the word that the call was answered may be lost: then go on without
_MEDIA_SECONDS = 5.0  # for the carrier to open its stream
_HANGUP_SECONDS = 1.0  # after the stream's end, for the carrier's word that the call is over
_FINISHING, _HANGING_UP, _DROPPING = 0.5, 0.35, 0.15  # shares of the time that there is for a shutdown
_BREAKING_OFF_SECONDS = 0.5  # for the connections of what is cancelled at the end to be closed
_UNTOLD = frozenset({"no media", "media lost", "media idle", "bug"})  # outcomes after which that word is not coming


class Lately:
    """The last so many ids seen: bounded, oldest forgotten first."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def add(self, id_: str) -> bool:
        """Whether it is new."""
        if id_ in self._ids:
            self._ids.move_to_end(id_)
            return False
        self._ids[id_] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)
        return True

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids


@dataclass(eq=False, slots=True)
class OpenCall:
    """A call from its first event to its end."""

    id: str
    phone: Phone
    log: Log
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    streaming: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)  # the carrier says so
    admitted: bool = False  # its media stream was let in: the conversation ends the call
    connecting: asyncio.Task[None] | None = None
    conversation: Conversation | None = None
    closing: bool = False


class Switchboard:
    def __init__(self, equipment: Equipment, *, log: Log) -> None:
        self._equipment, self._telnyx, self._log = equipment, equipment.telnyx, log
        self._burdens = Burdens(equipment.defects)
        self._settings, self._metrics = equipment.settings, equipment.metrics
        self._calls: dict[str, OpenCall] = {}
        self._events = Lately()
        self._ended = Lately()
        self._tasks: set[asyncio.Task[None]] = set()
        self._summaries: set[asyncio.Task[None]] = set()  # nobody waits for them
        self._draining = False
        self._parting = False  # and what is open is being hung up
        self._dropping = False  # and nothing is asked of the carrier any more
        self._quiet = asyncio.Event()
        self._dropped = asyncio.Event()

    @property
    def open_calls(self) -> int:
        return len(self._calls)

    @property
    def draining(self) -> bool:
        return self._draining

    # ------------------------------------------------------------ webhooks

    def take(self, event: dict[str, Any]) -> None:
        """An event of the carrier's, `data` of the webhook. Raises LookupError or TypeError if it is malformed.

        Returns at once: the work goes on in the background.
        """
        kind, id_, payload = str(event["event_type"]), str(event["id"]), event["payload"]
        call_id = str(payload["call_control_id"])
        if not self._events.add(id_):
            self._log.info("duplicate event", event_type=kind, call=call_id)
            return
        self._log.info("webhook", event_type=kind, call=call_id)
        call = self._calls.get(call_id)
        if kind == "call.hangup":
            self._ended.add(call_id)
        if kind == "call.initiated" and payload["direction"] == "incoming" and call is None:
            self._ring(call_id)
        elif call is not None:
            self._tell(call, kind)

    def _ring(self, call_id: str) -> None:
        if call_id in self._ended or self._dropping:
            return  # its hang-up came before its beginning, or there is no time left to reject it
        log = self._log.bound(call=call_id)
        phone = TelnyxCall(self._telnyx, call_id, voice=self._settings.telnyx_voice, metrics=self._metrics, log=log)
        if self._draining or self.open_calls >= self._settings.max_calls:
            self._start(self._reject(phone, "USER_BUSY"))
        elif self._equipment.defects.strikes("refuse_call"):
            self._start(self._reject(phone, "CALL_REJECTED"))
        else:
            call = self._calls[call_id] = OpenCall(call_id, phone, log)
            call.connecting = self._start(self._connect(call, phone))

    def _tell(self, call: OpenCall, kind: str) -> None:
        match kind:
            case "call.answered":
                call.answered.set()
            case "call.hangup":
                call.over.set()
                call.answered.set()
                call.streaming.set()
                if call.conversation is not None:
                    call.conversation.hung_up()
            case "call.speak.ended" if call.conversation is not None:
                call.conversation.carrier_spoke()
            case "streaming.failed" if not call.admitted:
                call.streaming.set()

    async def _reject(self, phone: TelnyxCall, cause: str) -> None:
        self._metrics.call_ended("refused")
        self._burdens.refused()
        try:
            await phone.reject(cause)
        except CommandFailed:
            return  # logged; the carrier gives up by itself

    async def _connect(self, call: OpenCall, phone: TelnyxCall) -> None:
        """Answer, and have the carrier open its stream; a call that gets no stream is hung up."""
        try:
            await self._burdens.dispatch()
            await phone.answer()
            await _within(_ANSWERED_SECONDS, call.answered)
            if not call.over.is_set():
                path = f"/ws/media-stream/{quote(call.id, safe='')}?token={call.token}"
                await phone.start_streaming(self._settings.stream_url + path)
            await _within(_MEDIA_SECONDS, call.streaming)
        except CallOver:
            call.over.set()
        except CommandFailed:
            call.streaming.clear()
        if not call.admitted:
            await self._close(call, "caller hung up" if call.over.is_set() else "no media")

    # ------------------------------------------------------------ media streams

    def admit(self, call_id: str, token: str) -> OpenCall | None:
        """The call that a media stream belongs to; None if the stream is not to be let in."""
        call = self._calls.get(call_id)
        if call is None and not self._settings.media_auth and not self._draining:
            call = self._calls[call_id] = OpenCall(call_id, NoPhone(), self._log.bound(call=call_id))
            call.token = token
            call.over.set()  # there is nothing at the carrier's
        if call is None or call.admitted or not hmac.compare_digest(token.encode(), call.token.encode()):
            return None
        call.admitted = True
        call.streaming.set()
        return call

    async def converse(self, call: OpenCall, socket: MediaSocket) -> None:
        """Have the conversation of an admitted call; returns when it is over and the call is hung up."""
        outcome = "bug"
        try:
            await socket.open()
            call.log.info("call begins")
            call.conversation = Conversation(
                self._equipment, phone=call.phone, socket=socket, start=self._start, log=call.log
            )
            async with self._burdens.of_a_call(self._start):
                outcome = "shutting down" if self._parting else await call.conversation.run()
        finally:
            await self._close(call, outcome)

    async def _close(self, call: OpenCall, outcome: str) -> None:
        """The end of every call."""
        if call.closing:
            return
        call.closing = True
        try:
            if not self._dropping:
                await asyncio.wait({self._start(self._see_off(call, outcome))})
                await self._linger(call)
        finally:
            self._calls.pop(call.id, None)
            self._ended.add(call.id)
            self._metrics.call_ended(outcome)
            if call.conversation is None:
                self._burdens.refused()
            used = call.conversation.used() if call.conversation is not None else {}
            call.log.info("call ended", outcome=outcome, **used)
            if call.conversation is not None and self._settings.summary and not self._dropping:
                self._start(sum_up(call.conversation.said(), self._equipment, log=call.log), self._summaries)
            self._look_if_quiet()

    async def _linger(self, call: OpenCall) -> None:
        """The defect zombie_call: the end of the call is lost."""
        if call.conversation is not None and (seconds := self._equipment.defects.seconds("zombie_call")):
            await _within(seconds, self._dropped)

    async def _see_off(self, call: OpenCall, outcome: str) -> None:
        """Closing the stream ends no call at the carrier's, so one that is not over is hung up."""
        told_so = outcome not in _UNTOLD
        try:
            if outcome != "transferred" and not await _within(_HANGUP_SECONDS if told_so else 0, call.over):
                await call.phone.hang_up()
        except CommandFailed:
            return  # over already, or logged

    # ------------------------------------------------------------ the end

    async def drain(self, within_seconds: float) -> None:
        """Take no new calls; let the open ones finish, hang up those that do not, and leave neither call nor task.

        All of it within the time given, whatever the carrier and the vendors do.
        """
        if not self._draining:
            self._log.info("draining", open_calls=self.open_calls)
        self._draining = True
        try:
            await self._wind_up(within_seconds)
        finally:
            await self._break_summaries_off()

    async def close(self) -> None:
        """After the last drain."""
        await self._burdens.close()

    async def _wind_up(self, within_seconds: float) -> None:
        if await self._idle(_FINISHING * within_seconds):
            return
        self._parting = True
        for call in list(self._calls.values()):
            self._part(call)
        if await self._idle(_HANGING_UP * within_seconds):
            return
        self._dropping = True
        self._dropped.set()
        self._log.warning("dropping", open_calls=self.open_calls, tasks=len(self._tasks))
        for call in list(self._calls.values()):
            if call.conversation is not None:
                call.conversation.drop("shutting down")
        for task in self._tasks:
            task.cancel()
        await self._idle(_DROPPING * within_seconds)

    async def _break_summaries_off(self) -> None:
        for task in self._summaries:
            task.cancel()
        if self._summaries:
            await asyncio.wait(self._summaries, timeout=_BREAKING_OFF_SECONDS)

    def _part(self, call: OpenCall) -> None:
        """Hang it up, wherever it has got to."""
        if call.conversation is not None:
            call.conversation.end("shutting down")
        elif not call.admitted and not call.closing:
            if call.connecting is not None:
                call.connecting.cancel()
            self._start(self._close(call, "shutting down"))

    async def _idle(self, within_seconds: float) -> bool:
        """Wait until there is neither call nor task, so long; whether it came to that."""
        self._quiet.clear()
        self._look_if_quiet()
        return await _within(within_seconds, self._quiet)

    def _look_if_quiet(self) -> None:
        if not self._calls and not self._tasks:
            self._quiet.set()

    def _start(
        self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]] | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        (self._tasks if among is None else among).add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._summaries.discard(task)
        self._look_if_quiet()
        if not broken_off(task) and (error := task.exception()) is not None:
            self._log.bug("bug", error)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for the event, so long; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
