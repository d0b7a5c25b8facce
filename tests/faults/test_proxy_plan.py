"""The proxy in a plan: a service in front of a service, faults with their proofs, and no trace of them afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.proxy import (
    Bandwidth,
    Blackhole,
    Corrupt,
    Down,
    HttpStatus,
    Latency,
    LimitData,
    MalformedEvent,
    MalformedMessage,
    Proxy,
    ResetPeer,
    Slicer,
    SlowClose,
    StallAfter,
    Toxified,
    TruncateAfter,
)
from busyhour.faults.proxy.__main__ import main
from busyhour.faults.proxy.service import AdminAPI
from busyhour.model import Endpoint, Fault, Metered, Sample, Service
from busyhour.services import AlreadyRunning, Mortal, free_port

CLOCK = SystemClock()
LLM = AlreadyRunning(name="llm", url="http://127.0.0.1:1/v1")
NOBODY = Proxy(LLM)


@dataclass
class Stage:
    """What a plan has started: a server named "llm" and a proxy in front of it."""

    proxy: Proxy
    endpoints: Mapping[str, Endpoint]
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.endpoints[self.proxy.name].url

    @property
    def admin(self) -> AdminAPI:
        handle = self.endpoints[self.proxy.name].handle
        assert isinstance(handle, AdminAPI)
        return handle

    async def status(self) -> int:
        """Of a request through the proxy; 0 if there was none."""
        try:
            async with self.session.get(f"{self.url}/hello") as response:
                await response.read()
                return response.status
        except aiohttp.ClientError:
            return 0


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    async def hello(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/socket"):
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            await websocket.send_str('{"hello": 1}')
            await websocket.receive()
            return websocket
        return web.Response(body=b"data: {}\n\ndata: {}\n\n", headers={"content-type": "text/event-stream"})

    app = web.Application()
    app.router.add_get("/v1/{rest}", hello)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    upstream = Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    proxy = Proxy(LLM)
    try:
        async with proxy.running({"llm": upstream}) as endpoint, aiohttp.ClientSession() as session:
            yield Stage(proxy, {"llm": upstream, proxy.name: endpoint}, session)
    finally:
        await runner.cleanup()


async def test_a_proxy_is_a_service_with_the_path_of_its_upstream() -> None:
    service: Service = NOBODY
    assert isinstance(service, Mortal)
    assert isinstance(service, Metered)
    assert service.name == "llm via proxy"
    async with staged() as stage:
        assert stage.url.startswith("http://127.0.0.1:")
        assert stage.url.endswith("/v1")
        assert stage.url != stage.endpoints["llm"].url
        assert await stage.status() == 200
        (pid,) = stage.endpoints[stage.proxy.name].pids
        os.kill(pid, 0)
        assert stage.proxy.obituary() is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert stage.proxy.obituary() is None, "we ended it ourselves"


async def test_its_own_lag_is_sampled_and_its_death_is_told() -> None:
    samples: list[Sample] = []
    async with staged() as stage:
        async with asyncio.timeout(60):
            while sum(sample.count for sample in samples) < 30:
                await asyncio.sleep(0.05)
                samples += stage.proxy.drain(7)
        async with HttpStatus(stage.proxy, 503).injected(stage.endpoints, CLOCK):  # whose undoing finds nobody
            os.kill(stage.endpoints[stage.proxy.name].pids[0], signal.SIGKILL)
            async with asyncio.timeout(60):
                while (obituary := stage.proxy.obituary()) is None:  # noqa: ASYNC110  (the kernel's doing)
                    await asyncio.sleep(0.01)
            assert obituary.startswith("llm via proxy was killed by SIGKILL")
    assert {(sample.at_ns, sample.source, sample.name) for sample in samples} == {(7, "llm via proxy", "proxy_lag_ms")}
    assert all(sample.value >= 0 for sample in samples)


# ---------------------------------------------------------------- faults


def catalogue(proxy: Service) -> list[Toxified]:
    return [
        Latency(proxy, 1, jitter_ms=1),
        Bandwidth(proxy, 1000),
        Slicer(proxy, average_bytes=20, variation_bytes=5, delay_us=10),
        SlowClose(proxy, 1),
        Blackhole(proxy, close_after_ms=20),
        ResetPeer(proxy),
        LimitData(proxy, 10),
        Corrupt(proxy, byte_share=0.5, stream="upstream"),
        HttpStatus(proxy, 503),
        StallAfter(proxy, bytes=3),
        StallAfter(proxy, events=1),
        StallAfter(proxy, messages=1),
        TruncateAfter(proxy, events=1),
        TruncateAfter(proxy, messages=1, code=1013),
        MalformedEvent(proxy, event=2),
        MalformedMessage(proxy),
    ]


async def test_each_fault_takes_effect_is_proven_and_undone() -> None:
    async with staged() as stage:
        for fault in catalogue(stage.proxy):
            before = await stage.admin.ask("GET", "proxies", stage.proxy.name)
            assert before["toxics"] == []
            async with fault.injected(stage.endpoints, CLOCK) as proof:
                nobody = f"nobody passed through {stage.proxy.name} while it was injected"
                assert await proof.effect() == (False, nobody), fault.name
                websocket = "messages" in fault.attributes or "message" in fault.attributes
                async with asyncio.timeout(60):
                    while not (await proof.effect())[0]:  # a request may be given up before it got so far
                        await request(stage, websocket=websocket)
            assert await stage.admin.ask("GET", "proxies", stage.proxy.name) == before
            told = await proof.effect()
            assert told[0]
            assert re.search(r"\d+ .* on \d+ connections? of llm via proxy", told[1]), fault.name
            assert await stage.status() == 200, f"after {fault.name}"
            assert await proof.effect() == told, "the last reading stands"


async def request(stage: Stage, *, websocket: bool) -> None:
    """Pass through the proxy on a connection of its own, whatever becomes of it."""
    timeout = aiohttp.ClientTimeout(total=1.0)  # long enough that none of before is still under way
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            if websocket:
                async with session.ws_connect(
                    f"{stage.url}/socket", timeout=aiohttp.ClientWSTimeout(ws_close=0.1)
                ) as socket:
                    await socket.receive(timeout=0.8)
            else:
                async with session.get(f"{stage.url}/hello", headers={"Connection": "close"}) as response:
                    await response.read()
    except (aiohttp.ClientError, TimeoutError):
        return


async def test_faults_of_one_proxy_are_stacked_and_undone_apart() -> None:
    async with staged() as stage, Latency(stage.proxy, 1).injected(stage.endpoints, CLOCK):
        async with HttpStatus(stage.proxy, 503).injected(stage.endpoints, CLOCK) as proof:
            assert await stage.status() == 503
            assert (await proof.effect())[0]
        assert await stage.status() == 200
        toxics = await stage.admin.ask("GET", "proxies", stage.proxy.name, "toxics")
        assert [toxic["type"] for toxic in toxics] == ["latency"]


async def test_down_refuses_and_comes_up_again() -> None:
    fault: Fault = Down(NOBODY)
    assert fault.name == "llm via proxy down"
    async with staged() as stage:
        assert await stage.status() == 200
        async with fault.injected(stage.endpoints, CLOCK) as proof:
            effective, because = await proof.effect()
            assert effective
            assert because.startswith("1 connection of llm via proxy dropped when it went down")
            with pytest.raises(PlanError, match="is injected already"):
                async with fault.injected(stage.endpoints, CLOCK):
                    pass
            assert await stage.status() == 0
        assert await stage.status() == 200
        assert (await proof.effect())[0], "the last reading stands"
        await stage.session.close()
        async with asyncio.timeout(60):
            while (await stage.admin.effects())["open"]:  # noqa: ASYNC110  (the wire's doing)
                await asyncio.sleep(0.01)
        async with fault.injected(stage.endpoints, CLOCK) as proof:
            effective, because = await proof.effect()
            assert not effective, "nobody was connected, nobody has tried"
            assert because.startswith("0 connections of llm via proxy dropped")


async def test_it_is_undone_on_every_way_out() -> None:
    async def harm(stage: Stage, way_out: type[BaseException]) -> None:
        async with (
            HttpStatus(stage.proxy, 503).injected(stage.endpoints, CLOCK),
            Down(stage.proxy).injected(stage.endpoints, CLOCK),
        ):
            raise way_out

    async with staged() as stage:
        for way_out in (ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError):
            with pytest.raises(way_out):
                await harm(stage, way_out)
            assert await stage.status() == 200


async def test_what_had_no_effect_says_why() -> None:
    async with staged() as stage:
        async with MalformedEvent(stage.proxy, event=9).injected(stage.endpoints, CLOCK) as proof:
            assert await stage.status() == 200
            effective, because = await proof.effect()
            assert not effective
            assert because.endswith("passed llm via proxy; none met sse_malformed")
        async with HttpStatus(stage.proxy, 503).injected(stage.endpoints, CLOCK) as proof:
            host, port = stage.url.removeprefix("http://").removesuffix("/v1").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"\x16\x03\x01\r\n\r\n")
            await reader.read(1)
            writer.close()
            await writer.wait_closed()
            words = "1 connection of llm via proxy carried what is not HTTP/1.1, which http_status cannot read"
            assert await proof.effect() == (False, words)


async def test_an_upstream_that_is_not_there_is_told_by_the_proof() -> None:
    port = free_port()
    async with (
        NOBODY.running({"llm": Endpoint(f"http://127.0.0.1:{port}/v1")}) as endpoint,
        Latency(NOBODY, 5).injected({NOBODY.name: endpoint}, CLOCK) as proof,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await session.get(endpoint.url)
        effective, because = await proof.effect()
        assert not effective
        sentence = f"the upstream 127.0.0.1:{port} of llm via proxy cannot be reached: Connection refused"
        assert because.startswith(f"nothing met latency: {sentence}")


# ---------------------------------------------------------------- plans that cannot be


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bandwidth(NOBODY, -1), "the fault 'llm via proxy bandwidth of -1 kB/s' cannot be: the attribute rate"),
        (lambda: Latency(NOBODY, 50, share=1.5), "toxicity is 1.5; it must be a number from 0 to 1"),
        (lambda: Latency(NOBODY, 50, share=0), "befalls nobody: its share of connections is 0"),
        (lambda: HttpStatus(NOBODY, 99), "status of http_status is 99; it must be a whole number from 200 to 599"),
        (lambda: HttpStatus(NOBODY, 500, share=0), "a share of nothing does no harm"),
        (lambda: Slicer(NOBODY, average_bytes=5, variation_bytes=9), "it must be less than average_size (5)"),
        (lambda: StallAfter(NOBODY), "needs one of events or bytes or messages; it was given none"),
        (lambda: StallAfter(NOBODY, events=1, bytes=1), "it was given events, bytes"),
        (lambda: StallAfter(NOBODY, events=1, stream="upstream"), "acts on the stream downstream only"),
        (lambda: TruncateAfter(NOBODY, messages=1, code=1005), "1005, which cannot be sent"),
        (lambda: Corrupt(NOBODY, byte_share=2), "share of corrupt is 2; it must be a number from 0 to 1"),
        (lambda: Proxy(LLM, port=70_000), "its port is 70000"),
        (lambda: Toxified(NOBODY, name="x", type="gremlin", attributes={}), "invalid toxic type: 'gremlin'"),
    ],
)
def test_an_impossible_fault_is_refused_when_the_plan_is_read(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(PlanError) as refusal:
        make()
    assert words in str(refusal.value)


async def test_a_proxy_without_its_upstream_and_a_fault_without_its_proxy() -> None:
    with pytest.raises(PlanError) as refusal:
        async with NOBODY.running({"stt": Endpoint("http://127.0.0.1:1")}):
            pass
    assert "which is not started before it (started are: stt); put 'llm' into the plan's services" in str(refusal.value)
    with pytest.raises(PlanError) as refusal:
        async with Latency(LLM, 5).injected({"llm": Endpoint(LLM.url)}, CLOCK):
            pass
    assert "needs a proxy, and llm is none; put Proxy(llm) behind it" in str(refusal.value)
    with pytest.raises(PlanError, match="aimed at the service 'llm via proxy', which the plan does not start"):
        async with Down(NOBODY).injected({}, CLOCK):
            pass
    with pytest.raises(ServiceError, match=r"did not start: .* upstream is '8\.8\.8\.8:80', which is not on"):
        async with NOBODY.running({"llm": Endpoint("http://8.8.8.8")}):
            pass


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ("{", 64, "The settings are not JSON"),
        ("[]", 64, "The settings are a JSON object, not list."),
        ('{"prot": 1}', 64, "Setting 'prot' is unknown; known are name, port, seed, proxies."),
        ('{"port": "x"}', 64, "Setting 'port' is 'x'; it must be of type int."),
        ('{"port": 70000}', 64, "it must be from 0 (any free one) to 65535"),
        ('{"proxies": [{"name": "x"}]}', 64, "missing required field: upstream at proxy 1"),
    ],
)
def test_impossible_settings_of_the_process(
    capsys: pytest.CaptureFixture[str], settings: str, code: int, words: str
) -> None:
    assert main([settings]) == code
    said = capsys.readouterr().out
    assert said.startswith("FAILED ")
    assert words in said


def test_the_process_serves_until_it_is_told_and_says_when_its_port_is_taken() -> None:
    argv = [sys.executable, "-m", "busyhour.faults.proxy"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        url = first.stdout.readline().removeprefix("READY ").strip()
        port = int(url.rpartition(":")[2])
        settings = json.dumps({"port": port})
        done = subprocess.run([*argv, settings], capture_output=True, text=True, check=False)
        assert done.returncode == 69
        assert f"Port {port} of 127.0.0.1 cannot be had for the admin API" in done.stdout
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0
