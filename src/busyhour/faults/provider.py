"""Faults of the AI vendors, hard and grey: a twin is told to behave otherwise, and told back.

The twins are spoken to over their admin paths (`busyhour.admin`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from busyhour import admin, proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.claims import Claim
from busyhour.faults.undoing import aimed_at, awake, to_the_end
from busyhour.model import JSON, Clock, Endpoint, Proof, Service


class Setting(Protocol):
    """A value with a JSON form, such as a twin's latency."""

    def as_json(self) -> JSON: ...


@dataclass(frozen=True, kw_only=True)
class Behave:
    """The twin behaves otherwise for the phase, and as before afterwards.

    outcomes: the share of requests that meet each ("no_token": 0.2); the shares that were set before are scaled down
    to what is left. latencies: by the twin's name for them ("first_token": Constant(3000)). Its proof: the twin's own
    count of requests that met one of the outcomes; with latencies only, of all requests.
    """

    twin: Service = field(kw_only=False)
    name: str
    outcomes: Mapping[str, float] = field(default_factory=dict)
    latencies: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        total = sum(self.outcomes.values())
        if not self.outcomes and not self.latencies:
            raise PlanError(f"the fault {self.name!r} changes nothing: give it outcomes or latencies")
        if any(not 0 <= share <= 1 for share in self.outcomes.values()) or total > 1 or (self.outcomes and total == 0):
            shares = ", ".join(f"{outcome} {share:g}" for outcome, share in self.outcomes.items())
            raise PlanError(f"the fault {self.name!r} has shares that make no sense ({shares}): they add up to 0..1")

    @property
    def service(self) -> str:
        return self.twin.name

    @property
    def claims(self) -> Sequence[Claim]:
        share = sum(self.outcomes.values())
        outcomes = [Claim(of=f"the outcomes of {self.service}", share=share)] if self.outcomes else []
        # Any number of them together, but none where the twin is killed or frozen: nobody is told then, or counts.
        behaviour = Claim(of=f"the behaviour of {self.service}", share=0.001)
        # The share of an outcome is set, not added to: of two faults the later would undo the earlier.
        singly = [f"the {one} of {self.service}" for one in self.latencies]
        singly += [f"the outcome {one} of {self.service}" for one in self.outcomes]
        return [*outcomes, *(Claim(of=one) for one in singly), behaviour]

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError when the twin knows no such outcome, ServiceError when it does not obey or answer."""
        endpoint = aimed_at(self.name, self.service, endpoints)
        await awake(self.name, self.service, endpoint)
        before = await admin.behaviour(endpoint, self.service)
        proof = _Served(self, endpoint, _served(before))
        try:
            change = self._change(before)
            await admin.behave(endpoint, change, self.service)
            await self._verify(endpoint, change, "did not take effect")
            yield proof
        finally:
            await to_the_end(self._undo(endpoint, before, proof))

    def _change(self, before: Mapping[str, Any]) -> dict[str, JSON]:
        change: dict[str, JSON] = {name: latency.as_json() for name, latency in self.latencies.items()}
        if self.outcomes:
            left = 1 - sum(self.outcomes.values())
            others = {outcome: share for outcome, share in before["outcomes"].items() if outcome not in self.outcomes}
            scale = min(1.0, left / sum(others.values())) if sum(others.values()) > 0 else 1.0
            change["outcomes"] = {**{outcome: share * scale for outcome, share in others.items()}, **self.outcomes}
        if unknown := [name for name in self.latencies if name not in before]:
            raise PlanError(f"the fault {self.name!r} sets {', '.join(unknown)}, which {self.service} does not have")
        return change

    async def _undo(self, endpoint: Endpoint, before: Mapping[str, Any], proof: _Served) -> None:
        if endpoint.pids and not proc.tree(endpoint.pids):
            return  # a twin that has died harms nobody any more; that it died is the engine's to tell
        await awake(self.name, self.service, endpoint)
        await proof.read()
        changed = {*self.latencies, *(["outcomes"] if self.outcomes else [])}
        earlier = {name: before[name] for name in changed if name in before}
        await admin.behave(endpoint, earlier, self.service)
        await self._verify(endpoint, earlier, "could not be undone")

    async def _verify(self, endpoint: Endpoint, wanted: Mapping[str, JSON], failure: str) -> None:
        now = await admin.behaviour(endpoint, self.service)
        for name, value in wanted.items():
            if not _same(now.get(name), value):
                raise ServiceError(
                    f"the fault {self.name!r} {failure}: {self.service} at {endpoint.url} was told "
                    f"{name} = {value} and says {now.get(name)}"
                )


class _Served:
    """How many requests were harmed since the injection, by the twin's own count; final once the fault is undone."""

    def __init__(self, fault: Behave, endpoint: Endpoint, before: Mapping[str, int]) -> None:
        self._fault = fault
        self._endpoint = endpoint
        self._before = before
        self._final: tuple[bool, str] | None = None

    async def effect(self) -> tuple[bool, str]:
        return self._final or await self._now()

    async def read(self) -> None:
        """The last reading, before the undoing."""
        self._final = await self._now()

    async def _now(self) -> tuple[bool, str]:
        fault = self._fault
        await awake(fault.name, fault.service, self._endpoint)
        served = _served(await admin.behaviour(self._endpoint, fault.service))
        since = {outcome: count - self._before.get(outcome, 0) for outcome, count in served.items()}
        every = sum(since.values())
        if not fault.outcomes:
            requests = "1 request" if every == 1 else f"{every} requests"
            return every > 0, f"{fault.service} served {requests} with the changed {', '.join(fault.latencies)}"
        harmed = sum(since.get(outcome, 0) for outcome in fault.outcomes)
        met = " or ".join(fault.outcomes)
        return harmed > 0, f"{harmed} of {every} requests to {fault.service} met {met} while it was injected"


# ---------------------------------------------------------------- the catalogue


def NoToken(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The language model's stream opens, and no token ever comes."""
    return _outcome(twin, "no_token", share)


def Truncate(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The language model's stream breaks off in the middle."""
    return _outcome(twin, "truncate", share)


def Malformed(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The language model's stream carries an event that is no JSON."""
    return _outcome(twin, "malformed", share)


def ZeroAudio(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The synthesiser reports success, and sends no audio."""
    return _outcome(twin, "zero_audio", share)


def Stall(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The model's tokens, or the synthesiser's audio, stop in the middle and never go on."""
    return _outcome(twin, "stall", share)


def Error(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """A speech vendor answers with an error message of its own, on a connection that was accepted."""
    return _outcome(twin, "error", share)


def Quota(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The account's credits are used up: the vendor says so, in its own words."""
    return _outcome(twin, "quota", share)


def NoFinal(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The recogniser never finalises what it heard."""
    return _outcome(twin, "no_final", share)


def LateFinal(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """The recogniser finalises late."""
    return _outcome(twin, "late_final", share)


def HttpError(twin: Service, status: int, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """Requests are refused with 401, 429 (with Retry-After), 500 or 503, in the vendor's own words."""
    return _outcome(twin, f"http_{status}", share)


def Reset(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """Connections are reset."""
    return _outcome(twin, "reset", share)


def Hang(twin: Service, *, share: float = 1.0) -> Behave:  # noqa: N802  (a noun in a plan)
    """Requests are accepted and never answered."""
    return _outcome(twin, "hang", share)


def Slow(twin: Service, **latencies: Setting) -> Behave:  # noqa: N802  (a noun in a plan)
    """Other latencies, by the twin's own names: `Slow(llm, first_token=Constant(3000))`."""
    return Behave(twin, name=f"{twin.name} slow", latencies=latencies)


def _outcome(twin: Service, outcome: str, share: float) -> Behave:
    at = "" if share == 1 else f" at {share:.3g}"
    return Behave(twin, name=f"{twin.name} {outcome}{at}", outcomes={outcome: share})


def _served(behaviour: Mapping[str, Any]) -> Mapping[str, int]:
    served: Mapping[str, int] = behaviour.get("served", {})
    return served


def _same(one: object, other: object) -> bool:
    """JSON has one kind of number, and a share may be rounded on the way."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= 1e-9 * max(1.0, abs(one))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return one == other
