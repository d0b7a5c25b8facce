"""What faults take for themselves, so that two that contradict each other are found before anything is started."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import Protocol, runtime_checkable

from busyhour.disturbance import Kind
from busyhour.model import Fault, Plan, Service

_NO_SERVICES = ("harness", "machine")


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


@runtime_checkable
class Restarting(Protocol):
    """A fault whose victim is started again afterwards."""

    @property
    def restarts(self) -> bool: ...


@runtime_checkable
class Disturbing(Protocol):
    """A fault that is a vice of a carrier."""

    @property
    def carrier(self) -> Service: ...

    @property
    def kind(self) -> Kind: ...


@runtime_checkable
class Disturbable(Protocol):
    """A carrier that says which vices it has."""

    @property
    def vices(self) -> Collection[Kind]: ...


def contradictions(plan: Plan) -> list[str]:
    """What cannot be meant: a sentence for each fault without a victim, and for each two that contradict each other."""
    services = {service.name: service for service in plan.everyone}
    problems: list[str] = []
    for phase in plan.phases:
        for fault in phase.faults:
            where = f"the fault {fault.name!r} in phase {phase.name!r}"
            problems += [f"{where} {why}" for why in _misdirected(fault, services, plan.carrier)]
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


def without_vice(kind: Kind, service: str, vices: Collection[Kind]) -> str:
    """What a fault of that kind lacks at a carrier with those vices, as a clause that follows the fault's name."""
    has = ", ".join(sorted(_in_words(vice) for vice in vices)) or "none"
    mend = "; give its wire a `digit`, the message for a key" if kind == "dtmf.flood" else ""
    return f"needs {_in_words(kind)}, which {service} does not have; it has {has}{mend}"


def _in_words(kind: Kind) -> str:
    return kind.replace(".", " ")


def _misdirected(fault: Fault, services: Mapping[str, Service], carrier: Service | None) -> Iterator[str]:
    """Why it cannot be done to whom it is aimed at, as a clause."""
    if fault.service in _NO_SERVICES:
        return
    victim = services.get(fault.service)
    if victim is None:
        yield f"harms {fault.service!r}, which is not in the plan (its services: {', '.join(sorted(services))})"
    elif (
        isinstance(fault, OnProcesses)
        and fault.acts_on_processes
        and (victim is carrier or _lacks(victim, "has_processes"))
    ):
        yield (
            f"needs processes, and {fault.service} has none that busyhour starts: it runs inside the harness, or "
            "elsewhere"
        )
    elif isinstance(fault, Restarting) and fault.restarts and _lacks(victim, "can_be_restarted"):
        yield f"needs a service that busyhour can start again, and {fault.service} is none"
    elif isinstance(fault, Disturbing):
        if isinstance(victim, Disturbable) and fault.kind not in victim.vices:
            yield without_vice(fault.kind, fault.service, victim.vices)
        elif not isinstance(victim, Disturbable) and victim is not carrier:
            yield f"needs a carrier's twin, and {fault.service} is none that can be disturbed"


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


def _lacks(service: Service, ability: str) -> bool:
    """A service says so if it has none; of others we do not know before they run."""
    return not getattr(service, ability, True)
