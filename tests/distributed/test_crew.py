"""The leader and workers of a few lines in its own process: shares, deaths, clocks, places, and what they fail with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from busyhour.arrivals import Constant, Hold
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.distributed.clocks import offset_of
from busyhour.distributed.crew import Crew
from busyhour.distributed.lines import Message
from busyhour.distributed.member import Lost, Member
from busyhour.distributed.offsets import Offset
from busyhour.distributed.places import is_loopback, place
from busyhour.engine import Execution, Stopped
from busyhour.errors import BusyhourError, JournalError, PlanError, ServiceError
from busyhour.gates import judge
from busyhour.model import MS, SECOND, Arrival, Endpoint, Mark, Operation, Outcome, Phase, Plan, Sample
from busyhour.testing import MemoryRun


@dataclass(eq=False)
class Worker:
    """A Link whose other end obeys as a worker does. fails: its last words, at its first phase."""

    clock: VirtualClock
    dies_at_ns: int | None = None
    fails: tuple[str, str] | None = None
    ahead_ns: int = 0
    drifts_ns: int = 0  # at each reading of its clock
    trip_ns: int = 0
    seconds: float = 10.0  # that a phase takes
    cut: bool = False
    orders: list[Message] = field(default_factory=list)
    _out: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    _obeying: list[asyncio.Task[None]] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.orders.append(message)
        if "do" in message:
            self._obeying.append(asyncio.ensure_future(self._obey(message)))

    async def receive(self) -> Message | None:
        return await self._out.get()

    def tell(self, **message: Any) -> None:
        self._out.put_nowait(message)

    async def _obey(self, order: Message) -> None:
        match order["do"]:
            case "clock":
                await self.clock.sleep_until(self.clock.now_ns() + self.trip_ns)
                self.ahead_ns += self.drifts_ns
                self.tell(re=order["id"], now_ns=self.clock.now_ns() + self.ahead_ns)
                await self.clock.sleep_until(self.clock.now_ns() + self.trip_ns)
            case "open":
                self.tell(re=order["id"], url="memory:")
            case "phase":
                await self._phase(order)
            case "cut":
                self.cut = True
            case _:
                self.tell(re=order["id"])

    async def _phase(self, order: Message) -> None:
        if self.fails is not None:
            self.tell(failed={"kind": self.fails[0], "why": self.fails[1]})
            self._out.put_nowait(None)
            return
        for second in range(1, int(self.seconds) + 1):
            await self.clock.sleep_until(self.clock.now_ns() + SECOND)
            if self.dies_at_ns is not None and self.clock.now_ns() >= self.dies_at_ns:
                self._out.put_nowait(None)
                return
            if self.cut:
                break
            self.tell(progress=progress(order["number"], started=second, finished=second - 1))
        self.tell(re=order["id"])


def progress(number: int, *, started: int, finished: int) -> dict[str, object]:
    rest = {"failed": 0, "dropped": 0, "turns": finished, "missed": 0, "latencies_ms": [5.0], "lateness_p99_ms": 0.5}
    return {"number": number, "started": started, "finished": finished, **rest}


class Never:
    async def perform(self, arrival: Arrival) -> None:
        raise AssertionError("the leader performs nothing")


@dataclass
class Notes:
    records: list[Operation | Sample | Mark] = field(default_factory=list)

    def append(self, record: Operation | Sample | Mark) -> None:
        self.records.append(record)

    def run(self) -> MemoryRun:
        kinds = (Operation, Sample, Mark)
        operations, samples, marks = ([one for one in self.records if isinstance(one, kind)] for kind in kinds)
        return MemoryRun(operations, samples, marks)  # type: ignore[arg-type]  # each of its kind

    def marks(self, kind: str) -> list[Mark]:
        return [one for one in self.records if isinstance(one, Mark) and one.kind == kind]


def planned(clock: VirtualClock, *phases: Phase, url: str = "memory:") -> Plan:
    class Target(MemoryService):
        @asynccontextmanager
        async def running(self, peers: object) -> AsyncIterator[Endpoint]:
            yield Endpoint(url)

    return Plan(target=Target("agent"), carrier=MemoryCarrier(clock=clock), phases=phases, gates=[])


def led(
    clock: VirtualClock,
    plan: Plan,
    workers: Sequence[Worker],
    *,
    prepare: Callable[[Member], None] = lambda member: None,
    stop_after: float | None = None,
) -> tuple[Notes, Execution]:
    notes = Notes()

    @asynccontextmanager
    async def hiring() -> AsyncIterator[Sequence[Member]]:
        members = [Member(number, worker, clock) for number, worker in enumerate(workers, start=1)]
        tasks = [asyncio.create_task(listened(member)) for member in members]
        for member in members:
            prepare(member)
        try:
            yield members
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    execution = Execution(Crew(hiring, clock=clock).divided(plan), notes, clock=clock)

    async def execute() -> None:
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, execution.stop, "stopped by the test")
        await execution.execute()

    try:
        clock.run(execute())
    except BaseException as error:
        error.notes = notes  # type: ignore[attr-defined]  # for the test that expects it
        raise
    return notes, execution


async def listened(member: Member) -> None:
    member.give_up(await member.listen() or "was killed by SIGKILL")


TALK = Phase("talk", Constant(1, 20), Never())
CALM = Phase("calm", Constant(1, 10), Never())


def test_the_sums_are_shown_and_every_worker_is_told_the_same_instant() -> None:
    clock = VirtualClock()
    workers = [Worker(clock), Worker(clock)]
    notes, execution = led(clock, planned(clock, TALK), workers)
    assert (execution.progress.started, execution.progress.finished, execution.progress.turns) == (20, 18, 18)
    assert execution.progress.lateness_p99_ms == 0.5
    begins = [order["began_ns"] for worker in workers for order in worker.orders if order.get("do") == "phase"]
    assert len(begins) == 2
    assert begins[0] == begins[1] > notes.marks("phase.began")[0].at_ns
    assert [m.kind for m in notes.records if isinstance(m, Mark)][-1] == "run.ended"


def test_the_share_of_a_dead_worker_is_dropped_now_and_later_and_told_once() -> None:
    clock = VirtualClock()
    notes, execution = led(clock, planned(clock, TALK, CALM), [Worker(clock), Worker(clock, dies_at_ns=4 * SECOND)])
    (died,) = notes.marks("service.died")
    assert died.detail == {
        "obituary": "worker 2 of 2 was killed by SIGKILL; 8 arrivals of talk are lost with it",
        "role": "harness",
        "phase": "talk",
        "lost": 8,  # of ten it had finished two
    }
    dropped = {mark.name: mark.detail["count"] for mark in notes.marks("arrival.dropped")}
    assert dropped == {"talk": 8, "calm": 5}
    ended = [mark.detail for mark in notes.marks("phase.ended")]
    assert ended == [{"started": 12, "dropped": 8}, {"started": 10, "dropped": 5}]
    judgement = judge(planned(clock, TALK), notes.run())
    assert judgement.outcome is Outcome.INVALID
    assert execution.progress.dropped == 5


def test_of_a_closed_load_what_was_in_progress_is_lost() -> None:
    clock = VirtualClock()
    phase = Phase("held", Hold(4, 20), Never())
    notes, _ = led(clock, planned(clock, phase), [Worker(clock, dies_at_ns=4 * SECOND), Worker(clock)])
    (died,) = notes.marks("service.died")
    assert died.detail["lost"] == 1
    assert "and what was to come of its share" in str(died.detail["obituary"])


def test_without_any_worker_left_the_run_is_over() -> None:
    clock = VirtualClock()
    workers = [Worker(clock, dies_at_ns=3 * SECOND), Worker(clock, dies_at_ns=4 * SECOND)]
    with pytest.raises(ExceptionGroup) as caught:
        led(clock, planned(clock, TALK), workers)
    assert caught.group_contains(ServiceError, match="no worker is left: worker 1 was killed by SIGKILL; worker 2 was")


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        ("PlanError", PlanError, "the fault is aimed at nobody"),
        ("JournalError", JournalError, "worker 2: the fault is"),
        ("bug", BusyhourError, "worker 2: a bug of busyhour's own, or of the plan's workload: the fault is"),
    ],
)
def test_what_a_worker_fails_with_ends_the_run_and_the_others_are_cut(
    kind: str, expected: type[Exception], words: str
) -> None:
    clock = VirtualClock()
    other = Worker(clock)
    with pytest.raises(ExceptionGroup) as caught:
        led(clock, planned(clock, TALK), [other, Worker(clock, fails=(kind, "the fault is aimed at nobody"))])
    assert caught.group_contains(expected, match=words)
    assert other.cut


def test_a_stopped_run_waits_until_the_workers_have_cut_off_their_calls() -> None:
    clock = VirtualClock()
    workers = [Worker(clock), Worker(clock)]
    with pytest.raises(Stopped, match="stopped by the test") as caught:
        led(clock, planned(clock, TALK), workers, stop_after=3.5)
    assert all(worker.cut for worker in workers)
    notes: Notes = caught.value.notes  # type: ignore[attr-defined]  # put there by `led`
    assert notes.marks("run.stopped")[0].at_ns >= 4 * SECOND  # their answer came at the next second
    assert all(worker.orders[-1]["do"] == "end" for worker in workers)


# ---------------------------------------------------------------- other machines


def test_the_shortest_round_trip_bounds_what_is_known_of_a_clock() -> None:
    clock = VirtualClock()

    async def measured() -> Offset:
        member = Member(1, Worker(clock, ahead_ns=-7 * SECOND, trip_ns=3 * MS), clock)
        task = asyncio.create_task(listened(member))
        offset = await offset_of(member, clock)
        task.cancel()
        return offset

    offset = clock.run(measured())
    assert abs(offset.ahead_ns + 7 * SECOND) <= offset.within_ns <= 4 * MS


@pytest.mark.parametrize(
    ("later", "doubt"),
    [
        (Offset(500 * MS + 5 * MS, 2 * MS), ""),
        (Offset(500 * MS + 30 * MS, 2 * MS), "has a clock that has moved by 30 ms against ours during the run"),
        (
            Offset(500 * MS, 35 * MS),
            "has a clock that is known only within 35 ms: the way to it and back takes too long",
        ),
    ],
)
def test_clocks_are_doubted_when_the_error_could_matter(later: Offset, doubt: str) -> None:
    assert Offset(500 * MS, 2 * MS).doubt(later) == doubt


@pytest.mark.parametrize("drifts_ns", [0, 30 * MS])
def test_two_machines_whose_clocks_disagree_make_the_run_invalid(drifts_ns: int) -> None:
    clock = VirtualClock()

    def elsewhere(member: Member) -> None:
        if member.number == 2:
            member.offset = Offset(500 * SECOND, MS)

    workers = [Worker(clock), Worker(clock, ahead_ns=500 * SECOND, drifts_ns=drifts_ns)]
    notes, _ = led(clock, planned(clock, TALK), workers, prepare=elsewhere)
    began = [next(o["began_ns"] for o in worker.orders if o.get("do") == "phase") for worker in workers]
    assert began[1] - began[0] == 500 * SECOND
    outcome = judge(planned(clock, TALK), notes.run())
    told = " ".join(verdict.because for verdict in outcome.validity)
    assert (outcome.outcome is Outcome.INVALID) == bool(drifts_ns)
    assert ("worker 2 of 2 has a clock that has moved by" in told) == bool(drifts_ns)


def test_a_target_on_our_loopback_is_not_asked_of_another_machine() -> None:
    clock = VirtualClock()

    def elsewhere(member: Member) -> None:
        member.place = {**place(), "host": "hill", "network": "another"} if member.number == 2 else place()

    plan = planned(clock, TALK, url="http://127.0.0.1:8000")
    with pytest.raises(ExceptionGroup) as caught:
        led(clock, plan, [Worker(clock), Worker(clock)], prepare=elsewhere)
    assert caught.group_contains(ServiceError, match="on the loopback of this machine, and worker 2 is on another")
    notes, _ = led(clock, replace(plan, target=planned(clock, url="http://10.0.0.7").target), [Worker(clock)])
    assert notes.marks("run.ended")


def test_loopbacks_are_known_by_their_names() -> None:
    assert all(is_loopback(url) for url in ("http://127.0.0.1:80", "ws://localhost/x", "http://[::1]:1"))
    assert not any(is_loopback(url) for url in ("http://10.0.0.7", "http://agent.example.com", "memory:", ""))


def test_orders_to_the_dead_are_answered_at_once() -> None:
    clock = VirtualClock()

    async def ask() -> None:
        member = Member(1, Worker(clock), clock)
        pending = member.order("wait for ever")
        member.give_up("is gone")
        for order in (pending, member.order("clock")):
            with pytest.raises(Lost, match="is gone"):
                await order

    clock.run(ask())
