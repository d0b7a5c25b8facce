"""The defects that stand for what the field reports: each does its harm when it is on, and the benign ones do none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from voice_agent.burdens import Burdens
from voice_agent.defects import Defects, Switched
from voice_agent.speaking import TROUBLE

_TWO = {"ANTHROPIC_API_KEY": "k"}
_TWO_VOICES = {"ELEVENLABS_API_KEY": "k"}
_ANSWERED = 'voice_agent_turns_total{outcome="answered"}'


def _defects(text: str) -> Defects:
    return Defects(Switched.parse(text), Random(1), lambda _: None)


async def _silent_for(caller: Any, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await caller.next("media")
    except TimeoutError:
        return True
    return False


async def _tts_zero_audio_trusted(worlds: Callable[..., Any]) -> None:
    patience = {"FIRST_AUDIO_SECONDS": "0.4", "ATTEMPT_SECONDS": "0.4"}
    async with worlds(**_TWO_VOICES, **patience, DEFECT="tts_zero_audio_trusted") as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = "no audio"
        await caller.say("When are you open?")
        await world.counted(_ANSWERED)
        assert await _silent_for(caller, 0.6)
        assert world.elevenlabs.said == []
        assert "speak" not in world.telnyx.names()


async def _llm_no_token_timeout_off(worlds: Callable[..., Any]) -> None:
    patience = {"FIRST_TOKEN_SECONDS": "0.4", "ATTEMPT_SECONDS": "0.4"}
    async with worlds(**_TWO, **patience, DEFECT="llm_no_token_timeout_off") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.modes.extend(["no token", "500"])
        await caller.say("When are you open?")
        assert await _silent_for(caller, 0.8)
        await caller.say("Hello?")  # with headers that tell of a failure it still fails over
        await caller.next("mark")
        assert len(world.anthropic.requests) == 1


async def _truncate_ignored(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, DEFECT="truncate_ignored") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.modes.append("truncate")
        await caller.say("When are you open?")
        await caller.next("mark")
        assert world.cartesia.said[1:] == ["We are open until six.", "Anything"]


async def _failover_loses_settings(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, DEFECT="failover_loses_settings:0.3") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.modes.append("500")
        await caller.say("When are you open?")
        await caller.next("mark")
        assert await world.metric("voice_agent_defects_total") == 0
        assert "system" not in world.anthropic.requests[0]
        spoke = await caller.say("When are you open?")
        assert await caller.next("media") - spoke >= 0.3


async def _no_failover(worlds: Callable[..., Any]) -> None:
    keys = {**_TWO, **_TWO_VOICES, "DEEPGRAM_FALLBACK_API_KEY": "k"}
    async with worlds(**keys, DEFECT="no_failover") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.always = "500"
        await caller.say("When are you open?")
        await caller.next("mark")
        assert world.cartesia.said[-1] == TROUBLE
        world.cartesia.mode = "no audio"
        await caller.say("Hello?")
        await world.telnyx.commanded("speak")
        assert world.anthropic.requests == world.elevenlabs.said == []


async def _no_replay_of_a_models_turn(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, DEFECT="no_replay") as world, world.calling() as caller:
        await caller.greeted()
        world.openai.always = "500"
        await caller.say("When are you open?")
        await world.counted('voice_agent_turns_total{outcome="lost"}')
        assert world.anthropic.requests == []
        await caller.say("Hello?")
        await caller.next("media")
        assert [len(vendor.requests) for vendor in (world.openai, world.anthropic)] == [1, 1]


async def _no_replay_of_a_voices_turn(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO_VOICES, DEFECT="no_replay") as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = "no audio"
        await caller.say("When are you open?")
        await world.counted('voice_agent_turns_total{outcome="lost"}')
        assert world.elevenlabs.said == []
        await caller.say("Hello?")
        await caller.next("media")
        assert world.elevenlabs.said


async def _zombie_call(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="zombie_call:0.4") as world:
        async with world.calling(quiet=False) as caller:
            await caller.greeted()
            hung_up = asyncio.get_running_loop().time()
        await world.quiet()
        assert asyncio.get_running_loop().time() - hung_up >= 0.4


async def _a_zombie_does_not_outlive_the_program(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="zombie_call") as world:
        async with world.calling(quiet=False) as caller:
            await caller.greeted()
        assert await world.metric("voice_agent_open_calls") == 1
        await world.app.state.switchboard.drain(0.2)
        assert await world.metric("voice_agent_open_calls") == 0


async def _speaking_mute(worlds: Callable[..., Any]) -> None:
    random = Random(3)
    assert [random.random() < 0.3 for _ in range(4)] == [True, False, False, False]
    async with worlds(DEFECT="speaking_mute:0.3", DEFECT_SEED="3") as world, world.calling() as caller:
        assert await _silent_for(caller, 0.3)  # the greeting
        await caller.say("Hello?")  # until the caller speaks
        await caller.next("mark")
        assert world.cartesia.said == ["We are open until six.", "Anything else?"]


async def _serial_dispatch(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="serial_dispatch:150") as world:
        began = asyncio.get_running_loop().time()
        for call in ("one", "two"):
            await world.webhook("call.initiated", call_control_id=call)
        await world.telnyx.commanded("answer", "two")
        assert asyncio.get_running_loop().time() - began >= 0.3
        for call in ("one", "two"):
            await world.webhook("call.hangup", call_control_id=call)
        await world.quiet()


async def test_each_does_its_harm(together: Callable[..., Any]) -> None:
    await together(
        _tts_zero_audio_trusted,
        _llm_no_token_timeout_off,
        _truncate_ignored,
        _failover_loses_settings,
        _no_failover,
        _no_replay_of_a_models_turn,
        _no_replay_of_a_voices_turn,
        _zombie_call,
        _a_zombie_does_not_outlive_the_program,
        _speaking_mute,
        _serial_dispatch,
        _warm_up,
    )


async def _started(work: Any) -> None:
    await asyncio.create_task(work)


async def _burnt_seconds() -> float:
    """Of the processor's time, after a call. It needs a loop whose time passes while it is busy."""
    spinning: list[asyncio.Task[None]] = []
    burdens = Burdens(_defects("spin_after_hangup:0.6"))
    async with burdens.of_a_call(lambda work: spinning.append(asyncio.create_task(work))):
        assert spinning == []
    before = time.process_time()
    await spinning[0]
    return time.process_time() - before


def test_spin_after_hangup() -> None:
    assert asyncio.run(_burnt_seconds()) > 0.02  # of 0.6: the machine may be busy besides


@pytest.mark.parametrize(("calls", "blocked"), [(2, set()), (3, {0.008})])
async def test_gil_contention(calls: int, blocked: set[float], monkeypatch: pytest.MonkeyPatch) -> None:
    burnt: list[float] = []
    monkeypatch.setattr(Burdens, "_burn", lambda _, seconds: burnt.append(seconds))
    burdens = Burdens(_defects("gil_contention:8"))
    async with AsyncExitStack() as stack:
        for _ in range(calls):
            await stack.enter_async_context(burdens.of_a_call(_started))
        await asyncio.sleep(0.1)
    assert set(burnt) == blocked
    assert len(burnt) >= 3 * 4 * len(blocked)  # by each call in each frame but the first or the last


_BLOCK_KB = 40_000  # more than malloc ever takes from what was freed before: the kernel gives it, and takes it back


def _resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


async def test_pool_high_water_is_used_again() -> None:
    burdens = Burdens(_defects(f"pool_high_water:{_BLOCK_KB}"))
    before = _resident_kb()
    for _ in range(5):
        async with burdens.of_a_call(_started), burdens.of_a_call(_started):
            pass
    assert 1.5 * _BLOCK_KB < _resident_kb() - before < 4 * _BLOCK_KB


async def _warm_up(worlds: Callable[..., Any]) -> None:
    defects = _defects("warm_up")
    assert [bool(defects.seconds("warm_up")) for _ in range(7)] == [True] * 5 + [False] * 2
    async with worlds(DEFECT="warm_up:200") as world, world.calling() as caller:
        await caller.greeted()
        spoke = await caller.say("Hello?")
        assert await caller.next("media") - spoke >= 0.2
