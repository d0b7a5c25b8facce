"""The Pinecone twin, judged by the official SDK, asynchronous and synchronous, and by raw requests."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
import numpy as np
import pinecone
import pytest
from pinecone.errors import exceptions

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.pinecone import Pinecone
from busyhour.emulators.pinecone.api import application
from busyhour.emulators.twin import Twin, listening
from busyhour.model import JSON, MS, Operation

from .stages import row_of

DOCUMENTS: list[dict[str, Any]] = [
    {"id": "hours", "values": [1.0, 0.0, 0.0], "metadata": {"topic": "hours", "year": 2024, "tags": ["open", "week"]}},
    {"id": "prices", "values": [0.0, 1.0, 0.0], "metadata": {"topic": "prices", "year": 2026, "sale": True}},
    {"id": "parking", "values": [0.8, 0.6, 0.0], "metadata": {"topic": "parking", "year": 2025}},
    {"id": "bare", "values": [0.0, 0.0, 2.0]},
]
NO_RETRY = pinecone.RetryConfig(max_retries=0)


@dataclass
class Stage:
    """A twin on a real socket in this process, and the SDK's client on it."""

    twin: Twin
    url: str
    client: pinecone.AsyncPinecone
    index: pinecone.AsyncIndex

    async def row(self) -> Operation:
        return await row_of(self.twin)

    async def ids(self, **asked: Any) -> list[str]:
        answer = await self.index.query(**{"vector": [1.0, 0.0, 0.0], "top_k": 10, **asked})
        return [match.id for match in answer.matches]


@asynccontextmanager
async def playing(
    more: dict[str, JSON] | None = None, *, documents: list[dict[str, Any]] | None = None, **settings: Any
) -> AsyncIterator[Stage]:
    service = Pinecone(**{"query": Constant(0), "upsert": Constant(0), **settings})
    twin = Twin("vectors", service._behaviour, SystemClock())
    async with listening(application(twin, {"index": "knowledge", "dimension": 3, **(more or {})})) as port:
        url = f"http://127.0.0.1:{port}"
        async with (
            pinecone.AsyncPinecone(api_key="key", host=url, retry_config=NO_RETRY, timeout=60) as client,
            pinecone.AsyncIndex(host=url, api_key="key") as index,
        ):
            given = DOCUMENTS if documents is None else documents
            if given:
                async with aiohttp.ClientSession(headers={"Api-Key": "key"}) as session:
                    await session.post(f"{url}/vectors/upsert", json={"vectors": given})
                twin.drain()
            yield Stage(twin, url, client, index)


# ---------------------------------------------------------------- the good answers


async def test_a_query_finds_the_nearest_and_is_witnessed() -> None:
    async with playing() as stage:
        answer = await stage.index.query(vector=[1.0, 0.0, 0.0], top_k=3, include_metadata=True, include_values=True)
        row = await stage.row()
    assert [match.id for match in answer.matches] == ["hours", "parking", "bare"]
    assert [round(match.score, 6) for match in answer.matches] == [1.0, 0.8, 0.0]
    assert answer.matches[1].values == pytest.approx([0.8, 0.6, 0.0])
    assert answer.matches[1].metadata == {"topic": "parking", "year": 2025}
    assert answer.namespace == ""
    assert answer.usage is not None
    assert answer.usage.read_units == 1
    assert (row.kind, row.outcome, row.who, row.detail["op"]) == ("vector", "ok", "vectors", "query")
    assert (row.detail["matches"], row.detail["top_k"], row.detail["namespace"]) == (3, 3, "")
    assert row.detail["ids"] == ["hours", "parking", "bare"]
    assert row.began_ns is not None
    assert row.ended_ns is not None
    assert row.began_ns <= row.ended_ns


async def test_values_and_metadata_come_only_when_asked_for() -> None:
    async with playing() as stage:
        answer = await stage.index.query(vector=[1.0, 0.0, 0.0], top_k=1)
    assert (answer.matches[0].values, answer.matches[0].metadata) == ([], None)


@pytest.mark.parametrize("metric", ["cosine", "dotproduct", "euclidean"])
async def test_the_search_is_exact(metric: str) -> None:
    random = Random(7)
    vectors = [[random.gauss(0, 1) for _ in range(8)] for _ in range(300)]
    asked = [random.gauss(0, 1) for _ in range(8)]
    documents = [{"id": f"v{number:03d}", "values": values} for number, values in enumerate(vectors)]
    async with playing({"metric": metric, "dimension": 8}, documents=documents) as stage:
        answer = await stage.index.query(vector=asked, top_k=20)
    matrix, one = np.array(vectors), np.array(asked)
    scores = {
        "cosine": matrix @ one / np.linalg.norm(matrix, axis=1) / np.linalg.norm(one),
        "dotproduct": matrix @ one,
        "euclidean": ((matrix - one) ** 2).sum(axis=1),
    }[metric]
    order = np.argsort(scores if metric == "euclidean" else -scores)[:20]
    assert [match.id for match in answer.matches] == [f"v{number:03d}" for number in order]
    assert [match.score for match in answer.matches] == pytest.approx(scores[order].tolist(), rel=1e-4)


async def test_equals_come_in_the_order_of_their_ids() -> None:
    documents = [{"id": key, "values": [1.0, 0.0, 0.0]} for key in ("d", "b", "a", "c")]
    async with playing(documents=documents) as stage:
        assert await stage.ids(top_k=2) == ["a", "b"]


async def test_a_query_by_id() -> None:
    async with playing() as stage:
        assert await stage.ids(vector=None, id="prices", top_k=2) == ["prices", "parking"]
        assert await stage.ids(vector=None, id="nobody") == []


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"topic": "hours"}, ["hours"]),
        ({"topic": {"$eq": "prices"}}, ["prices"]),
        ({"topic": {"$ne": "prices"}}, ["bare", "hours", "parking"]),
        ({"year": {"$gt": 2024}}, ["parking", "prices"]),
        ({"year": {"$gte": 2025, "$lt": 2026}}, ["parking"]),
        ({"year": {"$lte": 2024}}, ["hours"]),
        ({"topic": {"$in": ["hours", "parking"]}}, ["hours", "parking"]),
        ({"topic": {"$nin": ["hours", "parking"]}}, ["bare", "prices"]),
        ({"tags": "week"}, ["hours"]),
        ({"tags": {"$in": ["closed", "open"]}}, ["hours"]),
        ({"sale": True}, ["prices"]),
        ({"sale": {"$exists": True}}, ["prices"]),
        ({"topic": {"$exists": False}}, ["bare"]),
        ({"$or": [{"topic": "hours"}, {"$and": [{"year": 2026}, {"sale": True}]}]}, ["hours", "prices"]),
        ({"topic": "hours", "year": 2026}, []),
        ({"sale": 1}, []),
        ({"year": "2024"}, []),
    ],
)
async def test_filters(asked: dict[str, Any], found: list[str]) -> None:
    async with playing() as stage:
        assert sorted(await stage.ids(filter=asked)) == found


async def test_upsert_replaces_and_namespaces_are_apart() -> None:
    async with playing(documents=[]) as stage:
        written = await stage.index.upsert(vectors=[("a", [1.0, 0.0, 0.0]), ("b", [0.0, 1.0, 0.0])], namespace="one")
        await stage.index.upsert(vectors=[("a", [0.0, 0.0, 1.0], {"new": True})], namespace="one")
        await stage.index.upsert(vectors=[("c", [1.0, 1.0, 0.0])])
        one = await stage.index.fetch(ids=["a", "b", "c"], namespace="one")
        stats = await stage.index.describe_index_stats()
        default = await stage.ids(namespace="__default__")
    assert written.upserted_count == 2
    assert sorted(one.vectors) == ["a", "b"]
    assert one.vectors["a"].values == [0.0, 0.0, 1.0]
    assert one.vectors["a"].metadata == {"new": True}
    assert (stats.total_vector_count, stats.dimension, stats.metric) == (3, 3, "cosine")
    assert {name: space.vector_count for name, space in stats.namespaces.items()} == {"one": 2, "__default__": 1}
    assert default == ["c"]


async def test_update_patches_values_and_metadata() -> None:
    async with playing() as stage:
        await stage.index.update(id="hours", set_metadata={"year": 2030})
        await stage.index.update(id="bare", values=[3.0, 0.0, 0.0])
        await stage.index.update(id="nobody", values=[1.0, 0.0, 0.0])
        trial = await stage.index.update(filter={"year": {"$lt": 2030}}, set_metadata={"old": True}, dry_run=True)
        matched = await stage.index.update(filter={"year": {"$lt": 2030}}, set_metadata={"old": True})
        found = await stage.index.fetch(ids=["hours", "bare", "parking", "nobody"])
    assert found.vectors["hours"].metadata == {"topic": "hours", "year": 2030, "tags": ["open", "week"]}
    assert found.vectors["bare"].values == [3.0, 0.0, 0.0]
    assert found.vectors["parking"].metadata == {"topic": "parking", "year": 2025, "old": True}
    assert "nobody" not in found.vectors
    assert (trial.matched_records, matched.matched_records) == (2, 2)


async def test_delete_by_id_by_filter_and_all() -> None:
    async with playing() as stage:
        await stage.index.delete(ids=["hours", "nobody"])
        assert sorted(await stage.ids()) == ["bare", "parking", "prices"]
        await stage.index.delete(filter={"year": {"$gte": 2026}})
        assert sorted(await stage.ids()) == ["bare", "parking"]
        assert await stage.ids(top_k=1) == ["parking"]  # the rows that were moved are still found
        await stage.index.delete(delete_all=True)
        assert await stage.ids() == []
        assert (await stage.index.describe_index_stats()).total_vector_count == 0
        with pytest.raises(exceptions.NotFoundError, match="Namespace not found"):
            await stage.index.delete(delete_all=True, namespace="never")


async def test_list_pages_through_the_ids() -> None:
    documents = [{"id": f"{kind}-{number:03d}", "values": [1.0, 0.0, 0.0]} for kind in "ab" for number in range(130)]
    async with playing(documents=documents) as stage:
        pages = [page async for page in stage.index.list(prefix="b-")]
        first = await stage.index.list_paginated(prefix="a-", limit=3)
    assert [page[0].id for page in pages] == ["b-000", "b-100"]
    assert sum(len(page) for page in pages) == 130
    assert [item.id for item in first.vectors] == ["a-000", "a-001", "a-002"]


async def test_fetch_by_metadata_pages() -> None:
    async with playing() as stage:
        first = await stage.index.fetch_by_metadata(filter={"year": {"$gte": 2024}}, limit=2)
        assert first.pagination is not None
        rest = await stage.index.fetch_by_metadata(
            filter={"year": {"$gte": 2024}}, limit=2, pagination_token=first.pagination.next
        )
    assert (sorted(first.vectors), sorted(rest.vectors), rest.pagination) == (["hours", "parking"], ["prices"], None)


async def test_namespaces_are_made_listed_and_deleted() -> None:
    async with playing() as stage:
        made = await stage.index.create_namespace(name="empty")
        listed = await stage.index.list_namespaces_paginated()
        one = await stage.index.describe_namespace(name="__default__")
        await stage.index.delete_namespace(name="empty")
        with pytest.raises(exceptions.NotFoundError):
            await stage.index.describe_namespace(name="empty")
    assert (made.name, made.record_count) == ("empty", 0)
    assert [(space.name, space.record_count) for space in listed] == [("__default__", 4), ("empty", 0)]
    assert (one.name, one.record_count) == ("__default__", 4)


async def test_sparse_values_add_to_the_dot_product() -> None:
    documents: list[dict[str, Any]] = [
        {"id": "dense", "values": [1.0, 0.0, 0.0]},
        {"id": "both", "values": [0.5, 0.0, 0.0], "sparseValues": {"indices": [7, 9], "values": [2.0, 1.0]}},
    ]
    async with playing({"metric": "dotproduct"}, documents=documents) as stage:
        answer = await stage.index.query(
            vector=[1.0, 0.0, 0.0], sparse_vector={"indices": [7], "values": [0.5]}, top_k=2, include_values=True
        )
    assert [(match.id, match.score) for match in answer.matches] == [("both", 1.5), ("dense", 1.0)]
    assert answer.matches[0].sparse_values is not None
    assert answer.matches[0].sparse_values.indices == [7, 9]


# ---------------------------------------------------------------- the control plane


async def test_an_index_is_found_made_used_and_deleted() -> None:
    async with playing() as stage:
        first = await stage.client.indexes.describe("knowledge")
        made = await stage.client.indexes.create(name="second", dimension=2, metric="euclidean", spec=SERVERLESS)
        names = [index.name async for index in stage.client.indexes.list()]
        async with await stage.client.index(name="second") as second:
            await second.upsert(vectors=[("x", [3.0, 4.0])])
            answer = await second.query(vector=[0.0, 0.0], top_k=1)
            listed = await second.list_paginated()
        here = await stage.ids(top_k=1)
        await stage.client.indexes.delete("second")
        with pytest.raises(exceptions.NotFoundError, match="Resource second not found"):
            await stage.client.indexes.describe("second")
        with pytest.raises(exceptions.ConflictError):
            await stage.client.indexes.create(name="knowledge", dimension=2, spec=SERVERLESS)
    assert (first.host, first.status.ready, first.dimension, first.metric) == (stage.url, True, 3, "cosine")
    assert (made.name, made.dimension, made.metric) == ("second", 2, "euclidean")
    assert names == ["knowledge", "second"]
    assert (answer.matches[0].id, answer.matches[0].score) == ("x", 25.0)
    assert [item.id for item in listed.vectors] == ["x"]
    assert here == ["hours"]


SERVERLESS = pinecone.ServerlessSpec(cloud="aws", region="us-east-1")


async def test_the_synchronous_client() -> None:
    async with playing() as stage:

        def ask() -> tuple[list[str], bool]:
            with pinecone.Pinecone(api_key="key", host=stage.url) as client, client.Index("knowledge") as index:
                index.upsert(vectors=[{"id": "new", "values": [1.0, 0.1, 0.0], "metadata": {"fresh": True}}])
                answer = index.query(vector=[1.0, 0.1, 0.0], top_k=2)
                return [match.id for match in answer.matches], client.has_index("knowledge")

        assert await asyncio.to_thread(ask) == (["new", "hours"], True)


async def test_a_client_of_an_older_version_reads_the_index_in_its_own_form() -> None:
    headers = {"Api-Key": "key", "X-Pinecone-Api-Version": "2025-01"}
    async with playing() as stage, aiohttp.ClientSession(stage.url, headers=headers) as session:
        async with session.get("/indexes/knowledge") as response:
            index = await response.json()
        async with session.get("/describe_index_stats") as response:
            stats = await response.json()
    assert (index["dimension"], index["metric"], index["host"]) == (3, "cosine", stage.url)
    assert index["spec"] == {"serverless": {"cloud": "aws", "region": "us-east-1"}}
    assert stats["namespaces"] == {"": {"vectorCount": 4}}


# ---------------------------------------------------------------- what the vendor refuses

BIG = "x" * 41_000


@pytest.mark.parametrize(
    ("ask", "status", "said"),
    [
        (lambda index: index.query(vector=[1.0, 0.0], top_k=1), 400, "dimension 2 does not match the dimension of the"),
        (
            lambda index: index.upsert(vectors=[("a", [1.0] * 4)]),
            400,
            "Vector dimension 4 does not match the dimension",
        ),
        (lambda index: index.upsert(vectors=[("a", [0.0, 0.0, 0.0])]), 400, "at least one non-zero value"),
        (
            lambda index: index.upsert(vectors=[("a", [1.0] * 3, {"text": BIG})]),
            400,
            "exceeds the limit of 40960 bytes",
        ),
        (lambda index: index.upsert(vectors=[("a", [1.0] * 3)] * 1001), 400, "exceeds the maximum of 1000"),
        (lambda index: index.upsert(vectors=[("a", [1.0] * 3, {"t": BIG[:40_000]})] * 60), 400, "limit is: 2097152 by"),
        (lambda index: index.query(vector=[1.0] * 3, top_k=1, filter={"a": {"$near": 1}}), 400, "not a valid operator"),
        (lambda index: index.query(vector=[1.0] * 3, top_k=1, filter={"a": {"$in": "b"}}), 400, "followed by a list"),
        (lambda index: index.query(vector=[1.0] * 3, top_k=1, filter={"a": {"$gt": "b"}}), 400, "by a number"),
    ],
)
async def test_mistakes_are_answered_as_the_vendor_does(ask: Callable[[Any], Any], status: int, said: str) -> None:
    async with playing() as stage:
        with pytest.raises(exceptions.ApiError, match=said) as caught:
            await ask(stage.index)
        row = await stage.row()
    assert caught.value.status_code == status
    assert caught.value.body is not None
    assert (caught.value.body["code"], caught.value.body["details"]) == (3, [])
    assert row.outcome == f"http_{status}"


async def test_the_key_is_checked() -> None:
    async with playing({"api_key": "right"}, documents=[]) as stage:
        with pytest.raises(exceptions.UnauthorizedError):
            await stage.index.describe_index_stats()
        with pytest.raises(exceptions.UnauthorizedError):
            await stage.client.indexes.describe("knowledge")
        async with aiohttp.ClientSession(stage.url) as session, session.get("/indexes") as response:
            assert response.status == 401


async def test_memory_is_bounded_with_a_clear_error() -> None:
    async with playing({"vectors_at_most": 5}) as stage:
        await stage.index.upsert(vectors=[("fifth", [1.0, 0.0, 0.0])])
        with pytest.raises(exceptions.ForbiddenError, match="holds at most 5 vectors"):
            await stage.index.upsert(vectors=[("sixth", [1.0, 0.0, 0.0])])
        await stage.index.upsert(vectors=[("fifth", [0.0, 1.0, 0.0])])
        await stage.index.delete(ids=["hours"])
        await stage.index.upsert(vectors=[("sixth", [1.0, 0.0, 0.0])])
        assert (await stage.index.describe_index_stats()).total_vector_count == 5


async def test_malformed_requests_never_crash_it() -> None:
    random = Random(3)
    odd: list[Any] = [None, True, 0, -1, 1e400, 10**400, "x", "\ud800", [], {}, [[]], {"$and": []}, {"$eq": {}}, [None]]
    fields = ("vectors", "topK", "vector", "filter", "namespace", "id", "ids", "sparseVector", "values", "setMetadata")
    bodies = [json.dumps({field: random.choice(odd) for field in random.sample(fields, 3)}) for _ in range(150)]
    bodies += ["", "[]", "null", "\x00", "{" * 5000, "[" * 100_000, '{"a":' * 5000, '{"vectors": [{"id": "a"}]}']
    paths = ("/query", "/vectors/upsert", "/vectors/update", "/vectors/delete", "/describe_index_stats", "/indexes")
    async with playing() as stage, aiohttp.ClientSession(stage.url, headers={"Api-Key": "key"}) as session:
        for number, body in enumerate(bodies):
            async with session.post(paths[number % len(paths)], data=body.encode("utf-8", "replace")) as response:
                answer = await response.json()
                assert response.status in (200, 400, 404)
                assert response.status == 200 or "message" in answer or answer["error"]["code"]
        for query in ("ids=%FF", "ids=", "limit=x&paginationToken=%00", "limit=-1", "limit=999999999999"):
            for path in ("/vectors/fetch", "/vectors/list", "/namespaces"):
                async with session.get(f"{path}?{query}") as response:
                    assert response.status in (200, 400)
        async with session.post("/query", data=io.BytesIO(b"x" * (17 << 20))) as response:
            assert response.status == 413
        assert len(await stage.ids()) <= 4


# ---------------------------------------------------------------- fates


async def test_a_stale_write_is_acknowledged_and_seen_later() -> None:
    async with playing(staleness=Constant(200), outcomes={"stale": 1}, documents=[]) as stage:
        began_ns = SystemClock().now_ns()
        written = await stage.index.upsert(vectors=[("late", [1.0, 0.0, 0.0])])
        answer = await stage.index.query(vector=[1.0, 0.0, 0.0], top_k=1)
        async with asyncio.timeout(60):
            while not await stage.ids():
                pass  # each turn is a request: the twin's clock moves on
        seen_ns = SystemClock().now_ns()
        again = await stage.index.query(vector=[1.0, 0.0, 0.0], top_k=1)
    assert written.upserted_count == 1
    assert answer.matches == []
    assert seen_ns - began_ns >= 200 * MS
    assert written.response_info is not None
    assert answer.response_info is not None
    assert again.response_info is not None
    assert written.response_info.lsn_committed == 1
    assert (answer.response_info.lsn_reconciled, again.response_info.lsn_reconciled) == (0, 1)


async def test_what_is_written_behind_a_stale_write_waits_with_it() -> None:
    async with playing(staleness=Constant(60_000), documents=[]) as stage:
        stage.twin.behaviour = stage.twin.behaviour.changed({"outcomes": {"stale": 1}})
        await stage.index.upsert(vectors=[("a", [1.0, 0.0, 0.0])])
        stage.twin.behaviour = stage.twin.behaviour.changed({"outcomes": {}})
        await stage.index.upsert(vectors=[("b", [1.0, 0.0, 0.0])])
        await stage.index.upsert(vectors=[("c", [1.0, 0.0, 0.0])], namespace="other")
        assert (await stage.ids(), await stage.ids(namespace="other")) == ([], ["c"])


@pytest.mark.parametrize(
    ("outcome", "error", "status"),
    [
        ("http_401", exceptions.UnauthorizedError, 401),
        ("http_429", exceptions.RateLimitError, 429),
        ("quota", exceptions.RateLimitError, 429),
        ("http_500", exceptions.ServiceError, 500),
        ("http_503", exceptions.ServiceError, 503),
    ],
)
async def test_a_fated_refusal(
    outcome: str, error: type[exceptions.ApiError], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr("pinecone._internal.http_client._async_retry_sleep", at_once)
    async with playing(outcomes={outcome: 1}, documents=[]) as stage:
        with pytest.raises(error) as caught:
            await stage.index.query(vector=[1.0, 0.0, 0.0], top_k=1)
        rows, _ = stage.twin.drain()
    assert caught.value.status_code == status
    assert caught.value.body is not None
    assert isinstance(caught.value.body["code"], int)
    assert {row.outcome for row in rows} == {outcome}
    assert len(rows) >= (1 if status == 401 else 3)  # the SDK tries again what may pass
    if isinstance(caught.value, exceptions.RateLimitError):
        assert caught.value.retry_after == (1.0 if outcome == "http_429" else None)


async def test_an_empty_answer_is_in_good_order() -> None:
    async with playing() as stage:
        stage.twin.behaviour = stage.twin.behaviour.changed({"outcomes": {"empty": 1}})
        assert await stage.ids() == []
        assert (await stage.row()).outcome == "empty"


async def test_hang_and_reset() -> None:
    headers = {"Api-Key": "key"}
    ask = {"vector": [1, 0, 0], "topK": 1}
    async with playing() as stage, aiohttp.ClientSession(stage.url, headers=headers) as session:
        stage.twin.behaviour = stage.twin.behaviour.changed({"outcomes": {"reset": 1}})
        with pytest.raises(aiohttp.ClientError):
            await session.post("/query", json=ask)
        assert (await stage.row()).outcome == "reset"
        stage.twin.behaviour = stage.twin.behaviour.changed({"outcomes": {"hang": 1}})
        with pytest.raises(TimeoutError):
            await session.post("/query", json=ask, timeout=aiohttp.ClientTimeout(total=1))
        row = await stage.row()
    assert (row.outcome, row.detail["client_closed"]) == ("hang", True)


async def test_latencies_are_kept() -> None:
    async with playing(query=Constant(40), upsert=Constant(80), documents=[]) as stage:
        await stage.index.upsert(vectors=[("a", [1.0, 0.0, 0.0])])
        write = await stage.row()
        await stage.ids()
        read = await stage.row()
    for row, limit in ((write, 80), (read, 40)):
        assert row.ended_ns is not None
        assert limit * MS <= row.ended_ns - row.due_ns < (limit + 20_000) * MS
