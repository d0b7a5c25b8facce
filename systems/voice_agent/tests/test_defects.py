"""Each defect does its harm when it is on (everything else here shows that it does none when it is off)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from voice_agent.defects import KINDS, Defects, Dose, Switched

_LONG = "one two three four five six seven eight nine ten eleven twelve."


async def _long_reply(world: Any, caller: Any) -> None:
    await caller.greeted()
    world.cartesia.ms_per_word = 40
    world.openai.replies.append(_LONG)
    await caller.say("Count please.")
    for _ in range(12):
        await caller.next("media")


async def _slow_response(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_response:300") as world, world.calling() as caller:
        await caller.greeted()
        spoke = await caller.say("Hello?")
        assert await caller.next("media") - spoke >= 0.3


async def _slow_greeting(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_greeting:300") as world:
        began = asyncio.get_running_loop().time()
        async with world.calling() as caller:
            assert await caller.next("media") - began >= 0.3


async def _no_clear(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="no_clear") as world, world.calling() as caller:
        await _long_reply(world, caller)
        await caller.say("Wait.")
        while (event := await caller.events.get())[0] == "media":
            pass
        assert event[0] == "mark"
        assert caller.played_ms >= 40 * len(_LONG.split())
        await caller.next("media")  # the interruption is answered all the same


async def _slow_barge_in(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="slow_barge_in:200") as world, world.calling() as caller:
        await _long_reply(world, caller)
        before = asyncio.get_running_loop().time()
        await caller.say("Wait.")
        assert await caller.next("clear") - before >= 0.2
        await caller.next("media")


async def _interrupts(worlds: Callable[..., Any]) -> None:
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


async def _gappy_audio(worlds: Callable[..., Any]) -> None:
    random = Random(7)
    assert [random.random() < 0.5 for _ in range(3)] == [True, True, False]  # the greeting, and two replies
    async with worlds(DEFECT="gappy_audio:150@0.5", DEFECT_SEED="7") as world, world.calling() as caller:
        await caller.greeted()
        for _ in range(2):
            await caller.say("Count please.")
            await caller.next("mark")
        assert await world.metric('voice_agent_defects_total{defect="gappy_audio"}') == 2


async def test_hang_up_early(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="hang_up_early") as world, world.calling() as caller:
        await caller.greeted()
        await caller.say("Hello?")
        await world.telnyx.commanded("hangup")


async def test_slow_and_impolite_ones(together: Callable[..., Any]) -> None:
    await together(_slow_response, _slow_greeting, _no_clear, _slow_barge_in, _interrupts, _gappy_audio)


async def test_refuse_call(worlds: Callable[..., Any]) -> None:
    async with worlds(DEFECT="refuse_call") as world:
        await world.webhook("call.initiated")
        assert (await world.telnyx.commanded("reject"))["cause"] == "CALL_REJECTED"
        assert world.telnyx.names() == ["reject"]


def _strikes(text: str, seed: int) -> list[bool]:
    name = text.partition("@")[0].partition(":")[0]
    harmed: list[str] = []
    defects = Defects(Switched.parse(text), Random(seed), harmed.append)
    struck = [bool(defects.seconds(name)) if KINDS[name].unit == "ms" else defects.strikes(name) for _ in range(400)]
    assert harmed == [name] * sum(struck)
    return struck


@pytest.mark.parametrize("text", ["drop_turn:0.25", "gappy_audio:120@0.25", "no_clear@0.25", "slow_response@0.25"])
def test_shares_are_drawn_from_the_seed(text: str) -> None:
    assert _strikes(text, 1) == _strikes(text, 1) != _strikes(text, 2)
    assert 70 <= sum(_strikes(text, 3)) <= 130  # of 400, within 3.5 standard deviations of 100
    assert sum(_strikes(text.replace("0.25", "0"), 3)) == 0
    assert sum(_strikes(text.replace("0.25", "1"), 3)) == 400


def test_a_call_is_deaf_from_its_beginning_or_never() -> None:
    defects = Defects(Switched.parse("deaf:2@0.5"), Random(1), lambda _: None)
    assert {defects.deaf_from() for _ in range(20)} == {2.0, math.inf}
    assert Defects(Switched.parse(""), Random(1), lambda _: None).deaf_from() == math.inf


def test_the_text_of_defects() -> None:
    assert Switched.parse("").doses == {}
    parsed = Switched.parse(" slow_response:900@0.1 , no_clear,drop_turn:0.2, gappy_audio@0.25,no_clear@1e-2")
    assert parsed.doses == {
        "slow_response": Dose(900, 0.1),
        "no_clear": Dose(0, 0.01),
        "drop_turn": Dose(0, 0.2),
        "gappy_audio": Dose(300, 0.25),
    }
    for name, kind in KINDS.items():
        assert Switched.parse(name).doses == {
            name: Dose(0, kind.default) if kind.unit == "share" else Dose(kind.default, 1)
        }


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("slow", "there is no defect 'slow'; there are: breaker_never_closes, "),
        ("slow@0.5", "there is no defect 'slow'; there are: breaker_never_closes, "),
        ("slow_response:x", r"defect slow_response takes a number \(ms\) of at least 0, not 'x'"),
        ("slow_response:", r"takes a number \(ms\) of at least 0, not ''"),
        ("slow_response:-1", "at least 0, not '-1'"),
        ("drop_turn:1.5", "defect drop_turn takes a share of at least 0 and at most 1, not '1.5'"),
        ("drop_turn:nan", "at most 1, not 'nan'"),
        ("no_clear:1", "defect no_clear takes no value, not '1'; a share is written no_clear@0.2"),
        ("slow_response:900@1.5", "after the '@', defect slow_response takes a share .* at most 1, not '1.5'"),
        ("slow_response:900@", "after the '@', defect slow_response takes a share .* at most 1, not ''"),
        ("drop_turn:0.2@0.5", "defect drop_turn takes no '@': its value is the share already, as in drop_turn:0.2"),
        ("refuse_call@0.5", "its value is the share already, as in refuse_call:0.2"),
    ],
)
def test_the_text_of_defects_is_checked(text: str, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        Switched.parse(text)
