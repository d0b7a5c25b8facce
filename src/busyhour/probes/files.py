"""How large files and folders are that a service writes: logs, databases, spools."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from busyhour.clock import SystemClock
from busyhour.errors import PlanError
from busyhour.model import Clock, Endpoint, Service
from busyhour.probes.missing import Absences, Missing
from busyhour.probes.schedule import Schedule

_MB = 1_000_000
_FILES_MAX = 2_000  # below one folder: each takes a few microseconds of the loop


@dataclass(eq=False)
class Files:
    """Reads the sizes of files, or of all files below a folder, in MB (10^6 bytes): `Files(agent, {"log_mb": path})`.

    A size is what has been written, not the room that it takes on the disk; a file that was rotated begins anew, and
    `growth_per_hour` goes on counting. What does not exist has no reading, and that is told of by `missing`, as is a
    folder of more than 2,000 files. Raises PlanError for a name that does not end in "_mb", or none at all.
    """

    watched: Service
    paths: Mapping[str, Path | str]
    every_seconds: float = field(default=10.0, kw_only=True)
    clock: Clock = field(default_factory=SystemClock, kw_only=True)

    def __post_init__(self) -> None:
        if not self.paths:
            raise PlanError(f"Files({self.service}): it has nothing to read; give it names and paths")
        if wrong := [name for name in self.paths if not name.endswith("_mb")]:
            raise PlanError(f"Files({self.service}): {wrong[0]!r} is a size in MB, so its name must end in _mb")
        if not self.every_seconds >= 0:
            raise PlanError(f"Files({self.service}): every_seconds is {self.every_seconds}; it must be 0 or more")
        self._absences, self._schedule = Absences(), Schedule(self.every_seconds)

    @property
    def service(self) -> str:
        return self.watched.name

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        """The sizes that can be read, when it is time."""
        del endpoint
        if not self._schedule.due(self.clock.now_ns()):
            return {}
        sizes = {name: self._size_bytes(name, Path(path)) for name, path in self.paths.items()}
        return {name: size / _MB for name, size in sizes.items() if size is not None}

    def read_all_next(self) -> None:
        """The next read is of everything, whenever that was last read."""
        self._schedule.at_once()

    def missing(self) -> Sequence[Missing]:
        """What could not be read since the last call, once for each name."""
        return self._absences.taken()

    def _size_bytes(self, name: str, path: Path) -> int | None:
        try:
            found = path.stat()
            return found.st_size if stat.S_ISREG(found.st_mode) else self._below(name, path)
        except OSError as error:
            self._absences.note(
                [name], f"{path} cannot be read: {error.strerror}; correct the path that Files is given"
            )
            return None

    def _below(self, name: str, folder: Path) -> int | None:
        total = 0
        for count, size in enumerate(_sizes(folder)):
            if count == _FILES_MAX:
                self._absences.note([name], f"{folder} has more than {_FILES_MAX} files; name those that matter")
                return None
            total += size
        return total


def _sizes(folder: Path) -> Iterator[int]:
    """Of the files below it; what goes while it is looked at is not there."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    yield from _sizes(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                continue
