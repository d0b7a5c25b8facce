"""Faults of the AI vendors, hard and grey: a twin is told to behave otherwise, and told back.

The twins are spoken to over their admin path, `GET` and `PUT /_twin/behaviour`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import yarl

from busyhour import proc
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.undoing import aimed_at, to_the_end
from busyhour.model import JSON, Clock, Endpoint, Proof, Service

_PATH = "/_twin/behaviour"
_WITHIN_SECONDS = 5.0


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

    @asynccontextmanager
    async def injected(self, endpoints: Mapping[str, Endpoint], clock: Clock) -> AsyncIterator[Proof]:
        """Raises PlanError when the twin knows no such outcome, ServiceError when it does not obey or answer."""
        endpoint = aimed_at(self.name, self.service, endpoints)
        before = await _ask(self.service, endpoint, "GET")
        proof = _Served(self, endpoint, _served(before))
        try:
            change = self._change(before)
            await _ask(self.service, endpoint, "PUT", change)
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
        await proof.read()
        changed = {*self.latencies, *(["outcomes"] if self.outcomes else [])}
        earlier = {name: before[name] for name in changed if name in before}
        await _ask(self.service, endpoint, "PUT", earlier)
        await self._verify(endpoint, earlier, "could not be undone")

    async def _verify(self, endpoint: Endpoint, wanted: Mapping[str, JSON], failure: str) -> None:
        now = await _ask(self.service, endpoint, "GET")
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
        served = _served(await _ask(fault.service, self._endpoint, "GET"))
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
    """The synthesiser's audio stops in the middle and never goes on."""
    return _outcome(twin, "stall", share)


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


# ---------------------------------------------------------------- the admin path


async def _ask(
    service: str, endpoint: Endpoint, method: str, change: Mapping[str, JSON] | None = None
) -> dict[str, Any]:
    """The behaviour the twin answers. Raises PlanError when it refuses the change, ServiceError else."""
    try:
        url = yarl.URL(endpoint.url).origin().with_path(_PATH)
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_SECONDS)) as session,
            session.request(method, url, json=change) as response,
        ):
            answer: object = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        words = str(error) or type(error).__name__
        raise ServiceError(f"{service} does not answer {method} {endpoint.url} {_PATH}: {words}") from None
    if response.status == 400 and isinstance(answer, dict):
        raise PlanError(f"{service} refuses the behaviour {change}: {answer.get('error', answer)}")
    if response.status != 200 or not isinstance(answer, dict) or not isinstance(answer.get("outcomes"), dict):
        raise ServiceError(f"{service} at {endpoint.url} is no twin whose behaviour can be changed: {response.status}")
    return answer


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
