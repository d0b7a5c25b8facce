"""The journal: what a run did and saw, in one SQLite file; the only thing that doing and judging share.

Here it is written; `stored` reads it.

Written in WAL mode by one thread off the event loop, four commits a second: a SIGKILL costs at most the last second. A
journal that was closed is a single plain file; one whose run was killed has its `-wal` file beside it, and opens too.
One whose disk was full ends with what ended it: room for that is held from the beginning.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from busyhour import sounds
from busyhour.errors import JournalError
from busyhour.holding import Hold
from busyhour.model import JSON, Mark, Operation, Sample
from busyhour.recording import Recorded, Sound
from busyhour.rows import Row, as_json, row, sound_row
from busyhour.stored import APPLICATION_ID, FORMAT_VERSION, StoredRun, open_run, words_of

__all__ = ["FORMAT_VERSION", "Journal", "StoredRun", "open_run"]

_COMMIT_SECONDS = 0.25
_WAITING_MAX = 100_000  # rows: about 50 MB, some ten seconds of a stalled disk at a heavy load
_BATCH = 5_000
_SOUND_BYTES_WAITING_MAX = 256_000_000
_LOCKED_SECONDS = 30.0  # somebody may look at a live journal with a tool that locks it

_SCHEMA = f"""
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE operations (
    id TEXT NOT NULL, kind TEXT NOT NULL, phase TEXT NOT NULL,
    due_ns INTEGER NOT NULL, began_ns INTEGER, ended_ns INTEGER,
    outcome TEXT NOT NULL, parent TEXT NOT NULL, who TEXT NOT NULL, detail TEXT NOT NULL
);
CREATE INDEX operations_by_kind ON operations (kind, due_ns);
CREATE TABLE samples (
    at_ns INTEGER NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, value REAL, count INTEGER NOT NULL
);
CREATE INDEX samples_by_name ON samples (source, name, at_ns);
CREATE TABLE marks (at_ns INTEGER NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, detail TEXT NOT NULL);
CREATE INDEX marks_by_kind ON marks (kind, at_ns);
{sounds.SCHEMA}
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT_VERSION};
COMMIT;
"""
_INSERT = {
    "meta": "INSERT OR REPLACE INTO meta VALUES (?, ?)",
    "operations": "INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "samples": "INSERT INTO samples VALUES (?, ?, ?, ?, ?)",
    "marks": "INSERT INTO marks VALUES (?, ?, ?, ?)",
    "recordings": sounds.INSERT,
    "recordings discarded": sounds.DELETE,
}
_OPTIONS = (
    "PRAGMA journal_mode = WAL",
    # Without a sync at each commit, a commit survives our death though not a power failure.
    "PRAGMA synchronous = NORMAL",
    # The few pages at the ends of the indices are all that is written to; more would only look like a leak.
    "PRAGMA cache_size = -512",
)


class Journal:
    """Appends to a journal; `Journal.create` makes one. Calls belong to one thread; none of them waits for the disk.

    As soon as the file cannot be written (disk full, read-only), `on_failure` is called with a JournalError, once and
    from the writer's thread, so that a run can stop at once. Until it is closed it then tries to write how the run
    ends, into room that was held for that, and without sound; where it cannot, `append` raises. `close` always does.
    What was committed before stays readable.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, hold: Hold, *, shift_ns: int = 0) -> None:
        self.path = path
        self.on_failure: Callable[[BaseException], None] | None = None
        self._writing: Future[None] = Future()
        self._connection, self._hold, self._shift_ns = connection, hold, shift_ns
        self._waiting: deque[tuple[str, Row]] = deque()
        self._batch: dict[str, list[Row]] = {}  # taken from what waits, and not yet committed
        self._trouble: JournalError | None = None  # the first; since then, only last words are written
        self._sound_bytes = 0  # handed over, of recordings
        self._sound_bytes_written = 0
        self._wake = threading.Event()
        self._closing = False
        self._overrun = False
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    def create(cls, path: str | os.PathLike[str], meta: Mapping[str, JSON]) -> Journal:
        """A new journal. Raises JournalError when the file exists already, cannot be made, or has no room."""
        path = Path(path)
        hold = Hold.of_new(path)
        connection = sqlite3.connect(path, _LOCKED_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            # The schema is written before WAL begins, so that the file itself always says what it is.
            connection.executescript(_SCHEMA)
            for option in _OPTIONS:
                connection.execute(option)
            connection.executemany(_INSERT["meta"], [(key, as_json(value)) for key, value in meta.items()])
        except sqlite3.Error as error:
            connection.close()
            hold.close()
            raise JournalError(f"{path} cannot be written: {words_of(error)}") from None
        return cls(path, connection, hold)

    @classmethod
    def reopen(cls, path: str | os.PathLike[str], *, shift_ns: int = 0) -> Journal:
        """Append to a journal that is there; every instant is moved by `shift_ns`.

        Raises JournalError where `open_run` does, when it is being written by somebody, and when it cannot be written.
        """
        path = Path(path)
        open_run(path).close()  # before we have it open: to close a file is to give up one's locks on it (fcntl(2))
        hold = Hold.of_old(path)
        connection = sqlite3.connect(path, _LOCKED_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            for option in _OPTIONS:
                connection.execute(option)
        except sqlite3.Error as error:
            connection.close()
            hold.close()
            raise JournalError(f"{path} cannot be written: {words_of(error)}") from None
        return cls(path, connection, hold, shift_ns=shift_ns)

    def append(self, entry: Operation | Sample | Mark) -> None:
        """Hand it to the writer. It is on disk within a second.

        Raises JournalError when the writer has failed, and when 100,000 entries are waiting because the disk does not
        keep up: nothing is dropped silently, the run has to end. TypeError for a detail that is no JSON.
        """
        self._enqueue(*row(entry, self._shift_ns))

    def keep(self, recorded: Recorded, sound: Sound) -> None:
        """Hand over a recording. Raises as `append` does, and when 256 MB of them are waiting."""
        if self._trouble is not None:
            return  # there is no room for sound any more; that the run ends of it is being written
        if self._sound_bytes + sound.bytes - self._sound_bytes_written > _SOUND_BYTES_WAITING_MAX:
            self._overrun = True
        self._enqueue("recordings", sound_row(recorded, sound, self._shift_ns))
        self._sound_bytes += sound.bytes

    def discard(self, calls: Iterable[str]) -> None:
        """Forget the recordings of these calls, for good: a call that is discarded is not kept again."""
        for call in calls:
            self._enqueue("recordings discarded", (call,))

    def set_meta(self, key: str, value: JSON) -> None:
        """Set or replace one key of `Run.meta`. Raises as `append` does."""
        self._enqueue("meta", (key, as_json(value)))

    def close(self) -> None:
        """Write all that waits and leave a single file, unless somebody has it open. Once closed, does nothing.

        Raises the writer's JournalError.
        """
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._writing.result()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, table: str, cells: Row) -> None:
        if self._closing:
            raise JournalError(f"{self.path} is closed")
        if self._writing.done():
            self._writing.result()
        if self._overrun or len(self._waiting) >= _WAITING_MAX:
            self._overrun = True
            self._wake.set()
            raise JournalError(self._overrun_words())
        self._waiting.append((table, cells))

    def _overrun_words(self) -> str:
        entries = f"{len(self._waiting):,} entries are waiting"
        return f"{self.path}: the disk does not keep up, {entries}; use a faster disk, or record fewer calls"

    # ---------------------------------------------------------------- the thread

    def _write(self) -> None:
        """Whatever ends it is handed out: nobody looks into a thread."""
        try:
            try:
                self._write_until_closed()
            finally:
                self._connection.close()
                self._hold.close()
        except BaseException as error:  # forwarded, not swallowed: append() and close() raise it
            self._writing.set_exception(error)
            self._tell(error)
        else:
            self._writing.set_result(None)

    def _write_until_closed(self) -> None:
        try:
            self._commit_until_closed()
            self._become_one_file()
        except sqlite3.Error as error:
            self._trouble = self._unwritable(error)
            if self.on_failure is None or not self._hold.give_up_room():
                raise self._trouble from None
            self._tell(self._trouble)
            self._write_last_words()
            raise self._trouble from None

    def _become_one_file(self) -> None:
        """Whoever has it open keeps its log beside it, where the next who opens it finds all that was committed."""
        try:
            self._connection.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise

    def _write_last_words(self) -> None:
        """How the run ends, if there is room for that. What is committed is there, be it still in the log."""
        try:
            self._commit_until_closed()
            self._become_one_file()
        except sqlite3.Error:  # no room for that either: the trouble itself is what is raised
            return

    def _tell(self, error: BaseException) -> None:
        told, self.on_failure = self.on_failure, None
        if told is not None:
            told(error)

    def _unwritable(self, error: sqlite3.Error) -> JournalError:
        return JournalError(
            f"{self.path} cannot be written: {words_of(error)}; what was written before can be judged. "
            f"Make room there, or give another place with --journal; `busyhour resume {self.path}` continues it"
        )

    def _commit_until_closed(self) -> None:
        while not self._closing:
            self._wake.wait(_COMMIT_SECONDS)
            self._wake.clear()
            self._commit_waiting()
            if self._overrun:
                raise JournalError(self._overrun_words())
        self._commit_waiting()  # what came between the last look and the closing

    def _commit_waiting(self) -> None:
        for _ in range(1 + _WAITING_MAX // _BATCH):  # bounded: a close must not chase a busy appender for ever
            self._take_batch()
            if not self._batch:
                return
            with self._connection:
                self._connection.execute("BEGIN")
                for table, statement in _INSERT.items():  # in that order: what is discarded was kept before
                    if table in self._batch:
                        self._connection.executemany(statement, self._batch[table])
            self._sound_bytes_written += sum(sounds.bytes_of(cells) for cells in self._batch.get("recordings", ()))
            self._batch = {}

    def _take_batch(self) -> None:
        """What could not be committed is tried again, but for the sound."""
        if self._trouble is not None:
            self._batch.pop("recordings", None)
        if not self._batch:
            for _ in range(min(len(self._waiting), _BATCH)):
                table, cells = self._waiting.popleft()
                if table != "recordings" or self._trouble is None:
                    self._batch.setdefault(table, []).append(cells)
