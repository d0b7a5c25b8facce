"""Each defect does its harm when it is on (everything else here shows that it does none when it is off)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from types import MappingProxyType
from typing import Any

import pytest

from voice_agent.defects import KINDS, Defects, Switched

_LONG = "one two three four five six seven eight nine ten eleven twelve."


async def _long_reply(world: Any, caller: Any) -> None:
    await caller.greeted()
    world.cartesia.ms_per_word = 60
    world.openai.replies.append(_LONG)
    await caller.say("Count please.")
    for _ in range(12):
        await caller.next("media")


async def test_slow_response(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_response:300") as world, world.calling() as caller:
        await caller.greeted()
        spoke = await caller.say("Hello?")
        assert 0.3 <= await caller.next("media") - spoke < 0.5


async def test_slow_greeting(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_greeting:300") as world:
        began = asyncio.get_running_loop().time()
        async with world.calling() as caller:
            assert await caller.next("media") - began >= 0.3


async def test_no_clear(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="no_clear") as world, world.calling() as caller:
        await _long_reply(world, caller)
        await caller.say("Wait.")
        while (event := await caller.events.get())[0] == "media":
            pass
        assert event[0] == "mark"
        assert caller.played_ms >= 60 * len(_LONG.split())
        await caller.next("media")  # the interruption is answered all the same


async def test_slow_barge_in(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_barge_in:200") as world, world.calling() as caller:
        await _long_reply(world, caller)
        before = asyncio.get_running_loop().time()
        await caller.say("Wait.")
        assert 0.2 <= await caller.next("clear") - before < 0.35
        await caller.next("media")


async def test_interrupts(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="interrupts") as world, world.calling() as caller:
        await caller.greeted()
        await caller.sound(b"\x00" * 160, 200)
        await caller.next("media")  # though the caller has not paused
        assert world.cartesia.said[-1] == "Let me stop you there for a moment."
        await caller.say("I was saying.")
        await world.openai.asked.wait()


async def test_drop_turn(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="drop_turn") as world, world.calling() as caller:
        await caller.greeted()
        await caller.say("Hello?")
        await world.counted('voice_agent_turns_total{outcome="dropped"}')
        assert world.openai.requests == []


async def test_mishears(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="mishears:0.5") as world, world.calling() as caller:
        await caller.greeted()
        await caller.say("Hello?", ms=2000)
        await world.openai.asked.wait()
        assert 0.3 < len(world.deepgram.heard) / (2200 * 8) < 0.7


async def test_deaf(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="deaf:0") as world, world.calling() as caller:
        await caller.greeted()
        await caller.say("Hello?")
        await caller.hang_up()
        await world.quiet()
        assert world.deepgram.heard == b""


async def test_gappy_audio(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="gappy_audio:150") as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.ms_per_word = 60
        world.openai.replies.append(_LONG)
        await caller.say("Count please.")
        gaps, played_until = [], 0.0
        for _ in range(36):
            at = await caller.next("media")
            gaps.append(at - played_until)
            played_until = max(played_until, at) + 0.02
        assert 0.14 < max(gaps[1:]) < 0.2
        assert await world.metric("voice_agent_underruns_total") == 1


async def test_hang_up_early(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="hang_up_early") as world, world.calling() as caller:
        await caller.greeted()
        await caller.say("Hello?")
        await world.telnyx.commanded("hangup")


async def test_refuse_call(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="refuse_call") as world:
        await world.webhook("call.initiated")
        assert (await world.telnyx.commanded("reject"))["cause"] == "CALL_REJECTED"
        assert world.telnyx.names() == ["reject"]


def test_shares_are_drawn_from_the_seed() -> None:
    def strikes(seed: int) -> list[bool]:
        defects = Defects(Switched.parse("drop_turn:0.25"), Random(seed), harmed.append)
        return [defects.strikes("drop_turn") for _ in range(400)]

    harmed: list[str] = []
    assert strikes(1) == strikes(1) != strikes(2)
    assert 60 <= sum(strikes(3)) <= 140
    assert set(harmed) == {"drop_turn"}


def test_the_text_of_defects() -> None:
    assert Switched.parse("") == Switched(MappingProxyType({}))
    parsed = Switched.parse(" slow_response:900 , no_clear,drop_turn:0.2")
    assert parsed.values == {"slow_response": 900, "no_clear": 1, "drop_turn": 0.2}
    assert all(Switched.parse(name).values == {name: kind.default} for name, kind in KINDS.items())


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("slow", "there is no defect 'slow'; there are: deaf, "),
        ("slow_response:x", r"takes a number \(ms\), not 'x'"),
        ("slow_response:-1", "at least 0"),
        ("drop_turn:1.5", "at most 1"),
        ("drop_turn:nan", "at most 1"),
        ("no_clear:1", "takes no value"),
    ],
)
def test_the_text_of_defects_is_checked(text: str, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        Switched.parse(text)
