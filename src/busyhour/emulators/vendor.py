"""The harness's side of all twins: a vendor's class, which is a Service, and the handle on the process it starts.

What goes on in that process is told in `twin`; `busyhour.admin` speaks to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar
from urllib.parse import urlsplit

from busyhour import admin, processes
from busyhour.emulators.behaviour import Behaviour
from busyhour.errors import ServiceError
from busyhour.model import JSON, Endpoint, Operation

_ARGUMENT_CHARACTERS_AT_MOST = 4_000
"""Longer settings, such as measured delays, go by a file: Linux takes 128 KiB for one argument, and `ps` shows it."""

More = Callable[[Path], Mapping[str, JSON]]
"""The vendor's own settings for its process; what is long is put into files in the folder, which lives as long."""


class VendorTwin(ABC):
    """A twin as a Service and a Witness: what the classes of all vendors do alike.

    It holds no settings. Each class is a dataclass (`kw_only=True, eq=False`) of its own, in the order in which they
    are shown, and these are among them in all: name; outcomes, the share of requests that go wrong; seed; port, 0 for
    any free one; api_key, the one that is accepted, "" for any. Beside them it has `_module`, `_behaves` and, if its
    process is to know more than the key, `_more`. See docs/decisions/0012.
    """

    _module: ClassVar[str]
    """What runs the process: `python -m` this."""
    name: str
    outcomes: Mapping[str, float]
    seed: int
    port: int
    api_key: str
    _behaviour: Behaviour
    _process: TwinProcess

    def __post_init__(self) -> None:
        self._behaviour = self._behaves()
        self._process = TwinProcess(name=self.name, module=self._module)

    @abstractmethod
    def _behaves(self) -> Behaviour:
        """How it begins to behave. Raises PlanError for impossible settings."""

    def _more(self, folder: Path) -> Mapping[str, JSON]:
        """See More; the vendor's `application` reads it."""
        return {"api_key": self.api_key}

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        """Start it, yield once it answers, end it. Raises ServiceError with the reason it gave."""
        return self._process.running(port=self.port, behaviour=self._behaviour, more=self._more)

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        """The operations since the last call. Raises ServiceError when the twin does not answer.

        The rows are in the twin's memory until they are asked for, which the engine does once a second, and once more
        when a run has ended in order. So there are lost: when the process is killed, those of the last second (or of
        all the time it did not answer before); when the run is stopped, as with Ctrl-C, or fails, those since the last
        look; of more than `twin.WITNESSED_AT_MOST` between two looks, the oldest, which are counted in a row of kind
        "witness". An answer that gets lost loses nothing.
        """
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Change some settings of the running twin; the new whole. Raises PlanError, ServiceError."""
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        """How it died, None while it lives or was never started."""
        return self._process.obituary()


class TwinProcess:
    """The handle on a twin's process."""

    def __init__(self, *, name: str, module: str) -> None:
        self.name = name
        self._module = module
        self._child: processes.Child | None = None
        self._told = admin.Told()
        self._asking = asyncio.Lock()

    @asynccontextmanager
    async def running(self, *, port: int, behaviour: Behaviour, more: More) -> AsyncIterator[Endpoint]:
        """Start the twin, yield where it answers, end it. Raises ServiceError, and what `more` raises."""
        self._told, self._asking = admin.Told(), asyncio.Lock()
        url = ""

        async def ready(child: processes.Child) -> str:
            nonlocal url
            line = await child.first_line()
            said, _, rest = line.partition(" ")
            if said != "READY":
                raise ServiceError(f"{self.name} did not start: {rest if said == 'FAILED' else line}")
            url = rest
            again = settings | {"port": urlsplit(url).port}  # started again it is found where it was
            child.argv = self._argv(again, folder)
            return url

        with TemporaryDirectory(prefix="busyhour-") as name:
            folder = Path(name)
            own = dict(more(folder))
            settings = {"name": self.name, "port": port, "behaviour": behaviour.as_json(), "more": own}
            async with processes.child(self._argv(settings, folder), name=self.name, ready=ready) as child:
                self._child = child
                yield Endpoint(url, (child.pid,), child)

    def _argv(self, settings: Mapping[str, object], folder: Path) -> list[str]:
        argument = _as_argument(json.dumps(settings), folder / "settings.json")
        return [sys.executable, "-m", self._module, argument]

    def obituary(self) -> str | None:
        return None if self._child is None else self._child.obituary()

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        async with self._asking:  # two at once would be told the same
            return await admin.witnessed(endpoint, self.name, self._told)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await admin.behave(endpoint, change, self.name)


def _as_argument(settings: str, path: Path) -> str:
    if len(settings) <= _ARGUMENT_CHARACTERS_AT_MOST:
        return settings
    path.write_text(settings, encoding="utf-8")
    return f"@{path}"
