"""The HTTP face of the vector database: routing, keys, fates, and what is witnessed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from busyhour.emulators.behaviour import OK, Fate
from busyhour.emulators.pinecone import DEFAULT_DIMENSION, OUTCOMES, VECTORS_AT_MOST, control
from busyhour.emulators.pinecone.data import OPERATIONS, Asked, Data, Done
from busyhour.emulators.pinecone.fixture import checked, dimension_of, read
from busyhour.emulators.pinecone.refusal import Refused
from busyhour.emulators.pinecone.request import parsed
from busyhour.emulators.pinecone.store import Index, Write
from busyhour.emulators.twin import RETRY_AFTER_SECONDS, Twin, Unreadable, body_of, hang, reset, text_setting
from busyhour.errors import PlanError
from busyhour.model import JSON

_VERSION = "X-Pinecone-Api-Version"
_PLACE = "/_index"
"""Where the data planes of the indexes beside the first are: the host of one is http://127.0.0.1:PORT/_index/NAME."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The vendor's own settings, checked. Raises PlanError."""

    index: Index
    vectors_at_most: int = VECTORS_AT_MOST
    api_key: str = ""

    @staticmethod
    def read(more: Mapping[str, JSON]) -> Settings:
        """From the process's settings: index, dimension (0: that of the first record), metric, records (a path),
        vectors_at_most, api_key."""
        if unknown := more.keys() - set(_SETTINGS):
            known = ", ".join(_SETTINGS)
            raise PlanError(f"setting {min(unknown)!r} is unknown to this twin; known are {known}.")
        try:
            name = control.checked_name(more.get("index", "busyhour"))
            metric = control.checked_metric(more.get("metric", "cosine"))
            api_key, records = text_setting(more, "api_key"), text_setting(more, "records")
            rows = read(Path(records)) if records else []
            dimension = control.checked_dimension(more.get("dimension") or dimension_of(rows) or DEFAULT_DIMENSION)
        except Refused as problem:
            raise PlanError(f"{problem.message}.") from None
        at_most = more.get("vectors_at_most", VECTORS_AT_MOST)
        if isinstance(at_most, bool) or not isinstance(at_most, int) or not 1 <= at_most <= 1_000_000:
            raise PlanError(f"vectors_at_most is {at_most!r}; it must be an integer from 1 to 1000000.")
        if len(rows) > at_most:
            raise PlanError(f"records: {len(rows)} of them are more than vectors_at_most={at_most}; raise it.")
        index = Index(name=name, dimension=dimension, metric=metric)
        for namespace, record in checked(rows, dimension):
            index.opened(namespace).put(record)
        return Settings(index=index, vectors_at_most=at_most, api_key=api_key)


def application(twin: Twin, more: Mapping[str, JSON]) -> web.Application:
    """The API on the twin's application. Raises PlanError for wrong settings."""
    settings = Settings.read(more)
    api = _Api(twin, settings)
    app = twin.application()
    for method, path, operation in OPERATIONS:
        for place in ("", _PLACE + "/{index}"):
            app.router.add_route(method, place + path, api.data_plane(operation))
    app.router.add_get("/indexes", api.control_plane(api.list_indexes))
    app.router.add_post("/indexes", api.control_plane(api.create_index))
    app.router.add_get("/indexes/{name}", api.control_plane(api.describe_index))
    app.router.add_delete("/indexes/{name}", api.control_plane(api.delete_index))
    app.router.add_route("*", "/{rest:.*}", api.control_plane(api.unknown))
    return app


@dataclass(slots=True)
class _Record:
    """What is witnessed of one request, as far as it has come."""

    began_ns: int
    number: int
    outcome: str
    detail: dict[str, JSON] = field(default_factory=dict)
    client_closed: bool = False


class _Api:
    def __init__(self, twin: Twin, settings: Settings) -> None:
        self._twin = twin
        self._api_key = settings.api_key
        self._first = settings.index.name
        self._indexes = {settings.index.name: settings.index}
        self._data = Data(self._indexes, settings.vectors_at_most)

    def _authenticate(self, request: web.Request) -> None:
        key = request.headers.get("Api-Key", "").strip()
        if not key or self._api_key not in ("", key):
            raise Refused("Invalid API Key", status=401)

    # -- control plane: no fate befalls it, so that a test can always look

    def control_plane(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                self._authenticate(request)
                return await handler(request)
            except Refused as refusal:
                return web.json_response(refusal.control_plane(), status=refusal.status)
            except Unreadable as problem:
                unread = Refused(f"{problem}.", status=problem.status)
                return web.json_response(unread.control_plane(), status=problem.status)

        return answer

    async def list_indexes(self, request: web.Request) -> web.Response:
        return web.json_response({"indexes": [self._described(index, request) for index in self._indexes.values()]})

    async def describe_index(self, request: web.Request) -> web.Response:
        return web.json_response(self._described(self._index(request.match_info["name"]), request))

    async def create_index(self, request: web.Request) -> web.Response:
        form = parsed(await body_of(request), _CREATE_FIELDS)
        index = control.created(form)
        if index.name in self._indexes:
            raise Refused(f"Resource {index.name} already exists", status=409)
        if len(self._indexes) >= control.INDEXES_AT_MOST:
            raise Refused(
                f"Request failed. You've reached the max serverless indexes allowed ({control.INDEXES_AT_MOST}).",
                status=403,
            )
        self._indexes[index.name] = index
        return web.json_response(self._described(index, request), status=201)

    async def delete_index(self, request: web.Request) -> web.Response:
        index = self._index(request.match_info["name"])
        if index.deletion_protection == "enabled":
            raise Refused(
                f"Deletion protection is enabled for this index {index.name}. Disable deletion protection before "
                "retrying.",
                status=403,
            )
        del self._indexes[index.name]
        return web.Response(status=202)

    async def unknown(self, request: web.Request) -> web.Response:
        raise Refused(f"Resource {request.path[:200]} not found", status=404)

    def _index(self, name: str) -> Index:
        if name not in self._indexes:
            raise Refused(f"Resource {name[:80]} not found", status=404)
        return self._indexes[name]

    def _described(self, index: Index, request: web.Request) -> dict[str, JSON]:
        here = f"http://{request.host}"  # as the client sees it: there may be a proxy between
        host = here if index.name == self._first else f"{here}{_PLACE}/{index.name}"
        return control.described(index, host, request.headers.get(_VERSION, "2025-04"))

    # -- data plane

    def data_plane(
        self, operation: Callable[[Data, Asked], Done]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            fate = self._twin.draw("request", OUTCOMES)
            record = _Record(self._twin.clock.now_ns(), fate.number, fate.outcome)
            record.detail = {"op": operation.__name__, "index": request.match_info.get("index", self._first)}
            counted = False
            try:
                raw = await body_of(request)
                self._authenticate(request)
                _refuse_if_fated(fate)
                self._twin.count(fate.outcome)
                counted = True
                if fate.outcome == "reset":
                    reset(request)
                    return web.Response()
                if fate.outcome == "hang":
                    await hang()
                return await self._answer(request, operation, raw, fate, record)
            except Unreadable as problem:
                record.outcome = f"http_{problem.status}"
                return _error(Refused(f"{problem}.", status=problem.status), fate)
            except Refused as refusal:
                # What was injected keeps its name: "quota" is a 429 too.
                record.outcome = "quota" if fate.outcome == "quota" and not counted else f"http_{refusal.status}"
                return _error(refusal, fate)
            except (asyncio.CancelledError, ConnectionResetError):
                record.client_closed = True
                raise
            finally:
                if not counted:
                    self._twin.count(record.outcome)
                self._witness(record)

        return answer

    async def _answer(
        self,
        request: web.Request,
        operation: Callable[[Data, Asked], Done],
        raw: bytes,
        fate: Fate,
        record: _Record,
    ) -> web.Response:
        asked = Asked(
            index=self._data.index(request.match_info.get("index", self._first)),
            raw=raw,
            query=request.query,
            name=request.match_info.get("namespace", ""),
            now_ns=self._twin.clock.now_ns(),
            version=request.headers.get(_VERSION, ""),
            empty=fate.outcome == "empty",
        )
        asked.index.see(asked.now_ns)
        done = operation(self._data, asked)
        record.detail |= done.detail
        latency = "upsert" if done.write else "query"
        await self._twin.clock.sleep_until(record.began_ns + self._twin.behaviour.delay_ns(latency, fate.random))
        if done.write:
            self._commit(asked.index, done, fate)
        side = "committed" if done.write else "reconciled"
        position = asked.index.written if done.write else asked.index.indexed()
        headers = {**_headers(fate), f"x-pinecone-lsn-{side}": str(position)}
        return web.json_response(done.body, headers=headers)

    def _commit(self, index: Index, done: Done, fate: Fate) -> None:
        assert done.write is not None
        now_ns = self._twin.clock.now_ns()
        late_ns = self._twin.behaviour.delay_ns("staleness", fate.random) if fate.outcome == "stale" else 0
        index.see(now_ns)
        self._data.check_room(done.records, done.cost_bytes)
        index.write(
            done.namespace,
            Write(apply=done.write, visible_ns=now_ns + late_ns, records=done.records, cost_bytes=done.cost_bytes),
        )
        index.see(now_ns)

    def _witness(self, record: _Record) -> None:
        # What was done to the client outranks what the client did: of a hang the leaving is only the end.
        left = record.client_closed and record.outcome in (OK, "stale", "empty")
        self._twin.witness_ended(
            record.number,
            kind="vector",
            began_ns=record.began_ns,
            outcome="client closed" if left else record.outcome,
            detail={**record.detail, "client_closed": record.client_closed},
        )


_SETTINGS = ("index", "dimension", "metric", "records", "vectors_at_most", "api_key")
_CREATE_FIELDS = (
    *("name", "dimension", "metric", "spec", "vector_type", "deletion_protection", "tags"),
    *("schema", "deployment", "read_capacity", "cmek_id", "source_collection", "source_backup_id"),
)


def _headers(fate: Fate) -> dict[str, str]:
    return {"x-pinecone-request-id": str(fate.number)}


def _error(refusal: Refused, fate: Fate) -> web.Response:
    headers = _headers(fate)
    if refusal.status == 429 and fate.outcome != "quota":
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return web.json_response(refusal.data_plane(), status=refusal.status, headers=headers)


def _refuse_if_fated(fate: Fate) -> None:
    """Raise the refusal that was drawn, if it was one."""
    if fate.outcome == "http_401":
        raise Refused("Invalid API Key", status=401)
    if fate.outcome == "http_429":
        message = "Request failed. You've reached the rate limit of this namespace. Pause briefly and retry."
        raise Refused(message, status=429)
    if fate.outcome == "quota":
        raise Refused(
            "Request failed. You've reached your read unit limit for the current month. To continue reading data, "
            "upgrade your plan.",
            status=429,
        )
    if fate.outcome == "http_500":
        raise Refused("Internal error", status=500)
    if fate.outcome == "http_503":
        raise Refused("Service unavailable: no healthy upstream", status=503)
