"""Workers on this machine: each a child process below a supervisor, which ends with us, whatever becomes of us."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from busyhour.clock import SystemClock
from busyhour.distributed.lines import LINE_BYTES_MAX, Lines
from busyhour.distributed.member import Lost, Member
from busyhour.distributed.merging import Part
from busyhour.model import SECOND, Clock
from busyhour.planfile import PlanFile
from busyhour.processes import Child, child

START_SECONDS = 60.0  # an interpreter, our imports, the plan, its audio; and that on a busy machine, for all at a time
SILENCE_SECONDS = 30.0  # a worker speaks four times a second
_LAST_WORDS_LOOKS = 100
_LAST_WORDS_SECONDS = 0.01


def too_many(processes: int) -> str:
    """A sentence of warning where there are more than the machine has processors; "" where there are not."""
    cores = len(os.sched_getaffinity(0))
    if processes <= cores:
        return ""
    return (
        f"--processes {processes}: we may use {cores} core{'s' * (cores > 1)} of this machine, so they will make each "
        "other late; and the target and the twins want some, too"
    )


def parts_of(journal: Path, processes: int) -> list[Part]:
    """Where the workers write."""
    return [Part(journal.with_name(f"{journal.name}.worker-{n}"), n) for n in range(1, processes + 1)]


@asynccontextmanager
async def hired(file: PlanFile, *, parts: Sequence[Part], seed: int) -> AsyncIterator[Sequence[Member]]:
    """A worker for each part, which it writes; all are ready. They are gone on every way out.

    Raises ServiceError, and what they fail with.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="busyhour-")))
        hires = [_Hire(part, folder / f"worker-{part.number}", clock) for part in parts]
        for hire in hires:
            stack.push_async_callback(hire.close)
        async with asyncio.TaskGroup() as starting:
            for hire in hires:
                starting.create_task(hire.start(file, len(parts), seed))
        stack.push_async_callback(_over, asyncio.create_task(_watch(hires, clock)))
        yield [hire.member for hire in hires]


async def _watch(hires: Sequence[_Hire], clock: Clock) -> None:
    while True:
        await clock.sleep_until(clock.now_ns() + SECOND)
        for hire in hires:
            if not hire.member.lost and clock.now_ns() - hire.member.heard_ns > SILENCE_SECONDS * SECOND:
                await hire.dismiss(f"was not heard of for {SILENCE_SECONDS:g} s")


class _Hire:
    """One worker: its process and the way to it."""

    def __init__(self, part: Part, path: Path, clock: Clock) -> None:
        self._part, self._path, self._clock = part, path, clock
        self._stack = AsyncExitStack()
        self._connected: asyncio.Future[Lines] = asyncio.get_running_loop().create_future()
        self._child: Child | None = None
        self._member: Member | None = None

    @property
    def member(self) -> Member:
        assert self._member is not None, "it has been started"
        return self._member

    async def start(self, file: PlanFile, of: int, seed: int) -> None:
        """Returns when it is ready. Raises ServiceError, and what it fails with."""
        begin = {
            "plan": str(file.path.resolve()),
            "options": dict(file.options),
            "source": file.source,
            "seed": seed,
            "index": self._part.number - 1,
            "of": of,
            "journal": str(self._part.path.resolve()),
            "recording": asdict(file.plan.recording),
        }
        server = await asyncio.start_unix_server(self._connect, self._path, limit=LINE_BYTES_MAX)
        self._stack.callback(server.close)
        starting = child(
            [sys.executable, "-P", "-m", "busyhour.distributed.worker", str(self._path)],
            name=f"worker {self._part.number}",
            ready=partial(self._ready, begin),
            env={"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # the same modules as ours
            start_within_seconds=START_SECONDS,
        )
        self._child = await self._stack.enter_async_context(starting)
        self.member.pid = self._child.pid

    async def close(self) -> None:
        """It and all it has started are gone."""
        self._connected.cancel()
        await self._stack.aclose()

    async def dismiss(self, why: str) -> None:
        """Give it up, and see that it is gone."""
        self.member.give_up(why)
        if self._child is not None:
            await self._child.end(asked=False)

    def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connected.done():
            writer.close()
        else:
            self._connected.set_result(Lines(reader, writer))

    async def _ready(self, begin: Mapping[str, object], running: Child) -> str:
        running.awaiting = "it to connect to who leads the run"
        self._child = running
        lines = await asyncio.shield(self._connected)
        self._stack.push_async_callback(lines.close)
        self._member = Member(self._part.number, lines, self._clock)
        listening = asyncio.create_task(self._listen(self._member))
        self._stack.push_async_callback(_over, listening)
        self._member.begin(**begin)
        running.awaiting = "it to load the plan"
        try:
            await asyncio.shield(self._member.ready)
        except Lost:
            await asyncio.Event().wait()  # how it ended is being found out, and what it said
        return ""

    async def _listen(self, member: Member) -> None:
        why = await member.listen()
        member.give_up(why or await self._how_it_ended())

    async def _how_it_ended(self) -> str:
        assert self._child is not None
        for _ in range(_LAST_WORDS_LOOKS):
            if (obituary := self._child.obituary()) is not None:
                return obituary.partition("; ")[0].removeprefix(f"{self._child.name} ")
            await asyncio.sleep(_LAST_WORDS_SECONDS)
        return "has hung up"


async def _over(task: asyncio.Task[None]) -> None:
    """It is; what it failed with is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
