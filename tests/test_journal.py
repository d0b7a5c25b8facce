"""The journal: what was appended is read back, whatever happened in between."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.clock import SystemClock
from busyhour.errors import JournalError
from busyhour.journal import FORMAT_VERSION, Journal, open_run
from busyhour.model import SECOND, Mark, Operation, Run, Sample

numbers = count()
TIMES = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=5,
)
DETAILS = st.dictionaries(TEXTS, JSONS)
OPERATIONS = st.builds(
    Operation,
    id=TEXTS,
    kind=st.just("turn"),
    phase=TEXTS,
    due_ns=TIMES,
    began_ns=st.none() | TIMES,
    ended_ns=st.none() | TIMES,
    outcome=TEXTS,
    parent=TEXTS,
    who=TEXTS,
    detail=DETAILS,
)
SAMPLES = st.builds(
    Sample, TIMES, st.just("agent"), st.just("rss_mb"), st.floats(allow_nan=False), st.integers(1, 2**40)
)
MARKS = st.builds(Mark, TIMES, st.just("fault.proof"), TEXTS, DETAILS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / f"{next(numbers)}.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.create(path, {"plan": "plans/telephone.py"}) as journal:
        yield journal


def operation(number: int, *, kind: str = "turn", phase: str = "steady", due_ns: int = 0) -> Operation:
    return Operation(id=f"steady/{number}", kind=kind, phase=phase, due_ns=due_ns)


# ---------------------------------------------------------------- round trip


@settings(max_examples=30, deadline=None)
@given(st.lists(OPERATIONS, max_size=5), st.lists(SAMPLES, max_size=5), st.lists(MARKS, max_size=5), DETAILS)
def test_every_field_comes_back_as_it_went(
    folder: Path, operations: list[Operation], samples: list[Sample], marks: list[Mark], meta: dict[str, str]
) -> None:
    path = folder / f"{next(numbers)}.journal"
    with Journal.create(path, meta) as journal:
        entries: list[Operation | Sample | Mark] = [*operations, *samples, *marks]
        for entry in entries:
            journal.append(entry)
    with open_run(path) as run:
        assert run.meta == meta
        assert run.operations("turn") == sorted(operations, key=lambda one: one.due_ns)
        assert run.samples("agent", "rss_mb") == sorted(samples, key=lambda one: one.at_ns)
        assert run.marks("fault.proof") == sorted(marks, key=lambda one: one.at_ns)


def test_a_closed_journal_is_a_single_plain_file(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(Mark(1, "run.began"))
    assert [file for file in path.parent.iterdir() if file.name.startswith(path.name)] == [path]
    with open_run(path) as run:
        assert kinds(run) == ["run.began"]


def kinds(run: Run) -> list[str]:
    return [mark.kind for mark in run.marks("run.began")]


def test_values_that_are_no_ordinary_numbers(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(Sample(1, "a", "b", math.inf))
        journal.append(Sample(2, "a", "b", math.nan))
    with open_run(path) as run:
        infinite, none = run.samples("a", "b")
    assert infinite.value == math.inf
    assert math.isnan(none.value)


def test_any_mapping_and_sequence_is_a_detail_and_nothing_else(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(Mark(1, "m", detail=MappingProxyType({"words": ("a", MappingProxyType({"b": 1}))})))
        with pytest.raises(TypeError, match="is no JSON"):
            journal.append(Mark(1, "m", detail={"clock": SystemClock()}))  # type: ignore[dict-item]  # on purpose
    with open_run(path) as run:
        assert run.marks("m")[0].detail == {"words": ["a", {"b": 1}]}


def test_half_a_surrogate_pair_does_not_stop_a_run(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(
            Operation(id="1", kind="call", phase="p", due_ns=0, outcome="said \ud800", detail={"a": "\ud800"})
        )
    with open_run(path) as run:
        (call,) = run.operations("call")
    assert call.outcome == "said \\ud800"
    assert call.detail == {"a": "\ud800"}


def test_meta_can_be_set_and_replaced(path: Path) -> None:
    with Journal.create(path, {"seed": 1, "proofs": {}}) as journal:
        journal.set_meta("proofs", {"p95": "proven"})
        journal.set_meta("stopped", None)
    with open_run(path) as run:
        assert run.meta == {"seed": 1, "proofs": {"p95": "proven"}, "stopped": None}


def test_operations_are_chosen_by_kind_and_phase(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(operation(1, due_ns=5))
        journal.append(operation(2, due_ns=3, phase="outage"))
        journal.append(operation(3, due_ns=4))
        journal.append(operation(4, kind="call"))
    with open_run(path) as run:
        assert [one.id for one in run.operations("turn")] == ["steady/2", "steady/3", "steady/1"]
        assert [one.id for one in run.operations("turn", "steady")] == ["steady/3", "steady/1"]
        assert [one.id for one in run.operations("turn", "")] == []
        assert [one.id for one in run.operations("call")] == ["steady/4"]


def test_samples_of_a_phase_are_those_between_its_marks(path: Path) -> None:
    marks = [(10, "began", "steady"), (20, "ended", "steady"), (20, "began", "outage"), (30, "began", "cut")]
    with Journal.create(path, {}) as journal:
        for at_ns, what, name in marks:
            journal.append(Mark(at_ns, f"phase.{what}", name))
        for at_ns in (9, 10, 20, 21, 30, 99):
            journal.append(Sample(at_ns, "agent", "rss_mb", 1.0))
            journal.append(Sample(at_ns, "agent", "cpu_pct", 1.0))
    with open_run(path) as run:
        assert [one.at_ns for one in run.samples("agent", "rss_mb")] == [9, 10, 20, 21, 30, 99]
        assert [one.at_ns for one in run.samples("agent", "rss_mb", "steady")] == [10, 20]
        assert [one.at_ns for one in run.samples("agent", "rss_mb", "cut")] == [30, 99]
        assert run.samples("agent", "rss_mb", "unknown") == []
        assert run.samples("harness", "rss_mb") == []


# ---------------------------------------------------------------- writing


def test_an_existing_file_is_never_overwritten(path: Path) -> None:
    path.write_text("somebody's")
    with pytest.raises(JournalError, match="exists already; a journal is never overwritten"):
        Journal.create(path, {})
    assert path.read_text() == "somebody's"


def test_a_place_where_no_file_can_be(path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be created: No such file or directory"):
        Journal.create(path / "missing" / "run.journal", {})


def test_a_closed_journal_takes_no_more(path: Path) -> None:
    journal = Journal.create(path, {})
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(Mark(1, "run.began"))


WRITER = """
import sys, threading
from busyhour.clock import SystemClock
from busyhour.journal import Journal
from busyhour.model import Operation, Sample

clock = SystemClock()
journal = Journal.create(sys.argv[1], {"seed": 1})
while True:
    now_ns = clock.now_ns()
    journal.append(Sample(now_ns, "writer", "tick_ms", 1.0))
    journal.append(Operation(id="1", kind="call", phase="steady", due_ns=now_ns))
    print(now_ns, flush=True)
    threading.Event().wait(0.001)
"""


def test_a_killed_writer_loses_at_most_the_last_second(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline())]
        while told[-1] < told[0] + 1.6 * SECOND:
            told.append(int(writer.stdout.readline()))
        writer.kill()
        told += map(int, writer.stdout.read().split())
    assert Path(f"{path}-wal").exists(), "it was killed in the middle"
    with open_run(path) as run:
        ticks = run.samples("writer", "tick_ms")
        calls = run.operations("call")
        assert run.meta == {"seed": 1}
    assert ticks[0].at_ns == told[0]
    lost = [at_ns for at_ns in told if at_ns >= ticks[-1].at_ns]
    # A second in which it ran: while a busy machine lets it stand still, it does not write either.
    assert sum(min(b - a, SECOND // 50) for a, b in pairwise(lost)) <= SECOND
    assert abs(len(calls) - len(ticks)) <= 1
    assert len(ticks) > 50


FULL_DISK = """
import resource, signal, sys, threading
from busyhour.errors import JournalError
from busyhour.journal import Journal, open_run
from busyhour.model import Sample

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # a write beyond fails as on a full disk
told = []
journal = Journal.create(sys.argv[1], {})
journal.on_failure = lambda error: told.append(str(error))
for number in range(10_000_000):
    try:
        journal.append(Sample(number, "a", "b", 1.0))
    except JournalError as error:
        print("append:", error)
        break
    if number % 1000 == 0:
        threading.Event().wait(0.002)
try:
    journal.close()
except JournalError as error:
    print("close:", error)
print("told:", *told)
with open_run(sys.argv[1]) as run:
    print("kept:", len(run.samples("a", "b")), number)
"""


def test_a_full_disk_is_told_and_what_was_written_is_kept(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert "cannot be written: " in lines["append"]
    assert lines["append"] == lines["close"] == lines["told"]
    kept, appended = map(int, lines["kept"].split())
    assert 0 < kept < appended
    assert done.stderr == ""


def test_a_file_that_becomes_unwritable_stops_the_run_through_the_callback(path: Path) -> None:
    failed = threading.Event()
    journal = Journal.create(path, {})
    journal.on_failure = lambda _: failed.set()
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE marks")
        other.commit()
    journal.append(Mark(1, "run.began"))
    assert failed.wait(10)
    with pytest.raises(JournalError, match="no such table: marks"):
        journal.close()  # what it had to say last could not be written either
    with pytest.raises(JournalError, match="is closed"):
        journal.append(Mark(2, "run.ended"))


def test_a_disk_that_does_not_keep_up_ends_the_run_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("busyhour.journal._WAITING_MAX", 10)
    journal = Journal.create(path, {})
    with closing(sqlite3.connect(path)) as slow:
        slow.execute("BEGIN IMMEDIATE")  # holds the writer up, as a stalled disk does
        accepted = 0
        with pytest.raises(JournalError, match="the disk does not keep up"):  # noqa: PT012  (it is one of many)
            for accepted in range(1000):
                journal.append(Sample(accepted, "a", "b", 1.0))
                threading.Event().wait(0.001)
        slow.rollback()
    with pytest.raises(JournalError, match=r"the disk does not keep up, \d+ entries are waiting"):
        journal.close()
    with open_run(path) as run:
        assert [one.at_ns for one in run.samples("a", "b")] == list(range(accepted))


def test_appending_does_not_wait_for_the_disk(journal: Journal) -> None:
    clock = SystemClock()
    slowest_ns = 0
    with closing(sqlite3.connect(journal.path)) as slow:
        slow.execute("BEGIN IMMEDIATE")
        for number in range(500):
            began_ns = clock.now_ns()
            journal.append(Sample(number, "a", "b", 1.0))
            slowest_ns = max(slowest_ns, clock.now_ns() - began_ns)
            threading.Event().wait(0.001)
        slow.rollback()
    assert slowest_ns < 2 * SECOND  # the disk is held for ever


# ---------------------------------------------------------------- what is no journal


@pytest.fixture
def written(path: Path) -> Path:
    with Journal.create(path, {"plan": "p"}) as journal:
        for number in range(2000):
            journal.append(operation(number))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(JournalError) as refused:
        open_run(path)
    assert str(path) in str(refused.value)
    return str(refused.value)


def test_what_is_missing_or_no_file(path: Path) -> None:
    assert "there is no journal" in refusal(path)
    assert "is a directory" in refusal(path.parent)
    path.touch()
    assert "is empty" in refusal(path)


def test_what_is_foreign(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be one" * 100)
    assert "it is not SQLite" in refusal(path)
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE operations (id)")
        other.commit()
    assert "it is another program's SQLite file" in refusal(path)


def test_a_newer_format_says_so_and_what_to_do(written: Path) -> None:
    with closing(sqlite3.connect(written)) as newer:
        newer.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    words = refusal(written)
    assert f"its format is {FORMAT_VERSION + 1}, this one reads {FORMAT_VERSION}; upgrade busyhour" in words


@pytest.mark.usefixtures("impatient")
def test_who_reads_it_does_not_keep_it_from_being_closed(path: Path) -> None:
    journal = Journal.create(path, {})
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM marks").fetchone()
        journal.append(Mark(1, "run.ended"))
        journal.close()
    with open_run(path) as run:
        assert [mark.kind for mark in run.marks("run.ended")] == ["run.ended"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for who has locked it no longer than a test should take."""
    monkeypatch.setattr("busyhour.journal._LOCKED_SECONDS", 0.1)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_damaged(written: Path, share: float) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[: int(len(whole) * share)])
    assert "is damaged" in refusal(written)


def test_a_corrupt_page_is_found(written: Path) -> None:
    whole = bytearray(written.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 4096] = b"\xff" * 4096
    written.write_bytes(whole)
    assert "is damaged" in refusal(written)


def test_a_detail_that_is_no_json_is_found(written: Path) -> None:
    with closing(sqlite3.connect(written)) as other:
        other.execute("UPDATE operations SET detail = '{' WHERE id = 'steady/7'")
        other.execute("INSERT INTO marks VALUES (1, 'm', '', '[]')")
        other.commit()
    with open_run(written) as run:
        with pytest.raises(JournalError, match="is damaged"):
            run.operations("turn")
        with pytest.raises(JournalError, match="a detail is no JSON object"):
            run.marks("m")


def test_a_damaged_tail_of_a_killed_run_costs_only_the_tail(path: Path) -> None:
    copy = path.with_suffix(".copy")
    with Journal.create(path, {}) as journal:
        journal.append(Mark(1, "run.began"))
        with open_run(path) as run:
            deadline_ns = SystemClock().now_ns() + 10 * SECOND
            while not run.marks("run.began") and SystemClock().now_ns() < deadline_ns:
                threading.Event().wait(0.01)
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    with open(f"{copy}-wal", "ab") as wal:
        wal.write(b"\0" * 1000)
    with open_run(copy) as run:
        assert [mark.kind for mark in run.marks("run.began")] == ["run.began"]


def test_reading_never_writes(written: Path) -> None:
    before = written.read_bytes()
    with open_run(written) as run, pytest.raises(sqlite3.OperationalError, match="readonly"):
        run._connection.execute("DELETE FROM marks")
    assert written.read_bytes() == before
