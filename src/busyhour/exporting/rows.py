"""The rows of a journal for other tools: CSV and Parquet, batch by batch, so that the memory it takes does not grow.

The columns are kept, in this order; more may be added at the end. Instants are as in the journal: integers of
nanoseconds on the machine's monotonic clock, which mean nothing elsewhere; `due_s` and `at_s` are since the run began.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, BinaryIO, Protocol, TextIO, TypeAlias

from busyhour.errors import PlanError
from busyhour.model import JSON, MS, SECOND, Mark

Value: TypeAlias = str | int | float | None
_Read: TypeAlias = tuple[Any, ...]

TEXT, INTEGER, NUMBER = "text", "integer", "number"
_NOT_OF_THE_RUN = ("proofs", "source")  # of the plan as it was then: a whole file
_GROUP = 5  # batches to a row group of Parquet
# What spreadsheets take for the beginning of a formula (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SUSPECT = re.compile(rf"[{re.escape(''.join(_FORMULA_BEGINS))}]|.*\r", re.DOTALL)


class Stored(Protocol):
    """What is needed of a run: `journal.open_run` gives it."""

    @property
    def meta(self) -> Mapping[str, JSON]: ...
    def marks(self, kind: str) -> Sequence[Mark]: ...
    def batches(self, table: str, columns: Sequence[str], kinds: Sequence[str] = ()) -> Iterator[list[_Read]]: ...


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the journal as it is told: `columns` with their types, and how a row of `read` becomes one."""

    name: str
    columns: tuple[tuple[str, str], ...]
    read: tuple[str, ...]
    row: Callable[[_Read, int], tuple[Value, ...]]  # given when the run began


def _operation(read: _Read, began_ns: int) -> tuple[Value, ...]:
    *words, due_ns, its_began_ns, ended_ns, detail = read
    # As the indicators take it: what never came is infinitely late, and who cut in was not late.
    latency_ms = inf if ended_ns is None else round(max(0, ended_ns - due_ns) / MS, 6)
    return (*words, _seconds(due_ns, began_ns), latency_ms, due_ns, its_began_ns, ended_ns, detail)


def _sample(read: _Read, began_ns: int) -> tuple[Value, ...]:
    at_ns, source, name, value, count = read
    return (source, name, _seconds(at_ns, began_ns), value, count, at_ns)


def _mark(read: _Read, began_ns: int) -> tuple[Value, ...]:
    at_ns, kind, name, detail = read
    return (kind, name, _seconds(at_ns, began_ns), at_ns, detail)


def _seconds(at_ns: int, began_ns: int) -> float:
    return round((at_ns - began_ns) / SECOND, 9)


OPERATIONS = Table(
    "operations",
    (
        *((name, TEXT) for name in ("id", "kind", "phase", "parent", "who", "outcome")),
        *(("due_s", NUMBER), ("latency_ms", NUMBER)),
        *((name, INTEGER) for name in ("due_ns", "began_ns", "ended_ns")),
        ("detail", TEXT),
    ),
    ("id", "kind", "phase", "parent", "who", "outcome", "due_ns", "began_ns", "ended_ns", "detail"),
    _operation,
)
SAMPLES = Table(
    "samples",
    (
        *((name, TEXT) for name in ("source", "name")),
        *(("at_s", NUMBER), ("value", NUMBER), ("count", INTEGER), ("at_ns", INTEGER)),
    ),
    ("at_ns", "source", "name", "value", "count"),
    _sample,
)
MARKS = Table(
    "marks",
    (("kind", TEXT), ("name", TEXT), ("at_s", NUMBER), ("at_ns", INTEGER), ("detail", TEXT)),
    ("at_ns", "kind", "name", "detail"),
    _mark,
)
TABLES = {table.name: table for table in (OPERATIONS, SAMPLES, MARKS)}


def write_csv(run: Stored, table: Table, out: TextIO, kinds: Sequence[str] = ()) -> int:
    """Write a line of names and a line for each row (RFC 4180, but for lines that end in a line feed); their number.

    A word that a spreadsheet would take for a formula has an apostrophe before it: none of ours begins like that, but
    what the far end has said may; a carriage return in one is a line feed. What is None is empty, infinite is "inf".
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name, _ in table.columns])
    guarded = [place for place, (name, kind) in enumerate(table.columns) if kind == TEXT and name != "detail"]
    count = 0
    for rows in _batches(run, table, kinds):
        writer.writerows(_guarded(row, guarded) for row in rows)
        count += len(rows)
    return count


def _guarded(row: tuple[Value, ...], guarded: Sequence[int]) -> Sequence[Value]:
    suspects = [place for place in guarded if _SUSPECT.match(str(row[place]))]
    return [_plain(str(cell)) if place in suspects else cell for place, cell in enumerate(row)] if suspects else row


def _plain(word: str) -> str:
    """A carriage return alone would end the line: Python puts no quotation marks around it."""
    said = word.replace("\r", "\n")
    return f"'{said}" if said.startswith(_FORMULA_BEGINS) else said


def write_parquet(run: Stored, table: Table, out: BinaryIO, kinds: Sequence[str] = ()) -> int:
    """Write a Parquet file, each word as it is; the number of rows. What the journal says of the run is in the file's
    metadata, as JSON, under "busyhour". Raises PlanError where pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    types = {TEXT: pyarrow.string(), INTEGER: pyarrow.int64(), NUMBER: pyarrow.float64()}
    of_run = {key: value for key, value in run.meta.items() if key not in _NOT_OF_THE_RUN}
    schema = pyarrow.schema(
        [(name, types[kind]) for name, kind in table.columns], metadata={"busyhour": json.dumps(of_run)}
    )
    count, waiting = 0, []
    with parquet.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in _batches(run, table, kinds):
            columns = zip(*rows, strict=True)
            arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            waiting.append(pyarrow.Table.from_arrays(arrays, schema=schema))
            count += len(rows)
            if len(waiting) == _GROUP:
                writer.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pyarrow.concat_tables(waiting))
    return count


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # type: ignore[import-untyped]  # noqa: PLC0415  (an extra, and without types)
        from pyarrow import parquet  # noqa: PLC0415  (as above)
    except ImportError:
        raise PlanError(
            "--format parquet needs pyarrow, which is not installed: pip install 'busyhour[parquet]'; "
            "or write --format csv"
        ) from None
    return pyarrow, parquet


def _batches(run: Stored, table: Table, kinds: Sequence[str]) -> Iterator[list[tuple[Value, ...]]]:
    began_ns = min((mark.at_ns for mark in run.marks("run.began")), default=0)
    row = table.row
    for batch in run.batches(table.name, table.read, kinds):
        yield [row(read, began_ns) for read in batch]
