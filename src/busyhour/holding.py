"""A journal in one hand: who writes it, alone writes it, and has room for its last words.

A lock (flock(2)) that the kernel lets go when its holder is gone, however it went: so a journal that is still being
written can be told from one whose run was killed. The room is a file without a name, on the same disk: when the disk
is full it is given up, and what ends the run can still be written down.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from busyhour.errors import JournalError

ROOM_BYTES = 8_000_000  # the log that SQLite has yet to copy (4 MB), and the rows of a run that is being wound up
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Hold:
    """Of one journal; let go with `close`, after whatever else has the file open."""

    def __init__(self, lock: int, room: int | None) -> None:
        self._lock, self._room = lock, room

    @classmethod
    def of_new(cls, path: Path) -> Hold:
        """Make the file. Raises JournalError when there is one already, when it cannot be made, or has no room."""
        try:
            lock = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            if path.is_dir():
                words = f"{path} is a folder; name the file of the journal, like {path / 'NAME.journal'}"
                raise JournalError(words) from None
            raise JournalError(f"{path} exists already; a journal is never overwritten: give another name") from None
        except OSError as error:
            raise JournalError(f"{path} cannot be created: {error.strerror}") from None
        try:
            return cls._taken(path, lock)
        except JournalError:
            path.unlink()
            raise

    @classmethod
    def of_old(cls, path: Path) -> Hold:
        """Take hold of a file that is there. Raises JournalError when somebody has it, or it cannot be written."""
        return cls._taken(path, _opened(path))

    @classmethod
    def _taken(cls, path: Path, lock: int) -> Hold:
        try:
            _lock(path, lock)
            return cls(lock, _room(path))
        except JournalError:
            os.close(lock)
            raise

    def give_up_room(self) -> bool:
        """Leave the room to the journal; False if there is none any more."""
        room, self._room = self._room, None
        if room is not None:
            os.close(room)
        return room is not None

    def close(self) -> None:
        self.give_up_room()
        os.close(self._lock)


def demand_free(path: Path) -> None:
    """Raises JournalError when somebody has hold of it, or it cannot be written."""
    file = _opened(path)
    try:
        _lock(path, file)
    finally:
        os.close(file)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR)
    except OSError as error:
        raise JournalError(f"{path} cannot be written: {error.strerror}; copy it to where it can be") from None


def _lock(path: Path, file: int) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"{path} is still being written by a running busyhour; wait until it has ended, or stop it with Ctrl-C"
        ) from None
    except OSError:  # a network's file system without locks: then there is none to be had
        return


def _room(path: Path) -> int | None:
    """None where the file system has no way to promise any."""
    folder = path.parent
    try:
        file = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # not on every file system
        file = _unnamed(folder / f"{path.name}.room")
    try:
        os.posix_fallocate(file, 0, ROOM_BYTES)
    except OSError as error:
        os.close(file)
        if error.errno in _FULL:
            raise JournalError(
                f"{path}: there is less than {ROOM_BYTES / 1e6:g} MB of room left on its disk, too little for any run; "
                "make room there, or give another place with --journal"
            ) from None
        return None
    return file


def _unnamed(path: Path) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    with suppress(FileNotFoundError):
        path.unlink()
    return file
