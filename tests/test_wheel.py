import asyncio
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from picows import WSMsgType

from busyhour.carriers.agent_socket import AgentSocket
from busyhour.clock import SystemClock, VirtualClock
from busyhour.errors import ProtocolError
from busyhour.media.studio import Inbox
from busyhour.media.wheel import Wheel
from busyhour.model import MS, SECOND, Clock, Sample


class HandClock:
    """Time moved by hand: no loop needed."""

    def __init__(self) -> None:
        self.at_ns = 0

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = max(self.at_ns, at_ns)


def wheel_by_hand() -> tuple[Wheel, Callable[[int], None]]:
    clock = HandClock()
    wheel = Wheel(clock)

    def to(at_ns: int) -> None:
        clock.at_ns = at_ns
        wheel.advance(at_ns)

    return wheel, to


def weighted(samples: list[Sample], name: str) -> list[tuple[float, int]]:
    return [(sample.value, sample.count) for sample in samples if sample.name == name]


def test_every_line_ticks_once_a_turn_in_its_own_slot() -> None:
    wheel, to = wheel_by_hand()
    due: dict[int, list[int]] = {line: [] for line in range(40)}
    for line in range(40):
        wheel.attach(due[line].append)
    for ms in range(100):
        to(ms * MS)
    assert {tuple(b - a for a, b in pairwise(ticks)) for ticks in due.values()} == {(20 * MS,) * 4}
    assert sorted(ticks[0] // MS for ticks in due.values()) == sorted([*range(20), *range(20)])


def test_a_new_line_takes_the_emptiest_slot() -> None:
    wheel, _ = wheel_by_hand()
    slots = [wheel.attach(lambda _: None) for _ in range(20)]
    wheel.detach(slots[13])
    wheel.detach(slots[13])
    assert wheel.attach(lambda _: None).index == 13


def test_lateness_is_measured_for_each_frame_once() -> None:
    wheel, to = wheel_by_hand()
    for _ in range(20):
        wheel.attach(lambda _: None)
    to(4 * MS)  # slots 0 to 4: late by 4, 3, 2, 1, 0 ms
    late = weighted(wheel.drain(7), "send_lateness_ms")
    assert [count for _, count in late] == [1] * 5
    assert [value for value, _ in late] == pytest.approx([0, 1, 2, 3, 4], rel=0.02)
    drained = wheel.drain(8)
    assert weighted(drained, "send_lateness_ms") == []
    assert drained == [Sample(8, "harness", "frames_skipped", 0)]


class Slow:
    """A reader, and a listener, that takes a tenth of a millisecond for a message."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock

    def read(self, _kind: str, _message: bytes, _at_ns: int) -> None:
        self.clock.at_ns += MS // 10

    def socket_opened(self, at_ns: int) -> None: ...

    def heard(self, kind: WSMsgType, message: bytes, at_ns: int) -> None: ...

    def broke(self, detail: str) -> None: ...


def lines_of(wheel: Wheel, clock: HandClock) -> list[float]:
    """How many ms each tick of 20 lines was late, as it happens."""
    late_ms: list[float] = []
    for _ in range(20):
        wheel.attach(lambda due_ns: late_ms.append((clock.at_ns - due_ns) / MS))
    wheel.advance(0)
    return late_ms


def test_what_is_due_does_not_wait_for_all_that_arrived_to_be_read() -> None:
    clock = HandClock()
    wheel = Wheel(clock)
    inbox, reader, late_ms = Inbox(wheel), Slow(clock), lines_of(wheel, clock)
    for _ in range(500):
        inbox.put((reader, "text", b"", 0))
    assert inbox.read()
    assert clock.at_ns == 50 * MS
    assert len(late_ms) > 45
    assert max(late_ms) < 4  # and not 50


def test_what_is_due_does_not_wait_for_hundreds_of_sockets_that_can_be_read() -> None:
    clock = HandClock()
    wheel = Wheel(clock)
    inbox, late_ms = Inbox(wheel), lines_of(wheel, clock)
    socket = AgentSocket(hearer=Slow(clock), clock=clock, bytes_max=100, named="socket", inbox=inbox)
    frame: Any = SimpleNamespace(msg_type=WSMsgType.TEXT, fin=True, get_payload_as_bytes=lambda: b"{}")
    transport: Any = None
    for _ in range(500):
        clock.at_ns += MS // 10
        socket.on_ws_frame(transport, frame)
    assert len(late_ms) > 45
    assert max(late_ms) < 1


def test_overload_is_late_and_does_nothing_else_no_longer_than_two_thirds_of_the_time() -> None:
    """Each frame takes 2 ms to send, and 1 ms is there."""
    clock = HandClock()
    wheel = Wheel(clock)

    def tick(due_ns: int) -> None:
        clock.at_ns += 2 * MS

    for _ in range(20):
        wheel.attach(tick)
    wheel.advance(0)
    idle = 0
    while clock.at_ns < 300 * MS:
        before_ns = clock.at_ns
        wheel.hurry()
        if clock.at_ns == before_ns:
            clock.at_ns += MS // 10
            idle += 1
    assert idle >= 800  # of 3,000 tenths of a millisecond, and the last frames may have no rest behind them


def test_a_slot_is_over_before_the_next_begins() -> None:
    """Even if one of its lines is lost, which has all that arrived be read."""
    clock = HandClock()
    wheel = Wheel(clock)
    inbox, ticks = Inbox(wheel), list[str]()

    def dead(_due_ns: int) -> None:
        raise OSError("the socket is gone")

    def lost(_failure: OSError | ProtocolError) -> None:
        for _ in range(500):
            inbox.put((Slow(clock), "text", b"", 0))
        inbox.read()  # 50 ms

    for number in range(20):
        wheel.attach(partial(lambda name, _: ticks.append(name), f"slot {number}"))
    wheel.attach(dead, lost)  # in slot 0, as is the next line of those that come
    for number in range(1, 21):
        wheel.attach(partial(lambda name, _: ticks.append(name), f"slot {number % 20}"))
    wheel.advance(0)
    assert ticks == ["slot 0", "slot 0"]


def test_a_wheel_that_does_not_turn_hurries_nobody() -> None:
    wheel = Wheel(HandClock())
    wheel.attach(lambda _: pytest.fail("it ticked"))
    wheel.hurry()


def test_a_delay_within_a_turn_costs_no_frame() -> None:
    wheel, to = wheel_by_hand()
    ticks: list[int] = []
    for _ in range(20):
        wheel.attach(ticks.append)
    to(19 * MS)
    to(39 * MS)
    assert ticks == [ms * MS for ms in range(40)]
    assert weighted(wheel.drain(0), "frames_skipped") == [(0, 1)]
    to(60 * MS)  # one more, and the first of them has missed a turn
    assert ticks[40:] == [ms * MS for ms in range(41, 61)]
    assert weighted(wheel.drain(0), "frames_skipped") == [(1, 1)]


def test_after_a_standstill_each_line_gets_one_frame_and_the_rest_is_counted_as_skipped() -> None:
    wheel, to = wheel_by_hand()
    ticks: list[list[int]] = [[], [], []]
    for line in ticks:
        wheel.attach(line.append)
    to(0)
    to(1 * MS)
    to(2 * MS)
    to(2_010 * MS)
    assert [len(line) for line in ticks] == [2, 2, 2]
    assert [line[-1] for line in ticks] == [2_000 * MS, 2_001 * MS, 2_002 * MS]
    drained = wheel.drain(0)
    assert weighted(drained, "frames_skipped") == [(3 * 99, 1)]
    late = weighted(drained, "send_lateness_ms")
    assert sum(count for _, count in late) == 3 * 101
    assert max(value for value, _ in late) == pytest.approx(1_990, rel=0.02)
    to(2_020 * MS)  # and it goes on in step
    assert ticks[0][-1] == 2_020 * MS
    assert weighted(wheel.drain(0), "frames_skipped") == [(0, 1)]


def test_a_line_whose_socket_fails_is_taken_off_and_told_so() -> None:
    wheel, to = wheel_by_hand()
    failures: list[Exception] = []
    ticks: list[int] = []

    def broken(_due_ns: int) -> None:
        raise BrokenPipeError("gone")

    def foreign(_due_ns: int) -> None:
        raise ProtocolError("what is this?")

    wheel.attach(broken, failures.append)
    wheel.attach(foreign, failures.append)
    wheel.attach(broken)
    wheel.attach(ticks.append)
    for ms in range(41):
        to(ms * MS)
    assert [str(failure) for failure in failures] == ["gone", "what is this?"]
    assert len(ticks) == 2


def test_a_line_detached_by_another_in_the_same_slot_does_not_tick_again() -> None:
    ticks: list[int] = []
    wheel = Wheel(HandClock(), slots=1)
    wheel.attach(lambda _: wheel.detach(second))
    second = wheel.attach(ticks.append)
    wheel.advance(0)
    assert ticks == []


def test_duties_are_done_between_the_frames() -> None:
    wheel, to = wheel_by_hand()
    done: list[str] = []
    wheel.attach(lambda due_ns: done.append(f"frame {due_ns // MS}"))
    wheel.between(lambda: done.append("duty"), every=5)
    for ms in range(21):
        to(ms * MS)
    assert done == ["frame 0", "duty", "duty", "duty", "duty", "frame 20", "duty"]


def on_each_loop(main: Callable[[Clock], object]) -> None:
    for run in (asyncio.run, uvloop.run):
        run(main(SystemClock()))  # type: ignore[operator]
    virtual = VirtualClock()
    virtual.run(main(virtual))  # type: ignore[arg-type]


def test_the_wheel_turns_in_step_with_the_clock_on_every_loop() -> None:
    async def main(clock: Clock) -> None:
        wheel = Wheel(clock)
        stamps: list[tuple[int, int]] = []
        enough = asyncio.Event()

        def tick(due_ns: int) -> None:
            stamps.append((due_ns, clock.now_ns()))
            if len(stamps) == 10:
                enough.set()

        async with wheel.turning():
            wheel.attach(tick)
            async with asyncio.timeout(60):
                await enough.wait()
        ticked = len(stamps)
        # On a machine that is busy with something else a turn may be skipped, but never doubled or moved.
        assert all(b > a and (b - a) % (20 * MS) == 0 for (a, _), (b, _) in pairwise(stamps))
        assert all(at_ns >= due_ns for due_ns, at_ns in stamps)
        await clock.sleep_until(clock.now_ns() + 30 * MS)
        assert len(stamps) == ticked  # it has stopped

    on_each_loop(main)


def test_a_bug_in_a_tick_ends_the_body_and_comes_out() -> None:
    async def main(clock: Clock) -> None:
        wheel = Wheel(clock)

        def tick(_due_ns: int) -> None:
            raise ZeroDivisionError("a bug")

        async def body() -> None:
            async with wheel.turning():
                wheel.attach(tick)
                await clock.sleep_until(clock.now_ns() + 60 * SECOND)

        with pytest.raises(ZeroDivisionError, match="a bug"):
            await body()
        current = asyncio.current_task()
        assert current is not None
        assert not current.cancelling()

    on_each_loop(main)


def test_a_cancelled_body_stays_cancelled() -> None:
    async def main(clock: Clock) -> None:
        wheel = Wheel(clock)

        async def body() -> None:
            async with wheel.turning():
                await clock.sleep_until(clock.now_ns() + 60 * SECOND)

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    on_each_loop(main)


def test_calls_are_let_in_one_by_one() -> None:
    clock = VirtualClock()

    async def main() -> list[int]:
        wheel = Wheel(clock)
        admitted: list[int] = []

        async def one() -> None:
            await wheel.admitted()
            admitted.append(clock.now_ns())

        async with wheel.turning(), asyncio.TaskGroup() as calls:
            for _ in range(50):
                calls.create_task(one())
        return admitted

    admitted = clock.run(main())
    assert admitted[0] < 5 * MS
    assert [b - a for a, b in pairwise(admitted)] == [2 * MS] * 49


async def test_the_next_call_is_let_in_when_the_last_is_no_longer_felt_or_has_waited_long() -> None:
    clock = HandClock()
    wheel = Wheel(clock)
    wheel._turning = True  # turned by hand
    wheel._in_time_ns = MS // 4  # as with the kernel's timer
    waiting = [asyncio.create_task(wheel.admitted()) for _ in range(3)]
    await asyncio.sleep(0)

    async def let_in(slots: range, late_ns: int) -> int:
        for ms in slots:
            clock.at_ns = ms * MS + late_ns
            wheel.advance(clock.at_ns)
        await asyncio.sleep(0)
        return sum(task.done() for task in waiting)

    assert await let_in(range(1, 400), wheel._in_time_ns) == 0  # every slot is felt, but none is behind
    assert await let_in(range(400, 402), 0) == 1
    assert await let_in(range(402, 499), wheel._in_time_ns) == 1
    assert await let_in(range(499, 502), wheel._in_time_ns) == 3


class Behind(HandClock):
    """Always 3 ms later than the wheel thinks: the process cannot keep up."""

    def now_ns(self) -> int:
        return self.at_ns + 3 * MS


async def test_no_call_is_let_in_while_the_wheel_is_behind_but_none_waits_for_ever() -> None:
    clock = Behind()
    wheel = Wheel(clock)
    wheel._turning = True  # turned by hand
    waiting = asyncio.create_task(wheel.admitted())
    given_up = asyncio.create_task(wheel.admitted())
    await asyncio.sleep(0)
    for ms in range(900):
        clock.at_ns = ms * MS
        wheel.advance(ms * MS)
    await asyncio.sleep(0)
    assert not waiting.done()
    given_up.cancel()
    await asyncio.sleep(0)
    for ms in range(900, 1_100):
        clock.at_ns = ms * MS
        wheel.advance(ms * MS)
    await waiting
    assert given_up.cancelled()


async def test_waiting_for_a_wheel_that_stands_still_is_refused() -> None:
    with pytest.raises(RuntimeError, match="does not turn"):
        await Wheel().admitted()
