"""The columns of a journal, straight from SQLite; what was read last is kept for the next question."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from busyhour.columns import NEVER, Ints, OperationColumns, SampleColumns, Words
from busyhour.model import JSON

_AT_ONCE = 20_000  # rows between SQLite and an array
_KEPT_ROWS_MAX = 3_000_000  # in all, some 150 MB; of a kind that has more, a phase is read by itself

_WHICH = " FROM operations WHERE kind = ?1 AND (?2 IS NULL OR phase = ?2) ORDER BY due_ns, rowid"
_OPERATIONS = (
    "SELECT due_ns, coalesce(began_ns, ?3), coalesce(ended_ns, ?3),"
    f" CASE parent WHEN '' THEN id ELSE parent END, outcome, who, phase{_WHICH}"
)
# A detail with a number that JSON has none for (NaN) is no JSON to SQLite, and a text with a NUL ends there to it: such
# a one comes as it lies there, marked as octets.
_DETAIL = (
    "CASE WHEN detail = '{{}}' THEN NULL"
    " WHEN json_valid(detail) AND NOT instr(detail, '\\u0000') THEN json_extract(detail, ?{number})"
    " ELSE CAST(detail AS BLOB) END"
)
_SAMPLES = "SELECT at_ns, value, count FROM samples WHERE source = ? AND name = ? ORDER BY at_ns, rowid"

_Parse = Callable[[str], Mapping[str, JSON]]


class Shelf:
    """Reads columns, and keeps them while nobody writes to the journal. Methods raise sqlite3.Error, and what
    `parse`, which makes the mapping of a detail, raises."""

    def __init__(self, connection: sqlite3.Connection, parse: _Parse) -> None:
        self._connection, self._parse = connection, parse
        self._version = -1
        self._kept: dict[tuple[str, ...], OperationColumns | SampleColumns] = {}  # the last used at the end
        self._counts: dict[str, int] = {}

    def operations(
        self, kind: str, phase: str | None, instants: Sequence[str], texts: Sequence[str]
    ) -> OperationColumns:
        """In order of `due_ns`, then as they were appended."""
        self._forget_what_is_old()
        if self._count(kind) > _KEPT_ROWS_MAX:
            return self._with_details(self._read(kind, phase), kind, phase, instants, texts)
        key = ("operations", kind)
        kept = self._kept.pop(key, None)
        if not isinstance(kept, OperationColumns):
            kept = self._read(kind, None)
        kept = self._with_details(kept, kind, None, instants, texts)
        self._keep(key, kept)
        return kept if phase is None else _of_phase(kept, phase)

    def samples(self, source: str, name: str) -> SampleColumns:
        """In order of `at_ns`."""
        self._forget_what_is_old()
        key = ("samples", source, name)
        kept = self._kept.pop(key, None)
        if not isinstance(kept, SampleColumns):
            kept = self._read_samples(source, name)
        self._keep(key, kept)
        return kept

    def _forget_what_is_old(self) -> None:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._kept.clear()
            self._counts.clear()
        self._version = version

    def _keep(self, key: tuple[str, ...], columns: OperationColumns | SampleColumns) -> None:
        self._kept[key] = columns
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_ROWS_MAX:
            del self._kept[next(iter(self._kept))]

    def _count(self, kind: str) -> int:
        if kind not in self._counts:
            (count,) = self._connection.execute("SELECT count(*) FROM operations WHERE kind = ?", (kind,)).fetchone()
            self._counts[kind] = int(count)
        return self._counts[kind]

    # ---------------------------------------------------------------- reading

    def _read(self, kind: str, phase: str | None) -> OperationColumns:
        numbers: list[list[Ints]] = [[], [], []]
        words = [_Coding() for _ in range(4)]
        for batch in self._batches(_OPERATIONS, kind, phase, NEVER):
            columns = list(zip(*batch, strict=True))
            for kept, column in zip(numbers, columns[:3], strict=True):
                kept.append(np.fromiter(column, dtype=np.int64, count=len(batch)))
            for coding, column in zip(words, columns[3:], strict=True):
                coding.add(column)
        due_ns, began_ns, ended_ns = (_joined(parts) for parts in numbers)
        call, outcome, who, its_phase = (coding.words for coding in words)
        return OperationColumns(
            due_ns=due_ns, began_ns=began_ns, ended_ns=ended_ns, outcome=outcome, call=call, who=who, phase=its_phase
        )

    def _with_details(
        self, columns: OperationColumns, kind: str, phase: str | None, instants: Sequence[str], texts: Sequence[str]
    ) -> OperationColumns:
        """With what is asked for of the details, as far as it is not known yet."""
        instants = [key for key in dict.fromkeys(instants) if key not in columns.instants]
        texts = [key for key in dict.fromkeys(texts) if key not in columns.texts]
        keys = [*instants, *texts]
        if not keys:
            return columns
        query = f"SELECT {', '.join(_DETAIL.format(number=3 + i) for i in range(len(keys)))}{_WHICH}"
        numbers: list[list[Ints]] = [[] for _ in instants]
        words = [_Coding() for _ in texts]
        for batch in self._batches(query, kind, phase, *(f'$."{key}"' for key in keys)):
            asked = [self._told(column, key) for key, column in zip(keys, zip(*batch, strict=True), strict=True)]
            for kept, column in zip(numbers, asked, strict=False):
                kept.append(np.fromiter(map(_instant, column), dtype=np.int64, count=len(batch)))
            for coding, column in zip(words, asked[len(instants) :], strict=True):
                coding.add(map(_text, column))
        found = zip(instants, map(_joined, numbers), strict=True)
        said = ((key, coding.words) for key, coding in zip(texts, words, strict=True))
        return replace(columns, instants={**columns.instants, **dict(found)}, texts={**columns.texts, **dict(said)})

    def _told(self, column: Sequence[object], key: str) -> Sequence[object]:
        """What SQLite could not look into is looked into here."""
        if not any(isinstance(value, bytes) for value in column):
            return column
        return [self._parse(value.decode()).get(key) if isinstance(value, bytes) else value for value in column]

    def _read_samples(self, source: str, name: str) -> SampleColumns:
        parts = []
        for batch in self._batches(_SAMPLES, source, name):
            at_ns, value, count = zip(*batch, strict=True)
            parts.append(
                SampleColumns(
                    np.array(at_ns, dtype=np.int64),
                    np.array(value, dtype=np.float64),  # of None, which NaN is kept as, it makes NaN
                    np.array(count, dtype=np.int64),
                )
            )
        if not parts:
            return SampleColumns(_joined([]), np.empty(0, dtype=np.float64), _joined([]))
        return SampleColumns(
            _joined([part.at_ns for part in parts]),
            np.concatenate([part.value for part in parts]),
            _joined([part.count for part in parts]),
        )

    def _batches(self, query: str, *parameters: str | int | None) -> Iterator[list[tuple[Any, ...]]]:
        cursor = self._connection.execute(query, parameters)
        while batch := cursor.fetchmany(_AT_ONCE):
            yield batch


class _Coding:
    """A column of words as it comes, batch by batch."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._parts: list[np.ndarray[Any, np.dtype[np.int32]]] = []

    def add(self, column: Iterator[str] | Sequence[str]) -> None:
        known, told = self._known, list(column)
        codes = list(map(known.get, told))
        if None in codes:
            codes = [known.setdefault(word, len(known)) for word in told]
        self._parts.append(np.array(codes, dtype=np.int32))

    @property
    def words(self) -> Words:
        codes = np.concatenate(self._parts) if self._parts else np.empty(0, dtype=np.int32)
        return Words(codes, list(self._known))


def _of_phase(columns: OperationColumns, phase: str) -> OperationColumns:
    rows = columns.phase.are(phase)
    return columns if rows.all() else columns.taken(rows)


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _instant(value: object) -> int:
    return value if isinstance(value, int) else NEVER


def _text(value: object) -> str:
    return str(value or "")
