"""Who leads the workers of one run: their shares together are the phases of the plan.

The leader executes the plan as ever - services, faults, probes, marks - but for the arrivals: in its place of each
workload is one that has the workers perform theirs, and sums up how they stand. A worker that dies takes its share with
it, which counts as dropped; the others go on, and the run is INVALID for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from busyhour.bulk import Counts, Stretch
from busyhour.clock import SystemClock
from busyhour.distributed.clocks import check_clock
from busyhour.distributed.front import Front
from busyhour.distributed.harms import OF_WORKERS, InEachWorker
from busyhour.distributed.lines import Message
from busyhour.distributed.member import Lost, Member, Standing
from busyhour.distributed.places import is_loopback, place
from busyhour.errors import PlanError, ServiceError
from busyhour.faults.undoing import to_the_end
from busyhour.model import JSON, MS, Arrival, Arrivals, Clock, Due, Endpoint, Fault, Mark, Phase, Plan, Witness
from busyhour.share import Divisible, Share

NAME = "workers"
LEAD_NS = 20 * MS  # from the word to the beginning of a phase: telling the workers is nobody's lateness
END_SECONDS = 20.0
CUT_SECONDS = 20.0  # for calls to be hung up when the run is stopped


def check(plan: Plan, of: int) -> None:
    """Raises PlanError when the plan cannot be carried out by so many workers."""
    problems = []
    carrier = plan.carrier
    if carrier is not None and (not isinstance(carrier, Divisible) or isinstance(carrier, Witness)):
        problems.append(
            f"the carrier {carrier.name!r} ({type(carrier).__name__}) cannot be {of} processes at the same time; "
            "Telnyx, TelnyxStream, TeXML, Twilio, TwilioStream and PlainWebSocket can, and any that has `of_share`; "
            "leave out --processes"
        )
    if any(service.name == NAME for service in plan.everyone):
        problems.append(f"a service is named {NAME!r}, as the workers of several processes are; give it another name")
    problems += [
        f"the phase {phase.name!r} has room for {phase.at_once} at once, which {of} processes cannot share; "
        "raise its at_once, or lower --processes"
        for phase in plan.phases
        if phase.at_once < of
    ]
    if problems:
        raise PlanError(problems)


class Crew:
    """The workers of a run, and a Service: they are hired when it is started, and gone when it is stopped.

    hiring: yields them, ready, in the order of their shares. lead_ns: from the word to the beginning of a phase.
    """

    def __init__(
        self,
        hiring: Callable[[], AbstractAsyncContextManager[Sequence[Member]]],
        *,
        clock: Clock | None = None,
        lead_ns: int = LEAD_NS,
    ) -> None:
        self.name = NAME
        self._performing = False
        self.members: list[Member] = []
        self._hiring, self._clock, self._lead_ns = hiring, clock or SystemClock(), lead_ns
        self._mourned: set[Member] = set()
        self._doubted: set[Member] = set()

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        """Raises ServiceError, and what they fail with."""
        async with self._hiring() as members:
            self.members = list(members)
            try:
                yield Endpoint("", tuple(member.pid for member in members if member.pid))
            finally:
                await self._end()

    @property
    def living(self) -> list[Member]:
        return [member for member in self.members if not member.lost]

    def divided(self, plan: Plan) -> Plan:
        """The plan as the leader executes it."""
        phases = [
            replace(
                phase,
                workload=_Together(self, number, phase),
                faults=[self._placed(plan, fault, number, index) for index, fault in enumerate(phase.faults)],
            )
            for number, phase in enumerate(plan.phases, start=1)
        ]
        carrier = Front(plan.carrier, self) if plan.carrier else None
        services = [self, *plan.services] if carrier else [self, *plan.services, _Opened(self)]
        return replace(plan, services=services, carrier=carrier, phases=phases)

    def _placed(self, plan: Plan, fault: Fault, number: int, index: int) -> Fault:
        ours = plan.carrier is not None and fault.service == plan.carrier.name
        return InEachWorker(fault, self, number, index) if ours or fault.service == OF_WORKERS else fault

    # ---------------------------------------------------------------- orders

    def order_all(self, do: str, **what: object) -> list[tuple[Member, int, asyncio.Future[Message]]]:
        """An order to each that lives: with its number and what comes of it."""
        return [(member, *member.numbered_order(do, **what)) for member in self.living]

    async def replies(
        self, orders: Iterable[tuple[Member, int, asyncio.Future[Message]]]
    ) -> list[tuple[Member, Message]]:
        """Of those that are not lost meanwhile. Raises what a worker failed with."""
        found = []
        for member, _, order in orders:
            try:
                found.append((member, await asyncio.shield(order)))
            except Lost:
                continue
        return found

    async def open(self, peers: Mapping[str, Endpoint]) -> list[str]:
        """Have them start their carriers; the URLs of these. Raises ServiceError when one dies of it."""
        told = {name: told_of(endpoint) for name, endpoint in peers.items()}
        urls = []
        for member, order in [(member, member.order("open", peers=told)) for member in self.members]:
            try:
                urls.append(str((await order)["url"]))
            except Lost as lost:
                raise ServiceError(f"{member.name} {lost.why} before the run had begun") from None
        return urls

    async def _end(self) -> None:
        """Have them close their journals and end: what they say last is that they have.

        Raises ServiceError for one that does not: what it had to write last is missing.
        """
        orders = self.order_all("end")
        await to_the_end(_all_of([order for _, _, order in orders], END_SECONDS))
        for member, _, order in orders:
            if not order.done():
                raise ServiceError(f"{member.name} did not close its journal within {END_SECONDS:g} s of being told to")
            if isinstance(lost := order.exception(), Lost):
                raise ServiceError(f"{member.name} {lost.why} before it had closed its journal")

    def obituary(self) -> str | None:
        """Of one that died when no phase was performed: that too may have taken rows with it. (Mortal.)"""
        if self._performing:
            return None
        for member in self.members:
            if member.lost and member not in self._mourned:
                self._mourned.add(member)
                return f"{member.name} of {len(self.members)} {member.why_lost}; what it wrote last may be missing"
        return None

    # ---------------------------------------------------------------- phases

    async def perform(self, number: int, phase: Phase, stretch: Stretch) -> None:
        """The workers' shares of the phase, until the last is over. Cancelled, they cut off what is in progress."""
        self._performing = True
        for member in self.members:
            member.standing = Standing(number)
            member.on_progress = lambda: self._sum(number, stretch.counts)
            if member.lost:
                self._mourn(number, member, phase, stretch)
        began_ns = max(stretch.began_ns, self._clock.now_ns() + self._lead_ns)
        what = {"number": number, "target": told_of(stretch.target)}
        waiting: dict[asyncio.Future[Message], Member] = {}
        try:
            self._anybody_left()
            self.demand_reachable("the target", stretch.target.url)
            waiting |= {m.order("phase", began_ns=m.theirs_ns(began_ns), **what): m for m in self.living}
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for order in done:
                    member = waiting.pop(order)
                    try:
                        order.result()
                    except Lost:
                        self._mourn(number, member, phase, stretch)
                        self._anybody_left()
            await self._check_clocks(stretch)
        finally:
            if waiting:
                for member in waiting.values():
                    member.tell("cut")
                await to_the_end(_all_of(list(waiting), CUT_SECONDS))
            self._sum(number, stretch.counts)
            for member in self.members:
                member.on_progress = lambda: None
            self._performing = False

    def _anybody_left(self) -> None:
        if not self.living:
            why = "; ".join(f"{member.name} {member.why_lost}" for member in self.members)
            raise ServiceError(f"no worker is left: {why}")

    def _sum(self, number: int, counts: Counts) -> None:
        standings = [member.standing for member in self.members if member.standing.number == number]
        counts.started = sum(one.started for one in standings)
        counts.finished = sum(one.finished for one in standings)
        counts.failed = sum(one.failed for one in standings)
        counts.dropped = sum(one.dropped for one in standings)
        counts.turns = sum(one.turns for one in standings)
        counts.missed = sum(one.missed for one in standings)
        counts.lateness_p99_ms = max((one.lateness_p99_ms for one in standings if one.lateness_p99_ms), default=None)
        for one in standings:
            counts.latencies_ms += one.latencies_ms
            one.latencies_ms.clear()

    async def _check_clocks(self, stretch: Stretch) -> None:
        for member in self.living:
            if (doubt := await check_clock(member, self._clock)) and member not in self._doubted:
                self._doubted.add(member)
                obituary = f"{member.name} of {len(self.members)} {doubt}"
                stretch.write(Mark(self._clock.now_ns(), "clocks.disagree", member.name, {"obituary": obituary}))

    def demand_reachable(self, what: str, url: str) -> None:
        """Raises ServiceError when a worker on another machine is to reach our loopback, or to be reached there."""
        here = place()["network"]
        for member in self.living:
            if is_loopback(url) and member.place.get("network", here) != here:
                raise ServiceError(
                    f"{what} is at {url}, on the loopback of this machine, and {member.name} is on another "
                    f"({member.place.get('host')}): give the plan a target that is already running at an address that "
                    "both reach, and a carrier that is not called back (PlainWebSocket, TelnyxStream, TwilioStream), "
                    "or none"
                )

    # ---------------------------------------------------------------- deaths

    def _mourn(self, number: int, member: Member, phase: Phase, stretch: Stretch) -> None:
        """Its share counts as dropped, but for what it had finished; once it is told."""
        last = member.standing if member.standing.number == number else Standing(number)  # of the phase before
        share = arrivals_of(phase.arrivals, Share(member.number - 1, len(self.members)))
        lost = last.started - last.finished if share is None else max(0, share - last.finished - last.dropped)
        member.standing = replace(last, started=last.finished, dropped=last.dropped + lost)
        self._sum(number, stretch.counts)
        if member not in self._mourned:
            self._mourned.add(member)
            more = "" if share is not None else ", and what was to come of its share"
            obituary = (
                f"{member.name} of {len(self.members)} {member.why_lost}; "
                f"{lost} arrivals of {phase.name} are lost with it{more}"
            )
            detail: dict[str, JSON] = {"obituary": obituary, "role": "harness", "phase": phase.name, "lost": lost}
            stretch.write(Mark(self._clock.now_ns(), "service.died", member.name, detail))


@dataclass(frozen=True)
class _Opened:
    """In the place of the carrier of a plan without one: the workers are told that they may begin."""

    crew: Crew
    name: str = "workers' carrier"

    @asynccontextmanager
    async def running(self, peers: Mapping[str, Endpoint]) -> AsyncIterator[Endpoint]:
        await self.crew.open(peers)
        yield Endpoint("")


@dataclass(frozen=True)
class _Together:
    """In the place of a phase's workload: the workers perform it."""

    crew: Crew
    number: int
    phase: Phase

    async def perform(self, arrival: Arrival) -> None:
        raise PlanError(f"{arrival.id} cannot be performed by who leads the run: its workers do that")

    async def perform_all(self, stretch: Stretch) -> None:
        await self.crew.perform(self.number, self.phase, stretch)


def told_of(endpoint: Endpoint) -> dict[str, object]:
    """An endpoint in a message."""
    return {"url": endpoint.url, "pids": list(endpoint.pids)}


def arrivals_of(whole: Arrivals, share: Share) -> int | None:
    """How many arrivals fall to the share; None where that depends on what finishes.

    By bisection: that there are no more is true of all later numbers, too.
    """
    arrivals = share.arrivals(whole)
    low, high = 0, 1
    while not isinstance(due := arrivals.due_ns(high - 1, 0, 0), Due):
        low, high = high, 2 * high
    if due is Due.PENDING:
        return None
    while low < high - 1:
        middle = (low + high) // 2
        due = arrivals.due_ns(middle - 1, 0, 0)
        low, high = (low, middle) if isinstance(due, Due) else (middle, high)
    return low


async def _all_of(orders: Sequence[asyncio.Future[Message]], seconds: float) -> None:
    if orders:
        await asyncio.wait(orders, timeout=seconds)
