"""How many calls at once the machine's own limits allow: file descriptors and ports."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass

from busyhour import proc
from busyhour.errors import PlanError

DESCRIPTORS_A_CALL = 2
"""Of the harness: the media socket, and a connection for its webhooks and commands."""
_SPARE_DESCRIPTORS = 100  # the journal, twins, libraries, pipes
_SPARE_PORTS = 1000
_PORTS = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(frozen=True, slots=True)
class Room:
    """So many calls fit, and the clause that says what they would run out of next, with the mend."""

    calls: int
    because: str

    def demand(self, calls: int) -> None:
        """Raises PlanError when more are asked for than fit."""
        if calls > self.calls:
            raise PlanError(f"--most {calls}: only {self.calls} calls at once fit: {self.because}")


def room() -> Room:
    """Of this process, now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return fitting(
        descriptors=soft if soft != resource.RLIM_INFINITY else 2**31,
        most_descriptors=hard if hard != resource.RLIM_INFINITY else 2**31,
        open_files=proc.open_files(os.getpid()) or 0,
        ports=_ports(),
    )


def fitting(*, descriptors: int, most_descriptors: int, open_files: int, ports: int) -> Room:
    """What fits into so many descriptors and ports; most_descriptors: what anybody may raise the limit to."""
    by_files = max(0, descriptors - open_files - _SPARE_DESCRIPTORS) // DESCRIPTORS_A_CALL
    by_ports = max(0, ports - _SPARE_PORTS)  # one each: the media sockets have both addresses and one port in common
    if by_files <= by_ports:
        mend = f"`ulimit -n {most_descriptors}`" if most_descriptors > descriptors else "the limit in limits.conf(5)"
        return Room(
            by_files,
            f"the harness needs {DESCRIPTORS_A_CALL} file descriptors for each, of {descriptors} (ulimit -n); "
            f"raise it: {mend}",
        )
    return Room(
        by_ports,
        f"each needs a port of its own, of the {ports} of {_PORTS}; widen that range",
    )


def targets_room(files: Mapping[int, float], descriptors: int) -> Room | None:
    """What fits into the target's own descriptors, by how many it had open at each level; None while that is not known.

    It inherits our limit, unless it changes it.
    """
    if len(files) < 2:
        return None
    few, many = min(files), max(files)
    a_call = (files[many] - files[few]) / (many - few)
    if a_call <= 0:
        return None
    calls = few + int((descriptors - _SPARE_DESCRIPTORS - files[few]) / a_call)
    return Room(
        max(1, calls),
        f"the target opens {a_call:.1f} files for each call and may have {descriptors} (ulimit -n); raise it",
    )


def _ports() -> int:
    try:
        with open(_PORTS, encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return 28_232  # Linux's default
    return last - first + 1
