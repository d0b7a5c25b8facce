"""Faults: a real harm, a proof that it happened, and no trace of it afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from tests.by_hand import ByHand

from busyhour import proc
from busyhour.clock import SystemClock
from busyhour.errors import PlanError, ServiceError
from busyhour.faults import provider
from busyhour.faults.process import BlockLoop, Freeze
from busyhour.faults.provider import Behave, HttpError, NoToken, Slow
from busyhour.model import JSON, SECOND, Endpoint, Fault, Proof
from busyhour.services import AlreadyRunning, Child, child, free_port

CLOCK = SystemClock()
LLM = AlreadyRunning(name="llm", url="http://127.0.0.1:1/v1")
AGENT = AlreadyRunning(name="voice-agent", url="http://127.0.0.1:1")


@dataclass
class Twin:
    """The admin path of a twin, and no more. `stubborn`: it says yes to a change and changes nothing."""

    behaviour: dict[str, Any] = field(
        default_factory=lambda: {"first_token": {"constant_ms": 350}, "outcomes": {}, "seed": 1}
    )
    served: dict[str, int] = field(default_factory=dict)
    stubborn: Callable[[Mapping[str, Any]], bool] = lambda change: False
    slow: asyncio.Event | None = None

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response({**self.behaviour, "served": self.served})

    async def put(self, request: web.Request) -> web.Response:
        change = await request.json()
        unknown = set(change.get("outcomes", {})) - {"no_token", "http_503", "reset"}
        if unknown:
            return web.json_response({"error": f"outcome {unknown} is unknown here."}, status=400)
        if not self.stubborn(change):
            self.behaviour |= change
        if self.slow is not None:
            await self.slow.wait()
        return await self.get(request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, Endpoint]]:
        app = web.Application()
        app.router.add_get("/_twin/behaviour", self.get)
        app.router.add_put("/_twin/behaviour", self.put)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield {"llm": Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")}
        finally:
            await runner.cleanup()


@dataclass(frozen=True)
class Milliseconds:
    ms: float

    def as_json(self) -> JSON:
        return {"constant_ms": self.ms}


# ---------------------------------------------------------------- provider


async def test_no_token_is_injected_proven_and_undone() -> None:
    twin = Twin(served={"ok": 100, "no_token": 7})
    before = json.dumps(twin.behaviour)
    fault: Fault = NoToken(LLM)
    assert (fault.name, fault.service) == ("llm no_token", "llm")
    async with twin.running() as endpoints:
        async with fault.injected(endpoints, CLOCK) as proof:
            assert twin.behaviour["outcomes"] == {"no_token": 1.0}
            assert await proof.effect() == (False, "0 of 0 requests to llm met no_token while it was injected")
            twin.served = {"ok": 101, "no_token": 19}
            assert await proof.effect() == (True, "12 of 13 requests to llm met no_token while it was injected")
        assert json.dumps(twin.behaviour) == before
        twin.served = {"ok": 500, "no_token": 19}
        assert (await proof.effect())[1].startswith("12 of 13"), "what came after the undoing does not count"


async def test_a_share_leaves_room_for_what_was_set_before() -> None:
    twin = Twin()
    twin.behaviour["outcomes"] = {"reset": 0.8, "no_token": 0.1}
    async with twin.running() as endpoints:
        async with HttpError(LLM, 503, share=0.55).injected(endpoints, CLOCK):
            assert twin.behaviour["outcomes"] == pytest.approx({"reset": 0.4, "no_token": 0.05, "http_503": 0.55})
        assert twin.behaviour["outcomes"] == {"reset": 0.8, "no_token": 0.1}


async def test_faults_of_one_twin_can_be_stacked() -> None:
    twin = Twin(served={"ok": 1})
    async with twin.running() as endpoints:
        async with Slow(LLM, first_token=Milliseconds(3000)).injected(endpoints, CLOCK) as slow:
            async with NoToken(LLM, share=0.5).injected(endpoints, CLOCK):
                assert twin.behaviour["first_token"] == {"constant_ms": 3000}
                assert twin.behaviour["outcomes"] == {"no_token": 0.5}
            assert twin.behaviour["outcomes"] == {}
            assert await slow.effect() == (False, "llm served 0 requests with the changed first_token")
            twin.served = {"ok": 4}
            assert await slow.effect() == (True, "llm served 3 requests with the changed first_token")
        assert twin.behaviour["first_token"] == {"constant_ms": 350}


@pytest.mark.parametrize("way_out", [ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError])
async def test_it_is_undone_on_every_way_out(way_out: type[BaseException]) -> None:
    twin = Twin()

    async def use(endpoints: Mapping[str, Endpoint]) -> None:
        async with NoToken(LLM).injected(endpoints, CLOCK):
            raise way_out

    async with twin.running() as endpoints:
        with pytest.raises(way_out):
            await use(endpoints)
        assert twin.behaviour["outcomes"] == {}


async def test_it_is_undone_when_cancelled_while_it_is_injected_and_again_while_it_is_undone() -> None:
    twin = Twin(slow=asyncio.Event())

    async def use(endpoints: Mapping[str, Endpoint]) -> None:
        async with NoToken(LLM).injected(endpoints, CLOCK):
            raise AssertionError("the twin has not answered yet")

    async def until(outcomes: dict[str, float]) -> None:
        async with asyncio.timeout(60):
            while twin.behaviour["outcomes"] != outcomes:  # noqa: ASYNC110  (it is what the wire did)
                await asyncio.sleep(0.005)

    async with twin.running() as endpoints:
        assert twin.slow is not None
        task = asyncio.create_task(use(endpoints))
        await until({"no_token": 1.0})
        task.cancel()
        await until({})
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        twin.slow.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert twin.behaviour["outcomes"] == {}


async def refused(fault: Fault, endpoints: Mapping[str, Endpoint], kind: type[Exception] = ServiceError) -> str:
    with pytest.raises(kind) as refusal:
        async with fault.injected(endpoints, CLOCK):
            pass
    return str(refusal.value)


async def test_a_twin_that_does_not_obey_is_told() -> None:
    async with Twin(stubborn=lambda change: True).running() as endpoints:
        words = await refused(NoToken(LLM), endpoints)
    assert "the fault 'llm no_token' did not take effect: llm at http://127.0.0.1:" in words
    assert words.endswith("was told outcomes = {'no_token': 1.0} and says {}")


async def test_an_undoing_that_did_not_take_is_told() -> None:
    async with Twin(stubborn=lambda change: change["outcomes"] == {}).running() as endpoints:
        words = await refused(NoToken(LLM), endpoints)
    assert "the fault 'llm no_token' could not be undone" in words


async def test_a_twin_that_refuses_the_outcome_makes_it_an_error_of_the_plan() -> None:
    twin = Twin()
    async with twin.running() as endpoints:
        words = await refused(provider.ZeroAudio(LLM), endpoints, PlanError)
        assert "llm refuses this behaviour" in words
        assert "is unknown here" in words
        assert "sets last_token, which llm does not have" in await refused(
            Slow(LLM, last_token=Milliseconds(1)), endpoints, PlanError
        )
    assert twin.behaviour["outcomes"] == {}


async def test_a_fault_aimed_at_nothing() -> None:
    words = await refused(NoToken(LLM), {"stt": Endpoint("http://127.0.0.1:1")}, PlanError)
    assert "aimed at the service 'llm', which the plan does not start (it starts: stt)" in words
    words = await refused(NoToken(LLM), {"llm": Endpoint(f"http://127.0.0.1:{free_port()}")})
    assert "llm does not answer GET" in words
    assert "no twin whose behaviour can be changed: 404" in await refused_by_a_stranger()


async def refused_by_a_stranger() -> str:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({}, status=404)

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        return await refused(NoToken(LLM), {"llm": Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}")})
    finally:
        await runner.cleanup()


async def test_a_twin_that_died_has_nothing_to_undo() -> None:
    async with sleeper() as endpoint:
        (pid,) = endpoint.pids
        twin = Twin()
        async with twin.running() as endpoints:
            harmed = {"llm": Endpoint(endpoints["llm"].url, (pid,))}
            async with NoToken(LLM).injected(harmed, CLOCK):
                os.kill(pid, signal.SIGKILL)
                async with asyncio.timeout(60):
                    while proc.tree([pid]):  # noqa: ASYNC110  (processes set no events)
                        await asyncio.sleep(0.005)
                await asyncio.sleep(0)
            assert twin.behaviour["outcomes"] == {"no_token": 1.0}, "nobody was asked"


@pytest.mark.parametrize("outcomes", [{}, {"a": 1.2}, {"a": -0.1}, {"a": 0.6, "b": 0.6}, {"a": 0.0}])
def test_shares_that_make_no_sense_are_errors_of_the_plan(outcomes: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="the fault 'odd'"):
        Behave(LLM, name="odd", outcomes=outcomes)


def test_the_catalogue_names_its_outcomes() -> None:
    faults = [
        provider.NoToken(LLM),
        provider.Truncate(LLM),
        provider.Malformed(LLM),
        provider.ZeroAudio(LLM),
        provider.Stall(LLM),
        provider.NoFinal(LLM),
        provider.LateFinal(LLM),
        provider.HttpError(LLM, 429, share=0.25),
        provider.Reset(LLM),
        provider.Hang(LLM),
    ]
    assert [next(iter(fault.outcomes)) for fault in faults] == [
        *("no_token", "truncate", "malformed", "zero_audio", "stall", "no_final", "late_final", "http_429"),
        *("reset", "hang"),
    ]
    assert len({fault.name for fault in faults}) == len(faults)
    assert faults[7].name == "llm http_429 at 0.25"


# ---------------------------------------------------------------- processes

SLEEPER = """
import os, threading
for _ in range(2):
    if os.fork() == 0:
        break
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("READY x", flush=True)
threading.Event().wait()
"""


@asynccontextmanager
async def sleeper() -> AsyncIterator[Endpoint]:
    async def all_are_up(child: Child) -> str:
        while len(child.last_lines()) < 3:  # noqa: ASYNC110  (processes set no events)
            await asyncio.sleep(0.005)
        return "x"

    async with child([sys.executable, "-c", SLEEPER], name="voice-agent", ready=all_are_up) as running:
        yield Endpoint("http://127.0.0.1:1", (running.pid,))


def stopped(endpoint: Endpoint) -> int:
    return [one.state for one in proc.tree(endpoint.pids)].count("T")


async def test_a_whole_tree_freezes_and_thaws() -> None:
    async with sleeper() as endpoint:
        fault: Fault = Freeze(AGENT, 60)
        assert (fault.name, fault.service) == ("voice-agent frozen for 60 s", "voice-agent")
        async with fault.injected({"voice-agent": endpoint}, CLOCK) as proof:
            assert stopped(endpoint) == 3
            effective, because = await proof.effect()
            assert effective
            assert re.match(r"all 3 processes of voice-agent stood still \(state T\) for \d+\.\d s", because)
        assert not stopped(endpoint)


async def test_it_thaws_after_its_time_and_begins_when_it_should() -> None:
    async with sleeper() as endpoint:
        fault, clock = Freeze(AGENT, 0.2, after_seconds=0.1), ByHand()
        async with fault.injected({"voice-agent": endpoint}, clock) as proof:
            assert await proof.effect() == (False, "no process of voice-agent has been stopped")
            assert not stopped(endpoint)
            assert await clock.wake() == 0.1
            await became(proof)
            assert stopped(endpoint) == 3
            assert await clock.wake() == 0.2
            async with asyncio.timeout(60):
                while stopped(endpoint):  # noqa: ASYNC110  (processes set no events)
                    await asyncio.sleep(0.005)
        assert (await proof.effect())[1].endswith("for 0.2 s")


async def became(proof: Proof) -> None:
    async with asyncio.timeout(60):
        while not (await proof.effect())[0]:  # noqa: ASYNC110  (processes set no events)
            await asyncio.sleep(0.005)


async def test_it_thaws_on_an_exception_and_when_cancelled() -> None:
    async def use(endpoint: Endpoint, way_out: type[BaseException]) -> None:
        async with Freeze(AGENT, 60).injected({"voice-agent": endpoint}, CLOCK):
            raise way_out

    async with sleeper() as endpoint:
        for way_out in (ZeroDivisionError, asyncio.CancelledError):
            with pytest.raises(way_out):
                await use(endpoint, way_out)
            assert not stopped(endpoint)


async def test_what_somebody_else_stopped_stays_stopped() -> None:
    async with sleeper() as endpoint:
        other = next(one.pid for one in proc.tree(endpoint.pids) if one.pid not in endpoint.pids)
        os.kill(other, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while not stopped(endpoint):  # noqa: ASYNC110  (processes set no events)
                await asyncio.sleep(0.005)
        async with Freeze(AGENT, 60).injected({"voice-agent": endpoint}, CLOCK):
            assert stopped(endpoint) == 3
        assert stopped(endpoint) == 1


async def test_a_freeze_of_what_has_no_processes() -> None:
    fault = Freeze(AGENT, 1)
    assert "which the plan does not start (it starts: none)" in await refused(fault, {}, PlanError)
    assert "voice-agent has none that busyhour started" in await refused(
        fault, {"voice-agent": Endpoint("http://x")}, PlanError
    )
    async with sleeper() as endpoint:
        pass
    assert "cannot be frozen: its processes are gone" in await refused(fault, {"voice-agent": endpoint})
    due = asyncio.Event()

    class Soon:
        """A clock on which nobody waits: it tells that somebody has."""

        def now_ns(self) -> int:
            return CLOCK.now_ns()

        async def sleep_until(self, at_ns: int) -> None:
            due.set()

    async def wait_for_it() -> None:
        async with Freeze(AGENT, 1, after_seconds=60).injected({"voice-agent": endpoint}, Soon()):
            await due.wait()

    with pytest.raises(ServiceError, match="its processes are gone"):
        await wait_for_it()


@pytest.mark.parametrize(("seconds", "after"), [(0, 0), (-1, 0), (1, -1)])
def test_a_freeze_without_duration(seconds: float, after: float) -> None:
    with pytest.raises(PlanError, match="has no duration"):
        Freeze(AGENT, seconds, after_seconds=after)


# ---------------------------------------------------------------- the harness


async def test_our_own_loop_is_blocked_as_often_and_as_long_as_told() -> None:
    fault: Fault = BlockLoop(milliseconds=40, every_milliseconds=60)
    assert fault.service == "harness"
    longest_ns, before = 0, asyncio.all_tasks()
    async with fault.injected({}, CLOCK) as proof:
        assert await proof.effect() == (False, "the event loop has not been blocked")
        async with asyncio.timeout(60):
            while not (await proof.effect())[0]:
                began_ns = CLOCK.now_ns()
                await asyncio.sleep(0.001)
                longest_ns = max(longest_ns, CLOCK.now_ns() - began_ns)
        effective, because = await proof.effect()
    assert effective
    assert because.startswith("the event loop was blocked ")
    assert longest_ns > 0.039 * SECOND
    assert asyncio.all_tasks() == before, "nothing blocks it afterwards"


@pytest.mark.parametrize(("milliseconds", "every"), [(0, 10), (10, 10), (20, 10)])
def test_a_block_that_leaves_no_time(milliseconds: float, every: float) -> None:
    with pytest.raises(PlanError, match="leaves the loop no time"):
        BlockLoop(milliseconds=milliseconds, every_milliseconds=every)
