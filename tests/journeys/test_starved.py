"""A harness that gets no processor is late, and says so: of the target it says nothing then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .runs import MARKER, Traces, arguments, busyhour, marks, until

LATE_MS = 30
STOPPED_SECONDS, RUNNING_SECONDS = 0.2, 0.1
LATE = {f"p80 send lateness <= {LATE_MS} ms", f"p80 loop lag of the harness <= {LATE_MS} ms"}


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    traces = Traces()
    monkeypatch.setenv(MARKER, traces.value)
    yield
    assert traces.left() == []


def starve(process: subprocess.Popen[str]) -> None:
    """Let it run a third of the time, until it has ended."""
    pause = threading.Event()  # is never set
    while process.poll() is None:
        for sign, seconds in ((signal.SIGSTOP, STOPPED_SECONDS), (signal.SIGCONT, RUNNING_SECONDS)):
            with suppress(ProcessLookupError):
                os.kill(process.pid, sign)
            pause.wait(seconds)


def run(folder: Path, meanwhile: Callable[[subprocess.Popen[str]], None]) -> tuple[int, dict[str, Any], str]:
    """The same calls each time: the exit code, the verdicts, and what was printed. The output fits into a pipe."""
    journal, verdicts = folder / "run.journal", folder / "verdicts.json"
    words = arguments(journal, calls=8, per_second=40, hold=2, late_ms=LATE_MS)
    with busyhour(*words, "--json", str(verdicts)) as process:
        until(lambda: marks(journal, "phase.began"))
        meanwhile(process)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return process.returncode, json.loads(verdicts.read_text()), out


def test_a_harness_that_was_stopped_two_thirds_of_the_time_makes_its_run_invalid(tmp_path: Path) -> None:
    code, told, out = run(tmp_path, starve)
    assert code == 3
    assert told["outcome"] == "invalid"
    late = {verdict["gate"]: verdict for verdict in told["validity"] if verdict["outcome"] != "pass"}
    assert set(late) & LATE
    for gate in set(late) & LATE:
        assert f", over {LATE_MS} ms" in late[gate]["because"]
        assert late[gate]["because"] in out
        assert late[gate]["estimate"]["value"] > LATE_MS
    assert {verdict["outcome"] for verdict in told["verdicts"]} <= {"invalid"}, "nothing is said of the target"


def test_the_same_run_with_a_processor_is_not_late(tmp_path: Path) -> None:
    code, told, out = run(tmp_path, lambda process: None)
    outcomes = {verdict["gate"]: verdict["outcome"] for verdict in told["validity"]}
    assert set(outcomes) >= LATE
    assert {outcomes[gate] for gate in LATE} == {"pass"}, out
    assert code != 3
