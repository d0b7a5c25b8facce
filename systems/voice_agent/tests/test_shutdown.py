"""The whole program, as it is started and stopped in production."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest


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


@pytest.mark.parametrize("open_call", [False, True])
async def test_sigterm_ends_the_program_in_good_order(worlds: Callable[..., Any], open_call: bool) -> None:
    async with worlds() as world:
        port = _free_port()
        settings = {"PORT": str(port), "SHUTDOWN_SECONDS": "0.2"}
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "voice_agent",
            env={**os.environ, **world.settings, **settings, "PYTHONASYNCIODEBUG": "1"},
            stderr=asyncio.subprocess.PIPE,
        )
        assert program.stderr is not None
        while b'"ready"' not in (line := await program.stderr.readline()):
            assert line, "it ended before it was ready"
        world.agent = f"http://127.0.0.1:{port}"
        while not await _answers(world):
            pass  # the port opens just after "ready"
        if open_call:
            async with world.calling(quiet=False) as caller:
                await caller.greeted()
                program.terminate()
                await caller.next("closed")
                told = await program.stderr.read()
            assert world.telnyx.names()[-1] == "hangup"
        else:
            program.terminate()
            told = await program.stderr.read()
        assert await program.wait() == 0
        assert b"Task was destroyed" not in told
        assert b"Traceback" not in told
        assert b"never" not in told
        assert b'"stopped"' in told


async def _answers(world: Any) -> bool:
    try:
        return bool((await world.http.get(f"{world.agent}/health")).is_success)
    except httpx.TransportError:
        return False
