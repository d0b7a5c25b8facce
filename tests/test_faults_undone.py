"""Faults that stand in the way of each other, and a restart that somebody can notice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import aiohttp
import pytest

from busyhour import admin, proc
from busyhour.arrivals import Burst
from busyhour.clock import SystemClock
from busyhour.emulators import OpenAI
from busyhour.errors import ServiceError
from busyhour.faults import undoing
from busyhour.faults.claims import contradictions
from busyhour.faults.process import Freeze, Restart
from busyhour.faults.provider import NoToken
from busyhour.model import Endpoint, Fault, Phase, Plan
from busyhour.services import Command
from busyhour.workloads.call import Call

CLOCK = SystemClock()
SLOW_TO_START = """
import http.server, os, pathlib, socket, sys, time
# It waits for the file to be gone, so that whoever started it decides how long it is down.
while pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
class Do(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer.allow_reuse_address = True
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Do).serve_forever()
"""


def command(*arguments: str, program: str = SLOW_TO_START) -> Command:
    return Command([sys.executable, "-c", program, *arguments], name="agent", stop_within_seconds=2)


# ---------------------------------------------------------------- a restart


async def test_who_comes_as_the_restart_begins_finds_nobody(tmp_path: object) -> None:
    held = f"{tmp_path}/held"
    service = command(held)
    async with service.running({}) as endpoint:
        (before,) = endpoint.pids
        with open(held, "w"):  # noqa: ASYNC230  (an empty file)
            pass
        async with Restart(service).injected({"agent": endpoint}, CLOCK) as proof, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(endpoint.url)
            os.unlink(held)
            effective, because = await proof.effect()
            assert effective
            assert because.startswith("agent was killed by SIGTERM after SIGTERM, and answered again ")
            assert f"(pid {before})" in because.partition(" instead of ")[2]
            async with session.get(endpoint.url) as answer:
                assert answer.status == 200
        assert proc.stat(before) is None


class Persistent:
    """A handle of a service that is somebody else's: it says that it has ended, and has not."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        self.pids = pids

    async def end(self, *, asked: bool) -> str:
        return "exited with 0 after SIGTERM"

    async def start_again(self) -> None:
        pass

    def excused(self) -> object:
        raise AssertionError("nobody asks")


async def test_a_restart_without_effect_is_none() -> None:
    service = command("/nonexistent")
    async with service.running({}) as endpoint:
        (pid,) = endpoint.pids
        same = Endpoint(endpoint.url, endpoint.pids, handle=Persistent(endpoint.pids))
        async with Restart(service).injected({"agent": same}, CLOCK) as proof:
            effective, because = await proof.effect()
            assert not effective
            assert because.startswith("agent exited with 0 after SIGTERM, but ")
            assert because.endswith(f"(pid {pid}) is still there")


async def test_a_restart_that_another_answers_for_is_none() -> None:
    service = command("/nonexistent")
    async with (
        service.running({}) as endpoint,
        await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1") as other,
    ):
        elsewhere = Endpoint(f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}", (), handle=endpoint.handle)
        async with Restart(service).injected({"agent": elsewhere}, CLOCK) as proof:
            effective, because = await proof.effect()
            assert not effective
            assert because.endswith(f"but somebody else answered at {elsewhere.url} meanwhile")


# ---------------------------------------------------------------- what stands still can be told nothing


@pytest.mark.parametrize("order", [lambda one, other: (one, other), lambda one, other: (other, one)])
def test_a_twin_cannot_be_frozen_and_told_in_one_phase(order: Callable[[Fault, Fault], tuple[Fault, Fault]]) -> None:
    llm = OpenAI()
    faults = order(Freeze(llm, 5, after_seconds=2), NoToken(llm))
    plan = Plan(target=command(), services=[llm], phases=[Phase("p", Burst(1), Call([]), faults=faults)], gates=[])
    (problem,) = contradictions(plan)
    assert "contradict each other: together they take more than all of the behaviour of llm" in problem


def send(endpoint: Endpoint, number: signal.Signals) -> None:
    for one in proc.tree(undoing.roots(endpoint)):
        os.kill(one.pid, number)


async def stopped(endpoint: Endpoint) -> None:
    """From somewhere else: the kernel shows all of it as stopped."""
    send(endpoint, signal.SIGSTOP)
    async with asyncio.timeout(60):
        while any(one.state != "T" for one in proc.tree(undoing.roots(endpoint))):  # noqa: ASYNC110  (the kernel's word)
            await asyncio.sleep(0.002)


async def test_a_fault_is_undone_when_the_twin_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = asyncio.Event()
    look = undoing.asyncio.sleep  # type: ignore[attr-defined]

    async def sleep(seconds: float) -> None:
        waited.set()
        await look(seconds)

    llm = OpenAI()
    async with llm.running({}) as endpoint:
        async with NoToken(llm).injected({"llm": endpoint}, CLOCK):
            await stopped(endpoint)
            monkeypatch.setattr(undoing.asyncio, "sleep", sleep)  # type: ignore[attr-defined]

            async def thaw() -> None:
                await waited.wait()
                send(endpoint, signal.SIGCONT)

            thawing = asyncio.ensure_future(thaw())
        await thawing
        assert (await admin.behaviour(endpoint, "llm"))["outcomes"] == {}


async def test_a_twin_that_stands_still_for_good_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undoing, "_AWAKE_SECONDS", 0.1)
    llm = OpenAI()
    async with llm.running({}) as endpoint:
        try:
            with pytest.raises(
                ServiceError, match=r"'llm no_token' .* llm: .* \(pid \d+\) has stood still \(state T\)"
            ):
                async with NoToken(llm).injected({"llm": endpoint}, CLOCK):
                    await stopped(endpoint)
        finally:
            send(endpoint, signal.SIGCONT)
