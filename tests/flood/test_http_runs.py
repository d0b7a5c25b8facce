"""The HTTP workload in whole runs: handed over by the engine, written to a journal, judged, stopped, told the truth."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from random import Random

import pytest

from busyhour.arrivals import Burst, Constant
from busyhour.clock import SystemClock
from busyhour.engine import Execution, Stopped
from busyhour.errors import ServiceError
from busyhour.gates import AtLeast, AtMost, judge
from busyhour.indicators import dropped, error_rate, request_latency, request_rate, send_lateness, service_latency
from busyhour.journal import Journal, open_run
from busyhour.model import SECOND, Arrival, Endpoint, Operation, Outcome, Phase, Plan
from busyhour.services import AlreadyRunning
from busyhour.workloads.http import Get, Http, Post

from .flooding import Peer, flooded, raw_server

ENDS = ("phase.began", "phase.ended")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def answering(peer: Peer) -> None:
    while await peer.request():
        peer.writer.write(OK)


def planned(url: str, *phases: Phase) -> Plan:
    load = phases[0]
    return Plan(
        target=AlreadyRunning(name="target", url=url),
        phases=phases,
        gates=[AtMost(request_latency(load, 0.9), 1, "s"), AtLeast(request_rate(load), 10, "/s")],
        valid_if=[AtMost(dropped(load), 0), AtMost(send_lateness(), 1, "s")],
    )


async def test_a_phase_is_handed_over_and_what_it_left_can_be_judged(tmp_path: Path) -> None:
    quick = Phase("load", Constant(100, 1.5), Http([Get("/"), Post("/", json=[1])]))
    crowded = Phase("crowded", Burst(30), Http([Get("/")], connections=1), at_once=10)
    failing = Phase("failing", Burst(3), Http([Get("/", status=201)]))
    path = tmp_path / "run.journal"
    async with raw_server(answering) as url:
        plan = planned(url, quick, crowded, failing)
        with Journal.create(path, {"plan": ""}) as journal:
            execution = Execution(plan, journal)
            await execution.execute()
    assert (execution.progress.started, execution.progress.finished, execution.progress.failed) == (3, 3, 3)
    with open_run(path) as run:
        judgement = judge(plan, run)
        assert all(verdict.outcome is Outcome.PASS for verdict in judgement.validity), judgement.validity
        assert request_latency("load")(run).n == 150
        (began,), (ended,) = ([m.at_ns for m in run.marks(kind) if m.name == "load"] for kind in ENDS)
        assert request_rate("load")(run).value == pytest.approx(150 * SECOND / (ended - began), rel=0.1)
        assert ended - began >= 1.48 * SECOND
        assert error_rate("load")(run).value == 0
        assert dropped("crowded")(run).value == 20
        assert request_latency("crowded")(run).n == 10  # each phase has its own
        assert (request_latency("failing")(run).value, error_rate("failing")(run).value) == (inf, 100)
        assert "3 http_200 (failing/1)" in AtMost(error_rate("failing"), 1, "%").judge(run).because
        assert len(run.operations("request", "load")) >= 100
        assert sum(sample.count for sample in run.samples("harness", "send_lateness_ms")) == 163


async def test_a_run_is_stopped_in_the_middle_of_a_phase(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    async with raw_server(answering) as url:
        with Journal.create(path, {"plan": ""}) as journal:
            execution = Execution(planned(url, Phase("load", Constant(100, 60), Http([Get("/")]))), journal)
            running = asyncio.create_task(execution.execute())
            clock = SystemClock()
            while not execution.progress.finished:
                await clock.sleep_until(clock.now_ns() + SECOND // 100)
            execution.stop("enough")
            with pytest.raises(Stopped, match="enough"):
                await running
    with open_run(path) as run:
        assert request_latency("load")(run).n > 0
        assert error_rate("load")(run).value == 0
        assert [mark.detail["why"] for mark in run.marks("run.stopped")] == ["enough"]


async def test_a_target_that_is_not_of_http_is_said() -> None:
    with pytest.raises(ServiceError, match=r"'http://127\.0\.0\.1:1/api' has a path; leave it to the requests"):
        await flooded(Http([Get("/")]), "http://127.0.0.1:1/api")
    with pytest.raises(ServiceError, match=r"'redis://127\.0\.0\.1:1' is no http:// or https:// URL"):
        await flooded(Http([Get("/")]), "redis://127.0.0.1:1")


async def test_one_arrival_alone_does_as_the_phase_would() -> None:
    recorded: list[Operation] = []
    clock = SystemClock()
    async with raw_server(answering) as url:
        arrival = Arrival(
            id="mixed/7",
            phase="mixed",
            due_ns=clock.now_ns() - SECOND,
            clock=clock,
            random=None,  # type: ignore[arg-type]  # it draws nothing
            dial=None,  # type: ignore[arg-type]  # nor does it dial
            record=recorded.append,
            target=Endpoint(url),
        )
        await Http([[Get("/a"), Get("/b")]]).perform(arrival)
    assert [(o.id, o.outcome, o.detail["path"]) for o in recorded] == [
        ("mixed/7", "ok", "/a"),
        ("mixed/7/2", "ok", "/b"),
    ]
    assert recorded[0].ended_ns is not None
    assert recorded[0].ended_ns - recorded[0].due_ns >= SECOND


async def test_arrivals_that_come_one_by_one_ask_all_that_there_is_to_ask() -> None:
    asked: set[object] = set()

    def record(operation: Operation) -> None:
        asked.add((operation.outcome, operation.detail["path"]))

    clock = SystemClock()
    async with raw_server(answering) as url:
        for number in range(1, 31):
            arrival = Arrival(
                id=f"mixed/{2 * number}",  # every second one, as of an InTurn of two
                phase="mixed",
                due_ns=clock.now_ns(),
                clock=clock,
                random=Random(number),
                dial=None,  # type: ignore[arg-type]  # it does not dial
                record=record,
                target=Endpoint(url),
            )
            await Http([Get("/a"), Get("/b"), Get("/c")]).perform(arrival)
    assert asked == {("ok", "/a"), ("ok", "/b"), ("ok", "/c")}


async def test_a_target_that_stands_still_is_not_flattered() -> None:
    """200 ms still in every second: of requests spread evenly, a fifth waits, and the 99th percentile for 190 ms."""
    still_ns = SECOND // 5
    clock = SystemClock()
    began_ns = clock.now_ns()

    async def freezing(peer: Peer) -> None:
        while await peer.request():
            into_ns = (clock.now_ns() - began_ns) % SECOND
            await clock.sleep_until(clock.now_ns() + max(0, still_ns - into_ns))
            peer.writer.write(OK)

    async with raw_server(freezing) as url:
        done = await flooded(Http([Get("/")], connections=2), url, Constant(200, 3))
    # A machine that stalls makes us late as well: of so many requests one was due at that moment.
    late = max(sample.value for sample in done.run.samples("harness", "send_lateness_ms"))
    measured = request_latency("load", 0.99)(done.run).value
    assert measured is not None
    # The first that waits was due up to 5 ms after the target had begun to stand still.
    assert 185 * 0.98 <= measured <= 260 + late
    closed = service_latency("load", 0.9)(done.run).value
    assert closed is not None
    assert closed < 100 + late  # what a tool that waits for its answers would say of the 90th percentile, which is 100
