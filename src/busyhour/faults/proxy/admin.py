"""The admin API: Toxiproxy's, over HTTP (github.com/Shopify/toxiproxy, README: "HTTP API").

Beside it, ours:

    GET /_proxy/effects   by proxy: what passed, and how often each toxic took effect
    GET /_proxy/lag       {"lag_ms": [[ms, times], ...]} since it was last asked: how late the proxy's own loop was
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from busyhour.faults.proxy.collection import Collection, checked
from busyhour.faults.proxy.lag import LagMeter
from busyhour.faults.proxy.toxic import STREAMS, Refusal, bad_body
from busyhour.model import JSON

VERSION = "2.12.0"
"""Of the API that is spoken, not ours: clients look at it."""
BODY_BYTES_AT_MOST = 4 * 1024 * 1024
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Admin:
    """Answers for a collection of proxies."""

    def __init__(self, collection: Collection, meter: LagMeter) -> None:
        self._collection = collection
        self._meter = meter

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_AT_MOST, middlewares=[_in_its_words])
        proxy, toxic = "/proxies/{proxy}", "/proxies/{proxy}/toxics/{toxic}"
        app.add_routes(
            [
                web.post("/reset", self._reset),
                web.get("/proxies", self._list),
                web.post("/proxies", self._create),
                web.post("/populate", self._populate),
                web.get(proxy, self._show),
                web.post(proxy, self._update),
                web.patch(proxy, self._update),
                web.delete(proxy, self._delete),
                web.get(f"{proxy}/toxics", self._list_toxics),
                web.post(f"{proxy}/toxics", self._create_toxic),
                web.get(toxic, self._show_toxic),
                web.post(toxic, self._update_toxic),
                web.patch(toxic, self._update_toxic),
                web.delete(toxic, self._delete_toxic),
                web.get("/version", self._version),
                web.get("/metrics", self._metrics),
                web.get("/_proxy/effects", self._effects),
                web.get("/_proxy/lag", self._lag),
            ]
        )
        return app

    async def _reset(self, request: web.Request) -> web.Response:
        await self._collection.reset()
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        return _answer({name: proxied.as_json() for name, proxied in self._collection.proxies.items()})

    async def _create(self, request: web.Request) -> web.Response:
        return _answer((await self._collection.create(await _body(request))).as_json(), 201)

    async def _populate(self, request: web.Request) -> web.Response:
        try:
            populated = await self._collection.populate(await _body(request))
        except Refusal as refusal:
            return _answer({"error": str(refusal), "status": refusal.status, "proxies": None}, refusal.status)
        return _answer({"proxies": [proxied.as_json() for proxied in populated]}, 201)

    async def _show(self, request: web.Request) -> web.Response:
        return _answer(self._collection.get(request.match_info["proxy"]).as_json())

    async def _update(self, request: web.Request) -> web.Response:
        proxied = self._collection.get(request.match_info["proxy"])
        await proxied.update(checked(await _body(request)))
        return _answer(proxied.as_json())

    async def _delete(self, request: web.Request) -> web.Response:
        await self._collection.delete(request.match_info["proxy"])
        return web.Response(status=204)

    async def _list_toxics(self, request: web.Request) -> web.Response:
        proxied = self._collection.get(request.match_info["proxy"])
        return _answer([toxic.form.as_json() for toxic in proxied.toxics()])

    async def _create_toxic(self, request: web.Request) -> web.Response:
        proxied = self._collection.get(request.match_info["proxy"])
        return _answer(proxied.add(await _body(request)).form.as_json())

    async def _show_toxic(self, request: web.Request) -> web.Response:
        proxied = self._collection.get(request.match_info["proxy"])
        return _answer(proxied.toxic(request.match_info["toxic"]).form.as_json())

    async def _update_toxic(self, request: web.Request) -> web.Response:
        proxied = self._collection.get(request.match_info["proxy"])
        proxied.toxic(request.match_info["toxic"])
        return _answer(proxied.change(request.match_info["toxic"], await _body(request)).form.as_json())

    async def _delete_toxic(self, request: web.Request) -> web.Response:
        self._collection.get(request.match_info["proxy"]).remove(request.match_info["toxic"])
        return web.Response(status=204)

    async def _version(self, request: web.Request) -> web.Response:
        return _answer({"version": VERSION})

    async def _metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text format; names and labels are Toxiproxy's (METRICS.md)."""
        name = "toxiproxy_proxy_received_bytes_total"
        lines = [f"# TYPE {name} counter"]
        for proxied in self._collection.proxies.values():
            labels = {"listener": proxied.listen, "proxy": proxied.name, "upstream": proxied.upstream}
            for stream in STREAMS:
                told = ",".join(f"{key}={json.dumps(text)}" for key, text in {"direction": stream, **labels}.items())
                lines.append(f"{name}{{{told}}} {proxied.received_bytes(stream)}")
        return web.Response(text="\n".join(lines) + "\n")

    async def _effects(self, request: web.Request) -> web.Response:
        return _answer({name: proxied.effects() for name, proxied in self._collection.proxies.items()})

    async def _lag(self, request: web.Request) -> web.Response:
        return _answer({"lag_ms": self._meter.drain()})


@web.middleware
async def _in_its_words(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every refusal is Toxiproxy's error JSON. Browsers are turned away, as there: a page could reach us otherwise."""
    try:
        if request.headers.get("User-Agent", "").startswith("Mozilla/"):
            raise Refusal(403, "User agent not allowed")
        return await handler(request)
    except Refusal as refusal:
        return _answer({"error": str(refusal), "status": refusal.status}, refusal.status)
    except web.HTTPException as refusal:
        words = f"there is no {request.method} {request.path} here" if refusal.status == 404 else refusal.reason
        return _answer({"error": words, "status": refusal.status}, refusal.status)


async def _body(request: web.Request) -> object:
    """The JSON of a request, whatever its content type says. Raises Refusal."""
    try:
        form: object = json.loads(await request.read())
    except web.RequestPayloadError:
        raise bad_body("it is not encoded as its headers say") from None
    except (ValueError, RecursionError) as problem:
        raise bad_body(f"it is not JSON: {problem}") from None
    return form


def _answer(form: JSON, status: int = 200) -> web.Response:
    return web.json_response(form, status=status)
