"""The whole program, as it is started and stopped in production."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
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
        told = await _ended(program)
    assert told.count('"outcome": "shutting down"') == calls
    assert '"draining"' in told
    assert '"dropping"' in told or not frozen


async def test_what_leaks_is_seen_from_outside_and_holds_up_no_end(worlds: Callable[..., Any]) -> None:
    leaks = "leak_python:200,leak_native:300,leak_native_per_second,leak_fd,leak_task,leak_on_refused:100"
    async with worlds(DEFECT=leaks, MAX_CALLS="1") as world, _program(world) as program:
        await _calls(world, 0, 3)
        before = await _vitals(world, program)
        await _calls(world, 3, 10)
        after = await _vitals(world, program)
        told = await _ended(program)
    grown = {name: after[name] - before[name] for name in after}
    assert told.count('"event": "call ended"') == 13
    assert 10 <= grown["descriptors"] <= 14  # a keep-alive connection or two may be new, or gone
    assert 10 <= grown["tasks"] <= 14
    assert grown["calls refused"] == 10
    assert grown["blocks"] > 10 * (200 + 100)  # of less than a KB each
    assert 10 * 300 * 1024 <= grown["heap"] <= 10 * 300 * 1024 + 2_000_000
    assert grown["resident"] > 0.8 * 10 * (200 + 100 + 300) * 1024


async def _calls(world: Any, first: int, count: int) -> None:
    """So many, and while each is open another that finds the line busy."""
    for number in range(first, first + count):
        async with world.calling(f"call {number}") as caller:
            await caller.greeted()
            await world.webhook("call.initiated", call_control_id=f"refused {number}")
            await world.telnyx.commanded("reject", f"refused {number}")


async def _vitals(world: Any, program: Any) -> dict[str, float]:
    process = Path(f"/proc/{program.pid}")
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "resident": int((process / "statm").read_text().split()[1]) * resource.getpagesize(),
        "tasks": await world.metric("process_asyncio_tasks"),
        "heap": await world.metric("process_heap_bytes"),
        "calls refused": await world.metric('voice_agent_calls_total{outcome="refused"}'),
        "blocks": await world.metric("process_python_blocks"),
    }


async def _ended(program: Any) -> str:
    """Ask it to end; what it told, after nothing but an end in good order."""
    program.terminate()
    async with asyncio.timeout(_HANG_SECONDS):
        told = str((await program.stderr.read()).decode())
        assert await program.wait() == 0
    for noise in ("Task was destroyed", "Traceback", "never", '"error"'):
        assert noise not in told, told
    assert '"stopped"' in told
    return told


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
