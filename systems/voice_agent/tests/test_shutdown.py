"""The whole program, as it is started and stopped in production."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

_SHUTDOWN_SECONDS = 3.0  # of which a third is for hanging up
# The program's own clock does not wait for a slow test.
_PATIENT = dict.fromkeys(("FIRST_AUDIO_SECONDS", "DEAD_AIR_SECONDS", "MEDIA_IDLE_SECONDS"), "60")
_HANG_SECONDS = 60.0  # a guard against hanging
_LOOK_SECONDS = 0.01
_SILENT = b"\xff" * 160


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def test_drain_hangs_up_and_leaves_no_task(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        before = asyncio.all_tasks()
        async with world.calling() as caller:
            await caller.greeted()
            await world.app.state.switchboard.drain(0.1)
            await caller.next("closed")
            assert world.telnyx.names()[-1] == "hangup"
            assert (await world.http.get(f"{world.agent}/health")).json()["status"] == "draining"
            await world.webhook("call.initiated", call_control_id="late")
            assert (await world.telnyx.commanded("reject"))["cause"] == "USER_BUSY"
        assert await world.metric('voice_agent_calls_total{outcome="shutting down"}') == 1
        left = {task.get_name() for task in asyncio.all_tasks() - before if "voice_agent" in repr(task)}
        assert left == set()


async def test_drain_lets_a_call_finish(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        draining = asyncio.create_task(world.app.state.switchboard.drain(5))
        world.openai.replies.append("Goodbye.")
        await caller.say("Bye.")
        await caller.next("mark")
        await draining
    assert await world.metric('voice_agent_calls_total{outcome="said goodbye"}') == 1


async def test_sigterm_ends_the_program_in_good_order(worlds: Callable[..., Any]) -> None:
    """With no call, with ten, and with three while carrier and recogniser do not answer any more."""
    async with worlds() as idle, worlds() as busy, worlds() as stuck, asyncio.TaskGroup() as group:
        group.create_task(_stopped(idle, calls=0))
        group.create_task(_stopped(busy, calls=10))
        group.create_task(_stopped(stuck, calls=3, frozen=True))
    for world, calls in ((busy, 10), (stuck, 3)):
        hung_up = [command["call"] for name, command in world.telnyx.commands if name == "hangup"]
        assert sorted(set(hung_up)) == sorted(f"call {number}" for number in range(calls))


async def _stopped(world: Any, *, calls: int, frozen: bool = False) -> None:
    """Start the program, have it called, and end it while the calls are open."""
    async with _program(world) as program, AsyncExitStack() as stack:
        for number in range(calls):
            caller = await stack.enter_async_context(world.calling(f"call {number}", quiet=False))
            await caller.greeted()
        if frozen:
            world.deepgram.mode, world.telnyx.frozen = "frozen", asyncio.Event()
            stack.callback(world.telnyx.frozen.set)
            await caller.sound(_SILENT, 100)
        program.terminate()
        async with asyncio.timeout(_HANG_SECONDS):
            told = (await program.stderr.read()).decode()
            assert await program.wait() == 0
    for noise in ("Task was destroyed", "Traceback", "never", '"error"'):
        assert noise not in told, told
    assert '"stopped"' in told
    assert told.count('"outcome": "shutting down"') == calls
    assert '"draining"' in told
    assert '"dropping"' in told or not frozen


@asynccontextmanager
async def _program(world: Any) -> AsyncIterator[Any]:
    port = _free_port()
    settings = {"PORT": str(port), "SHUTDOWN_SECONDS": str(_SHUTDOWN_SECONDS), "PYTHONASYNCIODEBUG": "1"}
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "voice_agent", env={**os.environ, **world.settings, **_PATIENT, **settings}, stderr=PIPE
    )
    try:
        assert program.stderr is not None
        while b'"ready"' not in (line := await program.stderr.readline()):
            assert line, "it ended before it was ready"
        world.agent = f"http://127.0.0.1:{port}"
        while not await _answers(world):  # noqa: ASYNC110  (the port opens just after "ready")
            await asyncio.sleep(_LOOK_SECONDS)
        yield program
    finally:
        if program.returncode is None:
            program.kill()
            await program.communicate()


async def _answers(world: Any) -> bool:
    try:
        return bool((await world.http.get(f"{world.agent}/health")).is_success)
    except httpx.TransportError:
        return False
