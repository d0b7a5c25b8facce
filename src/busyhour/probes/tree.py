"""A tree of processes at one look, and what can be read of each of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from busyhour import proc
from busyhour.model import Endpoint
from busyhour.probes.missing import Absences
from busyhour.probes.schedule import Schedule

T = TypeVar("T")

_SEARCH_SECONDS = 30.0  # a search looks at every process of the machine


@dataclass(frozen=True)
class Tree:
    """The processes that live, parents first, and those that have ended and that nobody has waited for."""

    living: Sequence[proc.Stat]
    ended: Sequence[proc.Stat]
    proc_root: Path
    absences: Absences

    @classmethod
    def of(cls, roots: Iterable[int], proc_root: Path, absences: Absences) -> Tree:
        family = proc.family(roots, proc_root=proc_root)
        ended = [one for one in family if one.state == "Z"]
        return cls([one for one in family if one.state != "Z"], ended, proc_root, absences)

    def each(
        self, readings: Sequence[str], file: str, read: Callable[[int], T | None]
    ) -> list[tuple[proc.Stat, T]] | None:
        """What `read` tells of each, from a file or folder below /proc/PID.

        None if one that lives does not tell: a sum without it would be taken for the whole. That is noted, as the
        absence of these readings.
        """
        found = []
        for one in self.living:
            value = read(one.pid)
            if value is not None:
                found.append((one, value))
            elif (why := proc.refusal(one.pid, file, proc_root=self.proc_root)) is not None:
                self.absences.note(readings, self._sentence(one, file, why))
                return None
        return found or None

    def _sentence(self, one: proc.Stat, file: str, why: OSError) -> str:
        path = f"{self.proc_root}/{one.pid}/{file} of {one.name}"
        if why.errno in {errno.EACCES, errno.EPERM}:
            return f"{path} may not be read ({why.strerror}); run busyhour as the user that it runs as, or as root"
        if why.errno == errno.ENOENT:
            return f"{path} does not exist; this kernel, or the container, does not show it: watch from outside of it"
        return f"{path} cannot be read: {why.strerror}"


class Finder:
    """Which processes a service is."""

    def __init__(self, service: str, readings: Sequence[str], proc_root: Path, absences: Absences) -> None:
        self._service, self._readings = service, readings
        self._proc_root, self._absences = proc_root, absences
        self._search = Schedule(_SEARCH_SECONDS)
        self._holder: proc.Stat | None = None
        self._was_found, self._hopeless = False, False

    def roots(self, endpoint: Endpoint, now_ns: int) -> tuple[int, ...]:
        """Those that its endpoint names; else, if somebody else has started it on this machine, who has its port."""
        if endpoint.pids or endpoint.handle is not None or self._hopeless:
            return endpoint.pids
        if self._holder is not None:
            now = proc.stat(self._holder.pid, proc_root=self._proc_root)
            if now is not None and now.key == self._holder.key and now.state != "Z":
                return (now.pid,)
            self._holder = None
            self._search.at_once()
        if not self._search.due(now_ns):
            return ()
        self._holder = self._found(endpoint)
        return () if self._holder is None else (self._holder.pid,)

    def note_hidden(self, roots: Sequence[int]) -> None:
        """No process was found: say so if that is not because they have ended."""
        for pid in roots:
            if proc.stat(pid, proc_root=self._proc_root) is None and _exists(pid):
                self._absences.note(
                    self._readings,
                    f"the process {pid} of {self._service} is alive, but {self._proc_root} does not show it "
                    "(hidepid?); run busyhour as the user that it runs as, or as root",
                )

    def _found(self, endpoint: Endpoint) -> proc.Stat | None:
        host, port = _address(endpoint.url)
        if not port or not (host in {"localhost", "::1"} or host.startswith("127.")):
            self._hopeless = True
            self._say(
                f"{self._service} at {endpoint.url} is not at a port of this machine, so its processes are not seen"
            )
            return None
        holder = proc.listener(port, proc_root=self._proc_root)
        if holder is None and not self._was_found:  # else it is down
            self._say(
                f"no process of {self._service} is seen to listen on port {port}; if another user or a container runs "
                "it, run busyhour as root"
            )
        elif holder is not None and holder.pid == os.getpid():
            self._hopeless = True
            self._say(f"{self._service} runs within busyhour itself: what it takes is in the readings of the harness")
            return None
        self._was_found = self._was_found or holder is not None
        return holder

    def _say(self, why: str) -> None:
        self._absences.note(self._readings, why)


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or 0
    except ValueError:
        return "", 0


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
