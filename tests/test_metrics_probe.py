"""The probe of a service's own metrics, against a real server."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from busyhour.carriers.memory import MemoryService
from busyhour.errors import PlanError
from busyhour.model import Endpoint
from busyhour.probes.metrics import Metrics, runtime

TEXT = """# HELP open_calls Calls in progress.
# TYPE open_calls gauge
open_calls 3
failures_total{vendor="openai",reason="HTTP 500"} 2
failures_total{vendor="openai",reason="a \\"quoted, comma\\""} 1 1700000000
failures_total{vendor="cartesia",reason="no audio"} 4.5e0
broken{ 7
not_a_number NaN
"""
AGENT = MemoryService("agent")


async def reading(names: list[str], text: str = TEXT, status: int = 200) -> dict[str, float]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with TestServer(app) as server:
        readings = dict(await Metrics(AGENT, names).read(Endpoint(f"{server.make_url('/ignored')}")))
    took_ms = readings.pop("metrics_probe_ms", None)
    assert (took_ms is None) == (status != 200)
    return readings


async def test_a_name_is_the_sum_over_its_labels() -> None:
    assert await reading(["open_calls", "failures_total"]) == {"open_calls": 3, "failures_total": 7.5}


async def test_labels_choose() -> None:
    name = 'failures_total{vendor="openai"}'
    assert await reading([name]) == {name: 3}


async def test_an_exemplar_is_no_part_of_the_reading() -> None:
    text = """turns_total 11 # {trace_id="x"} 0.67
turns_total{agent="a # {b} 5"} 20 1700000000 # {trace_id="y"} 0.5 1700000000.5
"""
    name = 'turns_total{trace_id="y"}'
    assert await reading(["turns_total", name], text=text) == {"turns_total": 31}


async def test_what_is_not_there_gives_no_reading() -> None:
    assert await reading(["nothing", "broken", "not_a_number"]) == {}
    assert await reading(["open_calls"], status=500) == {}
    assert await reading(["open_calls"], text="\x00\xff{{{") == {}


OPENMETRICS = """# TYPE calls counter
# HELP calls Calls ended.
calls_total{outcome="ok"} 17.0
calls_created{outcome="ok"} 1520430000.123
# TYPE refused counter
# TYPE wait_seconds histogram
wait_seconds_bucket{le="1.0"} 4
wait_seconds_bucket{le="+Inf"} 6
wait_seconds_count 6
wait_seconds_sum 7.25
# TYPE process_python_blocks gauge
process_python_blocks 412345
# TYPE process_open_connections gauge
process_open_connections{pool="openai"} 2
process_open_connections{pool="cartesia"} 3
# EOF
"""


async def asked(probe: Metrics, page: str = OPENMETRICS, reads: int = 1) -> tuple[dict[str, float], str]:
    """Its last readings, and the formats that it asked for."""
    accepted = ""

    async def answer(request: web.Request) -> web.Response:
        nonlocal accepted
        accepted = request.headers["Accept"]
        return web.Response(text=page)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with TestServer(app) as server:
        for _ in range(reads):
            readings = dict(await probe.read(Endpoint(f"{server.make_url('/')}")))
    readings.pop("metrics_probe_ms", None)
    return readings, accepted


async def test_openmetrics_is_asked_for_and_understood() -> None:
    names = ["calls_total", "wait_seconds_sum", 'wait_seconds_bucket{le="1.0"}']
    readings, accepted = await asked(Metrics(AGENT, names))
    assert readings == {"calls_total": 17, "wait_seconds_sum": 7.25, 'wait_seconds_bucket{le="1.0"}': 4}
    assert accepted.startswith("application/openmetrics-text")


async def test_a_reading_may_have_a_name_of_its_own() -> None:
    assert (await asked(Metrics(AGENT, {"done": 'calls_total{outcome="ok"}'})))[0] == {"done": 17}


async def test_a_runtime_is_read_as_far_as_it_tells_and_the_rest_is_said_to_be_missing_once() -> None:
    probe = runtime(AGENT, every_seconds=0)
    assert (await asked(probe, reads=3))[0] == {"python_blocks": 412345, "open_connections": 5}
    missing = {m.readings: m.why for m in probe.missing()}
    assert missing.keys() == {("heap_bytes",), ("asyncio_tasks",)}
    assert missing["heap_bytes",].endswith("/metrics has no metric process_heap_bytes; have the service export it")
    assert probe.missing() == []


async def test_a_counter_that_has_had_no_cause_yet_is_not_missing_and_a_slip_is_told() -> None:
    probe = Metrics(AGENT, ["refused_total", 'calls_total{outcome="lost"}', "calls"])
    assert (await asked(probe))[0] == {}
    assert [m.readings for m in probe.missing()] == []
    slip = Metrics(AGENT, ["call_totals"])
    await asked(slip)
    assert [m.why.partition(" has ")[2] for m in slip.missing()] == ["no metric call_totals; did you mean calls_total?"]


async def test_a_page_that_is_not_there_is_told_and_a_service_that_is_down_is_not() -> None:
    app = web.Application()
    probe = Metrics(AGENT, ["open_calls"], path="/metricz")
    async with TestServer(app) as server:
        endpoint = Endpoint(f"{server.make_url('/')}")
        for _ in range(2):
            assert await probe.read(endpoint) == {}
    (missing,) = probe.missing()
    assert (
        missing.why == f"{endpoint.url}metricz is answered with 404; correct the probe's `path`, or watch fewer metrics"
    )
    assert await probe.read(Endpoint("http://127.0.0.1:1")) == {}
    assert probe.missing() == []


async def test_it_is_read_as_often_as_was_asked() -> None:
    probe = Metrics(AGENT, ["process_python_blocks"], every_seconds=3600)
    assert (await asked(probe))[0]
    assert not (await asked(probe))[0]
    probe.read_all_next()
    assert (await asked(probe))[0]


async def test_a_service_that_is_gone_gives_no_reading() -> None:
    assert await Metrics(AGENT, ["open_calls"]).read(Endpoint("http://127.0.0.1:1")) == {}


@pytest.mark.parametrize("names", [[], ["two words"], ["9lives"], ['x{a="b"']])
def test_what_is_no_name_is_a_problem_of_the_plan(names: list[str]) -> None:
    with pytest.raises(PlanError, match="no name"):
        Metrics(AGENT, names)


def test_one_name_is_no_list_of_names() -> None:
    with pytest.raises(PlanError, match="write \\['open_calls'\\]"):
        Metrics(AGENT, "open_calls")


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_what_is_no_interval_is_a_problem_of_the_plan(seconds: float) -> None:
    with pytest.raises(PlanError, match="every_seconds"):
        Metrics(AGENT, ["open_calls"], every_seconds=seconds)
