"""The interpreter: carries out documents, one after the other, until there is nothing left to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from busyhour.carriers.documents.verbs import (
    BadDocument,
    Dial,
    Hangup,
    Pause,
    Play,
    Redirect,
    Reject,
    Say,
    StopStream,
    Stream,
    Verb,
    read,
)
from busyhour.carriers.endings import End
from busyhour.carriers.places import joined
from busyhour.carriers.sounds import Unplayable, press_keys
from busyhour.model import MS, SECOND, CallFailed

if TYPE_CHECKING:
    from busyhour.carriers.documents.call import DocumentCall

DOCUMENTS_MAX = 500  # of one call: a document that redirects to itself for ever is found out
XML_TYPES = re.compile(r"(text|application)/(html|([\w.+-]+\+)?xml)")
DIAL_STATUS = {"busy": "busy", "rejected": "failed", "no answer": "no-answer"}


@dataclass(frozen=True, slots=True)
class Ask:
    """A document that is to be fetched."""

    url: str
    method: str = "POST"
    fields: Mapping[str, str] = field(default_factory=dict)
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """A document that was handed over; `url` is what its relative URLs are relative to."""

    text: str
    url: str


Source: TypeAlias = Ask | Given


class Script:
    """What one call is told to do. `run` is a task of the call."""

    def __init__(self, call: DocumentCall) -> None:
        self._call = call
        self._documents = 0
        self.asking = ""  # the URL whose answer is awaited

    async def run(self, source: Source) -> None:
        """Carry it out, and what follows from it; then the call is over."""
        following: Source | None = source
        try:
            while following is not None:
                following = await self._carry_out(*await self._obtain(following))
        except CallFailed as failure:
            self._call.fail(failure.reason, failure.detail)
        else:
            self._call.nothing_left()

    # ------------------------------------------------------------ documents

    async def _obtain(self, source: Source) -> tuple[Sequence[Verb], str]:
        """The verbs, and the URL they are relative to. Raises CallFailed when there is none to be had."""
        self._documents += 1
        if self._documents > DOCUMENTS_MAX:
            raise CallFailed("protocol error", f"more than {DOCUMENTS_MAX} documents in one call")
        grammar = self._call.exchange.provider.grammar
        if isinstance(source, Given):
            try:
                return read(source.text, grammar), source.url
            except BadDocument as problem:
                raise self._bad(problem, "the document of the update") from None
        try:
            return read(await self._fetched(source), grammar), source.url
        except BadDocument as problem:
            failure, code = self._bad(problem, source.url), problem.code
        except CallFailed as undelivered:
            failure, code = undelivered, "11200"
        fallback_url = self._call.fallback_url
        if not fallback_url or source.fallback:
            raise failure
        self._call.note(f"{failure}; the fallback URL is asked")
        return await self._obtain(Ask(fallback_url, "POST", {"ErrorCode": code, "ErrorUrl": source.url}, fallback=True))

    async def _fetched(self, source: Ask) -> str:
        """Raises CallFailed when it cannot be had, BadDocument when it is of the wrong type."""
        call = self._call
        if not call.may_reach(source.url):
            where = f"{source.url} is neither on this machine nor where the target is"
            raise CallFailed("webhook unanswered", where)
        self.asking = source.url
        fields = call.exchange.provider.fields(call) | dict(source.fields)
        answer = await call.exchange.courier.ask(source.url, source.method, fields, random=call.random, told=call.note)
        self.asking = ""
        if answer.outcome != "delivered":
            raise CallFailed(f"webhook {answer.outcome}", f"{source.url}: {answer.detail}")
        if not XML_TYPES.fullmatch(answer.media_type):
            raise BadDocument(f"the document's content type is {answer.media_type}; it must be text/xml", "12300")
        return answer.text

    def _bad(self, problem: BadDocument, where: str) -> CallFailed:
        said = self._call.exchange.provider.error(problem.code, str(problem))
        return CallFailed("protocol error", f"{said} ({where})")

    # ------------------------------------------------------------ verbs

    async def _carry_out(self, verbs: Sequence[Verb], base_url: str) -> Source | None:
        """The next document; None if these were the last verbs."""
        self._call.expect(verb for verb in verbs if isinstance(verb, Stream))
        for verb in verbs:
            following = await self._perform(verb, base_url)
            if self._call.end is not None:
                return None  # nothing may be opened behind a <Hangup> or <Reject>: nobody would close it
            if following is not None:
                return following
        return None

    async def _perform(self, verb: Verb, base_url: str) -> Source | None:
        call = self._call
        if not isinstance(verb, Pause | Redirect | Reject):
            call.take()
        match verb:
            case Say():
                await self._say(verb)
            case Play():
                await self._play(verb, base_url)
            case Pause(seconds):
                await call.pause(round(seconds * SECOND))
            case Stream():
                await self._stream(verb, base_url)
            case StopStream(name):
                call.stop_stream(name)
            case Dial():
                return await self._dial(verb, base_url)
            case Reject(reason):
                self._reject(reason)
            case Hangup():
                call.hung_up_by_agent()
            case Redirect(url, method):
                return Ask(joined(base_url, url), method)
        return None

    async def _say(self, verb: Say) -> None:
        call = self._call
        rate_hz = call.sound_rate_hz()
        if verb.text:
            call.say(verb.text)
            await call.player.play(await call.player.speech(verb.text, rate_hz), rate_hz, verb.loops)

    async def _play(self, verb: Play, base_url: str) -> None:
        call = self._call
        rate_hz = call.sound_rate_hz()
        if verb.digits:
            await press_keys(lambda: call.leg, verb.digits, call.clock)
            return
        try:
            samples = await call.player.fetched(joined(base_url, verb.url), rate_hz)
        except Unplayable as problem:
            call.warn(f"<Play>: {problem}")
            return
        await call.player.play(samples, rate_hz, verb.loops)

    async def _stream(self, verb: Stream, base_url: str) -> None:
        call = self._call
        try:
            if call.media.channel is not None:
                raise BadDocument("busyhour's twin carries one stream at a time, and there is one")
            channel = call.exchange.provider.channel(call, verb)
        except BadDocument as problem:
            raise self._bad(problem, base_url) from None
        over = call.open_stream(channel, joined(base_url, verb.status_url) if verb.status_url else "", verb)
        if verb.two_way:
            await over

    async def _dial(self, verb: Dial, base_url: str) -> Source | None:
        """Another party: with it the caller is put through, and for the caller the agent's part is over."""
        call, manners = self._call, self._call.exchange.manners
        call.note(f"dials {verb.number}")
        await call.pause(manners.transfer_after_ms * MS)
        if manners.transfer == "answered":
            call.transferred(verb.number)
            await call.until_over()
        status = DIAL_STATUS.get(manners.transfer, "completed")
        call.note(f"{verb.number}: {status}")
        if not verb.action:
            return None
        fields = {"DialCallStatus": status, "DialCallSid": call.exchange.provider.call_sid(call.random)}
        return Ask(joined(base_url, verb.action), verb.method, fields)

    def _reject(self, reason: str) -> None:
        if self._call.answered:
            raise CallFailed("protocol error", "<Reject> must come first: the call had been answered")
        sip = {"busy": "486"}.get(reason, "603")
        self._call.finish(End(why="rejected", by="agent", detail=reason, cause=reason, sip=sip))
