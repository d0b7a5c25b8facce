"""The proxy as a service of a plan, in front of another service, and the harness's way to its admin API."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
import yarl

from busyhour import processes
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.undoing import to_the_end
from busyhour.model import JSON, Endpoint, Sample, Service

LAG = "proxy_lag_ms"
"""The samples' name, from the source that is the proxy's name: how late the proxy's own loop was."""
_LAG_EVERY_SECONDS = 0.5
_WITHIN_SECONDS = 5.0
_MODULE = "busyhour.faults.proxy"
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "postgresql": 5432, "postgres": 5432, "redis": 6379}


@dataclass(kw_only=True, eq=False)
class Proxy:
    """A TCP proxy in front of a service, in a process of its own, for the faults of the byte path.

    Its URL is the upstream's with another port. Behind the upstream in the plan's services; whoever is to pass through
    it is told its URL. seed: of what the faults draw, where they have none of their own. Metered: "proxy_lag_ms" is by
    how much its loop was late. Raises PlanError from `running` if the upstream is not started before it.
    """

    upstream: Service = field(kw_only=False)
    name: str = ""
    seed: int = 1
    port: int = 0
    _child: processes.Child | None = field(default=None, init=False, repr=False)
    _lag: Counter[float] = field(default_factory=Counter, init=False, repr=False)
    can_be_restarted: ClassVar[bool] = False  # its toxics would be gone

    def __post_init__(self) -> None:
        self.name = self.name or f"{self.upstream.name} via proxy"
        if not 0 <= self.port <= 65535:
            raise PlanError(f"{self.name}: its port is {self.port}; it must be from 0 (any free one) to 65535")

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        """Start it, yield where it listens, end it. Raises PlanError, and ServiceError with the reason it gave."""
        upstream = self._upstream(peers)
        parts = urlsplit(upstream.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        proxied = {
            "name": self.name,
            "listen": f"127.0.0.1:{self.port}",
            "upstream": f"{host}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)}",
        }
        settings = {"name": self.name, "seed": self.seed, "proxies": [proxied]}

        async def ready(child: processes.Child) -> str:
            line = await child.first_line()
            said, _, rest = line.partition(" ")
            if said != "READY":
                raise ServiceError(f"{self.name} did not start: {rest if said == 'FAILED' else line}")
            return rest

        argv = [sys.executable, "-m", _MODULE, json.dumps(settings)]
        async with processes.child(argv, name=self.name, ready=ready) as child:
            self._child = child
            admin = AdminAPI(self.name, child.url)
            listen = (await admin.ask("GET", "proxies", self.name))["listen"]
            hearing = asyncio.ensure_future(self._hear_lag(admin))
            try:
                yield Endpoint(urlunsplit(parts._replace(netloc=listen)), (child.pid,), handle=admin)
            finally:
                await to_the_end(_ended(hearing))

    def obituary(self) -> str | None:
        """How it died, None while it lives or was never started."""
        return None if self._child is None else self._child.obituary()

    def drain(self, now_ns: int) -> Sequence[Sample]:
        """The lag that was measured since the last time, at most half a second behind."""
        lag, self._lag = self._lag, Counter()
        return [Sample(now_ns, self.name, LAG, ms, count) for ms, count in sorted(lag.items())]

    def _upstream(self, peers: Mapping[str, Endpoint]) -> Endpoint:
        if self.upstream.name not in peers:
            known = ", ".join(sorted(peers)) or "none"
            raise PlanError(
                f"{self.name}: it is a proxy in front of the service {self.upstream.name!r}, which is not started "
                f"before it (started are: {known}); put {self.upstream.name!r} into the plan's services, ahead of it"
            )
        return peers[self.upstream.name]

    async def _hear_lag(self, admin: AdminAPI) -> None:
        while True:
            await asyncio.sleep(_LAG_EVERY_SECONDS)
            with suppress(ServiceError):  # it is frozen, or dead: then it says nothing, and no sample is the reading
                for ms, count in (await admin.ask("GET", "_proxy", "lag"))["lag_ms"]:
                    self._lag[ms] += count


class NotThere(Exception):
    """What was asked for does not exist in the proxy."""


class AdminAPI:
    """The harness's way to a running proxy; the `handle` of its endpoint."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    async def ask(self, method: str, *path: str, body: JSON = None) -> Any:
        """The JSON it answers, None for 204. Raises NotThere for 404, PlanError when it refuses, ServiceError else."""
        url = yarl.URL("/".join([self.url, *(quote(part, safe="") for part in path)]), encoded=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_WITHIN_SECONDS)) as session,
                session.request(method, url, json=body) as response,
            ):
                answer: Any = None if response.status == 204 else await response.json(content_type=None)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            words = str(error) or type(error).__name__
            raise ServiceError(f"the proxy {self.name} does not answer {method} {url}: {words}") from None
        if response.status == 404:
            raise NotThere(str(url))
        if response.status in {400, 409}:
            raise PlanError(f"the proxy {self.name} refuses {method} {'/'.join(path)}: {answer['error']}")
        if response.status >= 300:
            raise ServiceError(f"the proxy {self.name} answers {method} {url} with {response.status}: {answer}")
        return answer

    async def effects(self) -> Mapping[str, Any]:
        """What passed through the proxy so far, and what each toxic did. Raises ServiceError."""
        effects: Mapping[str, Any] = (await self.ask("GET", "_proxy", "effects"))[self.name]
        return effects


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
