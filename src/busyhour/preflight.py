"""What a plan has no means for, said before anything is started: a carrier, file descriptors of ours, and ports.

Of descriptors a call takes two of our process: its media socket, and one that its webhooks and commands come to. A
twin or a proxy, which is a process of its own with a limit as high as ours, takes no more of its own. What the target
takes is the target's affair, and found out by calling it. Of ports a call takes one: a TCP connection is told from
others by its two addresses and two ports, and those from us to the target have only one port to choose (tcp(7), ip(7):
ip_local_port_range). The target's to a twin, or to us, are between other addresses, and have a range of their own.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from busyhour import proc
from busyhour.bulk import Connecting
from busyhour.descriptors import attainable
from busyhour.errors import PlanError
from busyhour.model import Due, Phase, Plan
from busyhour.workloads.call import Call
from busyhour.workloads.in_turn import InTurn

DESCRIPTORS_A_CALL = 2
_SPARE_DESCRIPTORS = 100  # the journal, pipes and links of services, libraries
_SPARE_PORTS = 1000  # webhooks, probes, and what is just being closed
_PORTS = "/proc/sys/net/ipv4/ip_local_port_range"
_LAST_PORT = 65_535
_MANY_PORTS = 60_000  # a range that is as wide as can be is not to be widened


@dataclass(frozen=True, slots=True)
class Room:
    """So many fit, and the clause that says what they would run out of next, with the mend."""

    count: int
    because: str


def check(plan: Plan, *, processes: int = 1) -> None:
    """Raises PlanError when a phase has nobody to place its calls, or may have more at once than fit, with what does.

    processes: so many of this machine share the load; each has descriptors of its own, but all have the same ports.
    """
    calls, connections = (room(each, processes=processes) for each in (DESCRIPTORS_A_CALL, 1))
    problems = [
        f"the phase {phase.name!r} places calls, and the plan has no carrier; give it one, "
        'like carrier=PlainWebSocket(path="/media")'
        for phase in plan.phases
        if _places_calls(phase) and plan.carrier is None
    ]
    problems += [
        f"the phase {phase.name!r} calls {', '.join(sorted(phase.workload.called))} beside the target, which only one "
        "process can; leave out --processes"
        for phase in plan.phases
        if processes > 1 and isinstance(phase.workload, Call | InTurn) and phase.workload.called
    ]
    if problems := [*problems, *shortages(plan, calls=calls, connections=connections)]:
        raise PlanError(problems)


def shortages(plan: Plan, *, calls: Room, connections: Room) -> Iterator[str]:
    """What does not fit, a sentence for each phase."""
    for phase in plan.phases:
        if isinstance(phase.workload, Connecting):
            asked = min(phase.workload.connections, _most_at_once(phase))
            what, fits, setting = "connections", connections, "the connections of its workload"
        elif _places_calls(phase):
            asked, what, fits, setting = _most_at_once(phase), "calls", calls, "its at_once"
        else:
            continue
        if asked > fits.count:
            yield (
                f"the phase {phase.name!r} may have {asked} {what} at once, but only {fits.count} fit: "
                f"{fits.because}; or lower {setting}"
            )


def room(descriptors_each: int, *, processes: int = 1) -> Room:
    """Of so many processes like this one, now, for things that take so many descriptors, and a port, each."""
    return fitting(
        descriptors_each,
        descriptors=attainable(),
        open_files=proc.open_files(os.getpid()) or 0,
        ports=_ports(),
        processes=processes,
    )


def fitting(descriptors_each: int, *, descriptors: int, open_files: int, ports: int, processes: int = 1) -> Room:
    """What fits into so many descriptors a process, of which some are in use, and ports."""
    by_files = processes * (max(0, descriptors - open_files - _SPARE_DESCRIPTORS) // descriptors_each)
    by_ports = max(0, ports - _SPARE_PORTS)
    if by_files <= by_ports:
        return Room(
            by_files,
            f"each takes {descriptors_each} file descriptor{'s' * (descriptors_each > 1)} of the harness, which may "
            f"have {descriptors}, {open_files + _SPARE_DESCRIPTORS} of them for itself; raise the hard limit "
            "(`ulimit -Hn`, LimitNOFILE= of systemd, --ulimit nofile= of docker)",
        )
    wider = "widen that range" if ports < _MANY_PORTS else "use more machines"
    return Room(by_ports, f"each takes a port of the {ports} in {_PORTS}; {wider}")


def _places_calls(phase: Phase) -> bool:
    workload = phase.workload
    return isinstance(workload, Call) or (isinstance(workload, InTurn) and workload.places_calls)


def _most_at_once(phase: Phase) -> int:
    """How many may be in progress: no more than ever arrive, be there places for more.

    A closed schedule is pending when so many have started and none has finished; an open one has ended when all have.
    """
    return bisect_left(range(phase.at_once), True, key=lambda n: isinstance(phase.arrivals.due_ns(n, 0, 0), Due))


def _ports() -> int:
    try:
        with open(_PORTS, encoding="ascii") as file:
            first, last = map(int, file.read().split())
    except (OSError, ValueError):
        return 28_232  # Linux's default
    return min(last, _LAST_PORT) - first + 1
