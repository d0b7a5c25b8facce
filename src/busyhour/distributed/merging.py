"""One journal of several: the leader's own, and those of its workers; every row of them, once.

Samples of a worker's "harness" become those of "harness/1" and so on, so that a gate on the harness sees the worst of
its processes and no average of them. Instants of another clock are moved to the leader's.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busyhour.errors import JournalError
from busyhour.journal import open_run

HARNESS = "harness"
_INSTANTS = ("at_ns", "due_ns", "began_ns", "ended_ns")
_INSTANTS_IN_DETAIL = ("answered_ns", "opened_ns", "gave_up_ns")


@dataclass(frozen=True, slots=True)
class Part:
    """The journal of worker `number` (from 1). ahead_ns: by how much its clock is ahead of the leader's."""

    path: Path
    number: int
    ahead_ns: int = 0


def source_of(number: int) -> str:
    """Of the samples that worker took of itself."""
    return f"{HARNESS}/{number}"


@contextmanager
def merged(journal: Path, parts: Sequence[Part]) -> Iterator[None]:
    """Merge when the body is over, however it ended; unless the journal cannot be written: then the parts are kept."""
    try:
        yield
    finally:
        if journal.exists() and not isinstance(sys.exception(), JournalError):
            merge(journal, parts)


def merge(journal: Path, parts: Sequence[Part]) -> None:
    """Add the rows of `parts`, which are then removed, to the closed `journal`: all or, with a JournalError, none.

    A part that was never made (its worker died before) has no rows; one whose worker was killed has all but the last
    second's.
    """
    there = [part for part in parts if part.path.exists() and part.path.stat().st_size]
    for part in there:
        open_run(part.path).close()  # says in a sentence what is wrong with it
    try:
        with closing(sqlite3.connect(journal, isolation_level=None)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            for part in there:
                _add(connection, part)
            sources = json.dumps([source_of(part.number) for part in parts])
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('harnesses', ?)", (sources,))
    except sqlite3.Error as error:
        kept = ", ".join(str(part.path) for part in there)
        raise JournalError(
            f"{journal}: its workers' journals cannot be added: {error}; they are kept: {kept}"
        ) from None
    for part in there:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                part.path.with_name(part.path.name + suffix).unlink()


def _add(journal: sqlite3.Connection, part: Part) -> None:
    with closing(sqlite3.connect(part.path, isolation_level=None)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'meta'").fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT * FROM "{table}" ORDER BY rowid')  # noqa: S608  (a name of our own schema)
            names = [column[0] for column in rows.description]
            places = ", ".join("?" * len(names))
            columns = ", ".join(f'"{name}"' for name in names)
            insert = f'INSERT INTO "{table}" ({columns}) VALUES ({places})'  # noqa: S608  (as above)
            change = _Changed(part, names)
            journal.executemany(insert, rows if change.nothing else map(change, rows))


class _Changed:
    """A row of a part, as it is in the whole."""

    def __init__(self, part: Part, names: Sequence[str]) -> None:
        self._part = part
        self._source = names.index("source") if "source" in names else None
        self._instants = [names.index(name) for name in _INSTANTS if name in names] if part.ahead_ns else []
        self._detail = names.index("detail") if part.ahead_ns and "detail" in names else None

    @property
    def nothing(self) -> bool:
        return self._source is None and not self._instants

    def __call__(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        cells = list(row)
        if self._source is not None and cells[self._source] == HARNESS:
            cells[self._source] = source_of(self._part.number)
        for place in self._instants:
            if cells[place] is not None:
                cells[place] -= self._part.ahead_ns
        if self._detail is not None and "_ns" in cells[self._detail]:
            detail = json.loads(cells[self._detail])
            moved = {name: detail[name] - self._part.ahead_ns for name in _INSTANTS_IN_DETAIL if detail.get(name)}
            cells[self._detail] = json.dumps(detail | moved, separators=(",", ":"))
        return tuple(cells)
