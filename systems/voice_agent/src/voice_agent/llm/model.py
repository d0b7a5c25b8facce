"""A language model behind a streaming HTTP API: everything that is the same whoever the vendor is."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from voice_agent.breaker import Breaker
from voice_agent.defects import Defects
from voice_agent.llm.question import CallPiece, Question, ToolCall
from voice_agent.pools import done_with
from voice_agent.usage import Usage

_ANSWER_BYTES = 16 * 1024  # of a refusal, to learn its reason
_CALLS_CHARACTERS = 16 * 1024  # of all that a reply asks of tools


@dataclass(frozen=True, slots=True)
class Part:
    """What one event of the stream says. `complete`: the reply has come to its proper end; `last`: no event follows."""

    pieces: Sequence[str | CallPiece] = ()
    complete: bool = False
    last: bool = False
    prompt_tokens: int = 0  # so far, as all usage; 0: nothing told
    completion_tokens: int = 0


class ModelFailed(Exception):
    """No answer, or not all of it. `reason`: "no token", "stalled", "truncated", "malformed", "HTTP 500", "quota"..."""

    def __init__(self, reason: str, *, exhausted: bool = False) -> None:
        self.reason = reason
        self.exhausted = exhausted  # there were several to ask, and none is left
        super().__init__(reason)


class Dialect(Protocol):
    """How one vendor wants to be asked, and answers."""

    @property
    def name(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def base_url(self) -> str: ...

    def request(self, question: Question) -> tuple[str, dict[str, Any]]:
        """The path below the base URL, and the JSON to be posted there."""
        ...

    def read(self, event: str) -> Part:
        """The data of a server-sent event. Raises ModelFailed for an error, and ValueError, LookupError, TypeError or
        AttributeError if it is malformed."""
        ...


class Model:
    """One vendor's; shared by all calls, and so are its connections and its breaker."""

    def __init__(self, dialect: Dialect, client: httpx.AsyncClient, breaker: Breaker, *, defects: Defects) -> None:
        self.name = dialect.name
        self.breaker = breaker
        self._dialect, self._client, self._defects = dialect, client, defects

    async def stream(
        self,
        question: Question,
        *,
        first_token_by: float,
        between_seconds: float,
        usage: Usage,
    ) -> AsyncGenerator[str | ToolCall, None]:
        """One attempt: the pieces of the reply as they come, and the calls of tools when it is complete. An empty piece
        tells that a call has begun to come.

        first_token_by: on the loop's clock; connecting counts, and headers without a token do not.
        Raises ModelFailed, also after some pieces.
        """
        path, asked = self._dialect.request(question)
        request = self._client.build_request("POST", path, json=asked)
        try:
            async with asyncio.timeout_at(first_token_by):
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            raise ModelFailed("no token") from None
        except httpx.HTTPError as error:
            raise ModelFailed(type(error).__name__) from None
        try:
            if not response.is_success:
                raise ModelFailed(await _refusal(response, first_token_by))
            patient = self._defects.strikes("llm_no_token_timeout_off")
            async with aclosing(
                self._read(response, None if patient else first_token_by, between_seconds, usage)
            ) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            await done_with(response)

    async def _read(
        self, response: httpx.Response, first_token_by: float | None, between_seconds: float, usage: Usage
    ) -> AsyncGenerator[str | ToolCall, None]:
        loop = asyncio.get_running_loop()
        patience, complaint, complete = first_token_by, "no token", False
        prompt_tokens = completion_tokens = 0
        calls = _Calls()
        try:
            async with aclosing(_events(response)) as events:
                while True:
                    try:
                        event = await _next_by(events, patience, complaint)
                    except ModelFailed:
                        if complete:
                            break  # the reply is all there; what is missing tells the usage, or nothing
                        raise
                    if event is None:
                        break
                    part = self._understand(event)
                    for piece in part.pieces:
                        yield calls.add(piece) if isinstance(piece, CallPiece) else piece
                    if part.pieces:
                        patience, complaint = loop.time() + between_seconds, "stalled"
                    complete = complete or part.complete
                    prompt_tokens = part.prompt_tokens or prompt_tokens
                    completion_tokens = part.completion_tokens or completion_tokens
                    if part.last:
                        break
        finally:
            if prompt_tokens or completion_tokens:
                usage.thought(self.name, prompt_tokens, completion_tokens)
        if not complete and not self._defects.strikes("truncate_ignored"):
            raise ModelFailed("truncated")
        for call in calls.whole():
            yield call
        if complaint == "no token":
            raise ModelFailed("empty")

    def _understand(self, event: str) -> Part:
        try:
            return self._dialect.read(event)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ModelFailed("malformed") from None


class _Calls:
    """The calls of one reply, put together of their pieces."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[CallPiece]] = {}
        self._characters = 0

    def add(self, piece: CallPiece) -> str:
        """Raises ModelFailed if it is getting too much."""
        self._characters += 1 + len(piece.arguments)
        if self._characters > _CALLS_CHARACTERS:
            raise ModelFailed("malformed")
        self._pieces.setdefault(len(self._pieces) if piece.index is None else piece.index, []).append(piece)
        return ""

    def whole(self) -> Sequence[ToolCall]:
        return [_joined(pieces) for pieces in self._pieces.values()]


def _joined(pieces: Sequence[CallPiece]) -> ToolCall:
    """Raises ModelFailed if nothing says which tool it is."""
    name = next((piece.name for piece in pieces if piece.name), "")
    if not name:
        raise ModelFailed("malformed")
    key = next((piece.key for piece in pieces if piece.key), "") or f"call_{secrets.token_hex(6)}"
    signature = next((piece.signature for piece in pieces if piece.signature), "")
    return ToolCall(name, "".join(piece.arguments for piece in pieces), key, signature)


async def _refusal(response: httpx.Response, by: float) -> str:
    """Why: the status, or "quota" for an account that is used up, whatever status its vendor chose for that."""
    body = b""
    try:
        async with asyncio.timeout_at(by):
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _ANSWER_BYTES:
                    break
    except (TimeoutError, httpx.HTTPError):
        pass  # the status will do
    told = body.lower()
    return "quota" if b"insufficient_quota" in told or b"billing" in told else f"HTTP {response.status_code}"


async def _next_by(events: AsyncGenerator[str, None], deadline: float | None, complaint: str) -> str | None:
    """The next event; None at the end of the stream."""
    try:
        async with asyncio.timeout_at(deadline):
            return await anext(events, None)
    except TimeoutError:
        raise ModelFailed(complaint) from None
    except httpx.HTTPError as error:
        raise ModelFailed(type(error).__name__) from None


async def _events(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The data of the server-sent events. Nothing but a newline ends a line: `aiter_lines` also takes for an end what
    may well stand in the text of a reply (U+2028, U+0085)."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip().decode(errors="replace")
    if rest.startswith(b"data:"):
        yield rest[5:].strip().decode(errors="replace")
