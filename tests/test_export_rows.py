"""The rows of a journal as CSV and Parquet."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from busyhour.errors import JournalError, PlanError
from busyhour.exporting import command, rows
from busyhour.indicators.readings import response_ms
from busyhour.journal import Journal, open_run
from busyhour.model import MS, SECOND, Mark, Operation, Sample

META = {"plan": "plans/x.py", "seed": 7, "proofs": {"gate": "proven"}, "source": "import this"}
BEGAN = 5 * SECOND
FORMULA = '=HYPERLINK("http://x.example";"hear it")'


def written(path: Path, entries: Sequence[Operation | Sample | Mark]) -> Path:
    with Journal.create(path, META) as journal:
        journal.append(Mark(BEGAN, "run.began"))
        for entry in entries:
            journal.append(entry)
    return path


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return written(
        tmp_path / "x.journal",
        [
            Operation(
                id="steady/1/turn/1",
                kind="turn",
                phase="steady",
                due_ns=7 * SECOND,
                began_ns=6 * SECOND,
                ended_ns=7 * SECOND + 250 * MS + 5,
                parent="steady/1",
                detail={"text": 'she said "no", twice\nor so'},
            ),
            Operation(id="steady/1/turn/2", kind="turn", phase="steady", due_ns=9 * SECOND, outcome="no answer"),
            Operation(id="steady/1/turn/3", kind="turn", phase="steady", due_ns=9 * SECOND, ended_ns=8 * SECOND),
            Operation(id="steady/1", kind="call", phase="steady", due_ns=BEGAN, ended_ns=11 * SECOND, outcome=FORMULA),
            Sample(6 * SECOND, "agent", "rss_mb", 81.25),
            Sample(6 * SECOND, "agent", "broken_mb", float("nan")),
            Sample(6 * SECOND, "requests", "latency_ms", inf, 3),
            Mark(12 * SECOND, "phase.ended", "steady", {"started": 1}),
        ],
    )


def chosen(journal: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    return parser.parse_args([str(journal), *words])


def told(journal: Path, *words: str) -> list[dict[str, str]]:
    out = io.StringIO()
    assert command.act(chosen(journal, *words), out) == 0
    return list(csv.DictReader(io.StringIO(out.getvalue())))


def read(journal: Path, tmp_path: Path, *words: str) -> Any:
    path = tmp_path / "rows.parquet"
    assert command.act(chosen(journal, "--format", "parquet", "--output", str(path), *words)) == 0
    return parquet.read_table(path)


# ---------------------------------------------------------------- what is told


def test_operations_have_their_columns_in_order(journal: Path) -> None:
    first, second, third, call = told(journal)
    assert list(first) == [
        *("id", "kind", "phase", "parent", "who", "outcome", "due_s", "latency_ms", "due_ns", "began_ns", "ended_ns"),
        "detail",
    ]
    assert first["id"] == "steady/1/turn/1"
    assert (first["due_s"], first["latency_ms"]) == ("2.0", "250.000005")
    assert (first["due_ns"], first["began_ns"], first["ended_ns"]) == ("7000000000", "6000000000", "7250000005")
    assert json.loads(first["detail"]) == {"text": 'she said "no", twice\nor so'}
    assert (second["latency_ms"], second["ended_ns"], second["began_ns"]) == ("inf", "", "")
    assert third["latency_ms"] == "0.0"
    assert call["due_s"] == "0.0"


def test_a_latency_is_what_the_indicators_read(journal: Path) -> None:
    with open_run(journal) as run:
        expected = [reading.value for reading in response_ms(run, "steady")]
    assert [float(row["latency_ms"]) for row in told(journal, "--kind", "turn")] == pytest.approx(expected)
    assert expected[1] == inf


def test_samples_and_marks_are_told_too(journal: Path) -> None:
    samples = told(journal, "--table", "samples")
    assert [(row["source"], row["name"], row["value"], row["count"], row["at_s"]) for row in samples] == [
        ("agent", "rss_mb", "81.25", "1", "1.0"),
        ("agent", "broken_mb", "", "1", "1.0"),
        ("requests", "latency_ms", "inf", "3", "1.0"),
    ]
    marks = told(journal, "--table", "marks", "--kind", "phase.ended")
    assert [(row["kind"], row["name"], row["at_s"], row["detail"]) for row in marks] == [
        ("phase.ended", "steady", "7.0", '{"started":1}')
    ]


def test_a_cell_is_no_formula_in_a_spreadsheet(journal: Path, tmp_path: Path) -> None:
    assert told(journal, "--kind", "call")[0]["outcome"] == f"'{FORMULA}"
    assert read(journal, tmp_path, "--kind", "call")["outcome"].to_pylist() == [FORMULA]


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"])
def test_whatever_begins_a_formula_is_guarded(tmp_path: Path, begins: str) -> None:
    word = f"{begins}1+1"
    path = written(tmp_path / "x.journal", [Operation(id=word, kind="call", phase=word, due_ns=0, who="-")])
    out = io.StringIO(newline="")
    command.act(chosen(path), out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    plain = f"'{word}".replace("\r", "\n")
    assert (row["id"], row["phase"], row["who"], row["due_s"]) == (plain, plain, "'-", "-5.0")


def test_a_carriage_return_within_a_word_ends_no_line(tmp_path: Path) -> None:
    path = written(tmp_path / "x.journal", [Operation(id="a\rb", kind="call", phase="p", due_ns=0)])
    assert [row["id"] for row in told(path)] == ["a\nb"]


def test_parquet_says_the_same_with_types_and_the_run(journal: Path, tmp_path: Path) -> None:
    for table in rows.TABLES:
        lines, read_back = told(journal, "--table", table), read(journal, tmp_path, "--table", table)
        assert read_back.column_names == list(lines[0])
        assert [str(field.type) for field in read_back.schema] == [
            {"text": "string", "integer": "int64", "number": "double"}[kind] for _, kind in rows.TABLES[table].columns
        ]
        for line, row in zip(lines, read_back.to_pylist(), strict=True):
            shown = {name: "" if value is None else str(value) for name, value in row.items()}
            assert {**shown, "outcome": ""} == {**line, "outcome": ""}
        assert json.loads(read_back.schema.metadata[b"busyhour"]) == {"plan": "plans/x.py", "seed": 7}


def test_a_kind_that_the_run_has_none_of_is_an_empty_table(journal: Path, tmp_path: Path) -> None:
    assert told(journal, "--kind", "barge_in") == []
    assert read(journal, tmp_path, "--kind", "barge_in,pause").num_rows == 0


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "turns"], "--kind turns: no operations are of this kind; did you mean turn?"),
        (["--table", "marks", "--kind", "xyz"], "there are: phase.ended, run.began"),
        (["--table", "samples", "--kind", "turn"], "--kind: samples have no kinds; leave it out"),
    ],
)
def test_a_wrong_kind_is_told_of(journal: Path, words: list[str], said: str) -> None:
    with pytest.raises(PlanError) as failure:
        command.act(chosen(journal, *words), io.StringIO())
    assert said in str(failure.value)


def test_parquet_without_pyarrow_names_the_extra(
    journal: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PlanError, match=r"pip install 'busyhour\[parquet\]'; or write --format csv"):
        read(journal, tmp_path)
    assert not list(tmp_path.glob("rows*"))


def test_parquet_is_not_for_a_terminal(journal: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(PlanError, match="name a file with --output"):
        command.act(chosen(journal, "--format", "parquet"), Terminal())


def test_a_place_that_cannot_be_written_is_named(journal: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "no" / "rows.csv"
    with pytest.raises(JournalError, match="cannot be written there: No such file or directory"):
        command.act(chosen(journal, "--output", str(nowhere)))


def test_what_fails_half_way_leaves_the_old_file(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")

    def fail(*_: object) -> int:
        raise JournalError("it is damaged")

    monkeypatch.setattr(command, "write_csv", fail)
    with pytest.raises(JournalError, match="damaged"):
        command.act(chosen(journal, "--output", str(path)))
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["rows.csv", "x.journal"]


def test_a_pipe_is_written_to_as_it_is(journal: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert command.act(chosen(journal, "--kind", "turn", "--output", str(pipe))) == 0
        assert len(os.read(reader, 65_536).splitlines()) == 4  # the line feed in a text is one of JSON's words
    finally:
        os.close(reader)


# ---------------------------------------------------------------- many rows


class _Many:
    """A run of so many turns, made as they are asked for."""

    meta: dict[str, Any] = {}  # noqa: RUF012  (as the seam has it)

    def __init__(self, batches: int) -> None:
        self._batches = batches

    def marks(self, kind: str) -> list[Mark]:
        return [Mark(0, kind)]

    def batches(self, table: str, columns: Sequence[str], kinds: Sequence[str] = ()) -> Any:
        for n in range(self._batches):
            first = n * 1000
            yield [
                (f"steady/{i}", "turn", "steady", "", "", "ok", i * MS, None, i * MS + MS, '{"text":"yes"}')
                for i in range(first, first + 1000)
            ]


class _Nowhere(io.StringIO):
    def write(self, text: str) -> int:
        return len(text)


def test_memory_does_not_grow_with_the_rows() -> None:
    peaks = []
    for batches in (3, 15):
        tracemalloc.start()
        assert rows.write_csv(_Many(batches), rows.OPERATIONS, _Nowhere()) == batches * 1000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_a_journal_is_read_in_batches_without_losing_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.stored._BATCH", 7)
    entries = [
        Operation(id=str(n), kind="turn" if n % 3 else "call", phase="p", due_ns=-n, ended_ns=n) for n in range(100)
    ]
    path = written(tmp_path / "x.journal", entries)
    assert [row["id"] for row in told(path)] == [str(n) for n in range(100)]
    assert [row["id"] for row in told(path, "--kind", "call")] == [str(n) for n in range(0, 100, 3)]
    assert read(path, tmp_path)["id"].to_pylist() == [str(n) for n in range(100)]
