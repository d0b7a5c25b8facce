"""Workers elsewhere, reached through somebody else's connections (Locust's), to whom one stream leads.

leader -> relay   {"to": K, "message": {...}}               for worker K (from 1)
                  {"fetch": K, "path": TEXT}                bring its journal there, with its log
                  {"done": {"stopped": TEXT or null}}       or {"done": {"failed": TEXT}}
relay -> leader   {"lead": {...}}                           what to carry out, once
                  {"from": K, "message": {...}}
                  {"from": K, "gone": WHY, "fetchable": BOOL}   fetchable: its journal can still be had
                  {"fetched": K}
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict

from busyhour.clock import SystemClock
from busyhour.distributed.clocks import offset_of
from busyhour.distributed.lines import LINE_BYTES_MAX, Lines, Message
from busyhour.distributed.member import Lost, Member
from busyhour.distributed.merging import Part
from busyhour.distributed.places import place
from busyhour.errors import ServiceError
from busyhour.planfile import PlanFile

READY_SECONDS = 60.0
FETCH_SECONDS = 300.0


class _Far:
    """A Link to one worker."""

    def __init__(self, relay: Lines, number: int) -> None:
        self.why = ""
        self.fetchable = True
        self.fetched = asyncio.Event()
        self._relay, self._number = relay, number
        self._waiting: asyncio.Queue[Message | None] = asyncio.Queue()  # as many as the stream has brought

    def send(self, message: Message) -> None:
        self._relay.send({"to": self._number, "message": message})

    async def receive(self) -> Message | None:
        return await self._waiting.get()

    def take(self, told: Message) -> None:
        if "message" in told:
            self._waiting.put_nowait(told["message"])
        else:
            self.end(str(told["gone"]), fetchable=bool(told["fetchable"]))

    def end(self, why: str, *, fetchable: bool) -> None:
        self.why = self.why or why
        self.fetchable = self.fetchable and fetchable
        if not self.fetchable:
            self.fetched.set()
        self._waiting.put_nowait(None)


@asynccontextmanager
async def relayed(
    file: PlanFile, *, through: socket.socket, parts: list[Part], seed: int
) -> AsyncIterator[Sequence[Member]]:
    """A worker for each of `parts`, all ready; afterwards the parts are here, and say whose clock is how far ahead.

    Raises ServiceError, and what the workers fail with.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        relay = Lines(*await asyncio.open_unix_connection(sock=through.dup(), limit=LINE_BYTES_MAX))
        stack.push_async_callback(relay.close)
        fars = [_Far(relay, part.number) for part in parts]
        members = [Member(part.number, far, clock) for part, far in zip(parts, fars, strict=True)]
        listening = [asyncio.create_task(_hear(relay, fars))]
        listening += [asyncio.create_task(_listen(member, far)) for member, far in zip(members, fars, strict=True)]
        stack.push_async_callback(_over, listening)
        for member in members:
            member.begin(
                plan=str(file.path),
                options=dict(file.options),
                source=file.source,
                recording=asdict(file.plan.recording),
                seed=seed,
                index=member.number - 1,
                of=len(members),
                news=True,
            )
        await _ready(members)
        here = place()["clock"]
        for member in members:
            if member.place.get("clock") != here:
                member.offset = await offset_of(member, clock)
        try:
            yield members
        finally:
            await _fetch(relay, fars, parts)
            parts[:] = [Part(one.path, one.number, m.theirs_ns(0)) for one, m in zip(parts, members, strict=True)]


async def _ready(members: Sequence[Member]) -> None:
    for member in members:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await asyncio.shield(member.ready)
        except TimeoutError:
            raise ServiceError(
                f"{member.name} was not ready within {READY_SECONDS:g} s; see what its log says"
            ) from None
        except Lost as lost:
            raise ServiceError(f"{member.name} {lost.why} before the run had begun; see what its log says") from None


async def _hear(relay: Lines, fars: Sequence[_Far]) -> None:
    while (told := await relay.receive()) is not None:
        if "from" in told:
            fars[told["from"] - 1].take(told)
        elif "fetched" in told:
            fars[told["fetched"] - 1].fetched.set()
    for far in fars:
        far.end("is out of reach: Locust's master is gone", fetchable=False)


async def _listen(member: Member, far: _Far) -> None:
    why = await member.listen()
    member.give_up(why or far.why)


async def _fetch(relay: Lines, fars: Sequence[_Far], parts: Sequence[Part]) -> None:
    for far, part in zip(fars, parts, strict=True):
        if far.fetchable:
            relay.send({"fetch": part.number, "path": str(part.path.resolve())})
    with suppress(TimeoutError):  # what did not come is missing, as if its machine were gone
        async with asyncio.timeout(FETCH_SECONDS):
            for far in fars:
                await far.fetched.wait()


async def _over(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
