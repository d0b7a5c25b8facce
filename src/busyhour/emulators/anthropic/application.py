"""The Anthropic twin's paths: keys, models, errors, and the counting of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import web

from busyhour.emulators.anthropic import OUTCOMES
from busyhour.emulators.anthropic.ears import MessageEar
from busyhour.emulators.anthropic.request import asked, counted, outlined
from busyhour.emulators.language_model import Asked, Ear, LanguageModel, Refused, Relay, Settings, beside
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, body_of
from busyhour.model import JSON

MODELS = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")
"""Listed when no models are configured; any name is accepted then."""
_PATHS = ("/v1/messages", "/v1/messages/count_tokens", "/v1/models")


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. `more`: models, api_key, gullible, upstream. Raises PlanError."""
    settings = Settings.read(more)
    messages = Messages(settings.models, settings.api_key)
    relay = Relay.of(twin, settings.upstream)
    model = LanguageModel(twin, outcomes=OUTCOMES, gullible=settings.gullible, relay=relay)
    small = _Small(messages)
    app = twin.application()
    app.router.add_post("/v1/messages", model.serving(messages))
    if relay is not None:
        relay.attach(app, messages)
        return app
    app.router.add_post("/v1/messages/count_tokens", beside(messages, small.count))
    app.router.add_get("/v1/models", beside(messages, small.list_models))
    app.router.add_get("/v1/models/{model:.+}", beside(messages, small.one_model))
    app.router.add_route("*", "/{rest:.*}", beside(messages, small.unknown))
    return app


class Messages:
    """POST /v1/messages, as language_model.API wants it."""

    name = "messages"

    def __init__(self, models: Sequence[str], api_key: str) -> None:
        self.models = models
        self._api_key = api_key

    def authenticate(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        key = request.headers.get("x-api-key", "") or (token.strip() if scheme.lower() == "bearer" else "")
        if not key:
            raise Refused("x-api-key header is required", status=401, kind="authentication_error")
        if self._api_key and key != self._api_key:
            raise self.fated("http_401")
        if "anthropic-version" not in request.headers:
            raise Refused("anthropic-version: header is required")

    def read(self, request: web.Request, raw: bytes) -> Asked:
        asking = asked(raw)
        self.check_model(asking.model)
        return asking

    def outline(self, request: web.Request, raw: bytes) -> Asked:
        return outlined(raw)

    def ear(self) -> Ear:
        return MessageEar()

    def check_model(self, name: str) -> None:
        """Raises Refused when there is no such model."""
        if self.models and name not in self.models:
            raise Refused(f"model: {name:.200}", status=404, kind="not_found_error")

    def fated(self, outcome: str) -> Refused:
        match outcome:
            case "http_401":
                return Refused("invalid x-api-key", status=401, kind="authentication_error")
            case "http_429":
                message = "This request would exceed your organization's rate limit. Please try again later."
                headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
                return Refused(message, status=429, kind="rate_limit_error", headers=headers)
            case "quota":
                message = (
                    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to "
                    "upgrade or purchase credits."
                )
                return Refused(message)
            case "http_500":
                return Refused("Internal server error", status=500, kind="api_error")
            case "overloaded":
                return Refused("Overloaded", status=529, kind="overloaded_error")
            case _:
                return Refused("Service temporarily unavailable", status=503, kind="api_error")

    def error(self, refusal: Refused) -> Mapping[str, JSON]:
        kind = "request_too_large" if refusal.status == 413 else refusal.kind
        return {"type": "error", "error": {"type": kind, "message": refusal.message}}

    def headers(self, number: int) -> Mapping[str, str]:
        return {"request-id": f"req_{number:024d}", "anthropic-organization-id": "busyhour"}


class _Small:
    """The paths that generate nothing and have no fate."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def count(self, request: web.Request) -> web.Response:
        model, tokens = counted(await body_of(request))
        self._messages.check_model(model)
        return web.json_response({"input_tokens": tokens})

    async def list_models(self, request: web.Request) -> web.Response:
        names = self._messages.models or MODELS
        data = [_model(name) for name in names]
        return web.json_response({"data": data, "first_id": names[0], "has_more": False, "last_id": names[-1]})

    async def one_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        self._messages.check_model(name)
        return web.json_response(_model(name))

    async def unknown(self, request: web.Request) -> web.Response:
        if request.path in _PATHS:
            raise Refused("Method Not Allowed", status=405)
        raise Refused("Not found", status=404, kind="not_found_error")


def _model(name: str) -> JSON:
    return {
        "type": "model",
        "id": name,
        "display_name": name.replace("-", " ").title(),
        "created_at": "2025-10-01T00:00:00Z",
        "lifecycle": "active",
    }
