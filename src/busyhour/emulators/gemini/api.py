"""The HTTP face of the Gemini API: routing, keys and errors; language_model answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from busyhour.emulators.gemini import MODELS, OUTCOMES
from busyhour.emulators.gemini.ears import ReplyEar
from busyhour.emulators.gemini.request import asked, counted, invalid, outlined, parsed
from busyhour.emulators.gemini.shape import Form, Reply
from busyhour.emulators.language_model import Asked, Ear, LanguageModel, Refused, Relay, Settings, beside
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, body_of
from busyhour.model import JSON

_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_GENERATING = ("generateContent", "countTokens", "streamGenerateContent")
_PAGE = 50
_PREFIX = "/{version:v1beta|v1alpha|v1}/models"
_MODEL = _PREFIX + "/{model:[^/:]+}"


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. Raises PlanError for wrong settings."""
    settings = Settings.read(more)
    relay = Relay.of(twin, settings.upstream)
    model = LanguageModel(twin, outcomes=OUTCOMES, gullible=settings.gullible, relay=relay)
    around = _Around(settings)
    app = twin.application()
    generate, stream = _Generate(settings, stream=False), _Generate(settings, stream=True)
    app.router.add_post(f"{_MODEL}:generateContent", model.serving(generate))
    app.router.add_post(f"{_MODEL}:streamGenerateContent", model.serving(stream))
    if relay is not None:
        relay.attach(app, generate)
        return app
    app.router.add_post(f"{_MODEL}:countTokens", beside(generate, around.count_tokens))
    app.router.add_get(_PREFIX, beside(generate, around.list_models))
    app.router.add_get(_MODEL, beside(generate, around.one_model))
    app.router.add_route("*", "/{rest:.*}", beside(generate, around.unknown))
    return app


@dataclass(frozen=True, slots=True)
class _Generate:
    """generateContent, and streamGenerateContent if `stream`: what language_model.API asks for."""

    settings: Settings
    stream: bool
    name: str = "generate"

    def authenticate(self, request: web.Request) -> None:
        authenticate(request, self.settings.api_key)

    def read(self, request: web.Request, raw: bytes) -> Asked:
        model = request.match_info["model"]
        _check_model(self.settings, model, request)
        form = _form(request)
        return asked(parsed(raw), model=model, stream=self.stream, shape=lambda finished: Reply(finished, form))

    def outline(self, request: web.Request, raw: bytes) -> Asked:
        form: Form = "sse" if request.query.get("alt") == "sse" else "array"
        model = request.match_info["model"]
        return outlined(raw, model=model, stream=self.stream, shape=lambda finished: Reply(finished, form))

    def ear(self) -> Ear:
        return ReplyEar()

    def fated(self, outcome: str) -> Refused:
        return _FATED[outcome]()

    def error(self, refusal: Refused) -> Mapping[str, JSON]:
        return error_body(refusal)

    def headers(self, number: int) -> Mapping[str, str]:
        return {"Server-Timing": "gfet4t7; dur=0", "X-Content-Type-Options": "nosniff"}


class _Around:
    """What is asked beside the replies; no fate befalls it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def list_models(self, request: web.Request) -> web.Response:
        names = list(self._settings.models or MODELS)
        size, start = _digits(request, "pageSize", _PAGE), _digits(request, "pageToken", 0)
        page: dict[str, JSON] = {"models": [_described(name) for name in names[start : start + size]]}
        if start + size < len(names):
            page["nextPageToken"] = str(start + size)
        return web.json_response(page)

    async def one_model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        _check_model(self._settings, name, request)
        return web.json_response(_described(name))

    async def count_tokens(self, request: web.Request) -> web.Response:
        _check_model(self._settings, request.match_info["model"], request)
        tokens = counted(parsed(await body_of(request)))
        details = [{"modality": "TEXT", "tokenCount": tokens}]
        return web.json_response({"totalTokens": tokens, "promptTokensDetails": details})

    async def unknown(self, request: web.Request) -> web.Response:
        raise Refused(f"Requested entity was not found: {request.method} {request.path[:200]}", status=404)


def authenticate(request: web.Request, api_key: str) -> None:
    """The key is in a header or in the query. Raises Refused."""
    key = request.headers.get("x-goog-api-key") or request.query.get("key") or ""
    if not key.strip():
        raise Refused(
            "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or "
            "other form of API consumer identity to call this API.",
            status=403,
        )
    if api_key and key.strip() != api_key:
        raise Refused("API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")


def error_body(refusal: Refused) -> dict[str, JSON]:
    """google.rpc.Status in JSON, with the details that clients look for."""
    error: dict[str, JSON] = {
        "code": refusal.status,
        "message": refusal.message,
        "status": _STATUSES.get(refusal.status, "UNKNOWN"),
    }
    details: list[JSON] = []
    if refusal.code.startswith("API_KEY"):
        details.append({"@type": _ERROR_INFO, "reason": refusal.code, "domain": "googleapis.com"})
    if refusal.param:
        violation: JSON = {"field": refusal.param, "description": refusal.message}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    if refusal.status == 429:
        quota: JSON = {"quotaMetric": f"generativelanguage.googleapis.com/{refusal.param}", "quotaId": refusal.code}
        wait = f"{refusal.headers.get('Retry-After', '43200')}s"
        details = [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [quota]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": wait},
        ]
    return {"error": {**error, "details": details} if details else error}


def _unauthenticated() -> Refused:
    return Refused(
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        status=401,
    )


def _rate_limited() -> Refused:
    return Refused(
        f"You exceeded your current quota, please check your plan and billing details. Please retry in "
        f"{RETRY_AFTER_SECONDS}s.",
        status=429,
        param="generate_requests_per_model",
        code="GenerateRequestsPerMinutePerProjectPerModel",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def _out_of_quota() -> Refused:
    return Refused(
        "You exceeded your current quota, please check your plan and billing details.",
        status=429,
        param="generate_requests_per_model_per_day",
        code="GenerateRequestsPerDayPerProjectPerModel",
    )


_FATED: Mapping[str, Callable[[], Refused]] = {
    "http_401": _unauthenticated,
    "http_429": _rate_limited,
    "quota": _out_of_quota,
    "http_500": lambda: Refused("An internal error has occurred. Please retry.", status=500),
    "http_503": lambda: Refused("The model is overloaded. Please try again later.", status=503),
}


def _check_model(settings: Settings, name: str, request: web.Request) -> None:
    if settings.models and name not in settings.models:
        version = request.match_info["version"]
        raise Refused(
            f"models/{name:.200} is not found for API version {version}, or is not supported for this method. Call "
            "ListModels to see the list of available models and their supported methods.",
            status=404,
        )


def _form(request: web.Request) -> Form:
    alt = request.query.get("alt", "json")
    if alt not in ("json", "sse"):
        raise invalid(f"Invalid value for the parameter 'alt': {alt[:80]!r}.")
    return "sse" if alt == "sse" else "array"


def _digits(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise invalid(f"Invalid value at '{name}' (TYPE_INT32), {text[:80]!r}", field=name)
    return int(text) or default


def _described(name: str) -> dict[str, JSON]:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "description": "A twin.",
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": list(_GENERATING),
        "temperature": 1,
        "topP": 0.95,
        "topK": 64,
        "maxTemperature": 2,
    }
