"""The admin paths of a twin, from outside: what it is told to do, what it has served, what it has witnessed.

GET  /_twin             its name, and the outcomes it can be told to have
GET  /_twin/behaviour   the settings, and "served": how many requests met which outcome
PUT  /_twin/behaviour   change some of them; answers the new whole
GET  /_twin/witnessed   {"operations": [...], "dropped": n}: what was asked since the last time, each once
GET  /_twin/witnessed?of=PID&received=N   the same, kept until the next question says that it has come
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import yarl

from busyhour.errors import PlanError, ServiceError
from busyhour.model import JSON, Endpoint, Operation

ROOT = "/_twin"
WITHIN_SECONDS = 10.0
_UNANSWERED = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


async def about(endpoint: Endpoint) -> dict[str, Any]:
    """{"name": ..., "outcomes": [those it can be told to have]}; who asks need not know whether a twin is there.

    Raises ServiceError.
    """
    try:
        status, answer = await _exchange("GET", endpoint, "")
    except _UNANSWERED as problem:
        if isinstance(problem, aiohttp.ClientConnectorError) and problem.os_error.errno == errno.ECONNREFUSED:
            url = yarl.URL(endpoint.url)
            start = f"busyhour emulate VENDOR --port {url.port}"
            raise ServiceError(f"nobody answers at {url.origin()}; start a twin there: {start}") from None
        raise _no_answer("the twin", "GET", "", endpoint, problem) from None
    told = answer if status == 200 and isinstance(answer, dict) else {}
    if isinstance(told.get("name"), str) and isinstance(told.get("outcomes"), list):
        return told
    words = f"{endpoint.url} answers {status}: no twin of busyhour; give the URL that `busyhour emulate` printed"
    raise ServiceError(words)


async def behaviour(endpoint: Endpoint, service: str = "the twin") -> dict[str, Any]:
    """The settings of a running twin and what it has served. Raises ServiceError."""
    return _behaviour(await _ask("GET", endpoint, "/behaviour", service), endpoint, service)


async def behave(endpoint: Endpoint, change: Mapping[str, JSON], service: str = "the twin") -> dict[str, Any]:
    """Change some settings of a running twin; the new whole. Raises PlanError if it refuses them, ServiceError."""
    return _behaviour(await _ask("PUT", endpoint, "/behaviour", service, change), endpoint, service)


@dataclass(slots=True)
class Told:
    """What a twin has told so far: which process it was, and how many rows have come."""

    of: int = 0
    received: int = 0


async def witnessed(endpoint: Endpoint, service: str, told: Told | None = None) -> Sequence[Operation]:
    """What a twin has witnessed since the last time; rows it had to drop are told by one operation of kind "witness".

    With `told`, which is brought up to date, the twin keeps its rows until the next question: an answer that comes too
    late, or never, loses nothing. Without it they are drained.
    """
    query = {} if told is None else {"of": str(told.of), "received": str(told.received)}
    answer = await _ask("GET", endpoint, "/witnessed", service, query=query)
    try:
        rows = [Operation(**row) for row in answer["operations"]]
        dropped = answer["dropped"]
        if told is not None:
            told.of, told.received = answer["of"], answer["received"]
    except (KeyError, TypeError):
        raise _no_twin(service, endpoint, 200) from None
    if dropped:
        at_ns = rows[0].due_ns if rows else 0
        rows.append(
            Operation(
                id=f"{service}/dropped/{at_ns}",
                kind="witness",
                phase="",
                due_ns=at_ns,
                outcome="dropped",
                who=service,
                detail={"count": dropped},
            )
        )
    return rows


async def _ask(
    method: str,
    endpoint: Endpoint,
    path: str,
    service: str,
    body: Mapping[str, JSON] | None = None,
    *,
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    try:
        status, answer = await _exchange(method, endpoint, path, body, query=query)
    except _UNANSWERED as problem:
        raise _no_answer(service, method, path, endpoint, problem) from None
    if status == 400 and isinstance(answer, dict) and "error" in answer:
        raise PlanError(f"{service} refuses this behaviour: {answer['error']}")
    if status != 200 or not isinstance(answer, dict):
        raise _no_twin(service, endpoint, status)
    return answer


async def _exchange(
    method: str,
    endpoint: Endpoint,
    path: str,
    body: Mapping[str, JSON] | None = None,
    *,
    query: Mapping[str, str] | None = None,
) -> tuple[int, object]:
    """The status, and what was answered if it is JSON, else None. Raises _UNANSWERED."""
    url = yarl.URL(endpoint.url).origin().with_path(ROOT + path).with_query(query)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_SECONDS)) as session,
        session.request(method, url, json=body) as response,
    ):
        octets = await response.read()
        try:
            return response.status, json.loads(octets)
        except (ValueError, RecursionError):
            return response.status, None


def _no_answer(service: str, method: str, path: str, endpoint: Endpoint, problem: Exception) -> ServiceError:
    words = str(problem) or type(problem).__name__
    if isinstance(problem, aiohttp.ClientConnectorError):  # whose own words go on about TLS
        words = problem.os_error.strerror or words
    return ServiceError(f"{service} does not answer {method} {ROOT}{path} at {endpoint.url}: {words}")


def _behaviour(answer: dict[str, Any], endpoint: Endpoint, service: str) -> dict[str, Any]:
    if not isinstance(answer.get("outcomes"), dict) or not isinstance(answer.get("served"), dict):
        raise _no_twin(service, endpoint, 200)
    return answer


def _no_twin(service: str, endpoint: Endpoint, status: int) -> ServiceError:
    return ServiceError(f"{service} at {endpoint.url} is no twin whose behaviour can be changed: {status}")
