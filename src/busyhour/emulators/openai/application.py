"""The OpenAI twin's paths: keys, models, errors, and which reading and which ear belong to which path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from aiohttp import web

from busyhour.clock import unix_seconds
from busyhour.emulators.language_model import Asked, Ear, LanguageModel, Refused, Relay, Settings, beside
from busyhour.emulators.openai import chat_request, responses_request
from busyhour.emulators.openai.ears import ChatEar, ResponseEar
from busyhour.emulators.openai.memory import Memory
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin
from busyhour.model import JSON

MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")
"""Listed when no models are configured; any name is accepted then."""
_POSTED = ("/v1/chat/completions", "/v1/responses")


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: models, api_key, gullible, upstream. Raises PlanError."""
    settings = Settings.read(more)
    account = Account(settings.models, settings.api_key)
    memory = Memory()
    relay = Relay.of(twin, settings.upstream, own="/v1")
    model = LanguageModel(twin, gullible=settings.gullible, relay=relay)
    chat = Path("chat", account, chat_request.asked, outline=chat_request.outlined, ear=ChatEar)
    parse = partial(responses_request.asked, memory=memory)
    responses = Path("responses", account, parse, outline=responses_request.outlined, ear=ResponseEar)
    small = _Small(account, memory)
    app = twin.application()
    app.router.add_post("/v1/chat/completions", model.serving(chat))
    app.router.add_post("/v1/responses", model.serving(responses))
    if relay is not None:
        relay.attach(app, chat)
        return app
    app.router.add_get("/v1/responses/{id}", beside(chat, small.stored))
    app.router.add_delete("/v1/responses/{id}", beside(chat, small.forget))
    app.router.add_get("/v1/models", beside(chat, small.list_models))
    app.router.add_get("/v1/models/{model:.+}", beside(chat, small.one_model))
    app.router.add_route("*", "/{rest:.*}", beside(chat, small.unknown))
    return app


class Account:
    """Which key is accepted, and which models there are."""

    def __init__(self, models: Sequence[str], api_key: str) -> None:
        self.models = models
        self._api_key = api_key

    def authenticate(self, request: web.Request) -> None:
        """Raises Refused."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Refused(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                status=401,
            )
        if self._api_key and key.strip() != self._api_key:
            raise fated("http_401")

    def check_model(self, name: str) -> None:
        """Raises Refused when there is no such model."""
        if self.models and name not in self.models:
            message = f"The model `{name:.200}` does not exist or you do not have access to it."
            raise Refused(message, status=404, code="model_not_found")


class Path:
    """One of the paths that generate: what language_model.API asks for."""

    def __init__(
        self,
        name: str,
        account: Account,
        parse: Callable[[bytes], Asked],
        *,
        outline: Callable[[bytes], Asked],
        ear: Callable[[], Ear],
    ) -> None:
        self.name = name
        self.ear = ear
        self._account = account
        self._parse = parse
        self._outline = outline

    def authenticate(self, request: web.Request) -> None:
        self._account.authenticate(request)

    def read(self, request: web.Request, raw: bytes) -> Asked:
        asking = self._parse(raw)
        self._account.check_model(asking.model)
        return asking

    def outline(self, request: web.Request, raw: bytes) -> Asked:
        return self._outline(raw)

    def fated(self, outcome: str) -> Refused:
        return fated(outcome)

    def error(self, refusal: Refused) -> Mapping[str, JSON]:
        return error(refusal)

    def headers(self, number: int) -> Mapping[str, str]:
        return {"x-request-id": f"req_{number:08d}", "openai-version": "2020-10-01"}


class _Small:
    """The paths that generate nothing and have no fate."""

    def __init__(self, account: Account, memory: Memory) -> None:
        self._account = account
        self._memory = memory
        self._started = unix_seconds()

    async def list_models(self, request: web.Request) -> web.Response:
        names = self._account.models or MODELS
        return web.json_response({"object": "list", "data": [self._model(name) for name in names]})

    async def one_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self._account.check_model(name)
        return web.json_response(self._model(name))

    async def stored(self, request: web.Request) -> web.Response:
        return web.json_response(self._memory.response(request.match_info["id"]))

    async def forget(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        self._memory.forget(name)
        return web.json_response({"id": name, "object": "response", "deleted": True})

    async def unknown(self, request: web.Request) -> web.Response:
        if request.path in (*_POSTED, "/v1/models"):
            message = f"Not allowed to {request.method} on {request.path}"
            raise Refused(message, status=405, code="method_not_supported")
        raise Refused(f"Invalid URL ({request.method} {request.path})", status=404)

    def _model(self, name: str) -> dict[str, JSON]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "system"}


def error(refusal: Refused) -> dict[str, JSON]:
    """The body of an error."""
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.kind,
            "param": refusal.param or None,
            "code": refusal.code or None,
        }
    }


def fated(outcome: str) -> Refused:
    """The refusal that was drawn."""
    match outcome:
        case "http_401":
            return Refused("Incorrect API key provided.", status=401, code="invalid_api_key")
        case "http_429":
            message = f"Rate limit reached for requests. Please try again in {RETRY_AFTER_SECONDS}s."
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return Refused(message, status=429, kind="requests", code="rate_limit_exceeded", headers=headers)
        case "quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return Refused(message, status=429, kind="insufficient_quota", code="insufficient_quota")
        case "http_500":
            message = "The server had an error while processing your request. Sorry about that!"
            return Refused(message, status=500, kind="server_error")
        case _:
            message = "The engine is currently overloaded, please try again later."
            return Refused(message, status=503, kind="server_error")
