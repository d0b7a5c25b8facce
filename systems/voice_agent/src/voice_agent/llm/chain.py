"""The models in the order in which they are asked: if one fails, the same turn is put to the next.

An attempt that has a next one behind it is given ATTEMPT_SECONDS to its first token (and between two), so that the next
still fits into the caller's patience; the last one is given what a model that is alone is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from voice_agent.breaker import incurable, usable
from voice_agent.defects import Defects
from voice_agent.llm.model import Model, ModelFailed
from voice_agent.llm.question import Errand, Question, ToolCall
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings
from voice_agent.usage import Usage

_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_GO_ON = (
    ' In answer to the last words of the caller you have already said this, and were cut off: "{said}"'
    " Go on from there, without repeating any of it and without mentioning the interruption."
)


@dataclass(frozen=True, slots=True)
class FailedOver:
    """Among the pieces: what one model began, another goes on with. Its unfinished sentence is to be forgotten."""


class TurnLost(Exception):
    """The defect no_replay: nobody is going to answer this turn."""


class Models:
    """Shared by all calls."""

    def __init__(self, chain: Sequence[Model], settings: Settings, *, metrics: Metrics, defects: Defects) -> None:
        self._chain = chain
        self._attempt_seconds = settings.attempt_seconds
        self._first_token_seconds = settings.first_token_seconds
        self._between_seconds = settings.between_tokens_seconds
        self._metrics, self._defects = metrics, defects

    async def reply(
        self,
        question: Question,
        *,
        first_token_by: float,
        said: Callable[[], str],
        usage: Usage,
        log: Log,
    ) -> AsyncGenerator[str | ToolCall | FailedOver, None]:
        """The pieces of a reply as they come, whoever gives them.

        first_token_by: on the loop's clock, for a model that is alone. said: what of the reply the caller is going to
        hear in any case, asked after FailedOver. Raises ModelFailed, also after some pieces: nobody is left to ask, and
        the reply is incomplete. Raises TurnLost.
        """
        chain = self._chain[:1] if self._defects.strikes("no_failover") else self._chain
        failed: list[Model] = []
        while left := [model for model in usable(chain) if model not in failed]:
            model, last, final = left[0], len(left) == 1, False
            asked = _go_on(question, said()) if failed else question
            if failed and self._defects.on("failover_loses_settings"):
                asked = replace(asked, messages=asked.messages[1:])
            by = self._first_token_by(first_token_by, first=not failed, last=last)
            try:
                async with aclosing(self._ask(model, asked, by, last, usage, log, len(failed))) as pieces:
                    async for piece in pieces:
                        final = final or isinstance(piece, ToolCall)
                        yield piece
                return
            except ModelFailed as failure:
                if failed and failure.reason == "empty" and said():
                    return  # there was nothing to add
                if final or last:
                    failure.exhausted = len(chain) > 1
                    raise
                self._fail_over(model, left[1], failure.reason, log)
            failed.append(model)
            yield FailedOver()
        raise ModelFailed("no vendor left", exhausted=True)

    def _first_token_by(self, alone: float, *, first: bool, last: bool) -> float:
        now = asyncio.get_running_loop().time()
        if last:  # the caller hears a filler, if need be, when one model has failed already
            return alone if first else now + self._first_token_seconds
        return min(alone, now + self._attempt_seconds) if first else now + self._attempt_seconds

    async def _ask(
        self,
        model: Model,
        question: Question,
        by: float,
        last: bool,
        usage: Usage,
        log: Log,
        attempt: int,
    ) -> AsyncGenerator[str | ToolCall, None]:
        """Ask one model; if it is the last, a failure before the first piece is tried once more if time allows."""
        between = self._between_seconds if last else min(self._between_seconds, self._attempt_seconds)
        for final in (not last, True):
            attempt += 1
            spoken = False
            with model.breaker.attempt(log) as verdict:
                try:
                    stream = model.stream(question, first_token_by=by, between_seconds=between, usage=usage)
                    async with aclosing(stream) as pieces:
                        async for piece in pieces:
                            spoken = True
                            verdict.succeeded()  # unless something comes after; an interrupted reply is no failure
                            yield piece
                    return
                except ModelFailed as failure:
                    verdict.failed(failure.reason)
                    self._metrics.vendor_failed(model.name, failure.reason)
                    log.trouble(
                        "vendor failed", provider=model.name, reason=failure.reason, attempt=attempt, spoken=spoken
                    )
                    if spoken or final or not _worth_another_try(failure, by):
                        raise

    def _fail_over(self, model: Model, to: Model, reason: str, log: Log) -> None:
        if self._defects.strikes("no_replay"):
            model.breaker.trip(reason, log)
            raise TurnLost
        self._metrics.failed_over(model.name, to.name)
        log.trouble("failover", provider=model.name, to=to.name, reason=reason)


def _go_on(question: Question, said: str) -> Question:
    """The same question, to one who is to take up what another has said of the answer."""
    first, *others = question.messages
    if not said or isinstance(first, Errand):
        return question
    return replace(question, messages=[{**first, "content": first["content"] + _GO_ON.format(said=said)}, *others])


def _worth_another_try(failure: ModelFailed, first_token_by: float) -> bool:
    """Whether it failed at once, in a way that may pass."""
    left = first_token_by - asyncio.get_running_loop().time()
    status = failure.reason.removeprefix("HTTP ")
    if status.isdecimal():
        passing = int(status) in _RETRIED
    else:
        passing = failure.reason not in ("no token", "empty") and not incurable(failure.reason)
    return passing and left > 0.1
