"""Vendors that fail: the caller always hears something, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from voice_agent.speaking import TROUBLE

# Patience is short only with what hangs: with everything else a scene is as patient as the agent.
_HASTE = {
    "no token": {"FIRST_TOKEN_SECONDS": "0.5"},
    "hang": {"FIRST_AUDIO_SECONDS": "0.5"},
    "stall": {"BETWEEN_AUDIO_SECONDS": "0.5"},
}
_FAILURES: list[tuple[list[str], list[str], int]] = [
    (["no token"], [TROUBLE], 1),
    (["500", "500"], [TROUBLE], 2),
    (["401"], [TROUBLE], 1),
    (["malformed", "malformed"], [TROUBLE], 2),
    (["500"], ["We are open until six.", "Anything else?"], 2),
    (["truncate"], ["We are open until six.", TROUBLE], 1),
]


async def _apologised_for(worlds: Callable[..., Any], modes: list[str], said: list[str], requests: int) -> None:
    async with worlds(**_HASTE.get(modes[0], {})) as world:
        world.openai.modes.extend(modes)
        async with world.calling() as caller:
            await caller.greeted()
            await caller.say("When are you open?")
            await caller.next("mark")
    assert world.cartesia.said[1:] == said
    assert len(world.openai.requests) == requests


async def _said_by_the_carrier(worlds: Callable[..., Any], mode: str) -> None:
    async with worlds(**_HASTE.get(mode, {})) as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = mode
        await caller.say("When are you open?")
        spoken = await world.telnyx.commanded("speak")
        assert spoken["payload"].startswith("We are open until six.")
        assert spoken["voice"]
        await world.webhook("call.speak.ended")
        await world.counted('voice_agent_turns_total{outcome="answered"}')
        world.telnyx.commands.clear()
        world.openai.replies.append("Goodbye.")
        await caller.say("Bye.")  # and so it does a while longer: nobody waits for the failed vendor again
        assert (await world.telnyx.commanded("speak"))["payload"] == "Goodbye."
        await world.webhook("call.speak.ended")
        await world.telnyx.commanded("hangup")


async def _a_synthesis_that_stalls_is_finished_by_the_carrier(worlds: Callable[..., Any]) -> None:
    async with worlds(**_HASTE["stall"]) as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = "stall"
        await caller.say("When are you open?")
        assert (await world.telnyx.commanded("speak"))["payload"] == "Anything else?"
        assert caller.plays_until <= asyncio.get_running_loop().time()  # only when the rest had been heard


async def _three_failed_turns_give_the_call_up(worlds: Callable[..., Any]) -> None:
    async with worlds(TRANSFER_NUMBER="+15550123") as world:
        world.openai.modes.extend(["401"] * 3)
        async with world.calling() as caller:
            await caller.greeted()
            for _ in range(3):
                await caller.say("Hello?")
                await caller.next("mark")
            assert (await world.telnyx.commanded("transfer"))["to"] == "+15550123"
            await caller.hang_up()
            await world.quiet()
        assert await world.metric('voice_agent_calls_total{outcome="transferred"}') == 1
        assert "hangup" not in world.telnyx.names()


async def _a_recogniser_that_does_not_answer_is_not_waited_for(worlds: Callable[..., Any]) -> None:
    async with worlds(FINAL_SECONDS="0.4") as world, world.calling() as caller:
        await caller.greeted()
        world.deepgram.mode = "no final"
        await caller.say()
        await caller.next("mark")
        assert world.cartesia.said[-1] == "I am sorry, could you say that again please?"
        world.deepgram.interim = "When are you"
        await caller.say()
        await caller.next("mark")
    assert world.openai.requests[0]["messages"][-1]["content"] == "When are you"


async def _a_lost_recogniser_is_connected_again_and_hears_the_turn_again(worlds: Callable[..., Any]) -> None:
    async with worlds() as world, world.calling() as caller:
        await caller.greeted()
        world.deepgram.mode = "drop"
        await caller.say("When are you open?")
        await caller.next("media")
    assert world.deepgram.connections == 2
    assert world.openai.requests[0]["messages"][-1]["content"] == "When are you open?"
    assert len(world.deepgram.heard) >= 2 * 600 * 8  # the turn's sound, twice


async def _a_recogniser_lost_for_good_ends_the_call_with_an_apology(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        world.deepgram.mode = "refuse"
        async with world.calling() as caller:
            await world.telnyx.commanded("hangup")
            await caller.next("closed")
        assert world.cartesia.said[-1] == TROUBLE
        assert await world.metric('voice_agent_calls_total{outcome="gave up"}') == 1


async def _a_caller_whom_nobody_can_speak_to_is_hung_up(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        world.cartesia.mode = "error"

        hang_up = world.telnyx.on_command

        def fail_to_speak(action: str, call_control_id: str) -> None:
            world.telnyx.failures = 3 if action == "streaming_start" else 0
            hang_up(action, call_control_id)

        world.telnyx.on_command = fail_to_speak
        async with world.calling() as caller:
            await caller.next("closed")
        assert world.telnyx.names()[2:] == ["speak"] * 3 + ["hangup"]


async def test_vendors_that_fail(together: Callable[..., Any]) -> None:
    await together(
        *((_apologised_for, *failure) for failure in _FAILURES),
        *((_said_by_the_carrier, mode) for mode in ("hang", "no audio", "error", "drop")),
        _a_synthesis_that_stalls_is_finished_by_the_carrier,
        _three_failed_turns_give_the_call_up,
        _a_recogniser_that_does_not_answer_is_not_waited_for,
        _a_lost_recogniser_is_connected_again_and_hears_the_turn_again,
        _a_recogniser_lost_for_good_ends_the_call_with_an_apology,
        _a_caller_whom_nobody_can_speak_to_is_hung_up,
    )
