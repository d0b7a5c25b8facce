"""Where the tracked processes of the target report, and are told when to begin and to stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from busyhour.errors import ServiceError
from busyhour.model import Endpoint

_ANSWER_SECONDS = 120.0  # what a large heap takes to be collected, and a capture to be completed
_LINE_BYTES = 4096


@dataclass(eq=False)
class _Process:
    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    capture: Path | None = None


@dataclass(kw_only=True, eq=False)
class Desk:
    """A service of the harness: it listens on a Unix socket in `folder`, and the captures are written there."""

    folder: Path
    native: bool
    name: str = "memory tracking"
    _processes: list[_Process] = field(default_factory=list, init=False)
    captures: list[Path] = field(default_factory=list, init=False)  # once they are complete

    @property
    def socket(self) -> Path:
        return self.folder / "desk"

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        server = await asyncio.start_unix_server(self._welcome, self.socket, limit=_LINE_BYTES)
        try:
            yield Endpoint("unix:")
        finally:
            server.close()
            for process in self._processes:
                process.writer.close()
            await server.wait_closed()

    async def start(self) -> None:
        """Have every process that has come by now track its memory. Raises ServiceError if there is none."""
        if not self._processes:
            raise ServiceError("no process of the target came to be tracked; its command starts another program")
        for process in self._processes:
            capture = self.folder / f"{process.pid}.memray"
            await self._tell(process, f"start {capture} {int(self.native)}")
            process.capture = capture

    async def mark(self) -> None:
        await self._all_tracked("mark")

    async def stop(self) -> None:
        self.captures += await self._all_tracked("stop")

    async def _all_tracked(self, word: str) -> list[Path]:
        """The captures of those that are still there: a worker that has ended took its memory with it."""
        found = []
        for process in self._processes:
            if process.capture is not None and not process.reader.at_eof():
                await self._tell(process, word)
                found.append(process.capture)
        return found

    async def _tell(self, process: _Process, line: str) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                process.writer.write(f"{line}\n".encode())
                answer = (await process.reader.readline()).decode(errors="replace").strip()
        except TimeoutError:
            answer = f"no answer within {_ANSWER_SECONDS:g} s"
        except OSError as error:
            answer = str(error)
        if answer != "ok":
            why = answer.removeprefix("failed ") or "it has ended"
            word = line.partition(" ")[0]
            raise ServiceError(f"the target's process {process.pid} cannot be tracked ({word}): {why}")

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = (await reader.readline()).decode(errors="replace").split()
        if len(hello) == 2 and hello[0] == "hello" and hello[1].isdecimal():
            self._processes.append(_Process(int(hello[1]), reader, writer))
        else:
            writer.close()
