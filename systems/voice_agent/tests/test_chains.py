"""A vendor fails and the next takes over: nothing is lost, nothing is said twice, and nobody waits in dead air."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from voice_agent.draft import FILLER, Draft
from voice_agent.llm.model import _events
from voice_agent.speaking import PUTTING_THROUGH, TROUBLE
from voice_agent.tts.speech import Speech, VoiceFailed
from voice_agent.tts.voice import Voice

_REPLY = ["We are open until six.", "Anything else?"]
_QUICK = {"ATTEMPT_SECONDS": "0.5"}  # with what hangs; with everything else a scene is as patient as the agent
_HASTE = dict.fromkeys(("no token", "stall", "hang"), _QUICK)
_TWO = {"ANTHROPIC_API_KEY": "k"}
_THREE = {**_TWO, "GEMINI_API_KEY": "k"}
_VOICES = {"ELEVENLABS_API_KEY": "k"}


async def _ask(world: Any, call: str = "a call") -> None:
    """A call with one question."""
    async with world.calling(call) as caller:
        await caller.greeted()
        await caller.say("When are you open?")
        await caller.next("mark")


async def _put_to_the_next(worlds: Callable[..., Any], mode: str) -> None:
    async with worlds(**_TWO, **_HASTE.get(mode, {})) as world:
        world.openai.modes.append(mode)
        await _ask(world)
        assert world.cartesia.said[1:] == _REPLY
        assert len(world.openai.requests) == len(world.anthropic.requests) == 1
        assert await world.metric('voice_agent_failovers_total{from="openai",to="anthropic"}') == 1
        assert await world.metric('voice_agent_turns_total{outcome="answered"}') == 1
        opens_at_once = mode in ("401", "quota")
        assert await world.metric('voice_agent_breaker_state{provider="openai"}') == opens_at_once


async def _gone_on_with(worlds: Callable[..., Any], mode: str) -> None:
    async with worlds(**_TWO, **_HASTE.get(mode, {})) as world:
        world.openai.modes.append(mode)
        await _ask(world)
        assert world.cartesia.said[1:] == _REPLY  # though the other said all of it again
        asked = world.anthropic.requests[0]
        assert '"We are open until six."' in asked["system"]
        assert asked["messages"][-1] == {"role": "user", "content": "When are you open?"}
        assert [message["role"] for message in asked["messages"]] == ["user", "assistant", "user"]
        assert await world.metric('voice_agent_turns_total{outcome="answered"}') == 1


async def _each_model_is_asked_in_its_own_words(worlds: Callable[..., Any]) -> None:
    async with worlds(**_THREE, LLM_CHAIN="gemini, anthropic,openai", TRANSFER_NUMBER="+1") as world:
        world.gemini.modes.append("500")
        world.anthropic.modes.append("500")
        await _ask(world)
        gemini, anthropic, openai = (v.requests[0] for v in (world.gemini, world.anthropic, world.openai))
        headers = [v.headers[0] for v in (world.gemini, world.anthropic, world.openai)]
    assert gemini["contents"][1:] == [
        {"role": "model", "parts": [{"text": "Hello there."}]},
        {"role": "user", "parts": [{"text": "When are you open?"}]},
    ]
    assert gemini["contents"][0]["role"] == anthropic["messages"][0]["role"] == "user"
    prompt = openai["messages"][0]["content"]
    assert gemini["systemInstruction"] == {"parts": [{"text": prompt}]}
    assert anthropic["system"] == prompt
    assert gemini["tools"][0]["functionDeclarations"][0]["name"] == "transfer_call"
    assert anthropic["tools"][0]["input_schema"]["type"] == "object"
    assert openai["tools"][0]["function"]["name"] == "transfer_call"
    assert headers[0]["x-goog-api-key"] == headers[1]["x-api-key"] == "k"
    assert headers[1]["anthropic-version"]
    assert headers[2]["authorization"] == "Bearer k"


async def _answers_alone(worlds: Callable[..., Any], vendor: str) -> None:
    keys = {"OPENAI_API_KEY": "", f"{vendor.upper()}_API_KEY": "k"}
    async with worlds(**keys, TRANSFER_NUMBER="+1", GEMINI_MODEL="a", ANTHROPIC_MODEL="b") as world:
        async with world.calling() as caller:
            await caller.greeted()
            await caller.say("When are you open?")
            await caller.next("mark")
            getattr(world, vendor).modes.append("tool")
            await caller.say("A human please.")
            await caller.next("mark")
            await world.telnyx.commanded("transfer")
            await caller.hang_up()
            await world.quiet()
        assert world.cartesia.said[1:] == [*_REPLY, PUTTING_THROUGH]
        tokens = "voice_agent_llm_tokens_total"
        assert await world.metric(f'{tokens}{{provider="{vendor}",kind="prompt"}}') == 16
        assert await world.metric(f'{tokens}{{provider="{vendor}",kind="completion"}}') == 8
        assert await world.metric("voice_agent_failovers_total") == 0  # a turn of nothing but a tool is no failure


async def _three_models_hang_and_the_caller_is_never_left_in_dead_air(worlds: Callable[..., Any]) -> None:
    patience = {"FIRST_TOKEN_SECONDS": "0.5", "DEAD_AIR_SECONDS": "0.7"}
    async with worlds(**_THREE, **_QUICK, **patience, TRANSFER_NUMBER="+15550123") as world:
        for model in (world.openai, world.anthropic, world.gemini):
            model.always = "no token"
        async with world.calling() as caller:
            await caller.greeted()
            await caller.say("When are you open?")
            await caller.next("mark")
            assert (await world.telnyx.commanded("transfer"))["to"] == "+15550123"
            await caller.hang_up()
            await world.quiet()
        assert world.cartesia.said[1:] == [FILLER, f"{TROUBLE} {PUTTING_THROUGH}"]
        assert await world.metric('voice_agent_calls_total{outcome="transferred"}') == 1


async def _nobody_waits_for_a_model_whose_breaker_is_open(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO, **_QUICK, BREAKER_FAILURES="2") as world:
        world.openai.modes.extend(["no token"] * 2)
        async with world.calling() as caller:
            await caller.greeted()
            for attempts in (1, 2, 2):
                await caller.say("When are you open?")
                await caller.next("mark")
                assert len(world.openai.requests) == attempts
            assert await world.metric('voice_agent_breaker_state{provider="openai"}') == 1
            world.breaker("openai")._open_until = 0.0  # as if its time had passed
            await caller.say("When are you open?")
            await caller.next("mark")
        assert len(world.openai.requests) == 3
        assert await world.metric('voice_agent_breaker_state{provider="openai"}') == 0
        turns = 'voice_agent_breaker_transitions_total{provider="openai",to='
        assert [await world.metric(f'{turns}"{to}"}}') for to in ("open", "half_open", "closed")] == [1, 1, 1]


async def _when_all_breakers_are_open_the_apology_comes_at_once(worlds: Callable[..., Any]) -> None:
    async with worlds(**_TWO) as world:
        world.openai.always = world.anthropic.always = "401"
        async with world.calling() as caller:
            await caller.greeted()
            for _ in range(2):
                await caller.say("When are you open?")
                await caller.next("mark")
        assert world.cartesia.said[1:] == [TROUBLE, TROUBLE]
        assert len(world.openai.requests) == len(world.anthropic.requests) == 1


async def test_models(together: Callable[..., Any]) -> None:
    await together(
        *((_put_to_the_next, mode) for mode in ("500", "401", "quota", "malformed", "empty", "no token")),
        *((_gone_on_with, mode) for mode in ("truncate", "stall")),
        *((_answers_alone, vendor) for vendor in ("openai", "anthropic", "gemini")),
        _each_model_is_asked_in_its_own_words,
        _three_models_hang_and_the_caller_is_never_left_in_dead_air,
        _nobody_waits_for_a_model_whose_breaker_is_open,
        _when_all_breakers_are_open_the_apology_comes_at_once,
    )


# ---------------------------------------------------------------- voices


async def _said_by_the_next(worlds: Callable[..., Any], mode: str) -> None:
    async with worlds(**_VOICES, **_HASTE.get(mode, {})) as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode = mode
        if mode == "refuse":
            await world.cartesia.lose()
        await caller.say("When are you open?")
        await caller.next("mark")
        assert " ".join(world.elevenlabs.said) == " ".join(_REPLY)
        assert "speak" not in world.telnyx.names()
        said = len(world.cartesia.said)
        await caller.say("Bye.")  # and so it does a while longer: nobody waits for the failed vendor again
        await caller.next("mark")
        assert len(world.cartesia.said) == said
        request = world.elevenlabs.requests[0]
        assert request.headers["xi-api-key"] == "k"
        assert "output_format=ulaw_8000" in request.path
        assert "/multi-stream-input?" in request.path
        assert await world.metric('voice_agent_tts_characters_total{provider="elevenlabs"}') > 0


async def _a_voice_that_stalls_is_taken_up_where_it_stopped(worlds: Callable[..., Any]) -> None:
    async with worlds(**_VOICES, **_QUICK) as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode, world.cartesia.ms_per_word, world.elevenlabs.ms_per_word = "stall", 30, 60
        world.openai.replies.append("One two three. Four five six seven eight nine ten.")
        await caller.say("Count please.")
        while not world.elevenlabs.said:
            world.elevenlabs.news.clear()
            await world.elevenlabs.news.wait()
        assert world.elevenlabs.said == ["Four five six seven eight nine ten."]
        for _ in range(20):
            await caller.next("media")
        await caller.say("Wait.")
        await caller.next("clear")
        await caller.next("mark")
        heard = world.openai.requests[1]["messages"][-2]["content"]
    assert heard.startswith("One two three. Four")  # by both voices
    assert not heard.endswith("ten.")


async def _when_no_voice_can_speak_the_carrier_does(worlds: Callable[..., Any]) -> None:
    async with worlds(**_VOICES, **_QUICK) as world, world.calling() as caller:
        await caller.greeted()
        world.cartesia.mode, world.elevenlabs.mode = "hang", "no audio"
        await caller.say("When are you open?")
        assert (await world.telnyx.commanded("speak"))["payload"] == " ".join(_REPLY)
        await world.webhook("call.speak.ended")
        await world.counted('voice_agent_turns_total{outcome="answered"}')


async def _an_empty_account_opens_the_voices_breaker_for_all_calls(worlds: Callable[..., Any]) -> None:
    async with worlds(**_VOICES, TTS_CHAIN="elevenlabs,cartesia") as world:
        world.elevenlabs.mode = "error"
        await _ask(world)
        assert world.cartesia.said == ["Hello there.", *_REPLY]
        assert await world.metric('voice_agent_breaker_state{provider="elevenlabs"}') == 1
        asked = len(world.elevenlabs.requests)
        await _ask(world, "another call")
        assert len(world.elevenlabs.requests) == asked


async def test_voices_and_ears(together: Callable[..., Any]) -> None:
    await together(
        *((_said_by_the_next, mode) for mode in ("hang", "no audio", "error", "drop", "refuse")),
        *((_heard_again, mode) for mode in ("no final", "drop", "refuse")),
        _a_voice_that_stalls_is_taken_up_where_it_stopped,
        _when_no_voice_can_speak_the_carrier_does,
        _an_empty_account_opens_the_voices_breaker_for_all_calls,
    )


async def test_a_timing_of_parts_of_words_cuts_none() -> None:
    speech = Speech(_Nowhere(), "c", lambda _: None, stall_seconds=1)
    await speech.say("We are open.")
    speech.timed_from_here([("We", 0.01), ("ar", 0.02)])
    speech.sound(bytes(160))
    speech.timed_from_here([("e", 0.01), ("open.", 0.03)])
    speech.sound(bytes(240))
    cuts = {ms: speech.split(ms) for ms in (0, 10, 20, 30, 40)}
    assert cuts == {
        0: ("", "We are open."),
        10: ("We", "are open."),
        20: ("We", "are open."),
        30: ("We are", "open."),
        40: ("We are", "open."),
    }
    assert speech.give_up() == ""  # all 50 ms are there
    assert speech.split(50) == ("We are open.", "")


async def test_a_connection_lost_between_two_messages_is_a_failure_of_the_voice() -> None:
    voice: Any = Voice.__new__(Voice)
    voice._socket, voice._tried, voice._stall_seconds = _Lost(voice), asyncio.Event(), 1.0
    voice._tried.set()
    with pytest.raises(VoiceFailed, match="lost"):
        await voice._send([{"text": " "}, {"text": "We are open."}])


class _Lost:
    """A connection that goes away while the first message is being sent."""

    def __init__(self, voice: Any) -> None:
        self._voice = voice

    async def send(self, text: str) -> None:
        if self._voice._socket is None:
            raise ConnectionResetError
        self._voice._socket = None


class _Nowhere:
    async def say(self, context: str, text: str, *, first: bool) -> None:
        return

    async def finish(self, context: str) -> None:
        return

    async def cancel(self, context: str) -> None:
        return

    def forget(self, context: str) -> None:
        return


# ---------------------------------------------------------------- ears


async def _heard_again(worlds: Callable[..., Any], mode: str) -> None:
    patience = {"FINAL_SECONDS": "0.5"} if mode == "no final" else {}
    async with worlds(DEEPGRAM_FALLBACK_API_KEY="k2", **patience) as world:
        world.deepgram.mode = mode
        async with world.calling() as caller:
            await caller.greeted()
            world.deepgram_fallback.transcripts.append("When are you open?")
            await caller.say()
            await caller.next("media")
        assert world.openai.requests[0]["messages"][-1]["content"] == "When are you open?"
        assert len(world.deepgram_fallback.heard) >= 600 * 8  # the whole turn's sound
        assert await world.metric('voice_agent_failovers_total{from="deepgram",to="deepgram_fallback"}') == 1
        assert await world.metric('voice_agent_stt_seconds_total{provider="deepgram_fallback"}') >= 0.6


# ---------------------------------------------------------------- streams


async def test_nothing_but_a_newline_ends_a_line_of_a_stream() -> None:
    text = '{"content": "One\u2028two\x85three\x0cfour"}'
    body = f"event: x\r\ndata: {text}\r\n\r\n: a comment\ndata: {text}\n\ndata: [DONE]".encode()

    async def chunks() -> Any:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    response = httpx.Response(200, content=chunks())
    assert [event async for event in _events(response)] == [text, text, "[DONE]"]


# ---------------------------------------------------------------- drafts


async def _taken(draft: Draft) -> list[str]:
    return [text async for text in _all(draft)]


async def _all(draft: Draft) -> Any:
    while (text := await draft.next(float("inf"))) is not None:
        yield text


@pytest.mark.parametrize(
    ("again", "taken"),
    [
        ("Yes. We are open. Bye.", ["Yes.", "We are open.", "Bye."]),  # the same, and more
        ("And on Saturdays.", ["Yes.", "We are open.", "And on Saturdays."]),  # goes on, as it was asked to
        ("Yes. No.", ["Yes.", "We are open.", "No."]),
        ("Yes.", ["Yes.", "We are open."]),
        ("", ["Yes.", "We are open."]),
    ],
)
async def test_what_was_said_is_not_said_twice(again: str, taken: list[str]) -> None:
    draft = Draft()
    draft.write("Yes. We are open. Until s")
    assert draft.said == "Yes. We are open."
    draft.begin_anew()
    draft.write(again)
    draft.end()
    assert await _taken(draft) == taken


async def test_a_clause_that_was_said_is_not_said_twice_either() -> None:
    draft = Draft()
    draft.write("Yes of course, we are")
    assert await draft.next(0.0) == "Yes of course,"
    draft.begin_anew()
    draft.write("Yes of course, we are open. Bye.")
    draft.end()
    assert await _taken(draft) == ["we are open.", "Bye."]


async def test_a_reader_of_a_draft_begun_anew_may_be_held_up() -> None:
    draft = Draft()
    first = asyncio.create_task(draft.next(0.0))
    draft.begin_anew()
    assert await first == FILLER
    assert draft.said == ""
