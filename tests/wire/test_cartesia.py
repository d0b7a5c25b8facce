"""The Cartesia twin, judged by the official SDK and by raw sockets."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import Any

import aiohttp
import cartesia
import numpy as np
import pytest
import websockets
from cartesia.types.websocket_response import Chunk, Done, Error, FlushDone, Timestamps

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.media.utterances import PAUSE_MS, spoken
from busyhour.model import MS

from .cartesia_stage import REQUEST, S16, audio, context, heard, message, playing, s16
from .stages import OFFER, PARKING

# ---------------------------------------------------------------- speaking


async def test_a_context_speaks_what_was_pushed() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        await speech.push(PARKING)
        await speech.no_more_inputs()
        events = await heard(speech)
        (row,) = await stage.rows()
    assert audio(events) == s16(PARKING)
    assert [type(event) for event in events] == [Chunk] * (len(events) - 1) + [Done]
    assert all(len(event.audio) == 1600 and not event.done for event in events[:-2])
    assert (events[-1].done, events[-1].status_code) == (True, 206)
    assert (row.kind, row.who, row.outcome, row.id) == ("tts", "tts", "ok", "tts/0")
    assert row.detail["text"] == PARKING
    assert row.detail["audio_ms"] == pytest.approx(len(s16(PARKING)) / 16)
    assert row.due_ns == row.began_ns
    assert row.due_ns <= row.detail["first_audio_ns"] <= row.ended_ns  # type: ignore[operator]
    assert row.detail["cancelled"] is False
    assert (row.detail["characters"], row.detail["model"]) == (len(PARKING), "sonic-3")


async def test_transcripts_of_a_context_come_in_order_with_a_pause_between_sentences() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        for text in (PARKING, " ", OFFER):
            await speech.push(text)
        await speech.no_more_inputs()
        events = await heard(speech)
    pause = bytes(PAUSE_MS * 16)
    assert audio(events) == s16(PARKING) + pause + s16(OFFER)


async def test_tokens_are_put_together_to_sentences() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        for token in ("There", " is", " free", " parking", " right", " behind", " the", " build", "ing", "."):
            await speech.push(token)
        first = await anext(speech.receive())  # before the context is closed: the sentence has its end
        await speech.no_more_inputs()
        events = [first, *await heard(speech)]
        (row,) = await stage.rows()
    assert audio(events) == s16(PARKING)
    assert row.detail["text"] == PARKING


async def test_an_unfinished_sentence_waits_as_long_as_it_is_told() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, max_buffer_delay_ms=150)
        began_ns = SystemClock().now_ns()
        await speech.push("There is free")
        assert isinstance(await anext(speech.receive()), Chunk)
        waited_ns = SystemClock().now_ns() - began_ns
    assert 150 * MS <= waited_ns < 25_000 * MS


async def test_without_buffering_each_input_is_spoken_at_once() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, max_buffer_delay_ms=0)
        await speech.push("There is free ")
        assert isinstance(await anext(speech.receive()), Chunk)


async def test_a_flush_is_answered_and_numbers_the_chunks() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        await speech.push("There is free")
        await speech.push("", flush=True)
        await speech.push(OFFER)
        await speech.no_more_inputs()
        events = await heard(speech)
    (flushed,) = [event for event in events if isinstance(event, FlushDone)]
    assert (flushed.flush_id, flushed.flush_done, flushed.done) == (1, True, False)
    at = events.index(flushed)
    assert audio(events[:at]) == s16("There is free")
    assert audio(events[at:]) == s16(OFFER)
    assert {event.flush_id for event in events[:at]} == {1}
    assert {event.flush_id for event in events[at + 1 :] if isinstance(event, Chunk)} == {2}


async def test_timestamps_run_on_through_a_context() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, add_timestamps=True)
        await speech.push(PARKING + " ")
        await speech.push("And something that nobody has recorded.")
        await speech.no_more_inputs()
        events = await heard(speech)
    stamps = [event.word_timestamps for event in events if isinstance(event, Timestamps) and event.word_timestamps]
    words = [word for stamp in stamps for word in stamp.words]
    starts = [start for stamp in stamps for start in stamp.start]
    ends = [end for stamp in stamps for end in stamp.end]
    lasts = len(audio(events)) / 16_000
    assert " ".join(words) == f"{PARKING} And something that nobody has recorded."
    assert len(stamps) == 2
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert starts[8] >= len(s16(PARKING)) / 16_000 + PAUSE_MS / 1000 - 0.001
    assert 0.8 * lasts < ends[-1] <= lasts


async def test_contexts_interleave_on_one_socket() -> None:
    async with playing(realtime_factor=20.0) as stage, stage.client.tts.websocket_connect() as socket:
        texts = [PARKING, OFFER, "On Saturdays we are open from nine to one."]
        contexts = [context(socket) for _ in texts]
        for speech, text in zip(contexts, texts, strict=True):
            await speech.push(text)
            await speech.no_more_inputs()
        events = await asyncio.gather(*(heard(speech) for speech in contexts))
        rows = await stage.rows(3)
    assert [audio(part) for part in events] == [s16(text) for text in texts]
    began: list[Any] = [row.detail["first_audio_ns"] for row in rows]
    assert max(began) < min(row.ended_ns or 0 for row in rows)


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"])
@pytest.mark.parametrize("rate_hz", [8000, 22050, 48000])
async def test_encodings_and_rates(encoding: str, rate_hz: int) -> None:
    form = {"container": "raw", "encoding": encoding, "sample_rate": rate_hz}
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, output_format=form)
        await speech.push(PARKING)
        await speech.no_more_inputs()
        octets = audio(await heard(speech))
    expected = spoken(PARKING, rate_hz).astype(np.float64)
    if encoding == "pcm_s16le":
        assert np.array_equal(np.frombuffer(octets, "<i2"), expected)
    elif encoding == "pcm_f32le":
        assert np.allclose(np.frombuffer(octets, "<f4") * 32768, expected)
    else:
        assert len(octets) == len(expected)
        assert octets.count({"pcm_mulaw": 0xFF, "pcm_alaw": 0xD5}[encoding]) < len(octets) / 2


async def test_one_message_without_a_helper() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        await socket.send(json.loads(message()))
        kinds = []
        async for event in socket:
            kinds.append(event.type)
            if event.type == "done":
                break
    assert kinds == ["chunk"] * (len(kinds) - 1) + ["done"]


# ---------------------------------------------------------------- time


async def test_audio_comes_after_its_latency_and_at_its_pace() -> None:
    settings: dict[str, Any] = {"first_audio": Constant(100), "realtime_factor": 10.0}
    async with playing(**settings) as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        began_ns = SystemClock().now_ns()
        await speech.push(PARKING)
        await speech.no_more_inputs()
        stamps = [SystemClock().now_ns() - began_ns async for _ in speech.receive()]
    lasts_ms = len(s16(PARKING)) / 16
    chunks = -(-lasts_ms // 100)
    assert 100 * MS <= stamps[0] < 15_000 * MS
    assert stamps[-1] >= (100 + (chunks - 1) * 10) * MS


async def test_a_context_that_waits_too_long_ends_and_its_last_input_is_still_answered() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        await speech.push(PARKING)
        (row,) = await stage.rows()  # a second after its audio
        await speech.no_more_inputs()
        events = await heard(speech)
    assert (row.outcome, row.detail["text"]) == ("ok", PARKING)
    assert isinstance(events[-1], Done)


# ---------------------------------------------------------------- ending early


async def test_a_client_that_leaves_in_mid_speech_is_seen() -> None:
    async with playing(realtime_factor=1.0) as stage:
        async with stage.raw() as socket:
            await socket.send_str(message())
            await socket.receive_json()
        (row,) = await stage.rows()
    assert (row.outcome, row.detail["cancelled"]) == ("client closed", False)


async def test_a_client_that_leaves_an_open_context_after_its_audio_left_nothing_undone() -> None:
    async with playing() as stage:
        async with stage.raw() as socket:
            await socket.send_str(message(**{"continue": True}))
            octets = 0
            while octets < len(s16(PARKING)):
                octets += len(b64decode((await socket.receive_json())["data"]))
            # The twin has nothing more to say; a question that it answers shows that it has noticed.
            await socket.send_str("?")
            assert (await socket.receive_json())["type"] == "error"
        (row,) = await stage.rows()
    assert row.outcome == "ok"


# ---------------------------------------------------------------- failures


async def test_zero_audio_is_success_without_a_chunk() -> None:
    async with playing(outcomes={"zero_audio": 1}) as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, add_timestamps=True)
        await speech.push(PARKING)
        await speech.no_more_inputs()
        events = await heard(speech)
        (row,) = await stage.rows()
        assert stage.twin.as_json()["served"] == {"zero_audio": 1}
    assert [type(event) for event in events] == [Done]
    assert (row.outcome, row.detail["first_audio_ns"], row.detail["audio_ms"]) == ("zero_audio", None, 0)


@pytest.mark.parametrize(
    ("outcome", "status", "title"), [("error", 500, "Internal server error"), ("quota", 402, "Quota exceeded")]
)
async def test_an_error_is_an_event_of_the_context_and_the_socket_lives_on(
    outcome: str, status: int, title: str
) -> None:
    async with playing(outcomes={outcome: 1}) as stage, stage.client.tts.websocket_connect() as socket:
        for _ in range(2):
            speech = context(socket)
            await speech.push(PARKING)
            events = await heard(speech)
            assert [type(event) for event in events] == [Error]
            assert (events[0].status_code, events[0].done, events[0].title) == (status, True, title)
            assert events[0].request_id.endswith(events[0].context_id)
        assert {row.outcome for row in await stage.rows(2)} == {outcome}


async def test_a_stall_stops_in_mid_sentence() -> None:
    async with playing(outcomes={"stall": 1}) as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, timeout=2)
        await speech.push(PARKING)
        await speech.no_more_inputs()
        events = speech.receive()
        got = 0
        while got < len(s16(PARKING)) // 2:
            got += len((await anext(events)).audio)
        with pytest.raises(TimeoutError):
            await anext(events)
    (row,) = await stage.rows()
    assert got == pytest.approx(len(s16(PARKING)) / 2, abs=2)
    assert row.outcome == "stall"


async def test_a_hang_says_nothing() -> None:
    async with playing(outcomes={"hang": 1}) as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket, timeout=1)
        await speech.push(PARKING)
        with pytest.raises(TimeoutError):
            await heard(speech)
    (row,) = await stage.rows()
    assert (row.outcome, row.detail["audio_ms"]) == ("hang", 0)


async def test_a_reset_breaks_the_socket() -> None:
    async with playing(outcomes={"reset": 1}) as stage, stage.client.tts.websocket_connect() as socket:
        await socket.send(json.loads(message()))
        with pytest.raises(websockets.ConnectionClosedError):
            await socket.recv()
        (row,) = await stage.rows()
    assert row.outcome == "reset"


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_a_refused_connection(status: int) -> None:
    async with playing(outcomes={f"http_{status}": 1}) as stage:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with stage.client.tts.websocket_connect():
                pytest.fail("it connected")
        with pytest.raises(cartesia.APIStatusError) as answered:
            await stage.client.tts.generate(**REQUEST)
        assert stage.twin.as_json()["served"] == {f"http_{status}": 2}
    assert refused.value.response.status_code == status
    assert answered.value.status_code == status
    assert isinstance(answered.value.body, dict)
    assert answered.value.body.keys() == {"error_code", "title", "message", "request_id"}
    kinds = {401: cartesia.AuthenticationError, 429: cartesia.RateLimitError}
    assert type(answered.value) is kinds.get(status, cartesia.InternalServerError)
    assert answered.value.response.headers.get("Retry-After") == ("1" if status == 429 else None)


async def test_a_key_is_needed() -> None:
    async with playing() as stage:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stage.session.ws_connect(f"{stage.url}/tts/websocket")
        assert refused.value.status == 401
        url = f"{stage.url}/tts/websocket"
        for headers in ({"X-API-Key": "k"}, {"Authorization": "Bearer k"}):
            async with stage.session.ws_connect(url, headers=headers) as socket:
                assert not socket.closed


# ---------------------------------------------------------------- nasty input


@pytest.mark.parametrize(
    ("sent", "title"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "Invalid JSON"),
        ("[" * 100_000, "Invalid JSON"),
        (b"\x00\x01", "Invalid JSON"),
        ("{}", "Invalid context ID"),
        (message(context_id=7), "Invalid context ID"),
        (message(context_id="x" * 201), "Invalid context ID"),
        (message(transcript=None), "Invalid transcript"),
        (message(transcript="x" * 10_001), "Invalid transcript"),
        (message(model_id=""), "Invalid model"),
        (message(voice={}), "Invalid voice"),
        (message(output_format=None), "Invalid output format"),
        (message(output_format={**S16, "container": "mp3"}), "Invalid output format"),
        (message(output_format={**S16, "encoding": ["pcm"]}), "Invalid output format"),
        (message(output_format={**S16, "sample_rate": 8001}), "Invalid output format"),
        (message(output_format={**S16, "sample_rate": 1e400}), "Invalid output format"),
        (message(max_buffer_delay_ms=-1), "Invalid max_buffer_delay_ms"),
        (message(max_buffer_delay_ms="soon"), "Invalid max_buffer_delay_ms"),
        (message(**{"continue": "yes"}), "Invalid continue"),
    ],
)
async def test_nasty_messages_get_an_error_and_the_socket_lives_on(sent: str | bytes, title: str) -> None:
    async with playing() as stage, stage.raw() as socket:
        await (socket.send_str(sent) if isinstance(sent, str) else socket.send_bytes(sent))
        error = await socket.receive_json()
        assert (error["type"], error["title"], error["status_code"], error["done"]) == ("error", title, 400, True)
        assert error["error"] == f"{title}: {error['message']}"  # told as a string to clients of old versions
        await socket.send_str(message())
        assert (await socket.receive_json())["type"] == "chunk"


async def test_input_after_the_last_is_refused() -> None:
    async with playing(realtime_factor=1.0) as stage, stage.raw() as socket:
        await socket.send_str(message())
        await socket.send_str(message(transcript="More."))
        kinds = {(await socket.receive_json()).get("title", "chunk") for _ in range(2)}
    assert kinds == {"chunk", "Context closed"}


async def test_there_is_a_limit_to_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.emulators.cartesia.connection._CONTEXTS_AT_MOST", 2)
    async with playing(outcomes={"hang": 1}) as stage, stage.raw() as socket:
        for name in "abc":
            await socket.send_str(message(context_id=name))
        error = await socket.receive_json()
    assert (error["status_code"], error["error_code"], error["context_id"]) == (429, "concurrency_limited", "c")


async def test_there_is_a_limit_to_waiting_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.emulators.cartesia.context._INPUTS_AT_MOST", 3)
    async with playing(outcomes={"hang": 1}) as stage, stage.raw() as socket:
        for _ in range(5):
            await socket.send_str(message(**{"continue": True}))
        assert (await socket.receive_json())["title"] == "Too many inputs"


async def test_a_message_without_end_closes_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async with playing() as stage, stage.raw() as socket:
        await socket.send_str("x" * (1024 * 1024 + 1))
        assert (await socket.receive()).data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_text_without_words_is_no_audio() -> None:
    async with playing() as stage, stage.client.tts.websocket_connect() as socket:
        speech = context(socket)
        await speech.push("... \u2014 !")
        await speech.no_more_inputs()
        assert [type(event) for event in await heard(speech)] == [Done]
