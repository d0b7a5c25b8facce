"""The admin API: Toxiproxy's JSON shapes, statuses and words, and what becomes of requests that are wrong."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from busyhour.faults.proxy.admin import Admin
from busyhour.faults.proxy.collection import Collection
from busyhour.faults.proxy.lag import LagMeter
from busyhour.services import free_port
from busyhour.timers import TimerAlarms

from .proxied import served

Answer = tuple[int, Any]


class Client:
    def __init__(self, session: aiohttp.ClientSession, collection: Collection, upstream: str) -> None:
        self.session, self.collection, self.upstream = session, collection, upstream

    async def ask(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        async with self.session.request(method, path, data=data, **more) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def created(self, name: str = "redis", **fields: Any) -> dict[str, Any]:
        status, proxy = await self.ask("POST", "/proxies", {"name": name, "upstream": self.upstream, **fields})
        assert status == 201
        return dict(proxy)


@asynccontextmanager
async def admin() -> AsyncIterator[Client]:
    alarms = TimerAlarms()
    meter, collection = LagMeter(alarms), Collection(alarms)
    runner = web.AppRunner(Admin(collection, meter).application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with served() as port, aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        try:
            yield Client(session, collection, f"127.0.0.1:{port}")
        finally:
            await collection.close()
            await runner.cleanup()
            meter.close()
            alarms.close()


async def passes(listen: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(*listen.split(":"))
        writer.write(b"ping")
        passed = await reader.read(4) == b"ping"
        writer.close()
        await writer.wait_closed()
    except ConnectionError:
        return False
    return passed


# ---------------------------------------------------------------- the shapes


async def test_a_proxy_is_created_shown_changed_and_deleted() -> None:
    async with admin() as client:
        proxy = await client.created()
        assert proxy.keys() == {"name", "listen", "upstream", "enabled", "toxics"}
        assert (proxy["name"], proxy["upstream"], proxy["enabled"], proxy["toxics"]) == (
            "redis",
            client.upstream,
            True,
            [],
        )
        assert await passes(proxy["listen"])
        assert await client.ask("GET", "/proxies") == (200, {"redis": proxy})
        assert await client.ask("GET", "/proxies/redis") == (200, proxy)
        down = {**proxy, "enabled": False}
        assert await client.ask("POST", "/proxies/redis", {"enabled": False}) == (200, down)
        assert not await passes(proxy["listen"])
        assert await client.ask("PATCH", "/proxies/redis", proxy) == (200, proxy), "a client may send all of it back"
        assert await passes(proxy["listen"])
        assert await client.ask("DELETE", "/proxies/redis") == (204, None)
        assert await client.ask("GET", "/proxies") == (200, {})
        assert not await passes(proxy["listen"])


async def test_a_toxic_is_created_shown_changed_and_deleted() -> None:
    async with admin() as client:
        await client.created()
        told = {"type": "latency", "attributes": {"latency": 100}}
        toxic = {
            "attributes": {"latency": 100, "jitter": 0},
            "name": "latency_downstream",
            "type": "latency",
            "stream": "downstream",
            "toxicity": 1.0,
        }
        assert await client.ask("POST", "/proxies/redis/toxics", told) == (200, toxic)
        path = "/proxies/redis/toxics/latency_downstream"
        assert await client.ask("GET", path) == (200, toxic)
        changed = {**toxic, "attributes": {"latency": 100, "jitter": 5}, "toxicity": 0.5}
        change = {"attributes": {"jitter": 5}, "toxicity": 0.5}
        assert await client.ask("POST", path, change) == (200, changed)
        assert await client.ask("PATCH", path, {"attributes": {"latency": 100}}) == (200, changed)
        upward = {"type": "bandwidth", "name": "slow / up", "stream": "upstream", "attributes": {"rate": 10}}
        assert (await client.ask("POST", "/proxies/redis/toxics", upward))[0] == 200
        _, toxics = await client.ask("GET", "/proxies/redis/toxics")
        assert [one["name"] for one in toxics] == ["slow / up", "latency_downstream"], "upstream comes first"
        assert (await client.ask("GET", "/proxies/redis"))[1]["toxics"] == toxics
        assert await client.ask("DELETE", path) == (204, None)
        assert await client.ask("GET", path) == (404, {"error": "toxic not found", "status": 404})


async def test_reset_enables_all_and_removes_all_toxics() -> None:
    async with admin() as client:
        proxy = await client.created(enabled=False)
        await client.ask("POST", "/proxies/redis/toxics", {"type": "timeout"})
        assert not await passes(proxy["listen"])
        assert await client.ask("POST", "/reset") == (204, None)
        assert await client.ask("GET", "/proxies/redis") == (200, {**proxy, "enabled": True})
        assert await passes(proxy["listen"])


async def test_populate_creates_replaces_and_leaves_alone() -> None:
    async with admin() as client:
        first = await client.created("one")
        await client.ask("POST", "/proxies/one/toxics", {"type": "latency"})
        forms = [{"name": "one", "listen": first["listen"], "upstream": client.upstream}]
        forms.append({"name": "two", "listen": "localhost:0", "upstream": client.upstream})
        status, answer = await client.ask("POST", "/populate", forms)
        assert (status, [proxy["name"] for proxy in answer["proxies"]]) == (201, ["one", "two"])
        assert len(answer["proxies"][0]["toxics"]) == 1, "it was left alone"
        assert answer["proxies"][1]["listen"].startswith("127.0.0.1:")
        forms[0]["upstream"] = f"127.0.0.1:{free_port()}"
        _, answer = await client.ask("POST", "/populate", forms)
        assert answer["proxies"][0]["toxics"] == []
        assert answer["proxies"][0]["listen"] == first["listen"]
        status, answer = await client.ask(
            "POST", "/populate", [{"name": "x", "upstream": client.upstream}, {"name": "y"}]
        )
        assert (status, answer) == (
            400,
            {"error": "missing required field: upstream at proxy 2", "status": 400, "proxies": None},
        )
        assert (await client.ask("GET", "/proxies/x"))[0] == 404, "all or nothing"


async def test_version_metrics_effects_and_lag() -> None:
    async with admin() as client:
        assert await client.ask("GET", "/version") == (200, {"version": "2.12.0"})
        proxy = await client.created()
        assert await passes(proxy["listen"])
        async with client.session.get("/metrics") as response:
            text = await response.text()
        labels = f'listener="{proxy["listen"]}",proxy="redis",upstream="{client.upstream}"'
        assert f'toxiproxy_proxy_received_bytes_total{{direction="upstream",{labels}}} 4\n' in text
        _, effects = await client.ask("GET", "/_proxy/effects")
        assert effects["redis"]["accepted"] == 1
        assert effects["redis"]["bytes"] == {"upstream": 4, "downstream": 4}
        readings: list[list[list[float]]] = []
        async with asyncio.timeout(60):
            while sum(count for reading in readings for _, count in reading) < 5:
                readings.append((await client.ask("GET", "/_proxy/lag"))[1]["lag_ms"])
        assert all(ms >= 0 and count >= 1 for reading in readings for ms, count in reading)


# ---------------------------------------------------------------- what is wrong

LATENCY = {"type": "latency", "attributes": {"latency": 1}}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/proxies", {"upstream": "127.0.0.1:1"}, 400, "missing required field: name"),
        ("POST", "/proxies", {"name": "x"}, 400, "missing required field: upstream"),
        ("POST", "/proxies", {"name": "redis", "upstream": "127.0.0.1:1"}, 409, "proxy already exists"),
        ("POST", "/proxies", b"{", 400, "bad request body: it is not JSON"),
        ("POST", "/proxies", b"\xff\xfe", 400, "bad request body: it is not JSON"),
        ("POST", "/proxies", b"[" * 100_000, 400, "bad request body: it is not JSON"),
        ("POST", "/proxies", [], 400, "bad request body: it must be a JSON object, not list"),
        ("POST", "/proxies", {"name": 5, "upstream": "127.0.0.1:1"}, 400, "name is 5; it must be of type str"),
        (
            "POST",
            "/proxies",
            {"name": "x", "upstream": "example.com:80"},
            400,
            "must be localhost or a loopback address",
        ),
        ("POST", "/proxies", {"name": "x", "upstream": "8.8.8.8:80"}, 400, "is not on this machine's loopback"),
        ("POST", "/proxies", {"name": "x", "upstream": "127.0.0.1"}, 400, "it must be host:port"),
        ("POST", "/proxies", {"name": "x", "upstream": "127.0.0.1:0"}, 400, "it needs a port"),
        ("POST", "/proxies", {"name": "x", "upstream": "127.0.0.1:65536"}, 400, "it must be host:port"),
        ("POST", "/proxies", {"name": "x", "upstream": ":1", "listen": "0.0.0.0:0"}, 400, "loopback"),
        ("PATCH", "/proxies/redis", {"enabled": "no"}, 400, "enabled is 'no'; it must be of type bool"),
        ("GET", "/proxies/nobody", None, 404, "proxy not found"),
        ("DELETE", "/proxies/nobody", None, 404, "proxy not found"),
        ("PATCH", "/proxies/nobody", {}, 404, "proxy not found"),
        ("GET", "/proxies/nobody/toxics", None, 404, "proxy not found"),
        ("POST", "/proxies/nobody/toxics", LATENCY, 404, "proxy not found"),
        ("PATCH", "/proxies/redis/toxics/nothing", {}, 404, "toxic not found"),
        ("DELETE", "/proxies/redis/toxics/nothing", None, 404, "toxic not found"),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "gremlin"},
            400,
            "invalid toxic type: 'gremlin'; there are latency,",
        ),
        ("POST", "/proxies/redis/toxics", {}, 400, "invalid toxic type"),
        ("POST", "/proxies/redis/toxics", {"type": {}}, 400, "invalid toxic type"),
        ("POST", "/proxies/redis/toxics", {**LATENCY, "name": "there"}, 409, "toxic already exists"),
        ("POST", "/proxies/redis/toxics", {**LATENCY, "name": 5}, 400, "name must be a string"),
        (
            "POST",
            "/proxies/redis/toxics",
            {**LATENCY, "stream": "sideways"},
            400,
            "stream was invalid, can be either upstream or downstream",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {**LATENCY, "toxicity": 1.5},
            400,
            "toxicity is 1.5; it must be a number from 0 to 1",
        ),
        ("POST", "/proxies/redis/toxics", {**LATENCY, "toxicity": True}, 400, "toxicity is True"),
        ("POST", "/proxies/redis/toxics", {**LATENCY, "seed": "x"}, 400, "seed is 'x'; it must be a whole number"),
        (
            "POST",
            "/proxies/redis/toxics",
            {**LATENCY, "attributes": [1]},
            400,
            "attributes must be an object, not list",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "latency", "attributes": {"latncy": 5}},
            400,
            "a toxic of type latency has no attribute latncy; it has latency, jitter",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "bandwidth", "attributes": {"rate": -1}},
            400,
            "the attribute rate of bandwidth is -1; it must be a number of 0 or more",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "bandwidth", "attributes": {"rate": "9"}},
            400,
            "rate of bandwidth is '9'",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            b'{"type":"bandwidth","attributes":{"rate":NaN}}',
            400,
            "rate of bandwidth is nan",
        ),
        ("POST", "/proxies/redis/toxics", b'{"type":"bandwidth","attributes":{"rate":1e999}}', 400, "is inf"),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "slicer"},
            400,
            "average_size of slicer is 0; it must be a whole number",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "slicer", "attributes": {"average_size": 5, "size_variation": 5}},
            400,
            "slicer: size_variation is 5; it must be less than average_size (5)",
        ),
        ("POST", "/proxies/redis/toxics", {"type": "corrupt"}, 400, "share of corrupt is None"),
        ("POST", "/proxies/redis/toxics", {"type": "corrupt", "attributes": {"share": 0}}, 400, "does no harm"),
        ("POST", "/proxies/redis/toxics", {"type": "http_status"}, 400, "status of http_status is None"),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "http_status", "attributes": {"status": 500, "headers": {"x": "y\r\nz: 1"}}},
            400,
            "a header is a name and one line of text",
        ),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "http_status", "stream": "upstream", "attributes": {"status": 500}},
            400,
            "a toxic of type http_status acts on the stream downstream only",
        ),
        ("POST", "/proxies/redis/toxics", {"type": "http_stall"}, 400, "give it either bytes or events"),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "http_stall", "attributes": {"bytes": 1, "events": 1}},
            400,
            "give it either bytes or events",
        ),
        ("POST", "/proxies/redis/toxics", {"type": "sse_malformed", "attributes": {"event": 0}}, 400, "of 1 or more"),
        (
            "POST",
            "/proxies/redis/toxics",
            {"type": "ws_truncate", "attributes": {"messages": 1, "code": 1005}},
            400,
            "1005, which cannot be sent",
        ),
        ("POST", "/populate", {}, 400, "it must be a JSON array of proxies, not dict"),
        ("GET", "/nowhere", None, 404, "there is no GET /nowhere here"),
        ("PUT", "/proxies", None, 405, "Method Not Allowed"),
    ],
)
async def test_a_wrong_request_gets_its_error_json_and_changes_nothing(
    method: str, path: str, body: object, status: int, words: str
) -> None:
    async with admin() as client:
        await client.created()
        await client.ask("POST", "/proxies/redis/toxics", {**LATENCY, "name": "there"})
        before = await client.ask("GET", "/proxies")
        got, answer = await client.ask(method, path, body)
        assert (got, answer["status"]) == (status, status)
        assert words in answer["error"]
        assert await client.ask("GET", "/proxies") == before


async def test_a_port_that_is_taken() -> None:
    async with admin() as client:
        status, answer = await client.ask(
            "POST", "/proxies", {"name": "x", "upstream": ":1", "listen": client.upstream}
        )
        assert (status, answer["error"]) == (500, f"listen tcp {client.upstream}: bind: address already in use")
        assert (await client.ask("GET", "/proxies/x"))[0] == 404


async def test_browsers_and_huge_bodies_are_turned_away() -> None:
    async with admin() as client:
        status, answer = await client.ask("GET", "/proxies", headers={"User-Agent": "Mozilla/5.0"})
        assert (status, answer["error"]) == (403, "User agent not allowed")
        async with client.session.post("/proxies", data=io.BytesIO(b"x" * 5_000_000)) as response:
            assert response.status == 413
            assert (await response.json())["status"] == 413


async def test_noise_is_answered_and_never_a_crash() -> None:
    random = Random(4)
    values: list[Any] = [
        None,
        True,
        -1,
        1.5,
        10**30,
        "",
        "x" * 10_000,
        [],
        {},
        [[[]]],
        {"a": {"b": 1}},
        "latency",
        "\u0000",
    ]
    names = ["name", "type", "stream", "toxicity", "attributes", "seed", "listen", "upstream", "enabled", "other"]
    async with admin() as client:
        await client.created()
        for _ in range(300):
            form: Any = {random.choice(names): random.choice(values) for _ in range(4)}
            if random.random() < 0.5:
                form |= {"type": random.choice(["latency", "slicer", "http_status", "ws_truncate"])}
                form["attributes"] = {random.choice(["latency", "status", "messages", "code"]): random.choice(values)}
            path = random.choice(["/proxies", "/proxies/redis/toxics", "/proxies/redis"])
            form.pop("enabled" if random.random() < 0.8 else "other", None)
            status, answer = await client.ask("POST", path, form)
            assert status in {200, 201, 400, 409}, answer
        assert (await client.ask("POST", "/reset"))[0] in {204, 500}
