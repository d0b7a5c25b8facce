"""The interpreter: carries out documents, one after the other, until there is nothing left to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from busyhour.carriers.documents.verbs import (
    BadDocument,
    Beyond,
    Dial,
    Gather,
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
from busyhour.carriers.media_stream import FORKS_MAX
from busyhour.carriers.places import joined
from busyhour.carriers.sounds import Unplayable, press_keys
from busyhour.errors import TWIN_CANNOT
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
        if isinstance(verb, Beyond):
            detail = f"busyhour's twin does not carry out {verb.what}, which is no fault of the agent's ({base_url})"
            raise CallFailed(TWIN_CANNOT, detail)
        if not isinstance(verb, Pause | Redirect | Reject):
            call.take()
        match verb:
            case Dial():
                return await self._dial(verb, base_url)
            case Gather():
                return await self._gather(verb, base_url)
            case Redirect(url, method):
                return Ask(joined(base_url, url), method)
            case _:
                await self._do(verb, base_url)
        return None

    async def _do(self, verb: Verb, base_url: str) -> None:
        """A verb behind which the same document goes on."""
        call = self._call
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
            case Reject(reason):
                self._reject(reason)
            case Hangup():
                call.hung_up_by_agent()

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
            channel = call.exchange.provider.channel(call, verb)
        except BadDocument as problem:
            raise self._bad(problem, base_url) from None
        callback_url = joined(base_url, verb.status_url) if verb.status_url else ""
        if channel.deaf and not verb.two_way:
            if call.media.forks >= FORKS_MAX:
                raise CallFailed(TWIN_CANNOT, f"busyhour's twin opens at most {FORKS_MAX} one-way streams in a call")
            call.open_fork(channel, callback_url, verb)
            return
        if call.media.channel is not None:
            raise CallFailed(
                TWIN_CANNOT, "busyhour's twin carries one stream that is heard at a time, and there is one"
            )
        over = call.open_stream(channel, callback_url, verb)
        if verb.two_way:
            await over

    async def _gather(self, verb: Gather, base_url: str) -> Source | None:
        """The keys that the caller presses meanwhile are what the next document is asked with."""
        call = self._call
        call.sound_rate_hz()  # who is to press keys has an ear, though there may be no prompt
        gathering = call.gather(verb)
        try:
            for prompt in verb.prompts:
                if gathering.begun:
                    break
                if isinstance(prompt, Say):
                    await self._say(prompt)
                elif isinstance(prompt, Play):
                    await self._play(prompt, base_url)
                else:
                    await gathering.pause(prompt.seconds)
            await gathering.until_over()
        finally:
            call.gathered()
        call.note(f"gathered {gathering.digits or 'nothing'}")
        if verb.action is None or not (gathering.digits or verb.empty_too):
            return None
        url = joined(base_url, verb.action) if verb.action else base_url
        return Ask(url, verb.method, {"Digits": gathering.digits})

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
