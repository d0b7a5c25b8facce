"""Pushing the live figures to a collector: one that takes them, and ones that do not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE, Metric

from busyhour.arrivals import Burst
from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.exporting.counting import Tally, all_families
from busyhour.exporting.otlp import Collector, pushed
from busyhour.exporting.telling import Exports, exported
from busyhour.model import MS, Mark, Operation, Phase, Sample
from busyhour.performing import Progress
from busyhour.workloads.idle import Idle


@dataclass
class Received:
    """What a collector was sent."""

    url: str
    requests: list[ExportMetricsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def metrics(self) -> dict[str, Metric]:
        """Of the last push."""
        (of_run,) = self.requests[-1].resource_metrics
        return {metric.name: metric for metric in of_run.scope_metrics[0].metrics}


async def _taken(_: Received) -> web.Response:
    body = ExportMetricsServiceResponse().SerializeToString()
    return web.Response(body=body, content_type="application/x-protobuf")


@asynccontextmanager
async def collector(
    answer: Callable[[Received], Awaitable[web.Response]] = _taken, path: str = "/v1/metrics"
) -> AsyncIterator[Received]:
    """One on loopback that parses what it is sent."""
    received = Received("")

    async def take(request: web.Request) -> web.Response:
        received.requests.append(ExportMetricsServiceRequest.FromString(await request.read()))
        received.headers.append({name.lower(): value for name, value in request.headers.items()})
        received.came.set()
        return await answer(received)

    application = web.Application()
    application.router.add_post(path, take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        received.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield received
    finally:
        await runner.cleanup()


def figures() -> Tally:
    tally, progress = Tally(plan="telephone", seed=7, clock=SystemClock()), Progress(phases=1)
    progress.enter(Phase("steady", Burst(1), Idle(seconds=1)), 1, 0)
    progress.started = 3
    tally.follow(progress)
    for ms in (250, 300, None):
        ended_ns = None if ms is None else ms * MS
        turn = Operation(id="1", kind="turn", phase="steady", due_ns=0, ended_ns=ended_ns)
        progress.note(turn)
        tally.count(turn)
    tally.count(Sample(1, "agent", "rss_mb", 81.5))
    tally.count(Sample(1, "harness", "send_lateness_ms", 0.4, 97))
    tally.count(Mark(1, "service.died", "agent \udc80"))
    return tally


def labels(point: object) -> dict[str, str]:
    return {pair.key: pair.value.string_value for pair in point.attributes}  # type: ignore[attr-defined]  # of any kind


# ---------------------------------------------------------------- what is pushed


async def test_a_collector_is_sent_every_figure_in_opentelemetrys_own_words() -> None:
    async with collector() as received:
        async with pushed(figures(), Collector.at(received.url, {}), clock=SystemClock()) as pushing:
            pass
        assert pushing.told() == ""
    (request,) = received.requests
    (of_run,) = request.resource_metrics
    resource = {pair.key: pair.value.string_value for pair in of_run.resource.attributes}
    assert resource["service.name"] == "busyhour"
    assert resource["service.instance.id"]
    metrics = received.metrics()
    assert metrics.keys() <= {name for family in all_families() for name in (family.name, f"{family.name}_info")}

    (started,) = metrics["busyhour_arrivals_started"].sum.data_points
    assert (labels(started), started.as_int) == ({"phase": "steady"}, 3)
    assert 0 < started.start_time_unix_nano <= started.time_unix_nano
    assert metrics["busyhour_arrivals_started"].sum.is_monotonic
    assert metrics["busyhour_arrivals_started"].sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE

    (memory,) = metrics["busyhour_process_resident_memory_bytes"].gauge.data_points
    assert (labels(memory), memory.as_double) == ({"service": "agent"}, 81_500_000)
    assert metrics["busyhour_process_resident_memory_bytes"].unit == "By"

    (response,) = metrics["busyhour_response_latency_seconds"].histogram.data_points
    counts = dict(zip((*response.explicit_bounds, None), response.bucket_counts, strict=True))
    assert (counts[0.3], counts[None], response.count) == (2, 1, 3)
    assert response.sum == pytest.approx(0.55)
    assert metrics["busyhour_response_latency_seconds"].unit == "s"
    (run,) = metrics["busyhour_run_info"].gauge.data_points
    assert labels(run)["plan"] == "telephone"


async def test_it_is_pushed_again_and_again_and_once_more_at_the_end() -> None:
    async with collector() as received:
        there = Collector.at(f"{received.url}/v1/metrics", {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, x=1"})
        async with pushed(figures(), there, clock=SystemClock(), every_seconds=0.01):
            while len(received.requests) < 3:
                received.came.clear()
                await received.came.wait()
            on_the_way = len(received.requests)
        assert len(received.requests) > on_the_way
    assert {(headers["api-key"], headers["x"], headers["content-type"]) for headers in received.headers} == {
        ("a b", "1", "application/x-protobuf")
    }
    (pushes,) = received.metrics()["busyhour_export_pushes"].sum.data_points
    assert 2 <= pushes.as_int < len(received.requests)


async def test_below_a_path_of_its_own() -> None:
    async with collector(path="/tenant/v1/metrics") as received:
        async with pushed(figures(), Collector.at(f"{received.url}/tenant/", {}), clock=SystemClock()):
            pass
        assert len(received.requests) == 1


# ---------------------------------------------------------------- a collector that is no help


async def said_by(url: str) -> list[str]:
    said: list[str] = []
    async with exported(Exports(collector=Collector(url)), figures(), clock=SystemClock(), say=said.append):
        pass
    return said


async def test_one_that_is_not_there_is_told_of_once() -> None:
    async with collector() as received:
        pass
    (line,) = await said_by(f"{received.url}/v1/metrics")
    assert line.startswith(f"--otlp: 1 of 1 pushes to {received.url}/v1/metrics failed, the last with: ")
    assert "Connect call failed" in line


async def test_one_that_refuses_is_quoted() -> None:
    async def refuse(_: Received) -> web.Response:
        return web.Response(status=401, text="no\nkey \x1b[31m" + "x" * 1000)

    async with collector(refuse) as received:
        (line,) = await said_by(f"{received.url}/v1/metrics")
    assert "failed, the last with: HTTP 401 (no key [31mxxx" in line
    assert len(line) < 400


async def test_one_that_takes_a_part_is_told_of() -> None:
    async def take_some(_: Received) -> web.Response:
        answer = ExportMetricsServiceResponse()
        answer.partial_success.rejected_data_points, answer.partial_success.error_message = 4, "too many labels"
        return web.Response(body=answer.SerializeToString(), content_type="application/x-protobuf")

    async with collector(take_some) as received:
        (line,) = await said_by(f"{received.url}/v1/metrics")
    assert line.endswith("4 figures were not taken: too many labels")


async def test_what_is_no_collector_is_found_out() -> None:
    async def page(_: Received) -> web.Response:
        return web.Response(text="<html>hello</html>")

    async with collector(page) as received:
        (line,) = await said_by(f"{received.url}/v1/metrics")
    assert "is this the address of a collector?" in line


async def test_one_that_never_answers_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.exporting.otlp._LAST_WITHIN_SECONDS", 0.05)
    never = asyncio.Event()

    async def wait(_: Received) -> web.Response:
        await never.wait()
        return web.Response()

    async with collector(wait) as received:
        said: list[str] = []
        there = Exports(collector=Collector(f"{received.url}/v1/metrics"))
        async with exported(there, figures(), clock=SystemClock(), say=said.append):
            pass
        never.set()
    assert said == [
        f"--otlp: 1 of 1 pushes to {received.url}/v1/metrics failed, the last with: no answer within 0.05 s"
    ]


# ---------------------------------------------------------------- the flag


@pytest.mark.parametrize("url", ["4318", "collector", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(PlanError, match="--otlp"):
        Collector.at(url, {})


@pytest.mark.parametrize("headers", ["key", "=x", "a=1,b"])
def test_headers_that_are_none_are_refused_without_telling_them(headers: str) -> None:
    with pytest.raises(PlanError, match="OTEL_EXPORTER_OTLP_HEADERS: write it as NAME=VALUE"):
        Collector.at("http://127.0.0.1:4318", {"OTEL_EXPORTER_OTLP_HEADERS": headers})


def test_a_key_is_not_shown() -> None:
    there = Collector.at("http://127.0.0.1:4318", {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"})
    assert there.url == "http://127.0.0.1:4318/v1/metrics"
    assert "secret" not in repr(there)


def test_without_the_messages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "busyhour.exporting.messages", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2", None)
    with pytest.raises(PlanError, match=r"pip install 'busyhour\[otlp\]'"):
        Collector.at("http://127.0.0.1:4318", {})
