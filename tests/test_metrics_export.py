"""The live figures: what is counted, the page for Prometheus, and that a run is not disturbed by it."""

from __future__ import annotations

import argparse
import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from busyhour.arrivals import Burst
from busyhour.engine import Execution
from busyhour.errors import PlanError
from busyhour.exporting import families as known
from busyhour.exporting import telling
from busyhour.exporting.counting import PHASES_MAX, SERIES_MAX, Tally, Tapped, all_families
from busyhour.exporting.families import Family, Kind
from busyhour.exporting.metrics import Page, served
from busyhour.exporting.openmetrics import pieces
from busyhour.exporting.telling import Exports, exported, exports
from busyhour.model import MS, SECOND, Arrival, Mark, Operation, Phase, Plan, Sample
from busyhour.performing import LATENCY_EDGES_MS, Progress
from busyhour.recording import Recorded, Sound
from busyhour.testing import MemoryService, VirtualClock
from busyhour.workloads.idle import Idle


class Notebook:
    """A journal in memory."""

    def __init__(self) -> None:
        self.entries: list[Operation | Sample | Mark] = []
        self.kept: list[str] = []

    def append(self, entry: Operation | Sample | Mark) -> None:
        self.entries.append(entry)

    def keep(self, recorded: Recorded, sound: Sound) -> None:
        self.kept.append(recorded.call)

    def discard(self, calls: Iterable[str]) -> None:
        self.kept += calls


def tally() -> Tally:
    return Tally(plan='tele"phone\\\n', seed=7, clock=VirtualClock())


def entered(name: str, number: int, progress: Progress | None = None) -> Progress:
    progress = progress or Progress(phases=3)
    progress.enter(Phase(name, Burst(1), Idle(seconds=1)), number, 0)
    return progress


def turn(ms: float | None, phase: str = "steady") -> Operation:
    return Operation(id="1", kind="turn", phase=phase, due_ns=0, ended_ns=None if ms is None else round(ms * MS))


def parsed(figures: Tally) -> dict[str, Any]:
    """The page as Prometheus's own library reads it: name -> family."""
    text = "".join(pieces(figures.families()))
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(figures: Tally, family: Family) -> dict[tuple[str, ...], float]:
    """Of a family's lines: labels -> value."""
    found = parsed(figures).get(family.name)
    return {} if found is None else {tuple(sample.labels.values()): sample.value for sample in found.samples}


# ---------------------------------------------------------------- counting


def test_arrivals_are_counted_through_all_phases() -> None:
    figures, progress = tally(), entered("greeting", 1)
    figures.follow(progress)
    progress.started, progress.finished, progress.failed, progress.dropped = 5, 5, 1, 2
    figures.count(Mark(1, "phase.ended", "greeting"))
    entered("steady", 2, progress)
    progress.started, progress.finished = 3, 1
    assert values(figures, known.STARTED) == {("greeting",): 5, ("steady",): 3}
    assert values(figures, known.FINISHED) == {("greeting",): 5, ("steady",): 1}
    assert values(figures, known.FAILED) == {("greeting",): 1, ("steady",): 0}
    assert values(figures, known.DROPPED) == {("greeting",): 2, ("steady",): 0}
    assert values(figures, known.IN_PROGRESS) == {("steady",): 2}
    assert values(figures, known.PHASE) == {("steady", "2"): 1}
    assert values(figures, known.PHASES) == {(): 3}
    figures.count(Mark(2, "phase.ended", "steady"))
    assert values(figures, known.STARTED) == {("greeting",): 5, ("steady",): 3}
    assert values(figures, known.PHASE) == {}


def test_response_latency_is_a_histogram_and_an_unanswered_turn_is_infinitely_late() -> None:
    figures, progress = tally(), entered("steady", 1)
    figures.follow(progress)
    for ms in (0, 300, 300.1, 25_000, None):
        progress.note(turn(ms))
    family = parsed(figures)["busyhour_response_latency_seconds"]
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert (buckets["0.05"], buckets["0.2"], buckets["0.3"], buckets["0.4"]) == (1, 1, 2, 3)
    assert (buckets["20.0"], buckets["+Inf"]) == (3, 5)
    others = {sample.name.rpartition("_")[2]: sample.value for sample in family.samples if "le" not in sample.labels}
    assert others == {"count": 5, "sum": pytest.approx(25.6001)}
    assert values(figures, known.TURNS) == {("steady",): 5}
    assert values(figures, known.MISSED) == {("steady",): 1}
    figures.count(Mark(1, "phase.ended", "steady"))
    entered("later", 2, progress)
    assert sum(progress.latency_counts) == 0
    again = parsed(figures)["busyhour_response_latency_seconds"].samples
    assert {sample.labels["phase"] for sample in again} == {"steady"}


def test_latencies_in_bulk_are_in_the_histogram_too() -> None:
    progress = entered("steady", 1)
    progress.note_latencies([100.0, 100.1])
    assert (progress.latency_counts[LATENCY_EDGES_MS.index(100)], len(progress.latencies_ms)) == (1, 2)


def test_operations_and_marks_are_counted_by_kind() -> None:
    figures = tally()
    for outcome in ("ok", "ok", "http_503"):
        figures.count(Operation(id="x", kind="llm", phase="steady", due_ns=0, outcome=outcome))
    figures.count(Mark(1, "service.died", "agent"))
    assert values(figures, known.OPERATIONS) == {("steady", "llm", "ok"): 2, ("steady", "llm", "http_503"): 1}
    assert values(figures, known.MARKS) == {
        ("service.died",): 1,
        ("harness.stopped",): 0,
        ("machine.suspended",): 0,
    }


def test_samples_are_gauges_in_base_units_or_histograms() -> None:
    figures = tally()
    figures.follow(entered("flood", 1))
    for sample in (
        Sample(1, "harness", "send_lateness_ms", 0.4, 97),
        Sample(1, "harness", "send_lateness_ms", 40.0, 3),
        Sample(1, "path to llm", "proxy_lag_ms", 2000.0, 1),
        Sample(1, "requests", "latency_ms", 15.0, 4),
        Sample(1, "requests", "latency_ms", math.inf, 1),
        Sample(1, "requests", "service_ms", 15.0, 4),
        Sample(1, "harness", "cpu_pct", 12.5),
        Sample(1, "agent", "rss_mb", 80.0),
        Sample(2, "agent", "rss_mb", 81.5),
        Sample(2, "agent", "fds", math.nan),
        Sample(2, "agent", "asyncio_tasks", 9.0),
    ):
        figures.count(sample)
    assert values(figures, known.CPU) == {("harness",): 0.125}
    assert values(figures, known.RESIDENT) == {("agent",): 81_500_000}
    assert values(figures, known.DESCRIPTORS) == {}
    assert values(figures, known.READING) == {("agent", "asyncio_tasks"): 9}
    lateness = values(figures, known.SEND_LATENESS)
    assert (lateness["harness", "0.0005"], lateness["harness", "0.02"], lateness["harness", "0.05"]) == (97, 97, 100)
    requests = values(figures, known.REQUESTS)
    assert (requests["flood", "0.02"], requests["flood", "30.0"], requests["flood", "+Inf"]) == (4, 4, 5)
    assert values(figures, known.LOOP_LAG)["path to llm", "+Inf"] == 1


def test_a_fault_is_active_until_it_is_undone() -> None:
    figures = tally()
    figures.count(Mark(1, "fault.began", "no tokens", {"phase": "outage", "service": "llm"}))
    assert values(figures, known.FAULT) == {("no tokens", "llm"): 1}
    figures.count(Mark(2, "fault.ended", "no tokens", {"phase": "outage"}))
    figures.count(Mark(2, "fault.ended", "never began", {"phase": "outage"}))
    assert values(figures, known.FAULT) == {("no tokens", "llm"): 0}


def test_words_of_the_far_end_cannot_break_the_page_or_fill_the_memory() -> None:
    figures = tally()
    said = 'a "quote", a \\ and\na line \udc80 {x="y"} # EOF'
    figures.count(Operation(id="x", kind="call", phase=said, due_ns=0, outcome="x" * 500))
    ((phase, _, outcome),) = values(figures, known.OPERATIONS)
    assert phase == said.replace("\udc80", "\\udc80")
    assert len(outcome) == 100
    for n in range(3 * SERIES_MAX):
        figures.count(Operation(id="x", kind="call", phase="steady", due_ns=0, outcome=f"reason {n}"))
        figures.count(Sample(1, "agent", f"reading {n}", 1.0))
    counted = values(figures, known.OPERATIONS)
    assert len(counted) == SERIES_MAX
    assert sum(counted.values()) == 3 * SERIES_MAX + 1
    assert counted["other", "other", "other"] == 2 * SERIES_MAX + 2
    assert len(values(figures, known.READING)) == SERIES_MAX


def test_thousands_of_phases_are_a_page_of_bearable_size() -> None:
    figures, progress = tally(), Progress(phases=3000)
    figures.follow(progress)
    for n in range(3000):
        entered(f"phase {n}", n + 1, progress)
        progress.started = progress.finished = 1
        progress.note(turn(100))
        figures.count(Sample(1, "requests", "latency_ms", 1.0))
        figures.count(Mark(1, "phase.ended", f"phase {n}"))
    started = values(figures, known.STARTED)
    assert len(started) == PHASES_MAX
    assert sum(started.values()) == 3000
    assert len("".join(pieces(figures.families()))) < 1_000_000


def test_what_is_counted_is_in_the_journal_and_sound_passes_through() -> None:
    figures, notebook = tally(), Notebook()
    tapped = Tapped(notebook, figures)
    tapped.append(turn(1))
    tapped.discard(["steady/1"])
    assert len(notebook.entries) == 1
    assert notebook.kept == ["steady/1"]
    assert values(figures, known.OPERATIONS) == {("steady", "turn", "ok"): 1}


def test_what_the_journal_refuses_is_not_counted() -> None:
    class Full(Notebook):
        def append(self, entry: Operation | Sample | Mark) -> None:
            raise OSError("full")

    figures = tally()
    with pytest.raises(OSError, match="full"):
        Tapped(Full(), figures).append(turn(1))
    assert values(figures, known.OPERATIONS) == {}


# ---------------------------------------------------------------- the page


def full() -> Tally:
    """Figures of which every family has something to tell."""
    figures, progress = tally(), entered("steady", 1)
    figures.follow(progress)
    progress.note(turn(100))
    figures.count(turn(100))
    figures.count(Mark(1, "fault.began", "f", {"service": "llm"}))
    for name in (*known.OF_A_PROCESS, "send_lateness_ms", "loop_lag_ms", "other"):
        figures.count(Sample(1, "harness", name, 1.0))
    figures.count(Sample(1, "requests", "latency_ms", 1.0))
    figures.spent_ns["metrics"] += SECOND
    figures.pushes["ok"] += 1
    return figures


def test_every_family_is_told_by_its_name_kind_unit_and_labels() -> None:
    figures = full()
    page = parsed(figures)
    told = {family.name: family for family in all_families()}
    assert page.keys() == told.keys()
    for name, family in told.items():
        assert (page[name].type, page[name].unit, page[name].documentation) == (
            family.kind.value,
            family.unit,
            family.help,
        )
        for sample in page[name].samples:
            assert sample.name in family.lines
            assert set(sample.labels) - {"le"} == set(family.labels)
    assert page["busyhour_run"].samples[0].labels["plan"] == 'tele"phone\\\n'


def test_names_follow_the_conventions() -> None:
    for family in all_families():
        assert family.name.startswith("busyhour_")
        assert family.unit in {"", "seconds", "bytes", "ratio"}
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert (family.kind is Kind.HISTOGRAM) == bool(family.edges)
        assert not family.name.endswith(("_total", "_count", "_sum", "_bucket", "_info")) or family.kind is Kind.GAUGE
        assert list(family.edges) == sorted(set(family.edges))


def test_the_page_comes_in_small_pieces() -> None:
    figures = tally()
    for n in range(SERIES_MAX - 1):
        figures.count(Operation(id="x", kind="call", phase="steady", due_ns=0, outcome=str(n)))
    assert max(piece.count("\n") for piece in pieces(figures.families())) <= 100


async def fetched(url: str, times: int = 1) -> list[tuple[int, str, str]]:
    async with aiohttp.ClientSession() as session:

        async def one() -> tuple[int, str, str]:
            async with session.get(url) as answer:
                return answer.status, answer.headers["Content-Type"], await answer.text()

        return list(await asyncio.gather(*(one() for _ in range(times))))


async def test_it_is_served_on_loopback_and_gone_afterwards() -> None:
    clock = _Clock()
    async with served(full(), 0, clock=clock) as url:
        assert url.startswith("http://127.0.0.1:")
        ((status, kind, text),) = await fetched(url)
        assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert text.endswith("# EOF\n")
        assert len(list(text_string_to_metric_families(text))) == len(all_families())
        assert (await fetched(url.removesuffix("/metrics")))[0][0] == 404
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetched(url)


class _Clock(VirtualClock):
    """Of which the test sets the time."""

    def __init__(self) -> None:
        super().__init__()
        self.ns = 0

    def now_ns(self) -> int:
        return self.ns


async def test_it_is_written_once_a_second_however_often_it_is_asked_for() -> None:
    clock, figures = _Clock(), full()
    async with served(figures, 0, clock=clock) as url:
        await fetched(url)
        figures.count(turn(1))
        clock.ns = SECOND - 1
        before = await fetched(url, 20)
        clock.ns = SECOND
        (after,) = await fetched(url)
    lines = [line for _, _, page in (*before, after) for line in page.splitlines() if "operations_total" in line]
    assert [line.rpartition(" ")[2] for line in lines] == ["1"] * 20 + ["2"]


async def test_the_loop_runs_between_the_pieces() -> None:
    figures, others = tally(), 0
    for n in range(SERIES_MAX - 1):
        figures.count(Operation(id="x", kind="call", phase="steady", due_ns=0, outcome=str(n)))

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    octets = await Page(figures, _Clock()).octets()
    beside.cancel()
    assert octets.count(b"\n") > SERIES_MAX
    assert others >= 10


async def test_a_port_that_is_taken_is_told_of_before_the_run() -> None:
    async with served(full(), 0, clock=_Clock()) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(PlanError, match=rf"--metrics {port}: 127.0.0.1:{port} cannot be listened on"):
            async with served(full(), port, clock=_Clock()):
                pytest.fail("it was served")


# ---------------------------------------------------------------- a run


class _Said:
    """A workload with a turn that is answered after 120 ms."""

    async def perform(self, arrival: Arrival) -> None:
        at_ns = arrival.clock.now_ns()
        arrival.record(
            Operation(
                id=f"{arrival.id}/turn/1", kind="turn", phase=arrival.phase, due_ns=at_ns, ended_ns=at_ns + 120 * MS
            )
        )
        arrival.record(
            Operation(id=arrival.id, kind="call", phase=arrival.phase, due_ns=arrival.due_ns, ended_ns=at_ns)
        )


def test_a_whole_run_is_told_as_it_was() -> None:
    clock, notebook = VirtualClock(), Notebook()
    phases = [Phase(name, Burst(count), _Said()) for name, count in (("one", 3), ("two", 4))]
    plan = Plan(target=MemoryService("agent"), phases=phases, gates=[])
    figures = Tally(plan="x", seed=0, clock=clock)
    execution = Execution(plan, Tapped(notebook, figures), clock=clock)
    figures.follow(execution.progress)
    clock.run(execution.execute())
    assert values(figures, known.FINISHED) == {("one",): 3, ("two",): 4}
    assert values(figures, known.OPERATIONS) == {
        (phase, kind, "ok"): count for phase, count in (("one", 3), ("two", 4)) for kind in ("turn", "call")
    }
    response = parsed(figures)["busyhour_response_latency_seconds"].samples
    assert [s.value for s in response if s.name.endswith("_count")] == [3, 4]
    assert [s.value for s in response if s.labels.get("le") == "0.1"] == [0, 0]
    written = sum(isinstance(entry, Operation) for entry in notebook.entries)
    assert written == sum(values(figures, known.OPERATIONS).values())


# ---------------------------------------------------------------- the flags


def asked(*words: str, environment: dict[str, str] | None = None) -> Exports | None:
    parser = argparse.ArgumentParser()
    telling.arguments(parser)
    return exports(parser.parse_args(words), environment or {})


def test_nothing_is_exported_unasked() -> None:
    assert asked() is None
    assert asked("--metrics", "0") == Exports(0)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(PlanError, match="give a port"):
        asked("--metrics", port)


async def test_the_address_of_the_page_is_said() -> None:
    said: list[str] = []
    async with exported(Exports(0), full(), clock=_Clock(), say=said.append):
        (line,) = said
        ((status, _, _),) = await fetched(line.removeprefix("metrics: "))
        assert status == 200
    async with exported(None, None, clock=_Clock(), say=said.append):
        pass
    assert len(said) == 1


def series(figures: Tally) -> Sequence[str]:
    return [family.name for family, _ in figures.families()]


def test_a_family_is_told_once() -> None:
    names = series(full())
    assert len(names) == len(set(names))
