"""Many journals become one: every row once, and the harness as good as its worst process."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from busyhour.distributed.merging import Part, merge, merged, source_of
from busyhour.errors import JournalError
from busyhour.gates import AtMost
from busyhour.indicators import loop_lag, send_lateness
from busyhour.journal import Journal, open_run
from busyhour.model import MS, SECOND, Mark, Operation, Outcome, Sample


def call(number: int, worker: int, at_ns: int = 0) -> Operation:
    return Operation(
        id=f"talk/{number}",
        kind="call",
        phase="talk",
        due_ns=at_ns + number * SECOND,
        began_ns=at_ns + number * SECOND + MS,
        detail={"answered_ns": at_ns + number * SECOND + 2 * MS, "worker": worker, "opened_ns": 0},
    )


def written(path: Path, *entries: Operation | Sample | Mark) -> Path:
    with Journal.create(path, {"of": str(path.name)}) as journal:
        for entry in entries:
            journal.append(entry)
    return path


def lagging(at_ns: int, ms: float, count: int) -> list[Sample]:
    return [Sample(at_ns, "harness", "loop_lag_ms", ms, count), Sample(at_ns, "requests", "latency_ms", ms, count)]


@pytest.fixture
def leader(tmp_path: Path) -> Path:
    marks = [Mark(0, "run.began"), Mark(1, "phase.began", "talk"), Mark(99 * SECOND, "phase.ended", "talk")]
    return written(tmp_path / "run.journal", *marks, *lagging(SECOND, 0.1, 1000))


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in tables}


def test_the_journal_of_three_has_the_rows_of_all_and_its_own_meta(leader: Path, tmp_path: Path) -> None:
    parts = [
        Part(written(tmp_path / f"w{n}", *(call(n + 3 * i, n) for i in range(4)), *lagging(2 * SECOND, n, 500)), n)
        for n in (1, 2, 3)
    ]
    before = [rows(path) for path in (leader, *(part.path for part in parts))]
    merge(leader, parts)
    after = rows(leader)
    for table in ("operations", "samples", "marks"):
        assert len(after[table]) == sum(len(one[table]) for one in before)
    with open_run(leader) as run:
        assert [o.id for o in run.operations("call")] == [f"talk/{n}" for n in range(1, 13)]
        assert run.meta == {"of": "run.journal", "harnesses": ["harness/1", "harness/2", "harness/3"]}
        assert sum(s.count for s in run.samples("requests", "latency_ms")) == 2500
        assert [s.count for s in run.samples(source_of(2), "loop_lag_ms")] == [500]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.journal"]


def test_a_gate_on_the_harness_sees_its_worst_process_and_no_average(leader: Path, tmp_path: Path) -> None:
    late = Sample(2 * SECOND, "harness", "send_lateness_ms", 40.0, 2)
    fine = [Sample(2 * SECOND, "harness", "send_lateness_ms", 0.5, 98)]
    many = [Sample(2 * SECOND, "harness", "send_lateness_ms", 0.5, 9_900)]
    parts = [
        Part(written(tmp_path / "w1", *many, *lagging(2 * SECOND, 1.0, 500)), 1),
        Part(written(tmp_path / "w2", *fine, late, *lagging(2 * SECOND, 30.0, 5)), 2),
    ]
    merge(leader, parts)
    with open_run(leader) as run:
        verdict = AtMost(send_lateness(0.99), 5, "ms").judge(run)
        assert verdict.outcome is Outcome.FAIL
        assert "of harness/2, the worst process" in verdict.because
        estimate = loop_lag(0.5)(run)
        assert (estimate.value, estimate.n) == (30.0, 1505)


def test_instants_of_another_clock_are_moved_to_the_leaders(leader: Path, tmp_path: Path) -> None:
    ahead_ns = 1_000_000 * SECOND
    theirs = call(3, 1, ahead_ns)
    sample = Sample(ahead_ns + SECOND, "harness", "loop_lag_ms", 1.0)
    merge(leader, [Part(written(tmp_path / "w1", theirs, sample), 1, ahead_ns)])
    with open_run(leader) as run:
        (found,) = run.operations("call")
        assert found == call(3, 1)
        assert [s.at_ns for s in run.samples("harness/1", "loop_lag_ms", "talk")] == [SECOND]


def test_a_worker_that_was_killed_leaves_what_it_had_committed(leader: Path, tmp_path: Path) -> None:
    path = tmp_path / "w1"
    whole = written(tmp_path / "whole", call(1, 1), call(2, 1))
    with closing(sqlite3.connect(whole, isolation_level=None)) as connection:  # as it lies there: with a log beside it
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE operations SET outcome = 'ok'")
        for suffix in ("", "-wal"):
            path.with_name(path.name + suffix).write_bytes(whole.with_name(whole.name + suffix).read_bytes())
    merge(leader, [Part(path, 1), Part(tmp_path / "never made", 2)])
    with open_run(leader) as run:
        assert len(run.operations("call")) == 2
        assert run.meta["harnesses"] == ["harness/1", "harness/2"]
    assert not list(tmp_path.glob("w1*"))


def test_a_damaged_part_is_named_and_nothing_is_added_or_removed(leader: Path, tmp_path: Path) -> None:
    good = Part(written(tmp_path / "w1", call(1, 1)), 1)
    bad = Part(tmp_path / "w2", 2)
    bad.path.write_bytes(b"not a journal")
    before = rows(leader)
    with pytest.raises(JournalError, match="w2 is no journal of busyhour"):
        merge(leader, [good, bad])
    assert rows(leader) == before
    assert good.path.exists()


def test_parts_are_kept_beside_a_journal_that_cannot_be_written(leader: Path, tmp_path: Path) -> None:
    part = Part(written(tmp_path / "w1", call(1, 1)), 1)
    with pytest.raises(JournalError, match="full"), merged(leader, [part]):
        raise JournalError("full")
    assert part.path.exists()
    with pytest.raises(KeyboardInterrupt), merged(leader, [part]):
        raise KeyboardInterrupt
    assert not part.path.exists()
    with open_run(leader) as run:
        assert len(run.operations("call")) == 1
