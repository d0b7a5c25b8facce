"""What the data plane can do: each operation reads what was asked and says what comes of it. Pure but for its store.

A read is done when it is asked, a write when it is acknowledged: `Done.write` is its change of the namespace.
Units: a read costs one unit for a query or a page and one for every ten records fetched; a write one for each
kilobyte, five at least (the vendor's page on costs).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import multidict

from busyhour.emulators.pinecone.filters import checked_metadata
from busyhour.emulators.pinecone.refusal import Refused
from busyhour.emulators.pinecone.request import (
    LIST_AT_MOST,
    TOP_K_AT_MOST,
    UPSERT_BYTES_AT_MOST,
    checked_batch,
    checked_id,
    checked_ids,
    checked_sparse,
    checked_values,
    filter_of,
    flag,
    namespace_of,
    parsed,
    text,
    whole,
)
from busyhour.emulators.pinecone.store import BYTES_AT_MOST, Index, Namespace, Record, measured
from busyhour.model import JSON

_IDS_WITNESSED = 10
_DEFAULT_SINCE = "2025-04"
"""From this version on, the default namespace is called __default__ where namespaces are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of the data plane. `empty`: nothing is to be found."""

    index: Index
    raw: bytes
    query: multidict.MultiMapping[str]
    name: str
    now_ns: int
    version: str
    empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer, what is witnessed of it, and the change a write makes, with what it may add."""

    body: JSON
    detail: dict[str, JSON] = field(default_factory=dict)
    namespace: str = ""
    write: Callable[[Namespace], None] | None = None
    records: int = 0
    cost_bytes: int = 0


class Data:
    """The indexes, and the room that is left for all of them."""

    def __init__(self, indexes: Mapping[str, Index], vectors_at_most: int) -> None:
        self._indexes = indexes
        self._vectors_at_most = vectors_at_most

    def index(self, name: str) -> Index:
        if name not in self._indexes:
            raise Refused(f"Index {name[:80]} not found", status=404)
        return self._indexes[name]

    def check_room(self, records: int, cost_bytes: int) -> None:
        """Raises Refused when there is no room for so much more."""
        held = [index.held() for index in self._indexes.values()]
        if records and sum(count for count, _ in held) + records > self._vectors_at_most:
            raise Refused(
                f"Request failed. You've reached the max storage allowed: this twin holds at most "
                f"{self._vectors_at_most} vectors. Delete some, or raise vectors_at_most.",
                status=403,
            )
        if cost_bytes and sum(size for _, size in held) + cost_bytes > BYTES_AT_MOST:
            raise Refused(
                f"Request failed. You've reached the max storage allowed: this twin holds at most "
                f"{BYTES_AT_MOST >> 20} MB. Delete some vectors.",
                status=403,
            )


# ---------------------------------------------------------------- writes


def upsert(data: Data, asked: Asked) -> Done:
    if len(asked.raw) > UPSERT_BYTES_AT_MOST:
        raise Refused(
            f"Error, message length too large: found {len(asked.raw)} bytes, the limit is: {UPSERT_BYTES_AT_MOST} bytes"
        )
    form = parsed(asked.raw, ("vectors", "namespace"))
    namespace = namespace_of(form)
    records = checked_batch(form.get("vectors", []), asked.index.dimension)
    space = asked.index.namespaces.get(namespace)
    new = {record.id for record in records if space is None or record.id not in space.rows}
    cost_bytes = sum(record.cost_bytes for record in records)
    data.check_room(len(new), cost_bytes)

    def write(space: Namespace) -> None:
        for record in records:
            space.put(record)

    units = max(5, -(-cost_bytes // 1024))
    return Done(
        body={"upsertedCount": len(records)},
        detail={"namespace": namespace, "vectors": len(records), "write_units": units},
        namespace=namespace,
        write=write,
        records=len(new),
        cost_bytes=cost_bytes,
    )


def update(data: Data, asked: Asked) -> Done:
    form = parsed(asked.raw, ("id", "values", "sparseValues", "setMetadata", "namespace", "filter", "dryRun"))
    namespace = namespace_of(form)
    holds = filter_of(form, empty="Update with empty metadata filter is not allowed")
    if ("id" in form) == (holds is not None):
        raise Refused("Exactly one of 'id' or 'filter' must be provided")
    if holds is not None and ("values" in form or "sparseValues" in form):
        raise Refused("Update by metadata request does not support updating vector values.")
    changes: dict[str, Any] = {}
    if "values" in form:
        changes["values"] = checked_values(form["values"], asked.index.dimension, "values")
    if "sparseValues" in form:
        changes["sparse"] = checked_sparse(form["sparseValues"], "sparseValues")
    metadata = checked_metadata(form.get("setMetadata", {}), "setMetadata")
    space = asked.index.namespaces.get(namespace) or Namespace(asked.index.dimension)
    ids = [checked_id(form["id"])] if holds is None else space.matching(holds)
    dry = flag(form, "dryRun")
    for key in ids:
        if (record := space.get(key)) is not None:
            _changed(record, changes, metadata)  # refused before it is acknowledged, not when it becomes visible

    def write(space: Namespace) -> None:
        for key in () if dry else ids if holds is None else space.matching(holds):
            if (record := space.get(key)) is not None:
                try:
                    space.put(_changed(record, changes, metadata))
                except Refused:
                    continue  # another write has grown its metadata in between: the vendor drops such a change too

    matched = {"matchedRecords": len(ids)} if holds is not None else {}
    detail: dict[str, JSON] = {"namespace": namespace, "vectors": len(ids), "write_units": 5}
    cost = len(asked.raw) * max(1, len(ids))
    return Done(body=matched, detail=detail, namespace=namespace, write=write, cost_bytes=cost)


def _changed(record: Record, changes: Mapping[str, Any], metadata: Mapping[str, JSON]) -> Record:
    return measured(replace(record, **changes, metadata={**record.metadata, **metadata}))


def delete(data: Data, asked: Asked) -> Done:
    form = parsed(asked.raw, ("ids", "deleteAll", "namespace", "filter"))
    namespace = namespace_of(form)
    everything, ids = flag(form, "deleteAll"), form.get("ids")
    holds = filter_of(form, empty="Delete with empty metadata filter is not allowed")
    if everything and ids:
        raise Refused("No explicit IDs allowed when delete_all=true")
    if everything and holds is not None:
        raise Refused("No filter allowed when delete_all=true")
    if not everything and holds is None and not ids:
        raise Refused("Invalid request: one of ids, delete_all or filter must be given")
    keys = checked_ids(ids) if ids and holds is None else []
    if namespace not in asked.index.namespaces and not (namespace == "" and not everything):
        raise Refused("Namespace not found", status=404)

    def write(space: Namespace) -> None:
        for key in list(space.rows) if everything else keys if holds is None else space.matching(holds):
            space.remove(key)

    detail: dict[str, JSON] = {"namespace": namespace, "write_units": 5}
    return Done(body={}, detail=detail, namespace=namespace, write=write)


# ---------------------------------------------------------------- reads


def query(data: Data, asked: Asked) -> Done:
    fields = ("namespace", "topK", "filter", "includeValues", "includeMetadata", "vector", "sparseVector", "id")
    form = parsed(asked.raw, (*fields, "queries", "scanFactor", "maxCandidates"))
    index, namespace = asked.index, namespace_of(form)
    if "topK" not in form:
        raise Refused("topK is required: it must be from 1 to 10000")
    top_k = whole(form, "topK", default=0, at_most=TOP_K_AT_MOST)
    sparse = checked_sparse(form["sparseVector"], "sparseVector") if "sparseVector" in form else {}
    if sparse and index.metric != "dotproduct":
        raise Refused(f"Index configuration does not support sparse values: its metric is {index.metric}")
    with_values, with_metadata = flag(form, "includeValues"), flag(form, "includeMetadata")
    holds = filter_of(form)
    space = index.namespaces.get(namespace)
    if "id" in form:
        if "vector" in form or sparse:
            raise Refused("Cannot provide both 'ID' and 'vector' at the same time")
        stored = space.get(checked_id(form["id"])) if space is not None else None
        values, sparse = (stored.values, dict(stored.sparse)) if stored is not None else (None, {})
        sparse = sparse if index.metric == "dotproduct" else {}
    else:
        vector = form.get("vector")
        if vector is None:
            raise Refused("Must provide 'vector' or 'id' to query an index of dense vectors")
        values = checked_values(vector, index.dimension, "vector", "Query vector" if not vector else "Vector")
    found: Sequence[tuple[Record, float]] = ()
    if space is not None and values is not None and not asked.empty:
        found = space.nearest(values, metric=index.metric, top_k=top_k, holds=holds, sparse=sparse)
    matches = [_match(record, score, values=with_values, metadata=with_metadata) for record, score in found]
    detail: dict[str, JSON] = {
        "namespace": namespace,
        "top_k": top_k,
        "matches": len(matches),
        "ids": [record.id for record, _ in found[:_IDS_WITNESSED]],
        "score": found[0][1] if found else None,
        "read_units": 1,
    }
    body: JSON = {"matches": matches, "namespace": text(form, "namespace"), "usage": {"readUnits": 1}}
    return Done(body=body, detail=detail)


def _match(record: Record, score: float, *, values: bool, metadata: bool) -> JSON:
    form: dict[str, JSON] = {"id": record.id, "score": score, "values": record.values.tolist() if values else []}
    if metadata and record.metadata:
        form["metadata"] = record.metadata
    if values and record.sparse:
        form["sparseValues"] = {"indices": list(record.sparse), "values": list(record.sparse.values())}
    return form


def fetch(data: Data, asked: Asked) -> Done:
    ids = checked_ids(asked.query.getall("ids", []))
    form = dict(asked.query)
    space = asked.index.namespaces.get(namespace_of(form))
    found = [record for key in ids if space is not None and (record := space.get(key)) is not None]
    return _fetched([] if asked.empty else found, form, {})


def fetch_by_metadata(data: Data, asked: Asked) -> Done:
    form = parsed(asked.raw, ("namespace", "filter", "limit", "paginationToken"))
    holds = filter_of(form, empty=_EMPTY_FETCH)
    if holds is None:
        raise Refused(_EMPTY_FETCH)
    size = whole(form, "limit", default=100, at_most=10_000)
    space = asked.index.namespaces.get(namespace_of(form))
    if space is None or asked.empty:
        return _fetched([], form, {})
    page, last = space.page(space.matching(holds), after=_cursor(form), size=size)
    found = [record for key in page if (record := space.get(key)) is not None]
    return _fetched(found, form, _pagination(last))


_EMPTY_FETCH = "Empty filter provided for fetch by metadata request"


def _fetched(found: Sequence[Record], form: Mapping[str, Any], more: Mapping[str, JSON]) -> Done:
    units = max(1, -(-len(found) // 10))
    vectors: JSON = {record.id: record.as_json() for record in found}
    body: JSON = {"vectors": vectors, "namespace": text(form, "namespace"), "usage": {"readUnits": units}, **more}
    detail: dict[str, JSON] = {"namespace": namespace_of(form), "matches": len(found), "read_units": units}
    return Done(body=body, detail=detail)


def list_vectors(data: Data, asked: Asked) -> Done:
    form = dict(asked.query)
    namespace, prefix = namespace_of(form), text(form, "prefix")
    size = whole(form, "limit", default=LIST_AT_MOST, at_most=LIST_AT_MOST)
    space = asked.index.namespaces.get(namespace)
    keys = sorted(key for key in space.rows if key.startswith(prefix)) if space is not None else []
    page, last = space.page(keys, after=_cursor(form), size=size) if space is not None else ([], "")
    vectors: JSON = [{"id": key} for key in page]
    body: JSON = {
        "vectors": vectors,
        "namespace": text(form, "namespace"),
        "usage": {"readUnits": 1},
        **_pagination(last),
    }
    return Done(body=body, detail={"namespace": namespace, "matches": len(page), "read_units": 1})


def _pagination(last: str) -> dict[str, JSON]:
    return {"pagination": {"next": urlsafe_b64encode(last.encode()).decode()}} if last else {}


def _cursor(form: Mapping[str, Any]) -> str:
    token = text(form, "paginationToken")
    try:
        return urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        raise Refused("Invalid pagination token") from None


def describe_index_stats(data: Data, asked: Asked) -> Done:
    form = parsed(asked.raw, ("filter",))
    holds = filter_of(form)
    index = asked.index
    counts = {
        _listed(name, asked.version): len(space.rows) if holds is None else len(space.matching(holds))
        for name, space in index.namespaces.items()
        if space.rows or space.declared
    }
    total = sum(counts.values())
    body: JSON = {
        "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
        "dimension": index.dimension,
        "indexFullness": 0,
        "totalVectorCount": total,
        "metric": index.metric,
        "vectorType": "dense",
    }
    return Done(body=body, detail={"vectors": total})


# ---------------------------------------------------------------- namespaces


def list_namespaces(data: Data, asked: Asked) -> Done:
    form = dict(asked.query)
    size, prefix = whole(form, "limit", default=100, at_most=100), text(form, "prefix")
    shown = {_listed(name, _DEFAULT_SINCE): space for name, space in asked.index.namespaces.items()}
    names = sorted(name for name, space in shown.items() if (space.rows or space.declared) and name.startswith(prefix))
    after = _cursor(form)
    following = [name for name in names if name > after]
    page = following[:size]
    body: JSON = {
        "namespaces": [_described(name, shown[name]) for name in page],
        "total_count": len(names),
        **_pagination(page[-1] if len(following) > size else ""),
    }
    return Done(body=body, detail={"matches": len(page), "read_units": 1})


def create_namespace(data: Data, asked: Asked) -> Done:
    name = namespace_of(parsed(asked.raw, ("name", "schema")), "name")
    if not name:
        raise Refused("A namespace must have a name that is not __default__")
    space = asked.index.namespaces.get(name)
    if space is not None:
        raise Refused(f"Namespace {name[:80]} already exists", status=409)

    def write(space: Namespace) -> None:
        space.declared = True

    return Done(body=_described(name, None), detail={"namespace": name}, namespace=name, write=write)


def describe_namespace(data: Data, asked: Asked) -> Done:
    name, space = _named(asked)
    return Done(body=_described(_listed(name, _DEFAULT_SINCE), space), detail={"namespace": name, "read_units": 1})


def delete_namespace(data: Data, asked: Asked) -> Done:
    name, _ = _named(asked)

    def write(space: Namespace) -> None:
        space.declared = False
        for key in list(space.rows):
            space.remove(key)

    return Done(body={}, detail={"namespace": name}, namespace=name, write=write)


def _named(asked: Asked) -> tuple[str, Namespace]:
    name = namespace_of({"namespace": asked.name})
    space = asked.index.namespaces.get(name)
    if space is None or not (space.rows or space.declared):
        raise Refused(f"Namespace {asked.name[:80]} not found", status=404)
    return name, space


def _described(name: str, space: Namespace | None) -> dict[str, JSON]:
    # The API writes its 64-bit counts as strings.
    count, size = (len(space.rows), space.cost_bytes) if space is not None else (0, 0)
    return {"name": name, "record_count": str(count), "size_bytes": str(size)}


def _listed(name: str, version: str) -> str:
    return "__default__" if name == "" and version >= _DEFAULT_SINCE else name


OPERATIONS = (
    ("POST", "/vectors/upsert", upsert),
    ("POST", "/vectors/update", update),
    ("POST", "/vectors/delete", delete),
    ("POST", "/query", query),
    ("GET", "/vectors/fetch", fetch),
    ("POST", "/vectors/fetch_by_metadata", fetch_by_metadata),
    ("GET", "/vectors/list", list_vectors),
    ("POST", "/describe_index_stats", describe_index_stats),
    ("GET", "/describe_index_stats", describe_index_stats),
    ("GET", "/namespaces", list_namespaces),
    ("POST", "/namespaces", create_namespace),
    ("GET", "/namespaces/{namespace}", describe_namespace),
    ("DELETE", "/namespaces/{namespace}", delete_namespace),
)
