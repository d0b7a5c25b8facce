"""What faults take for themselves, so that two that contradict each other are found before anything is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Protocol, runtime_checkable

from busyhour.model import Fault, Plan, Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A share of something, for a while: two faults that together take more than the whole contradict each other."""

    of: str  # "the processes of voice-agent", "the outcomes of llm"
    share: float = 1.0
    from_seconds: float = 0.0
    to_seconds: float = inf

    def meets(self, other: Claim) -> bool:
        together = self.from_seconds < other.to_seconds and other.from_seconds < self.to_seconds
        return self.of == other.of and together and self.share + other.share > 1 + 1e-9


@runtime_checkable
class Claiming(Protocol):
    """A fault that says what it takes for itself."""

    @property
    def claims(self) -> Sequence[Claim]: ...


@runtime_checkable
class Needing(Protocol):
    """A fault that may lack what it needs."""

    def lacking(self) -> str | None:
        """What it lacks here, as a clause that follows its name, with the mend; None if nothing."""
        ...


@runtime_checkable
class OnProcesses(Protocol):
    """A fault that acts on the processes of the service it is aimed at."""

    @property
    def victim(self) -> Service: ...

    @property
    def acts_on_processes(self) -> bool: ...


def contradictions(plan: Plan) -> list[str]:
    """What cannot be meant: a sentence for each fault without a victim, and for each two that contradict each other."""
    services: Sequence[Service] = [*plan.services, plan.carrier, plan.target]
    names = {service.name for service in services} | {"harness", "machine"}
    without = {service.name for service in services if service is plan.carrier or not _has_processes(service)}
    problems: list[str] = []
    for phase in plan.phases:
        for fault in phase.faults:
            problems += _without_victim(phase.name, fault, names, without)
        for one, other in combinations(phase.faults, 2):
            problems += _contradicting(phase.name, one, other)
    return list(dict.fromkeys(problems))


def lacking(plan: Plan) -> dict[str, str]:
    """The phases that cannot be carried out here by this user, and why: to be said before an hour is spent.

    It is no error of the plan: their gates are NOT_RUN.
    """
    found: dict[str, str] = {}
    for phase in plan.phases:
        for fault in phase.faults:
            if isinstance(fault, Needing) and (why := fault.lacking()) is not None:
                found.setdefault(phase.name, f"the fault {fault.name!r} {why}")
    return found


def _without_victim(phase: str, fault: Fault, names: set[str], without: set[str]) -> Iterator[str]:
    if fault.service not in names:
        known = ", ".join(sorted(names - {"harness", "machine"}))
        yield (
            f"the fault {fault.name!r} in phase {phase!r} harms {fault.service!r}, which is not in the plan "
            f"(its services: {known})"
        )
    elif isinstance(fault, OnProcesses) and fault.acts_on_processes and fault.service in without:
        yield (
            f"the fault {fault.name!r} in phase {phase!r} needs processes, and {fault.service} has none that busyhour "
            "starts: it runs inside the harness, or elsewhere"
        )


def _contradicting(phase: str, one: Fault, other: Fault) -> Iterator[str]:
    if one.name == other.name and one.service == other.service:
        yield f"the fault {one.name!r} is in phase {phase!r} twice; give it once"
        return
    if not (isinstance(one, Claiming) and isinstance(other, Claiming)):
        return
    for mine in one.claims:
        for theirs in other.claims:
            if mine.meets(theirs):
                whole = "both take" if mine.share == theirs.share == 1 else "together they take more than all of"
                yield (
                    f"the faults {one.name!r} and {other.name!r} in phase {phase!r} contradict each other: {whole} "
                    f"{mine.of} at the same time; put them into two phases, or one after the other"
                )
                return


def _has_processes(service: Service) -> bool:
    """A service says so if it has none; of others we do not know before they run."""
    return bool(getattr(service, "has_processes", True))
