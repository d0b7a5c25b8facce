"""Whole calls against the fakes: what is said, when, and what an interruption does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import connect

_LONG = " ".join(f"number{n}" for n in range(40)) + "."


async def _a_turn_is_answered_and_remembered(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        async with world.calling() as caller:
            await caller.greeted()
            assert world.cartesia.said == ["Hello there."]
            await caller.say("What time are you open today?")
            await caller.next("mark")
            await caller.say("Thank you.")
            await world.counted('voice_agent_turns_total{outcome="answered"}', 2)
        first, second = world.openai.requests
        assert first["stream"] is True
        assert first["messages"][0]["role"] == "system"
        assert first["messages"][1:] == [
            {"role": "assistant", "content": "Hello there."},
            {"role": "user", "content": "What time are you open today?"},
        ]
        assert second["messages"][3:] == [
            {"role": "assistant", "content": "We are open until six. Anything else?"},
            {"role": "user", "content": "Thank you."},
        ]
        assert world.cartesia.said[1:3] == ["We are open until six.", "Anything else?"]
        assert await world.metric('voice_agent_calls_total{outcome="caller hung up"}') == 1
        assert world.telnyx.names() == ["answer", "streaming_start"]  # nobody left to hang up on


async def test_the_first_sentence_is_spoken_while_the_model_thinks_of_the_second(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        world.openai.hold = asyncio.Event()
        world.openai.replies.append("Yes, we do.")
        await caller.say("Do you?")
        await world.openai.asked.wait()
        assert len(world.cartesia.said) == 1
        world.openai.hold.set()
        await caller.next("media")


async def _barge_in_clears_cancels_and_keeps_only_what_was_heard(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        async with world.calling() as caller:
            await caller.greeted()
            world.cartesia.ms_per_word = 120
            world.openai.replies.append(_LONG)
            caller.played_ms = 0.0
            await caller.say("Count please.")
            for _ in range(25):  # half a second, of which 0.2 s or so is ahead of the ear
                await caller.next("media")
            world.cartesia.ms_per_word = 10
            await caller.say("Wait.")
            await caller.next("clear")
            sent_ms = caller.played_ms
            await caller.next("mark")
        messages = world.openai.requests[1]["messages"]
        assert messages[-1] == {"role": "user", "content": "Wait."}
        heard = messages[-2]["content"]
        assert heard
        assert _LONG.startswith(heard)
        assert len(heard.split()) <= sent_ms / 120  # less than was sent, as some of it was ahead of the ear
        assert await world.metric("voice_agent_interruptions_total") == 1


async def test_barge_in_cancels_a_synthesis_in_progress(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = "stall"
        world.cartesia.ms_per_word = 100
        world.openai.replies.append("One two three four five. Six.")
        await caller.say("Count please.")
        for _ in range(8):
            await caller.next("media")
        world.cartesia.mode = ""
        await caller.say("Wait.")
        await caller.next("clear")
        while not world.cartesia.cancelled:
            world.cartesia.news.clear()
            await world.cartesia.news.wait()


async def test_speech_resumed_before_the_answer_is_heard_belongs_to_the_same_turn(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        world.openai.hold = asyncio.Event()
        await caller.say("I would like")
        await world.openai.asked.wait()
        world.openai.asked.clear()
        await caller.say("an appointment.")
        await world.openai.asked.wait()
        world.openai.hold.set()
        await caller.next("mark")
    assert [request["messages"][-1]["content"] for request in world.openai.requests] == [
        "I would like",
        "I would like an appointment.",
    ]
    assert world.openai.requests[1]["messages"][-2]["role"] == "assistant"  # the greeting: the first try left nothing


async def _noise_makes_no_turn_and_what_it_interrupted_is_taken_up(worlds: Callable[..., Any]) -> None:
    async with worlds() as world:
        async with world.calling() as caller:
            await caller.greeted()
            await caller.say("")
            await world.counted('voice_agent_turns_total{outcome="noise"}')
            assert world.openai.requests == []
            world.cartesia.ms_per_word = 120
            world.openai.replies.append(_LONG)
            await caller.say("Count please.")
            for _ in range(25):
                await caller.next("media")
            world.cartesia.ms_per_word = 10
            await caller.say("")  # a cough
            await caller.next("clear")
            await caller.next("mark")
        assert len(world.openai.requests) == 1
        left = world.cartesia.said[-1]
        assert _LONG.endswith(left)
        assert left not in ("", _LONG)


async def test_goodbye_hangs_up_after_it_was_heard(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        world.openai.replies.append("Thank you for calling, goodbye.")
        await caller.say("Bye.")
        heard = await caller.next("mark")
        await world.telnyx.commanded("hangup")
        assert asyncio.get_running_loop().time() >= heard
    assert await world.metric('voice_agent_calls_total{outcome="said goodbye"}') == 1
    assert world.telnyx.names().count("hangup") == 1


async def test_a_caller_who_asks_for_a_human_is_put_through(worlds: Callable[..., Any]) -> None:
    async with worlds(TRANSFER_NUMBER="+15550123") as world:
        async with world.calling() as caller:
            await caller.greeted()
            world.openai.modes.append("tool")
            await caller.say("Can I speak to a real person please?")
            await caller.next("mark")
            assert (await world.telnyx.commanded("transfer"))["to"] == "+15550123"
            await caller.hang_up()
            await world.quiet()
        assert world.cartesia.said[-1] == "One moment please, I am putting you through."
        assert [tool["function"]["name"] for tool in world.openai.requests[0]["tools"]] == ["transfer_call"]
        assert await world.metric('voice_agent_calls_total{outcome="transferred"}') == 1


async def _the_time_limit_ends_a_call(worlds: Callable[..., Any]) -> None:
    async with worlds(MAX_CALL_SECONDS="0.3") as world, world.calling() as caller:
        await world.telnyx.commanded("hangup")
        await caller.next("closed")


async def _a_silent_stream_ends_and_is_hung_up(worlds: Callable[..., Any]) -> None:
    async with worlds(MEDIA_IDLE_SECONDS="0.2") as world, world.calling() as caller:
        await caller.next("closed")
        await world.telnyx.commanded("hangup")


async def test_a_lost_stream_is_hung_up_at_the_carrier(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        await caller._socket.close()
        await world.telnyx.commanded("hangup")


async def test_malformed_media_messages_are_passed_over(world: Any) -> None:
    async with world.calling() as caller:
        await caller.greeted()
        for text in ("{", "[]", '{"event":"media"}', '{"event":"media","media":{"payload":"?","chunk":"1"}}', "{}"):
            await caller._socket.send(text)
        await caller.say("Still there?")
        await caller.next("media")
    assert await world.metric('voice_agent_vendor_errors_total{vendor="telnyx",reason="malformed media message"}') == 5


async def test_another_codec_is_hung_up(world: Any) -> None:
    await world.webhook("call.initiated", call_control_id="other")
    await world.telnyx.commanded("answer")
    await world.webhook("call.answered", call_control_id="other")
    async with connect(await world.stream_url(), compression=None, proxy=None) as socket:
        await socket.send('{"event":"start","start":{"media_format":{"encoding":"L16","sample_rate":16000}}}')
        await world.telnyx.commanded("hangup")
    await world.quiet()


async def test_nothing_is_left_after_calls(world: Any) -> None:
    before = await world.metric("process_asyncio_tasks")
    for number in range(3):
        world.telnyx.commands.clear()
        await world.webhook("call.initiated", call_control_id=f"c{number}")
        await world.telnyx.commanded("answer")
        await world.webhook("call.answered", call_control_id=f"c{number}")
        async with connect(await world.stream_url(), compression=None, proxy=None) as socket:
            await socket.send('{"event":"start","start":{"media_format":{"encoding":"PCMU","sample_rate":8000}}}')
            await socket.recv()
            await world.webhook("call.hangup", call_control_id=f"c{number}")
        await world.quiet()
    assert await world.metric("voice_agent_open_calls") == 0
    assert await world.metric("process_asyncio_tasks") <= before + 1  # this very request's connection


async def test_what_takes_its_time(together: Callable[..., Any]) -> None:
    await together(
        _barge_in_clears_cancels_and_keeps_only_what_was_heard,
        _noise_makes_no_turn_and_what_it_interrupted_is_taken_up,
        _the_time_limit_ends_a_call,
        _a_silent_stream_ends_and_is_hung_up,
        _a_turn_is_answered_and_remembered,
    )
