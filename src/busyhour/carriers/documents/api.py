"""The HTTP API that the agent changes and ends its calls with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from busyhour.carriers.documents.call import DocumentCall
from busyhour.carriers.documents.exchange import Exchange, Provider
from busyhour.carriers.documents.script import Ask, Given
from busyhour.carriers.serving import ApiRefusal, answering

BODY_BYTES_MAX = 1 << 20
DOCUMENT_CHARACTERS_MAX = 4000
URL_CHARACTERS_MAX = 2000
FIELDS_MAX = 200


def application(exchange: Exchange, prefix: str, suffix: str) -> web.Application:
    """The API of one carrier: calls are found at `{prefix}/{account}/Calls/{sid}{suffix}`."""
    api = _Api(exchange)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[answering(api, exchange.background)])
    calls = prefix + "/{account}/Calls"
    app.router.add_post(calls + suffix, api.place)
    app.router.add_get(calls + "/{sid:[^/.]+}" + suffix, api.show)
    app.router.add_post(calls + "/{sid:[^/.]+}" + suffix, api.update)
    return app


class _Api:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._provider: Provider = exchange.provider
        self.authenticate = self._provider.authenticate
        self.not_found = self._provider.not_found
        self.not_allowed = self._provider.not_allowed
        self.malformed = self._provider.malformed
        self.unexpected = self._provider.unexpected

    def refused(self, request: web.Request, refusal: ApiRefusal) -> None:
        call = self._exchange.calls.get(request.match_info.get("sid", ""))
        if call is not None:
            call.note(f"{request.method} {request.path} -> {refusal}")

    async def place(self, request: web.Request) -> web.StreamResponse:
        await _fields(request, self._provider)
        detail = "busyhour's twin places the calls itself: they arrive at the voice URL"
        raise self._provider.invalid("To", detail)

    async def show(self, request: web.Request) -> web.StreamResponse:
        call = self._call(request)
        shown = self._exchange.ended[request.match_info["sid"]] if call is None else self._provider.resource(call)
        return web.json_response(shown)

    async def update(self, request: web.Request) -> web.StreamResponse:
        fields = await _fields(request, self._provider)
        call = self._call(request)
        self._disturb(request, "end" if fields.get("Status") else "redirect")
        self._check(fields)
        if fields.get("Status"):
            self._end(call, request)
        elif call is None:
            raise self._provider.not_in_progress()
        elif fields.get("Url") or fields.get(self._provider.document_parameter):
            self._redirect(call, fields)
        if fields.get("StatusCallback") and call is not None:
            call.status_url = fields["StatusCallback"]
        return await self.show(request)

    def _call(self, request: web.Request) -> DocumentCall | None:
        """The call, or None when it has ended. Raises ApiRefusal when there never was one."""
        sid = request.match_info["sid"]
        call = self._exchange.calls.get(sid)
        if call is None and sid not in self._exchange.ended:
            raise self._provider.not_found(request.path)
        return call

    def _disturb(self, request: web.Request, command: str) -> None:
        """Raises ApiRefusal when a fault wants it: of each command of a call for itself."""
        trouble, name = self._exchange.studio.disturbance, f"{request.match_info['sid']}/{command}"
        if trouble.fails(name):
            raise self._provider.unexpected()
        if trouble.befalling("command.refused", name) is not None:
            trouble.count("command.refused")
            raise self._provider.ended(request.path)

    def _check(self, fields: Mapping[str, str]) -> None:
        """Raises ApiRefusal for what no call could be told."""
        invalid, named = self._provider.invalid, self._provider.document_parameter
        if fields.get("Status", "") not in ("", "completed", "canceled"):
            raise invalid("Status", "it is completed or canceled")
        if fields.get("Url") and fields.get(named):
            raise invalid(named, f"{named} and Url exclude each other")
        if len(fields.get(named, "")) > DOCUMENT_CHARACTERS_MAX:
            raise invalid(named, f"it has more than {DOCUMENT_CHARACTERS_MAX} characters; use Url")
        for name in ("Url", "StatusCallback"):
            url = fields.get(name, "")
            if url and (not url.startswith(("http://", "https://")) or len(url) > URL_CHARACTERS_MAX):
                raise invalid(name, f"it is no URL that begins with http:// or https://: {url[:100]}")
        if fields.get("Method", "POST") not in ("GET", "POST"):
            raise invalid("Method", "it is GET or POST")

    def _end(self, call: DocumentCall | None, request: web.Request) -> None:
        if call is None:
            raise self._provider.ended(request.path)
        call.note(f"the agent ends the call over the API ({request.method} {request.path})")
        call.hung_up_by_agent()

    def _redirect(self, call: DocumentCall, fields: Mapping[str, str]) -> None:
        if not call.answered:
            raise self._provider.not_in_progress()
        document = fields.get(self._provider.document_parameter, "")
        if document:
            call.redirect(Given(document, call.voice_url))
        else:
            call.redirect(Ask(fields["Url"], fields.get("Method", "POST")))


async def _fields(request: web.Request, provider: Provider) -> Mapping[str, str]:
    """The parameters of a form, or of a JSON object. Raises ApiRefusal."""
    raw = await request.read()
    try:
        if request.content_type != "application/json":
            return dict(parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=FIELDS_MAX))
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise provider.malformed("The body is neither a form nor JSON.") from None
    if not isinstance(body, dict):
        raise provider.malformed("The body is no JSON object.")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
