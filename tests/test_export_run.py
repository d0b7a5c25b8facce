"""A whole run whose figures are told while it goes on, and what they say beside its journal."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import pytest
from jsonschema import Draft202012Validator
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from rich.console import Console

from busyhour.conduct import conduct
from busyhour.errors import PlanError
from busyhour.exporting.otlp import Collector
from busyhour.exporting.telling import Exports
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.planfile import PlanFile, load
from busyhour.reports import json as json_report
from busyhour.stored import StoredRun

PLAN = Path(__file__).parent / "plans" / "memory.py"
CALLS = 12


@dataclass
class Told:
    """What a collector was sent, and what the page said meanwhile."""

    said: io.StringIO = field(default_factory=io.StringIO)  # by the run
    url: str = ""
    pushes: list[ExportMetricsServiceRequest] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)


@contextmanager
def collector() -> Iterator[Told]:
    """One in a thread: before it answers a push, it looks at the page."""
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            octets = self.rfile.read(int(self.headers["Content-Length"]))
            told.pushes.append(ExportMetricsServiceRequest.FromString(octets))
            if page := re.search(r"metrics: (http://\S+)", told.said.getvalue()):
                with urlopen(page[1], timeout=30) as answer:
                    told.pages.append(answer.read().decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        told.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield told
        finally:
            server.shutdown()
            serving.join()


def plan() -> PlanFile:
    return load(PLAN, {"calls": str(CALLS)})


def test_the_figures_at_the_end_are_those_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.exporting.otlp._LAST_WITHIN_SECONDS", 60.0)
    monkeypatch.setenv("COLUMNS", "40")
    file, journal = plan(), tmp_path / "x.journal"
    with collector() as told:
        exports = Exports(0, Collector.at(told.url, {}))
        console = Console(file=told.said)
        conducted = conduct(file, file.plan, journal=journal, seed=3, console=console, title="memory", exports=exports)
    assert conducted.stopped is None
    assert "--otlp" not in told.said.getvalue()
    page = {family.name: family.samples for family in text_string_to_metric_families(told.pages[-1])}
    with open_run(journal) as run:
        journaled = Counter(
            (op.kind, op.outcome) for kind in ("call", "greeting", "turn", "speech") for op in run.operations(kind)
        )
        marks = Counter(
            {kind: len(run.marks(kind)) for kind in ("run.began", "phase.began", "phase.ended", "run.ended")}
        )
        assert _is_as_published(run, judge(file.plan, run))
    counted = {(s.labels["kind"], s.labels["outcome"]): s.value for s in page["busyhour_operations"]}
    assert counted == journaled
    assert counted["call", "ok"] == CALLS
    assert {s.labels["kind"]: s.value for s in page["busyhour_marks"]}.items() >= marks.items()
    assert [s.value for s in page["busyhour_arrivals_finished"]] == [CALLS]
    assert next(s.value for s in page["busyhour_response_latency_seconds"] if s.name.endswith("_count")) == CALLS
    assert page["busyhour_run"][0].labels["plan"] == "memory"
    assert {s.labels["service"] for s in page["busyhour_process_cpu_ratio"]} == {"harness"}
    (of_run,) = told.pushes[-1].resource_metrics
    pushed = {metric.name: metric for metric in of_run.scope_metrics[0].metrics}
    assert [point.as_int for point in pushed["busyhour_arrivals_finished"].sum.data_points] == [CALLS]


def _is_as_published(run: StoredRun, judgement: Judgement) -> bool:
    out = io.StringIO()
    json_report.report(run, judgement, out)
    schema = json.loads(json_report.schema())
    Draft202012Validator(schema).validate(json.loads(out.getvalue()))
    return set(json.loads(out.getvalue())["run"]) <= set(schema["properties"]["run"]["properties"])


def test_a_port_that_is_taken_leaves_no_journal(tmp_path: Path) -> None:
    file, journal = plan(), tmp_path / "x.journal"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlanError, match=f"--metrics {port}: "):
            conduct(
                file,
                file.plan,
                journal=journal,
                seed=0,
                console=Console(file=io.StringIO()),
                title="memory",
                exports=Exports(port),
            )
    assert not journal.exists()


def test_a_collector_that_is_not_there_changes_nothing_but_a_line(tmp_path: Path) -> None:
    file, journal, said = plan(), tmp_path / "x.journal", io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    exports = Exports(collector=Collector.at(url, {}))
    conducted = conduct(
        file, file.plan, journal=journal, seed=0, console=Console(file=said), title="memory", exports=exports
    )
    assert conducted.stopped is None
    assert len(re.findall("--otlp: .* failed", said.getvalue())) == 1
    with open_run(journal) as run:
        assert [call.outcome for call in run.operations("call")] == ["ok"] * CALLS
        assert run.marks("run.ended")


def test_arrivals_of_several_processes_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.exporting.otlp._LAST_WITHIN_SECONDS", 60.0)
    file = load(PLAN.with_name("shared.py"), {"kind": "calls"})
    with collector() as told:
        conduct(
            file,
            file.plan,
            journal=tmp_path / "x.journal",
            seed=3,
            console=Console(file=told.said),
            title="shared",
            processes=2,
            exports=Exports(collector=Collector.at(told.url, {})),
        )
    (of_run,) = told.pushes[-1].resource_metrics
    pushed = {metric.name: metric for metric in of_run.scope_metrics[0].metrics}
    (finished,) = pushed["busyhour_arrivals_finished"].sum.data_points
    (response,) = pushed["busyhour_response_latency_seconds"].histogram.data_points
    with open_run(tmp_path / "x.journal") as run:
        assert finished.as_int == len(run.operations("call")) == 40
        assert response.count == len(run.operations("turn")) > 0
