"""The OpenAI chat API, with the receptionist for a model.

Source: the API reference of chat completions; judged by the official `openai` SDK. Served are POST /v1/chat/completions
(streamed or whole, tools, usage, stop, token limits) and GET /v1/models. `n` is 1; sampling parameters are checked
and have no effect.

Outcomes beside the common ones ("reset" and "hang" come before any answer):
    no_token    the answer is 200 and the stream opens with the role, and no token ever comes
    truncate    half of the tokens, then the stream ends in good order: no finish_reason, no usage, no [DONE]
    malformed   an event that is not JSON in the middle of the stream, which ends there
Whole (not streamed) answers: no_token hangs, truncate and malformed are a body cut in half.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random

from aiohttp import web

from busyhour.clock import unix_seconds
from busyhour.emulators.behaviour import COMMON_OUTCOMES, OK, Behaviour, Constant, Fate, Latency, LogNormal
from busyhour.emulators.openai_request import Asked, Refused, asked, tokens_of
from busyhour.emulators.receptionist import Reply, reply
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, TwinProcess, Unreadable, body_of, hang, reset, run
from busyhour.errors import PlanError
from busyhour.model import JSON, Endpoint, Operation

OUTCOMES = (*COMMON_OUTCOMES, "no_token", "truncate", "malformed")
MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")
"""Listed when no models are configured; any name is accepted then."""
_KEPT_CHARACTERS = 500
"""Of a prompt and a reply, in a witnessed row."""
_FINGERPRINT = "fp_busyhour"


# ---------------------------------------------------------------- in the plan


@dataclass(kw_only=True, eq=False)
class OpenAI:
    """A twin of the OpenAI API as a Service; its URL is what `OPENAI_BASE_URL` wants.

    first_token: from the request to the first token; between_tokens: from token to token. outcomes: the share of
    requests that go wrong, by name (see OUTCOMES). models: those that exist, empty for any. api_key: the one that is
    accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "llm"
    first_token: Latency = field(default_factory=lambda: LogNormal(350, 0.4))
    between_tokens: Latency = field(default_factory=lambda: Constant(8))
    outcomes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    port: int = 0
    models: Sequence[str] = ()
    api_key: str = ""
    _behaviour: Behaviour = field(init=False, repr=False)
    _process: TwinProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        latencies = {"first_token": self.first_token, "between_tokens": self.between_tokens}
        self._behaviour = Behaviour(possible=OUTCOMES, latencies=latencies, outcomes=self.outcomes, seed=self.seed)
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.openai")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        more: dict[str, JSON] = {"models": list(self.models), "api_key": self.api_key}
        return self._process.running(port=self.port, behaviour=self._behaviour, more=more)

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()


# ---------------------------------------------------------------- in the process


@dataclass(slots=True)
class _Record:
    """What is witnessed of one request, as far as it has come."""

    began_ns: int
    number: int
    outcome: str
    prompt: str = ""
    reply: str = ""
    tokens: int = 0
    first_token_ns: int | None = None
    client_closed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """A finished reply before it is paced out: pieces are tokens of the text, or of the arguments of `tool`."""

    id: str
    model: str
    created: int
    pieces: Sequence[str]
    finish: str
    tool: str = ""
    call_id: str = ""
    usage: Mapping[str, JSON] = field(default_factory=dict)

    def event(self, delta: Mapping[str, JSON], *, finish: str | None = None, usage: bool) -> bytes:
        choice: JSON = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._chunk([choice], {"usage": None} if usage else {})

    def usage_event(self) -> bytes:
        return self._chunk([], {"usage": self.usage})

    def _chunk(self, choices: Sequence[JSON], more: Mapping[str, JSON]) -> bytes:
        head = self._head("chat.completion.chunk")
        return b"data: " + json.dumps({**head, "choices": choices, **more}).encode() + b"\n\n"

    def whole(self) -> bytes:
        text = "".join(self.pieces)
        message: dict[str, JSON] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
        if self.tool:
            call: JSON = {"id": self.call_id, "type": "function", "function": {"name": self.tool, "arguments": text}}
            message |= {"content": None, "tool_calls": [call]}
        choice: JSON = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return json.dumps({**self._head("chat.completion"), "choices": [choice], "usage": self.usage}).encode()

    def _head(self, kind: str) -> dict[str, JSON]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": _FINGERPRINT,
        }

    def opening(self) -> Mapping[str, JSON]:
        """The first delta: the role, and which function is called."""
        if not self.tool:
            return {"role": "assistant", "content": "", "refusal": None}
        call: JSON = {
            "index": 0,
            "id": self.call_id,
            "type": "function",
            "function": {"name": self.tool, "arguments": ""},
        }
        return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}

    def delta(self, piece: str) -> Mapping[str, JSON]:
        if self.tool:
            return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
        return {"content": piece}


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: models, api_key. Raises PlanError."""
    models, api_key = more.get("models", []), more.get("api_key", "")
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise PlanError(f"models is {models!r}; it must be a list of names.")
    if not isinstance(api_key, str):
        raise PlanError(f"api_key is {api_key!r}; it must be a string.")
    api = _Api(twin, [str(model) for model in models], api_key)
    app = twin.application()
    app.router.add_post("/v1/chat/completions", api.chat)
    app.router.add_get("/v1/models", api.answering(api.list_models))
    app.router.add_get("/v1/models/{model:.+}", api.answering(api.one_model))
    app.router.add_route("*", "/{rest:.*}", api.answering(api.unknown))
    return app


class _Api:
    def __init__(self, twin: Twin, models: Sequence[str], api_key: str) -> None:
        self._twin = twin
        self._models = models
        self._api_key = api_key
        self._started = unix_seconds()

    # -- the small ones

    def answering(
        self, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler behind the check of the key, with its refusals in the vendor's shape."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                self._authenticate(request)
                return await handler(request)
            except Refused as refusal:
                return web.json_response(refusal.body, status=refusal.status)

        return answer

    async def list_models(self, request: web.Request) -> web.Response:
        names = self._models or MODELS
        return web.json_response({"object": "list", "data": [self._model(name) for name in names]})

    async def one_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self._check_model(name)
        return web.json_response(self._model(name))

    async def unknown(self, request: web.Request) -> web.Response:
        if request.path in ("/v1/chat/completions", "/v1/models"):
            message = f"Not allowed to {request.method} on {request.path}"
            raise Refused(message, status=405, code="method_not_supported")
        raise Refused(f"Invalid URL ({request.method} {request.path})", status=404)

    def _model(self, name: str) -> dict[str, JSON]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "system"}

    def _check_model(self, name: str) -> None:
        if self._models and name not in self._models:
            message = f"The model `{name:.200}` does not exist or you do not have access to it."
            raise Refused(message, status=404, code="model_not_found")

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refused(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                status=401,
            )
        if self._api_key and key.strip() != self._api_key:
            raise _wrong_key()

    # -- chat completions

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            raw = await body_of(request)
        except Unreadable as problem:
            return web.json_response(Refused(f"{problem}.").body, status=problem.status)
        fate = self._twin.draw("request", OUTCOMES)
        record = _Record(began_ns=self._twin.clock.now_ns(), number=fate.number, outcome=fate.outcome)
        counted = False
        try:
            self._authenticate(request)
            _refuse_if_fated(fate)
            asking = asked(raw)
            self._check_model(asking.model)
            self._twin.count(fate.outcome)
            counted = True
            record.prompt = next((said.text for said in reversed(asking.conversation) if said.role == "user"), "")
            return await self._answer(request, asking, fate, record)
        except Refused as refusal:
            record.outcome = f"http_{refusal.status}"
            return web.json_response(refusal.body, status=refusal.status, headers=_error_headers(refusal, fate))
        except (asyncio.CancelledError, ConnectionResetError):
            record.client_closed = True
            raise
        finally:
            if not counted:
                self._twin.count(record.outcome)
            self._witness(record)

    async def _answer(self, request: web.Request, asking: Asked, fate: Fate, record: _Record) -> web.StreamResponse:
        if fate.outcome == "reset":
            reset(request)
            return web.Response()
        if fate.outcome == "hang":
            await hang()
        completion = _complete(asking, fate.random)
        if asking.stream:
            return await self._stream(request, asking, completion, fate, record)
        return await self._whole(completion, fate, record)

    async def _whole(self, completion: _Completion, fate: Fate, record: _Record) -> web.StreamResponse:
        if fate.outcome == "no_token":
            await hang()
        due_ns = record.began_ns + self._delay_ns("first_token", fate)
        due_ns += sum(self._delay_ns("between_tokens", fate) for _ in completion.pieces[1:])
        await self._twin.clock.sleep_until(due_ns)
        body = completion.whole()
        if fate.outcome in ("truncate", "malformed"):
            body = body[: len(body) // 2]
        record.first_token_ns = self._twin.clock.now_ns()
        record.tokens = len(completion.pieces)
        record.reply = "".join(completion.pieces)
        return web.Response(body=body, content_type="application/json", headers=_headers(fate))

    async def _stream(
        self, request: web.Request, asking: Asked, completion: _Completion, fate: Fate, record: _Record
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-cache", **_headers(fate)})
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        due_ns = record.began_ns + self._delay_ns("first_token", fate)
        await self._twin.clock.sleep_until(due_ns)
        await response.prepare(request)
        usage = asking.include_usage
        await response.write(completion.event(completion.opening(), usage=usage))
        if fate.outcome == "no_token":
            await hang()
        pieces = completion.pieces
        if fate.outcome in ("truncate", "malformed"):
            pieces = pieces[: max(1, len(pieces) // 2)]
        for index, piece in enumerate(pieces):
            if index:
                due_ns += self._delay_ns("between_tokens", fate)
                await self._twin.clock.sleep_until(due_ns)
            await response.write(completion.event(completion.delta(piece), usage=usage))
            record.first_token_ns = record.first_token_ns or self._twin.clock.now_ns()
            record.tokens += 1
            record.reply += piece
        if fate.outcome == "malformed":
            await response.write(completion.event(completion.delta("?"), usage=usage)[:-20] + b"\n\n")
        elif fate.outcome != "truncate":
            await response.write(completion.event({}, finish=completion.finish, usage=usage))
            if usage:
                await response.write(completion.usage_event())
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _delay_ns(self, latency: str, fate: Fate) -> int:
        return self._twin.behaviour.delay_ns(latency, fate.random)

    def _witness(self, record: _Record) -> None:
        # What was done to the client outranks what the client did: of a hang the leaving is only the end.
        left = record.client_closed and record.outcome == OK
        self._twin.witness(
            Operation(
                id=f"{self._twin.name}/{record.number}",
                kind="llm",
                phase="",
                due_ns=record.began_ns,
                began_ns=record.began_ns,
                ended_ns=self._twin.clock.now_ns(),
                outcome="client closed" if left else record.outcome,
                who=self._twin.name,
                detail={
                    "first_token_ns": record.first_token_ns,
                    "tokens": record.tokens,
                    "prompt": record.prompt[:_KEPT_CHARACTERS],
                    "reply": record.reply[:_KEPT_CHARACTERS],
                    "client_closed": record.client_closed,
                },
            )
        )


def _complete(asking: Asked, random: Random) -> _Completion:
    answer = reply(asking.conversation, asking.tools, force_tool=asking.force_tool)
    pieces, finish = _pieces(answer, asking)
    return _Completion(
        id=f"chatcmpl-{random.getrandbits(112):028x}",
        model=asking.model,
        created=unix_seconds(),
        pieces=pieces,
        finish=finish,
        tool=answer.tool,
        call_id=f"call_{random.getrandbits(96):024x}" if answer.tool else "",
        usage={
            "prompt_tokens": asking.prompt_tokens,
            "completion_tokens": len(pieces),
            "total_tokens": asking.prompt_tokens + len(pieces),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
    )


def _pieces(answer: Reply, asking: Asked) -> tuple[Sequence[str], str]:
    text = json.dumps(answer.arguments) if answer.tool else answer.text
    for stop in () if answer.tool else asking.stops:
        text = text.partition(stop)[0]
    pieces = tokens_of(text)
    if asking.tokens_at_most is not None and len(pieces) > asking.tokens_at_most:
        return pieces[: asking.tokens_at_most], "length"
    return pieces, "tool_calls" if answer.tool else "stop"


def _headers(fate: Fate) -> dict[str, str]:
    return {"x-request-id": f"req_{fate.number:08d}", "openai-version": "2020-10-01"}


def _error_headers(refusal: Refused, fate: Fate) -> dict[str, str]:
    more = {"Retry-After": str(RETRY_AFTER_SECONDS)} if refusal.status == 429 else {}
    return {**_headers(fate), **more}


def _wrong_key() -> Refused:
    return Refused("Incorrect API key provided.", status=401, code="invalid_api_key")


def _refuse_if_fated(fate: Fate) -> None:
    """Raise the refusal that was drawn, if it was one."""
    if fate.outcome == "http_401":
        raise _wrong_key()
    if fate.outcome == "http_429":
        message = "Rate limit reached for requests. Please try again in 1s."
        raise Refused(message, status=429, kind="requests", code="rate_limit_exceeded")
    if fate.outcome == "http_500":
        message = "The server had an error while processing your request. Sorry about that!"
        raise Refused(message, status=500, kind="server_error")
    if fate.outcome == "http_503":
        message = "The engine is currently overloaded, please try again later."
        raise Refused(message, status=503, kind="server_error")


def main(argv: Sequence[str]) -> int:
    """`python -m busyhour.emulators.openai '<json settings>'`: see twin.run."""
    default = OpenAI()
    return run(application, default=default._behaviour, default_name=default.name, path="/v1", argv=argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
