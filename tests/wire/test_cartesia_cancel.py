"""What a cancel does to a context of the Cartesia twin: what is being sent goes on to its end, all else is halted."""

from __future__ import annotations

import json
from base64 import b64decode

import pytest
from cartesia.types.websocket_response import Done

from busyhour.emulators import Constant

from .cartesia_stage import MOMENT, context, heard, message, playing, s16
from .stages import OFFER


@pytest.mark.parametrize("first", [MOMENT, f"{MOMENT} There is free"], ids=["a sentence", "and half of another"])
async def test_of_a_cancelled_context_only_what_is_being_sent_goes_on_to_its_end(first: str) -> None:
    async with playing(realtime_factor=1.0) as stage, stage.raw() as socket:
        await socket.send_str(message(transcript=first, **{"continue": True}))
        await socket.send_str(message(transcript=f" {OFFER}", **{"continue": False}))
        events = [await socket.receive_json()]
        await socket.send_str(json.dumps({"context_id": "c", "cancel": True}))
        while events[-1]["type"] == "chunk":
            events.append(await socket.receive_json())
        (row,) = await stage.rows()
        assert events[-1] == {"type": "done", "done": True, "status_code": 206, "context_id": "c"}
        assert b"".join(b64decode(event["data"]) for event in events[:-1]) == s16(MOMENT)
        assert (row.outcome, row.detail["cancelled"], row.detail["text"]) == ("ok", True, first)
        assert row.detail["audio_ms"] == pytest.approx(len(s16(MOMENT)) / 16)
        await socket.send_str(message())  # its name is free again
        assert (await socket.receive_json())["type"] == "chunk"


async def test_a_cancelled_context_takes_no_input_while_it_goes_on() -> None:
    async with playing(realtime_factor=1.0) as stage, stage.raw() as socket:
        await socket.send_str(message(transcript=MOMENT, **{"continue": True}))
        await socket.receive_json()
        for more in ({"cancel": True}, {"continue": True}):
            await socket.send_str(message(**more))
        kinds = []
        while "done" not in kinds:
            told = await socket.receive_json()
            kinds.append(told["type"])
            assert told["type"] != "error" or (told["title"], told["context_id"]) == ("Context closed", "c")
    assert kinds.count("error") == 1


async def test_a_context_that_is_cancelled_between_its_inputs_falls_silent() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        await speech.push(MOMENT)
        octets = 0
        async for event in speech.receive():
            octets += len(event.audio or b"")
            if octets == len(s16(MOMENT)):
                break
        await speech.cancel()
        (row,) = await stage.rows()
        assert (row.outcome, row.detail["cancelled"]) == ("ok", True)
        again = context(socket)
        await again.push(MOMENT)
        await again.no_more_inputs()
        assert isinstance((await heard(again))[-1], Done)


async def test_a_stalled_context_ends_with_its_cancel() -> None:
    async with playing(outcomes={"stall": 1}) as stage, stage.raw() as socket:
        await socket.send_str(message())
        await socket.receive_json()
        await socket.send_str(json.dumps({"context_id": "c", "cancel": True}))
        (row,) = await stage.rows()
    assert (row.outcome, row.detail["cancelled"]) == ("stall", True)


async def test_a_context_cancelled_before_it_began_is_witnessed() -> None:
    async with playing(first_audio=Constant(60_000)) as stage, stage.raw() as socket:
        await socket.send_str(message())
        await socket.send_str(json.dumps({"context_id": "c", "cancel": True}))
        (row,) = await stage.rows()
    assert (row.outcome, row.detail["cancelled"], row.detail["audio_ms"]) == ("ok", True, 0)


async def test_cancelling_the_unknown_is_harmless() -> None:
    async with playing() as stage, stage.raw() as socket:
        await socket.send_str(json.dumps({"context_id": "nobody", "cancel": True}))
        await socket.send_str(message())
        assert (await socket.receive_json())["type"] == "chunk"
