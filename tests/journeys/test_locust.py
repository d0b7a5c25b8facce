"""`busyhour locust`: the plan on Locust's master and workers, which are processes of this machine."""

from __future__ import annotations

import csv
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from socket import socket
from subprocess import Popen

import pytest

from busyhour.cli import main
from busyhour.journal import open_run
from busyhour.model import Operation
from busyhour.services import free_port

from .runs import Traces, busyhour, marks, operations, until

SHARED = Path(__file__).parents[1] / "plans" / "shared.py"
WIRE = SHARED.with_name("wire.py")
SOON_SECONDS = 90


class Swarm:
    """Workers of Locust, and the words for a master of theirs."""

    def __init__(self, plan: Path, workers: int, *options: str) -> None:
        self.port = str(free_port())
        self.plan, self.options = plan, [word for option in options for word in ("-o", option)]
        self.workers: list[Popen[str]] = []
        self._count = workers
        self._stack = ExitStack()

    def __enter__(self) -> Swarm:
        for _ in range(self._count):
            words = ["locust", str(self.plan), *self.options, "--", "--worker", "--master-port", self.port]
            self.workers.append(self._stack.enter_context(busyhour(*words)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def master(self, journal: Path, *words: str) -> list[str]:
        expected = ["--expect-workers", str(self._count), "--master-bind-port", self.port]
        locust = ["--headless", "--master", *expected, "-u", str(self._count), "-r", "10", *words]
        return ["locust", str(self.plan), *self.options, "--journal", str(journal), "--seed", "5", "--", *locust]


def ids(found: object) -> list[str]:
    assert isinstance(found, list)
    return sorted(one.id for one in found if isinstance(one, Operation))


def test_a_master_and_two_workers_have_exactly_the_arrivals_of_one_process(
    tmp_path: Path, journal: Path, traces: Traces
) -> None:
    alone = tmp_path / "alone.journal"
    assert main(["run", str(SHARED), "--journal", str(alone), "--seed", "5"]) == 0
    report, table = tmp_path / "report.html", tmp_path / "table"
    with Swarm(SHARED, 2) as swarm:
        words = swarm.master(journal, "--html", str(report), "--csv", str(table))
        with busyhour(*words) as master:
            out, err = master.communicate(timeout=SOON_SECONDS)
        assert master.returncode == 0, err
        for worker in swarm.workers:
            worker.wait(SOON_SECONDS)
    assert "PASS (" in out
    with open_run(alone) as one, open_run(journal) as two:
        for kind in ("call", "greeting", "turn", "speech"):
            assert ids(one.operations(kind)) == ids(two.operations(kind))
        scenarios = [{call.id: call.detail["scenario"] for call in run.operations("call")} for run in (one, two)]
        assert scenarios[0] == scenarios[1]
        assert two.meta["harnesses"] == ["harness/1", "harness/2"]
        assert two.samples("harness/2", "loop_lag_ms")
    assert counted(table)["call", "talk"] == 40
    assert counted(table)["turn", "talk"] == len(operations(journal, "turn"))
    assert f"turn in talk: {len(operations(journal, 'turn'))} measured, p50 " in err  # of both, as it was measured
    assert "talk" in report.read_text()
    assert traces.left() == []
    assert sorted(path.name for path in tmp_path.iterdir() if "journal" in path.name) == [
        "alone.journal",
        "run.journal",
    ]


def counted(table: Path) -> dict[tuple[str, str], int]:
    """By Locust's own table."""
    with open(f"{table}_stats.csv", encoding="utf-8") as file:
        return {(row["Type"], row["Name"]): int(row["Request Count"]) for row in csv.DictReader(file)}


def test_locust_in_one_process_performs_the_whole(tmp_path: Path, journal: Path, traces: Traces) -> None:
    words = ["locust", str(SHARED), "-o", "kind=requests", "--journal", str(journal), "--shape", "light", "--"]
    with busyhour(*words, "--headless", "--csv", str(tmp_path / "table")) as locust:
        out, err = locust.communicate(timeout=SOON_SECONDS)
    assert locust.returncode == 0, err
    assert "PASS (" in out
    with open_run(journal) as run:
        assert sum(sample.count for sample in run.samples("requests", "latency_ms", "ask")) == 60
    assert counted(tmp_path / "table")["http", "requests"] == 60
    assert counted(tmp_path / "table")["", "Aggregated"] == 60
    assert traces.left() == []


@pytest.mark.parametrize(
    ("words", "there", "elsewhere"),
    [
        ([], "127.0.0.1", "127.0.0.2"),
        (["--web-host", "127.0.0.2"], "127.0.0.2", "127.0.0.1"),
    ],
)
def test_the_web_page_of_locust_is_on_loopback_unless_it_is_told_otherwise(
    words: list[str], there: str, elsewhere: str, journal: Path, traces: Traces
) -> None:
    port = free_port()
    ours = ["locust", str(SHARED), "--journal", str(journal), "--", "--web-port", str(port), *words]
    with busyhour(*ours) as locust:
        until(lambda: listens(there, port) or locust.poll() is not None, SOON_SECONDS)
        assert not listens(elsewhere, port)
        locust.send_signal(signal.SIGTERM)
        _, err = locust.communicate(timeout=SOON_SECONDS)
    assert f"http://{there}:{port}" in err
    assert "before the run had begun" in err
    assert traces.left() == []


def listens(host: str, port: int) -> bool:
    with socket() as asked:
        return asked.connect_ex((host, port)) == 0


@pytest.mark.parametrize("who", ["our worker", "Locust's worker"])
def test_a_worker_that_is_lost_makes_the_run_invalid_and_the_others_are_kept(
    who: str, journal: Path, traces: Traces
) -> None:
    with Swarm(WIRE, 2, "calls=30", "per_second=10", "hold=0.5") as swarm, busyhour(*swarm.master(journal)) as master:
        until(lambda: marks(journal, "phase.began"), SOON_SECONDS)
        victim = swarm.workers[1].pid if who == "Locust's worker" else ours_below(swarm.workers[1].pid, traces)
        os.kill(victim, signal.SIGKILL)
        out, err = master.communicate(timeout=SOON_SECONDS)
    assert master.returncode == 3, err
    (died,) = marks(journal, "service.died")
    why = "was lost: its worker of Locust is gone" if who == "Locust's worker" else "was killed by SIGKILL"
    assert why in str(died.detail["obituary"])
    assert f"INVALID nothing disturbed the services: {died.name} of 2 {why};" in " ".join(out.split())
    kept = [int(call.id.removeprefix("talk/")) for call in operations(journal, "call")]
    survivor = 2 if died.name == "worker 1" else 1
    assert {number for number in kept if number % 2 == survivor % 2} == set(range(survivor, 31, 2))
    until(lambda: not traces.left(), SOON_SECONDS)


def ours_below(pid: int, traces: Traces) -> int:
    """The worker of ours that this one of Locust's has started: the child of the supervisor that is its child."""
    supervisors = {one.pid for one in traces.left() if one.parent == pid}
    (worker,) = [one.pid for one in traces.left() if one.parent in supervisors]
    return worker


def test_ctrl_c_at_the_master_ends_the_run_in_order(journal: Path, traces: Traces) -> None:
    with Swarm(WIRE, 2, "calls=200", "hold=300") as swarm, busyhour(*swarm.master(journal)) as master:
        until(lambda: marks(journal, "phase.began"), SOON_SECONDS)
        os.killpg(master.pid, signal.SIGINT)
        out, err = master.communicate(timeout=SOON_SECONDS)
        for worker in swarm.workers:
            worker.wait(SOON_SECONDS)
    assert master.returncode in {2, 3}, err
    assert [mark.detail["why"] for mark in marks(journal, "run.stopped")] == ["stopped by SIGTERM"], out + err
    assert {call.outcome for call in operations(journal, "call")} <= {"cut off"}
    assert traces.left() == []


def test_without_locust_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], journal: Path
) -> None:
    monkeypatch.setattr("busyhour.swarm.command.find_spec", lambda name: None)
    assert main(["locust", str(SHARED), "--journal", str(journal), "--", "--headless"]) == 64
    said = "busyhour: Locust is not installed; install it with busyhour's extra: pip install 'busyhour[locust]'\n"
    assert capsys.readouterr().err == said
    assert not journal.exists()


def test_a_locustfile_of_ones_own_is_refused(capsys: pytest.CaptureFixture[str], journal: Path) -> None:
    assert main(["locust", str(SHARED), "--journal", str(journal), "--", "-f", "mine.py"]) == 64
    assert capsys.readouterr().err == "busyhour: -f: the locustfile is busyhour's own here; leave that out\n"
