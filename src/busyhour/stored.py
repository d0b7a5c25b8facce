"""Reading a journal: `open_run` gives a model.Run, and more of it than that asks for.

Whatever shows while reading that the file is damaged raises JournalError.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from busyhour import sounds
from busyhour.columns import OperationColumns, SampleColumns
from busyhour.errors import JournalError
from busyhour.model import JSON, Mark, Operation, Sample
from busyhour.recording import Recorded, Sound
from busyhour.rows import Cell
from busyhour.stored_columns import Shelf

FORMAT_VERSION = 1  # kept as user_version; raised with every change an older reader would misread (not by a new table)
APPLICATION_ID = 0x62757379  # "busy": tells our files from anybody else's SQLite
_BATCH = 20_000  # rows, of some 20 MB at the most
# One look into the index for each, where DISTINCT would go through all of it.
_SOURCES = """
WITH RECURSIVE known (source, name) AS (
    SELECT * FROM (SELECT source, name FROM samples ORDER BY source, name LIMIT 1)
    UNION ALL
    SELECT later.source, later.name FROM known, samples AS later WHERE later.rowid = (
        SELECT rowid FROM samples WHERE (source, name) > (known.source, known.name) ORDER BY source, name LIMIT 1
    )
)
SELECT source, name FROM known
"""


class StoredRun:
    """A model.Run read from a journal; `open_run` makes one. Close it, or use it as a context manager.

    Whatever shows while reading that the file is damaged raises JournalError.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._shelf = Shelf(connection, self._detail)
        self._meta: dict[str, JSON] = {
            str(key): self._parsed(value) for key, value in self._rows("SELECT key, value FROM meta")
        }

    @property
    def meta(self) -> Mapping[str, JSON]:
        return self._meta

    def operations(self, kind: str, phase: str | None = None) -> Sequence[Operation]:
        """In order of `due_ns`, then as they were appended; all phases when `phase` is None."""
        rows = self._rows(
            "SELECT id, kind, phase, due_ns, began_ns, ended_ns, outcome, parent, who, detail FROM operations"
            " WHERE kind = ?1 AND (?2 IS NULL OR phase = ?2) ORDER BY due_ns, rowid",
            kind,
            phase,
        )
        return [self._operation(row) for row in rows]

    def during(self, kind: str, since_ns: int, until_ns: int, *, parent: str | None = None) -> Sequence[Operation]:
        """The operations of a kind that were due in a stretch of time, with both its ends; of one call, if named."""
        rows = self._rows(
            "SELECT id, kind, phase, due_ns, began_ns, ended_ns, outcome, parent, who, detail FROM operations"
            " WHERE kind = ?1 AND due_ns BETWEEN ?2 AND ?3 AND (?4 IS NULL OR parent = ?4) ORDER BY due_ns, rowid",
            kind,
            since_ns,
            until_ns,
            parent,
        )
        return [self._operation(row) for row in rows]

    def samples(self, source: str, name: str, phase: str | None = None) -> Sequence[Sample]:
        """In order of `at_ns`. Of a phase: those between its marks, both included; to the end of a phase cut short."""
        query = "SELECT at_ns, source, name, value, count FROM samples WHERE source = ? AND name = ?"
        order = " ORDER BY at_ns, rowid"
        if phase is None:
            rows = self._rows(query + order, source, name)
        else:
            window = " AND at_ns BETWEEN ? AND ?"
            rows = [
                row
                for began_ns, ended_ns in self._windows(phase)
                for row in self._rows(query + window + order, source, name, began_ns, ended_ns)
            ]
        nan = float("nan")  # which SQLite keeps as NULL
        return [Sample(row[0], row[1], row[2], nan if row[3] is None else row[3], row[4]) for row in rows]

    def marks(self, kind: str) -> Sequence[Mark]:
        """In order of `at_ns`."""
        rows = self._rows("SELECT at_ns, kind, name, detail FROM marks WHERE kind = ? ORDER BY at_ns, rowid", kind)
        return [Mark(row[0], row[1], row[2], self._detail(row[3])) for row in rows]

    def operation_columns(
        self, kind: str, phase: str | None = None, *, instants: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> OperationColumns:
        """What `operations` says, as columns (see `columns.Columnar`): a million take seconds and some 50 MB. What was
        read is kept for the next question, within bounds."""
        try:
            return self._shelf.operations(kind, phase, instants, texts)
        except sqlite3.Error as error:
            raise _unreadable(self._path, error) from None

    def sample_columns(self, source: str, name: str, phase: str | None = None) -> SampleColumns:
        """What `samples` says, as columns."""
        try:
            samples = self._shelf.samples(source, name)
        except sqlite3.Error as error:
            raise _unreadable(self._path, error) from None
        if phase is None:
            return samples
        rows = [
            np.arange(np.searchsorted(samples.at_ns, began_ns), np.searchsorted(samples.at_ns, ended_ns, side="right"))
            for began_ns, ended_ns in self._windows(phase)
        ]
        return samples.taken(np.concatenate(rows) if rows else slice(0))

    def sources(self) -> Sequence[tuple[str, str]]:
        """Of which samples there are: source and name, in alphabetical order."""
        return [(source, name) for source, name in self._rows(_SOURCES)]

    def batches(self, table: str, columns: Sequence[str], kinds: Sequence[str] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """All rows of "operations", "samples" or "marks", or those of some kinds, as they were written, many at a time.

        No reading is long, for a journal that is being written grows while somebody reads it.
        """
        chosen = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        # By the index of kinds they would have to be sorted anew for each batch.
        query = (
            f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED"  # noqa: S608  (names of ours)
            f" WHERE rowid > ?{chosen} ORDER BY rowid LIMIT {_BATCH}"
        )
        last = 0
        while rows := self._rows(query, last, *kinds):
            last = rows[-1][0]
            yield [row[1:] for row in rows]

    def kinds(self, table: str) -> Sequence[str]:
        """Of "operations" or "marks" that there are."""
        return [kind for (kind,) in self._rows(f"SELECT DISTINCT kind FROM {table} ORDER BY kind")]  # noqa: S608  (ours)

    def recordings(self, phase: str | None = None) -> Sequence[Recorded]:
        """Of which calls there is sound, in the order in which they began; none in a journal from before there was."""
        if not self._rows(sounds.EXISTS):
            return []
        return [sounds.recorded(row[:-1], self._detail(row[-1])) for row in self._rows(sounds.SELECT_RECORDED, phase)]

    def recording(self, call: str) -> Sound:
        """The sound of a call. Raises JournalError, naming calls like it, if there is none."""
        rows = self._rows(sounds.SELECT_SOUND, call) if self._rows(sounds.EXISTS) else []
        if not rows:
            calls = [recorded.call for recorded in self.recordings()]
            happened = bool(self._rows("SELECT 1 FROM operations WHERE id = ?1 LIMIT 1", call))
            raise JournalError(sounds.not_there(self._path, call, calls, happened=happened))
        return sounds.sound(rows[0][:-1], self._detail(rows[0][-1]))

    def last_ns(self) -> int:
        """The last instant it knows of."""
        readings = "SELECT max(at_ns) FROM samples UNION SELECT max(at_ns) FROM marks"
        operations = "SELECT max(began_ns) FROM operations UNION SELECT max(ended_ns) FROM operations"
        return max((at_ns for (at_ns,) in self._rows(f"{readings} UNION {operations}") if at_ns is not None), default=0)

    def first_cut_off(self, phase: str, since_ns: int) -> int | None:
        """When the first call of a phase was cut off, since an instant."""
        cut = "SELECT min(ended_ns) FROM operations WHERE phase = ? AND outcome = 'cut off' AND ended_ns > ?"
        ((at_ns,),) = self._rows(cut, phase, since_ns)
        return at_ns  # type: ignore[no-any-return]  # an integer of that column, or NULL

    def highest_number(self, phase: str) -> int:
        """Of the arrivals of a phase that have left something behind: that of `steady/7/turn/2` is 7."""
        ((highest,),) = self._rows(
            "SELECT max(CAST(substr(id, ?1) AS INTEGER))"  # up to what is no digit
            " FROM operations WHERE phase = ?2 AND substr(id, 1, ?1 - 1) = ?3",
            len(phase) + 2,
            phase,
            f"{phase}/",
        )
        return highest or 0

    def unfinished(self) -> Sequence[Operation]:
        """The calls of which there are parts and not themselves: in progress when the run was cut; since the first."""
        rows = self._rows(
            "SELECT parent, phase, min(coalesce(began_ns, due_ns)) FROM operations"
            " WHERE parent != '' AND parent NOT IN (SELECT id FROM operations WHERE parent = '') GROUP BY parent"
        )
        return [Operation(id=call, kind="call", phase=phase, due_ns=since_ns) for call, phase, since_ns in rows]

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> StoredRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _operation(self, row: Sequence[Any]) -> Operation:
        return Operation(
            id=row[0],
            kind=row[1],
            phase=row[2],
            due_ns=row[3],
            began_ns=row[4],
            ended_ns=row[5],
            outcome=row[6],
            parent=row[7],
            who=row[8],
            detail=self._detail(row[9]),
        )

    def _windows(self, phase: str) -> list[tuple[int, int]]:
        ends = [mark.at_ns for mark in self.marks("phase.ended") if mark.name == phase]
        begins = [mark.at_ns for mark in self.marks("phase.began") if mark.name == phase]
        never = 2**63 - 1
        return [(began, min((end for end in ends if end >= began), default=never)) for began in begins]

    def _detail(self, text: str) -> Mapping[str, JSON]:
        detail = self._parsed(text) if text != "{}" else {}
        if not isinstance(detail, Mapping):
            raise _damaged(self._path, "a detail is no JSON object")
        return detail

    def _parsed(self, text: str) -> JSON:
        try:
            parsed: JSON = json.loads(text)
        except ValueError as error:
            raise _damaged(self._path, str(error)) from None
        return parsed

    def _rows(self, query: str, *parameters: Cell) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self._path, error) from None


def open_run(path: str | os.PathLike[str]) -> StoredRun:
    """Read a journal, of a finished run or of a killed one. Read-only.

    Raises JournalError when it is missing, foreign, from a newer format, truncated or corrupt.
    """
    path = Path(path)
    _check_header(path)
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be opened: {words_of(error)}") from None
    try:
        _check_content(path, connection)
        return StoredRun(path, connection)
    except BaseException:
        connection.close()
        raise


def _check_header(path: Path) -> None:
    if path.is_dir():
        raise JournalError(f"{path} is a directory; name the journal in it")
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
    except FileNotFoundError:
        raise JournalError(f"there is no journal {path}; runs write theirs to runs/, or where --journal says") from None
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}") from None
    if not magic:
        raise JournalError(f"{path} is empty: its run did not get as far as to begin; make the run again")
    if magic != b"SQLite format 3\0":
        raise JournalError(f"{path} is no journal of busyhour (it is not SQLite); name the file that a run has written")


def _check_content(path: Path, connection: sqlite3.Connection) -> None:
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise JournalError(
                f"{path} is no journal of busyhour (it is another program's SQLite file); "
                "name the file that a run has written"
            )
        if version > FORMAT_VERSION:
            raise JournalError(
                f"{path} was written by a newer busyhour: its format is {version}, this one reads {FORMAT_VERSION}; "
                "upgrade busyhour to read it"
            )
        problems = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.Error as error:
        raise _unreadable(path, error) from None
    if problems != [("ok",)]:
        raise _damaged(path, " ".join(str(problems[0][0]).split()))


def _unreadable(path: Path, error: sqlite3.Error) -> JournalError:
    """The file itself is at fault, or its surroundings: a `-wal` beside it needs a directory we may write to."""
    name = getattr(error, "sqlite_errorname", "")
    surroundings = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_PERM", "SQLITE_AUTH")
    if name.startswith(surroundings):
        return JournalError(f"{path} cannot be opened: {words_of(error)}; copy it to a directory you can write to")
    return _damaged(path, words_of(error))


def _damaged(path: Path, how: str) -> JournalError:
    return JournalError(f"{path} is damaged: {how}; restore it from a copy, or make the run again")


def words_of(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)
