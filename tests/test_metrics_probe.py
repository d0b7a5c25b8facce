"""The probe of a service's own metrics, against a real server."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from busyhour.carriers.memory import MemoryService
from busyhour.errors import PlanError
from busyhour.model import Endpoint
from busyhour.probes.metrics import Metrics

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
        return dict(await Metrics(AGENT, names).read(Endpoint(f"{server.make_url('/ignored')}")))


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


async def test_a_service_that_is_gone_gives_no_reading() -> None:
    assert await Metrics(AGENT, ["open_calls"]).read(Endpoint("http://127.0.0.1:1")) == {}


@pytest.mark.parametrize("names", [[], ["two words"], ["9lives"], ['x{a="b"']])
def test_what_is_no_name_is_a_problem_of_the_plan(names: list[str]) -> None:
    with pytest.raises(PlanError, match="no name"):
        Metrics(AGENT, names)
