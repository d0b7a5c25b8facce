"""A model that is slow: the caller hears something in time, and loses nothing of the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from voice_agent.draft import FILLER, Draft
from voice_agent.sentences import Sentences

_SLOW = {"DEAD_AIR_SECONDS": "0.8"}  # of which the model gets its least share, 0.6 s
_PAUSING = "Yes of course, we are open from eight in the morning until six at night."
_UNPAUSING = "We are open from eight in the morning until six in the evening every day."


async def _hear(world: Any, reply: str) -> float:
    """How long the caller waited for the first sound of a reply that stops after four words until they hear some."""
    async with world.calling() as caller:
        await caller.greeted()
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 4
        world.openai.replies.append(reply)
        spoke = await caller.say("When are you open?")
        waited: float = await caller.next("media") - spoke
        world.openai.hold.set()
        await caller.next("mark")
    return waited


async def _a_slow_sentence_is_begun_at_a_comma_or_held_up_by_a_filler(worlds: Callable[..., Any]) -> None:
    async with worlds(**_SLOW) as pausing, worlds(**_SLOW) as unpausing:
        waits = await asyncio.gather(_hear(pausing, _PAUSING), _hear(unpausing, _UNPAUSING))
        assert min(waits) >= 0.6  # not before their patience is about to end
        assert await unpausing.metric('voice_agent_fallbacks_total{kind="filler"}') == 1
        assert await pausing.metric('voice_agent_fallbacks_total{kind="filler"}') == 0
    assert pausing.cartesia.said[1:] == ["Yes of course,", _PAUSING.removeprefix("Yes of course, ")]
    assert unpausing.cartesia.said[1:] == [FILLER, _UNPAUSING]


async def _the_carrier_does_not_wait_for_the_whole_reply_either(worlds: Callable[..., Any]) -> None:
    async with worlds(**_SLOW) as world, world.calling() as caller:
        world.cartesia.mode = "error"
        await world.telnyx.commanded("speak")  # the greeting: from now on the carrier speaks
        await world.webhook("call.speak.ended")
        world.telnyx.commands.clear()
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 3
        world.openai.replies.append("Certainly, we are open until six every day, goodbye.")
        await caller.say("When are you open?")
        assert (await world.telnyx.commanded("speak"))["payload"] == "Certainly,"
        world.telnyx.commands.clear()
        world.openai.hold.set()
        await world.webhook("call.speak.ended")
        assert (await world.telnyx.commanded("speak"))["payload"] == "we are open until six every day, goodbye."
        await world.webhook("call.speak.ended")
        await world.telnyx.commanded("hangup")


async def test_what_the_model_says_after_the_voice_has_failed_is_not_lost(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = "error"
        world.openai.hold, world.openai.hold_after = asyncio.Event(), 5
        world.openai.replies.append("Yes. We are open until six. Is there anything else? Until then, goodbye.")
        await caller.say("Are you open?")
        heard = ""
        await world.cartesia.failed.wait()
        world.openai.hold.set()
        while not heard.endswith("goodbye."):
            heard = f"{heard} {(await world.telnyx.commanded('speak'))['payload']}".strip()
            world.telnyx.commands.clear()
            await world.webhook("call.speak.ended")
    assert heard == "Yes. We are open until six. Is there anything else? Until then, goodbye."


async def test_a_draft_that_is_late_gives_what_can_be_said() -> None:
    draft = Draft()
    first = asyncio.create_task(draft.next(0.0))  # late from the beginning, but the writer has not given up yet
    draft.write("We are open ")
    assert await first == FILLER
    draft.write("from eight in the mor")
    assert await draft.next(0.0) == "We are open from eight in the"
    draft.write("ning, until six. And")
    assert draft.ready() == ["morning, until six."]
    draft.write(" on Saturdays: until one")
    assert await draft.next(0.0) == "And on Saturdays:"
    draft.end()
    assert [await draft.next(0.0), await draft.next(0.0)] == ["until one", None]


async def test_a_draft_without_a_word_is_its_writers_to_give_up() -> None:
    draft = Draft()
    first = asyncio.create_task(draft.next(0.0))
    assert await asyncio.wait({first}, timeout=0.02) == (set(), {first})
    draft.break_off("Sorry.")
    assert await first == "Sorry."
    assert await draft.next(0.0) is None


@pytest.mark.parametrize(
    ("text", "clause", "rest"),
    [
        ("Yes, we are, I th", "Yes, we are,", "I th"),
        ("We are open until six.", "We are open until six.", ""),
        ("It costs 3.", "", "It costs 3."),
        ("Seats for 1,", "", "Seats for 1,"),
        ("Seats for 1, 2 or", "Seats for 1,", "2 or"),
        ("He is Dr. Smith", "", "He is Dr. Smith"),
        ("Well, Dr. Smith", "Well,", "Dr. Smith"),
        ("— ", "", "—"),
    ],
)
def test_a_clause_ends_where_a_speaker_may_pause(text: str, clause: str, rest: str) -> None:
    cut = Sentences()
    assert cut.feed(text) == []
    assert cut.clause() == clause
    assert cut.rest() == rest


async def test_a_slow_model_leaves_no_dead_air(together: Callable[..., Any]) -> None:
    await together(
        _a_slow_sentence_is_begun_at_a_comma_or_held_up_by_a_filler,
        _the_carrier_does_not_wait_for_the_whole_reply_either,
    )
