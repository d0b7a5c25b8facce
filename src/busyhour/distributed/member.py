"""One worker, as who leads the run sees it: orders and what came of them, how its phase stands, and its death."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from busyhour import errors
from busyhour.distributed.lines import Link, Message
from busyhour.distributed.offsets import Offset
from busyhour.errors import BusyhourError, ProtocolError
from busyhour.model import Clock

_EXPECTED = {kind.__name__: kind for kind in (errors.JournalError, errors.ServiceError, errors.ProtocolError)}


class Lost(Exception):
    """A worker is gone in the middle of the run; `why` is a clause that follows its name."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@dataclass(slots=True)
class Standing:
    """How its share of a phase stands, by its last word."""

    number: int = 0
    started: int = 0
    finished: int = 0
    failed: int = 0
    dropped: int = 0
    turns: int = 0
    missed: int = 0
    lateness_p99_ms: float | None = None
    latencies_ms: list[float] = field(default_factory=list)  # since they were last taken


class Member:
    """The worker `number` (from 1).

    `listen()` is to run as long as it is wanted, and `give_up` to be called when it has ended; `on_progress` is called
    when the standing has changed.
    """

    def __init__(self, number: int, link: Link, clock: Clock) -> None:
        self.number = number
        self.standing = Standing()
        self.on_progress: Callable[[], None] = lambda: None
        self.heard_ns = clock.now_ns()
        self.pid = 0  # if it is a process of this machine
        self.place: Message = {}  # where it is, by its own word
        self.offset: Offset | None = None  # of its clock, if that is not ours
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.why_lost: str | None = None
        self._link, self._clock = link, clock
        self._numbers = count(1)
        self._orders: dict[int, asyncio.Future[Message]] = {}
        self._failure: BusyhourError | None = None

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    @property
    def lost(self) -> bool:
        return self.why_lost is not None

    def theirs_ns(self, ours_ns: int) -> int:
        """An instant on its clock."""
        return ours_ns + (0 if self.offset is None else self.offset.ahead_ns)

    def begin(self, **what: Any) -> None:
        self._link.send({"begin": what})

    def order(self, do: str, **what: Any) -> asyncio.Future[Message]:
        """What comes of it; raises Lost, and what the worker failed with."""
        return self.numbered_order(do, **what)[1]

    def numbered_order(self, do: str, **what: Any) -> tuple[int, asyncio.Future[Message]]:
        number: int = next(self._numbers)
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self._over is not None:
            reply.set_exception(self._over)
        else:
            self._orders[number] = reply
            self._link.send({"do": do, "id": number, **what})
        reply.add_done_callback(_looked_at)
        return number, reply

    def tell(self, do: str) -> None:
        """An order of which nothing is to come."""
        self._link.send({"do": do, "id": 0})

    async def listen(self) -> str:
        """Until nothing more is heard of it; why that is so, if it is known here."""
        try:
            while (message := await self._link.receive()) is not None:
                self.heard_ns = self._clock.now_ns()
                self._take(message)
        except ProtocolError as error:
            return f"cannot be understood: {error}"
        return ""

    def give_up(self, why: str) -> None:
        """It is gone, or as good as that."""
        if self.why_lost is None:
            self.why_lost = why
        over = self._over
        assert over is not None
        awaited: list[asyncio.Future[Any]] = [*self._orders.values(), self.ready]
        for reply in awaited:
            if not reply.done():
                reply.set_exception(over)
        _looked_at(self.ready)
        self._orders.clear()

    @property
    def _over(self) -> Exception | None:
        return self._failure or (None if self.why_lost is None else Lost(self.why_lost))

    def _take(self, message: Message) -> None:
        if "progress" in message:
            told = dict(message["progress"])
            latencies = self.standing.latencies_ms + told.pop("latencies_ms")
            self.standing = Standing(**told, latencies_ms=latencies)
            self.on_progress()
        elif "re" in message:
            reply = self._orders.pop(message["re"], None)
            if reply is not None and not reply.done():
                reply.set_result(message)
        elif "ready" in message:
            self.place = {name: value for name, value in message.items() if name != "ready"}
            if not self.ready.done():
                self.ready.set_result(None)
        elif "failed" in message:
            self._failure = self._failed(message["failed"])
            self.give_up("failed")

    def _failed(self, told: Message) -> BusyhourError:
        why = str(told["why"])
        if told["kind"] == "PlanError":
            return errors.PlanError(why.splitlines())
        if told["kind"] in _EXPECTED:
            return _EXPECTED[told["kind"]](f"{self.name}: {why}")
        return BusyhourError(f"{self.name}: a bug of busyhour's own, or of the plan's workload: {why}")


def _looked_at(reply: asyncio.Future[Any]) -> None:
    """Nobody may be waiting for it any more: its exception was told by other ways."""
    if reply.done() and not reply.cancelled():
        reply.exception()
