"""How near the target came to the number of files that it may have open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from busyhour import proc
from busyhour.model import Endpoint, Service

_UNLIMITED = 2**31


@dataclass(frozen=True)
class Fullest:
    """A probe of the process, in the tree of a service, that is nearest to its limit of open files: "fullest_fds", and
    "fullest_fds_limit". Empty when the processes are gone, or another user's."""

    watched: Service

    @property
    def service(self) -> str:
        return self.watched.name

    def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        found = []
        for process in proc.tree(endpoint.pids):
            files, limits = proc.open_files(process.pid), proc.limits(process.pid)
            if files is not None and limits is not None:
                found.append((files, limits.get("Max open files") or _UNLIMITED))
        if not found:
            return {}
        files, limit = max(found, key=lambda pair: pair[0] / pair[1])
        return {"fullest_fds": float(files), "fullest_fds_limit": float(limit)}
