"""When a frame came: as the kernel has it, however late it is read; and what a process that was held up makes of it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import uvloop
from picows import WSListener, WSTransport, ws_create_server
from tests.fastlane.rig import MESSAGES, Rig, StillClock, compiled

from busyhour.clock import SystemClock, VirtualClock
from busyhour.media.studio import Studio
from busyhour.model import MS

LOUD = b"\1" * 8


class Talker(WSListener):
    """The far end of a media stream."""

    transport: WSTransport

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport


@asynccontextmanager
async def talking(rig: Rig) -> AsyncIterator[Talker]:
    far = Talker()
    server = await ws_create_server(lambda _request: far, "127.0.0.1", 0)
    try:
        async with rig.studio.turning():
            port = server.sockets[0].getsockname()[1]
            await rig.socket.open(f"ws://127.0.0.1:{port}", headers={}, timeout_seconds=10)
            closed = asyncio.create_task(rig.socket.closed())
            yield far
            rig.socket.close()
            await closed
    finally:
        server.close()


async def until_read(rig: Rig, received: int) -> None:
    async with asyncio.timeout(10):
        while rig.socket.counts.received < received:
            rig.studio.decode()
            await asyncio.sleep(0)


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what arrives for a socket")
def test_a_frame_that_is_read_late_was_there_when_it_came() -> None:
    clock = SystemClock()

    async def stamped() -> list[bool]:
        rig, in_time = Rig(clock, by_lane=True), []
        async with talking(rig) as far:
            for number in range(1, 40):
                far.transport.send(*MESSAGES["tone"])
                sent_ns = clock.now_ns()
                while clock.now_ns() < sent_ns + 35 * MS:  # the process is held up, and the queue runs dry
                    pass
                await until_read(rig, number)
                in_time.append(rig.leg._playout.run_ns <= sent_ns + 10 * MS)
        return in_time

    in_time = uvloop.run(stamped())
    assert not in_time[0]  # it was read by the transport
    assert all(in_time[-10:])  # the kernel begins to stamp some time after it was asked to


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux stamps what arrives for a socket")
def test_frames_that_are_read_together_are_no_gap_of_the_agents() -> None:
    clock = SystemClock()

    def wait_until(at_ns: int) -> None:
        while clock.now_ns() < at_ns:
            pass

    async def runs() -> tuple[int, int, int]:
        rig = Rig(clock, by_lane=True)
        async with talking(rig) as far:
            for number in range(1, 40):  # the kernel begins to stamp some time after it was asked to
                far.transport.send(*MESSAGES["tone"])
                await until_read(rig, number)
            ended_ns, run_ns = rig.leg._playout.ended_ns, rig.leg._playout.run_ns
            wait_until(ended_ns - 5 * MS)
            far.transport.send(*MESSAGES["tone"])  # in time
            wait_until(ended_ns + 15 * MS)
            far.transport.send(*MESSAGES["tone"])  # in time, too, but both are stamped now
            wait_until(ended_ns + 30 * MS)
            await until_read(rig, 41)
            together = rig.leg._playout.run_ns - run_ns
            wait_until(rig.leg._playout.ended_ns + 15 * MS)
            far.transport.send(*MESSAGES["tone"])  # late
            await until_read(rig, 42)
            late = rig.leg._playout.run_ns - run_ns
            ended_ns = rig.leg._playout.ended_ns
            wait_until(ended_ns + 20 * MS)
            rig.studio.decode()  # nothing is there
            far.transport.send(*MESSAGES["tone"])  # late
            wait_until(ended_ns + 40 * MS)
            far.transport.send(*MESSAGES["tone"])
            await until_read(rig, 44)
            return together, late, rig.leg._playout.run_ns - ended_ns

    together, late, late_together = uvloop.run(runs())
    assert together == 0
    assert late > 55 * MS
    assert late_together >= 20 * MS


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is read directly elsewhere")
def test_it_is_known_what_was_read_though_there_is_always_more() -> None:
    clock = SystemClock()

    async def behind_ns() -> list[int]:
        studio = Studio(clock)
        far: list[Talker] = []

        def accept(_request: object) -> Talker:
            far.append(Talker())
            return far[-1]

        server = await ws_create_server(accept, "127.0.0.1", 0)
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        behind = []
        async with studio.turning():
            rigs = [Rig(clock, by_lane=True, shared=studio) for _ in range(300)]  # 256 of which are read at once
            for rig in rigs:
                await rig.socket.open(url, headers={}, timeout_seconds=10)
            closed = [asyncio.create_task(rig.socket.closed()) for rig in rigs]
            for _ in range(20):
                began_ns = clock.now_ns()
                for _ in range(3):
                    for agent in far:
                        agent.transport.send(*MESSAGES["silence"])
                    await asyncio.sleep(0)
                behind.append(studio.inbox.read_until(began_ns + 50 * MS) - began_ns)
            for rig in rigs:
                rig.socket.close()
            await asyncio.gather(*closed)
        server.close()
        return behind

    behind = uvloop.run(behind_ns())[10:]
    assert min(behind) >= 0
    assert max(behind) < 50 * MS  # there was always more


@compiled
@pytest.mark.skipif(sys.platform != "linux", reason="nothing is read directly elsewhere")
def test_what_is_not_read_yet_is_not_taken_for_heard() -> None:
    async def heard_until() -> None:
        clock = SystemClock()
        rig = Rig(clock, by_lane=True)
        async with talking(rig) as far:
            for number in range(1, 4):
                far.transport.send(*MESSAGES["tone"])
                await until_read(rig, number)
            before_ns = clock.now_ns()
            assert rig.studio.inbox.read_until(before_ns) == before_ns
            far.transport.send(*MESSAGES["tone"])
            now_ns = clock.now_ns()
            assert now_ns - 100 * MS <= rig.studio.inbox.read_until(now_ns) < now_ns
            rig.studio.decode()
            assert rig.studio.decoded_ns < now_ns
            await until_read(rig, 4)
            now_ns = clock.now_ns()
            assert rig.studio.inbox.read_until(now_ns) == now_ns

    uvloop.run(heard_until())


@pytest.mark.parametrize(("late_ms", "jitter_ms"), [(0, 0), (9, 0), (10, 0), (0, 20), (1, 20)])
def test_a_leg_looks_around_when_there_may_be_a_gap(late_ms: int, jitter_ms: int) -> None:
    leg = Rig(StillClock(), by_lane=False, jitter_buffer_ns=jitter_ms * MS).leg
    leg.take_windows(LOUD, 5)
    leg._steady = True
    leg.take_windows(LOUD, leg._playout.ended_ns + late_ms * MS)
    assert leg._steady is not ((late_ms, jitter_ms) in {(10, 0), (1, 20)})


@pytest.mark.parametrize(("unread_ms", "told_ms", "more_ms"), [(0, 10, 2), (50, 60, 6), (500, 110, 6)])
def test_nothing_heard_is_said_when_all_that_came_by_then_was_read(
    unread_ms: int, told_ms: int, more_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()

    async def waited_ns() -> int:
        rig = Rig(clock, by_lane=False)
        monkeypatch.setattr(rig.studio.inbox, "read_until", lambda now_ns: now_ns - unread_ms * MS, raising=False)
        began_ns = clock.now_ns()
        assert await rig.leg.hear(began_ns + 10 * MS) is None
        return clock.now_ns() - began_ns

    assert told_ms * MS <= clock.run(waited_ns()) <= (told_ms + more_ms) * MS


def test_legs_that_sound_together_do_not_look_together() -> None:
    clock = StillClock()
    early = sorted(Rig(clock, by_lane=False).leg._early_ns for _ in range(100))
    assert early[0] >= 0
    assert early[-1] < 250 * MS
    assert max(b - a for a, b in pairwise(early)) < 10 * MS
