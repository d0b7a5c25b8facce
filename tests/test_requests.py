"""What is read of requests and functions, and the gates on it."""

from __future__ import annotations

import asyncio
from math import inf
from random import Random

import pytest

from busyhour.arrivals import Constant
from busyhour.carriers.memory import MemoryService
from busyhour.clock import VirtualClock
from busyhour.engine import Execution
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import error_rate, request_latency, request_rate, service_latency
from busyhour.model import SECOND, Arrival, Mark, Operation, Outcome, Phase, Plan, Sample
from busyhour.testing import MemoryRun, whole_run
from busyhour.workloads.function import Failed, Function
from busyhour.workloads.http import Get, Http, Post, Request


def requested(*readings: tuple[float, int], seconds: int = 20, failed: int = 0) -> MemoryRun:
    """So many of each latency in every second."""
    samples = [
        Sample(round((second + 0.5) * SECOND), "requests", "latency_ms", value, count)
        for second in range(seconds)
        for value, count in [*readings, *([(inf, failed)] if failed else [])]
    ]
    reasons = {"http_503": failed * seconds - 1, "reset": 1}
    marks = [Mark(SECOND, "requests.failed", "load", reasons)] if failed else []
    first = Operation(id="load/9", kind="request", phase="load", due_ns=0, outcome="http_503")
    return whole_run(first, phases=("load",), samples=samples, marks=marks, seconds=seconds)


def test_latency_is_judged_by_count_and_a_failure_is_infinitely_late() -> None:
    fine = requested((10, 96), (200, 4))
    estimate = request_latency("load", 0.95)(fine)
    assert (estimate.what, estimate.unit, estimate.n, estimate.value) == ("p95 request latency in load", "ms", 2000, 10)
    assert AtMost(request_latency("load", 0.95), 100, "ms").judge(fine).outcome is Outcome.PASS
    assert AtMost(request_latency("load", 0.99), 100, "ms").judge(fine).outcome is Outcome.FAIL
    failing = requested((10, 94), failed=6)
    verdict = AtMost(request_latency("load", 0.95), 100, "ms").judge(failing)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.estimate is not None
    assert verdict.estimate.value == inf
    assert request_latency("load", 1.0)(fine).value == 200
    assert service_latency("load")(fine).value is None


def test_the_error_rate_says_why() -> None:
    verdict = AtMost(error_rate("load"), 1, "%").judge(requested((10, 94), failed=6))
    assert verdict.outcome is Outcome.FAIL
    assert "119 http_503 (load/9), 1 reset" in verdict.because
    assert AtMost(error_rate("load"), 1, "%").judge(requested((10, 100))).outcome is Outcome.PASS
    nothing = AtMost(error_rate("load"), 1, "%").judge(whole_run(phases=("load",)))
    assert nothing.outcome is Outcome.NOT_RUN


def test_the_rate_is_of_right_answers() -> None:
    run = requested((10, 100), failed=20, seconds=10)
    assert request_rate("load")(run).value == pytest.approx(1000 / 9.5)
    assert AtLeast(request_rate("load"), 100, "/s").judge(run).outcome is Outcome.PASS
    assert request_rate("load")(whole_run(phases=("load",))).value is None
    assert request_rate("load")(requested(failed=10)).value == 0


def test_a_quantile_in_percent_is_told_from_a_share() -> None:
    with pytest.raises(PlanError, match=r"did you mean 0\.95"):
        request_latency("load", 95)


# ---------------------------------------------------------------- functions


async def work(arrival: Arrival) -> None:
    await arrival.clock.sleep_until(arrival.clock.now_ns() + SECOND // 10)
    number = int(arrival.id.rpartition("/")[2])
    if number % 10 == 0:
        raise Failed("no stock")
    if number % 10 == 1:
        raise ConnectionResetError
    if number % 10 == 2:
        await asyncio.Event().wait()


def executed(workload: Function) -> MemoryRun:
    written: list[Operation | Sample | Mark] = []

    class Notes:
        def append(self, record: Operation | Sample | Mark) -> None:
            written.append(record)

    clock = VirtualClock()
    phase = Phase("load", Constant(10, 10), workload)
    plan = Plan(target=MemoryService("target"), phases=[phase], gates=[AtMost(error_rate(phase), 1, "%")])
    clock.run(Execution(plan, Notes(), clock=clock).execute())
    return MemoryRun(
        [entry for entry in written if isinstance(entry, Operation)],
        [entry for entry in written if isinstance(entry, Sample)],
        [entry for entry in written if isinstance(entry, Mark)],
    )


def test_a_function_is_a_workload_of_a_plan_without_a_carrier() -> None:
    run = executed(Function(work, timeout_seconds=2))
    outcomes = [operation.outcome for operation in run.operations("function")]
    assert {outcome: outcomes.count(outcome) for outcome in outcomes} == {
        "ok": 70, "no stock": 10, "ConnectionResetError": 10, "timeout": 10,
    }  # fmt: skip
    assert request_latency("load", 0.5)(run).value == pytest.approx(100, abs=0.1)
    assert error_rate("load")(run).value == 30
    because = AtMost(error_rate("load"), 1, "%").judge(run).because
    assert "10 no stock (load/10)" in because
    assert request_rate("load")(run).value == pytest.approx(7, rel=0.02)


def test_what_a_function_does_not_expect_ends_the_run() -> None:
    async def wrong(arrival: Arrival) -> None:
        raise KeyError(arrival.id)

    with pytest.raises(ExceptionGroup):
        executed(Function(wrong))


def test_a_function_that_is_none_is_said_before_the_run() -> None:
    def plain(arrival: Arrival) -> object:
        return arrival

    assert Function(work).problems() == []
    assert Function(plain).problems() == ["Function: plain is not async; define it with `async def`"]  # type: ignore[arg-type]  # which is the point
    assert "timeout_seconds=0" in Function(work, timeout_seconds=0).problems()[0]


# ---------------------------------------------------------------- what is wrong with a plan's requests


@pytest.mark.parametrize(
    ("http", "said"),
    [
        (Http([]), "give at least one request"),
        (Http([[]]), "give at least one request"),
        (Http([Get("health")]), "a path begins with /"),
        (Http([Get("/a b")]), "percent-encoded"),
        (Http([Get("/a\r\nX: y")]), "percent-encoded"),
        (Http([Get("/", headers={"X": "a\r\nY: b"})]), "cannot be sent"),
        (Http([Get("/", headers={"X Y": "a"})]), "cannot be sent"),
        (Http([Get("/", headers={"content-LENGTH": "3"})]), "set by the connection"),
        (Http([Request("HEAD", "/")]), "the method must be one of"),
        (Http([Post("/", json={}, body=b"x")]), "not both"),
        (Http([Post("/", json={"a": object()})]), "its json is none"),  # type: ignore[dict-item]  # which is the point
        (Http([Get("/")], connections=0), "give at least 1"),
        (Http([Get("/")], timeout_seconds=0), "more than 0"),
    ],
)
def test_what_is_wrong_with_requests_is_said_before_the_run(http: Http, said: str) -> None:
    assert any(said in problem for problem in http.problems()), http.problems()
    assert Http([Get("/"), [Post("/x", json={}, headers={"X-Y": "z"}), Get("/?a=%20")]]).problems() == []


def test_the_seed_of_an_arrival_is_its_own() -> None:
    drawn: list[float] = []

    async def draw(arrival: Arrival) -> None:
        drawn.append(arrival.random.random())

    executed(Function(draw))
    assert drawn[:2] == [Random(f"0/load/{number}").random() for number in (1, 2)]
