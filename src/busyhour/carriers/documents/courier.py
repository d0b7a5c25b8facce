"""Asking the agent over HTTP: for documents, and telling it what became of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias
from urllib.parse import urlencode

import aiohttp
from yarl import URL

from busyhour.carriers.documents.verbs import DOCUMENT_BYTES_MAX
from busyhour.disturbance import Disturbance
from busyhour.model import MS, Clock

SHOWN = 200

Sign: TypeAlias = Callable[["Request", Random, str], Mapping[str, str] | None]
"""The headers of a request. The text: how a fault wants it signed ("": as the carrier does); None: it cannot be."""


@dataclass(frozen=True, slots=True)
class Request:
    """As it goes over the wire, for the signature: `fields` are those of the body, and none with GET."""

    method: str
    url: str
    fields: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking: "delivered" with the text, "refused" (an answer, not 2xx) or "unanswered"."""

    outcome: Literal["delivered", "refused", "unanswered"]
    detail: str
    text: str = ""
    media_type: str = ""


@dataclass(kw_only=True, eq=False)
class Courier:
    """Sends forms, signed by the carrier. Only a connection that could not be made is tried again, as at Twilio."""

    session: aiohttp.ClientSession
    clock: Clock
    sign: Sign
    disturbance: Disturbance
    retries: int = 1
    retry_ms: int = 250  # before the first retry; each later one waits twice as long

    async def ask(
        self, url: str, method: str, fields: Mapping[str, str], *, random: Random, told: Callable[[str], None]
    ) -> Answer:
        """`told` takes the sentence that says what came of each attempt; `random` is for the signature's vices."""
        try:
            request = _request(url, method, fields)
        except ValueError as problem:  # what urllib takes for a URL and yarl does not
            told(f"{method} {url}: {problem}")
            return Answer("unanswered", f"no URL: {problem}")
        headers = await self._disturbed(request, fields, random, told)
        if request.body:
            headers["content-type"] = "application/x-www-form-urlencoded; charset=utf-8"
        answer = Answer("unanswered", "never asked")
        for attempt in range(self.retries + 1):
            if attempt:
                await self.clock.sleep_until(self.clock.now_ns() + (self.retry_ms << (attempt - 1)) * MS)
            began_ns = self.clock.now_ns()
            answer, again = await self._attempt(request, headers)
            took_ms = (self.clock.now_ns() - began_ns) / MS
            told(f"{method} {request.url} -> {answer.detail} ({took_ms:.0f} ms, attempt {attempt + 1})")
            if not again:
                break
        return answer

    async def _disturbed(
        self, request: Request, fields: Mapping[str, str], random: Random, told: Callable[[str], None]
    ) -> dict[str, str]:
        """The headers, after what faults do to a request before it is sent."""
        trouble = self.disturbance
        name = "/".join((request.url, *(fields.get(each, "") for each in ("CallSid", "CallStatus", "StreamEvent"))))
        if (late := trouble.befalling("webhook.late", name)) is not None:
            told(f"{request.method} {request.url} is {late.ms:g} ms late")
            await self.clock.sleep_until(self.clock.now_ns() + round(late.ms * MS))
            trouble.count("webhook.late")
        if (forged := trouble.befalling("webhook.signature", name)) is not None:
            headers = self.sign(request, random, forged.how)
            if headers is not None:
                trouble.count("webhook.signature")
                return dict(headers)
        return dict(self.sign(request, random, "") or {})

    async def _attempt(self, request: Request, headers: Mapping[str, str]) -> tuple[Answer, bool]:
        """What came of it, and whether to try again."""
        url = URL(request.url, encoded=True)  # signed as it is: not to be written otherwise on the way
        try:
            async with self.session.request(
                request.method, url, data=request.body or None, headers=headers, allow_redirects=False
            ) as answer:
                raw = await _bounded(answer.content)
        except (TimeoutError, aiohttp.ServerTimeoutError):
            return Answer("unanswered", "no answer in time"), False
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            return Answer("unanswered", f"no answer: {failure or type(failure).__name__}"), True
        text = raw.decode(errors="replace")
        if 200 <= answer.status < 300:
            return Answer("delivered", str(answer.status), text, answer.content_type), False
        return Answer("refused", f"{answer.status} {' '.join(text[:SHOWN].split())}".strip()), False


def _request(url: str, method: str, fields: Mapping[str, str]) -> Request:
    if method == "GET":
        return Request("GET", str(URL(url).update_query(dict(fields))), {}, b"")
    return Request("POST", str(URL(url)), fields, urlencode(fields).encode())


async def _bounded(content: aiohttp.StreamReader) -> bytes:
    """The body, and no more of it than shows that it is too long."""
    chunks, size = [], 0
    async for chunk in content.iter_chunked(DOCUMENT_BYTES_MAX):
        chunks.append(chunk)
        size += len(chunk)
        if size > DOCUMENT_BYTES_MAX:
            break
    return b"".join(chunks)
