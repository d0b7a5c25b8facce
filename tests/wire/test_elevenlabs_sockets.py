"""The sockets of the ElevenLabs twin: stream-input by the official SDK, multi-stream-input by a plain client.

The SDK has no client for multi-stream-input; its types for the messages judge them.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import websockets
from elevenlabs.client import ElevenLabs as Client
from elevenlabs.core.api_error import ApiError
from elevenlabs.core.unchecked_base_model import construct_type
from elevenlabs.types import AudioOutputMulti, FinalOutputMulti

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.elevenlabs import ElevenLabs
from busyhour.emulators.elevenlabs.api import application
from busyhour.emulators.twin import Twin, listening
from busyhour.media.utterances import PAUSE_MS, sentences, spoken
from busyhour.model import MS, Operation

from .stages import rows_of

# The SDK asks websockets for the close code in a way that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated:DeprecationWarning")

PARKING = "There is free parking right behind the building."
OFFER = "We have nine o'clock in the morning or half past two in the afternoon."
AUTO = "auto_mode=true"


@dataclass
class Stage:
    """A twin on a real socket in this process."""

    twin: Twin
    port: int

    async def rows(self, count: int = 1) -> list[Operation]:
        return await rows_of(self.twin, count)

    def connect(self, query: str = "", *, path: str = "multi-stream-input", key: str = "sk_x") -> websockets.connect:
        url = f"ws://127.0.0.1:{self.port}/v1/text-to-speech/anyone/{path}?output_format=pcm_8000&{query}"
        return websockets.connect(url, additional_headers={"xi-api-key": key} if key else {})


@asynccontextmanager
async def playing(*, api_key: str = "", **settings: Any) -> AsyncIterator[Stage]:
    """By default audio comes at once, a thousand times faster than it plays."""
    service = ElevenLabs(**{"first_audio": Constant(0), "realtime_factor": 1000.0, **settings})
    twin = Twin("tts", service._behaviour, SystemClock())
    async with listening(application(twin, {"api_key": api_key})) as port:
        yield Stage(twin, port)


async def send(socket: websockets.ClientConnection, *messages: dict[str, Any]) -> None:
    for message in messages:
        await socket.send(json.dumps(message))


async def until_final(socket: websockets.ClientConnection, count: int = 1) -> list[dict[str, Any]]:
    """What comes until so many contexts have ended."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while sum(message.get("isFinal") is True for message in found) < count:
            found.append(json.loads(await socket.recv()))
    return found


async def rest(socket: websockets.ClientConnection) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        return [json.loads(message) async for message in socket]


async def failure(socket: websockets.ClientConnection) -> tuple[dict[str, Any], websockets.ConnectionClosed]:
    """The error and the close that come next."""
    async with asyncio.timeout(60):
        error = json.loads(await socket.recv())
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    return error, closed.value


def audio(messages: list[dict[str, Any]], context_id: str | None = None) -> bytes:
    mine = [message for message in messages if context_id is None or message.get("contextId") == context_id]
    return b"".join(b64decode(message.get("audio") or "") for message in mine)


def s16(text: str) -> bytes:
    return spoken(text, 8000).astype("<i2").tobytes()


# ---------------------------------------------------------------- many contexts


async def test_a_context_speaks_and_ends_when_it_is_closed() -> None:
    async with playing() as stage, stage.connect("model_id=eleven_flash_v2_5") as socket:
        await send(
            socket,
            {"text": " ", "context_id": "a", "voice_settings": {"stability": 0.5}},
            {"text": "There is free parking ", "context_id": "a"},
            {"text": "right behind the building. ", "context_id": "a"},
            {"context_id": "a", "flush": True},
            {"context_id": "a", "close_context": True},
        )
        messages = await until_final(socket)
        (row,) = await stage.rows()
    assert audio(messages) == s16(PARKING)
    assert {message["contextId"] for message in messages} == {"a"}
    assert [message["isFinal"] for message in messages] == [None] * (len(messages) - 1) + [True]
    parts = [construct_type(type_=AudioOutputMulti, object_=message) for message in messages[:-1]]
    assert {part.context_id for part in parts} == {"a"}
    assert all(part.alignment.chars == part.normalized_alignment.chars for part in parts if part.alignment)
    assert construct_type(type_=FinalOutputMulti, object_=messages[-1]).is_final is True
    assert (row.outcome, row.detail["model"], row.detail["cancelled"]) == ("ok", "eleven_flash_v2_5", False)
    assert row.detail["text"] == "There is free parking right behind the building. "
    assert row.detail["characters"] == len("There is free parking right behind the building. ")
    assert row.due_ns <= row.detail["first_audio_ns"] <= row.ended_ns  # type: ignore[operator]


async def test_alignment_begins_at_zero_in_each_message_and_adds_up_to_the_recording() -> None:
    async with playing() as stage, stage.connect(AUTO) as socket:
        await send(socket, {"text": PARKING + " ", "context_id": "a"}, {"context_id": "a", "close_context": True})
        messages = (await until_final(socket))[:-1]
    words: dict[str, float] = {}
    text, before = "", 0.0
    for message in messages:
        alignment = message["alignment"]
        if alignment is not None:
            starts = alignment["charStartTimesMs"]
            assert len(alignment["chars"]) == len(starts) == len(alignment["charDurationsMs"])
            assert all(0 <= start < 100 for start in starts[:-2])
            for character, start in zip(alignment["chars"], starts, strict=True):
                if not text or text[-1] == " ":
                    words[str(len(words))] = before + start
                text += character
        before += len(b64decode(message["audio"])) / 16
    assert text == PARKING + " "
    recorded = sentences(8000)["hours.parking"]
    expected = [(word.began - recorded.speech_began) / 8 for word in recorded.words]
    assert list(words.values())[: len(expected)] == pytest.approx(expected, abs=2)


async def test_contexts_are_spoken_side_by_side() -> None:
    async with playing(realtime_factor=20.0) as stage, stage.connect(AUTO) as socket:
        texts = {"a": PARKING, "b": OFFER, "c": "On Saturdays we are open from nine to one."}
        for name, text in texts.items():
            await send(socket, {"text": text, "context_id": name}, {"context_id": name, "close_context": True})
        messages = await until_final(socket, 3)
        rows = await stage.rows(3)
    assert {name: audio(messages, name) for name in texts} == {name: s16(text) for name, text in texts.items()}
    began: list[Any] = [row.detail["first_audio_ns"] for row in rows]
    assert max(began) < min(row.ended_ns or 0 for row in rows)


async def test_text_waits_for_its_schedule() -> None:
    async with playing() as stage, stage.connect() as socket:
        config = {"chunk_length_schedule": [60, 500]}
        await send(
            socket,
            {"text": " ", "context_id": "a", "generation_config": config},
            {"text": PARKING + " ", "context_id": "a"},  # 49 characters: it waits
            {"text": "We have nine ", "context_id": "a"},  # 62: up to the end of the sentence
            {"text": "o'clock in the morning or half past two in the afternoon.", "context_id": "a"},
            {"context_id": "a", "flush": True},
            {"context_id": "a", "close_context": True},
        )
        messages = await until_final(socket)
    assert audio(messages) == s16(PARKING) + bytes(PAUSE_MS * 16) + s16(OFFER)


async def test_what_was_not_to_be_spoken_when_its_context_is_closed_is_dropped() -> None:
    async with playing() as stage, stage.connect() as socket:
        await send(socket, {"text": PARKING + " ", "context_id": "a", "flush": True})
        await send(socket, {"text": OFFER, "context_id": "a"}, {"context_id": "a", "close_context": True})
        messages = await until_final(socket)
        (row,) = await stage.rows()
        assert audio(messages) == s16(PARKING)
        assert (row.outcome, row.detail["cancelled"]) == ("ok", True)
        # The same name may be used again, for another context; to close or flush an unknown one is harmless.
        await send(socket, {"context_id": "a", "close_context": True}, {"context_id": "a", "flush": True})
        await send(
            socket, {"text": OFFER, "context_id": "a", "flush": True}, {"context_id": "a", "close_context": True}
        )
        assert audio(await until_final(socket)) == s16(OFFER)


async def test_closing_the_socket_ends_what_is_being_spoken() -> None:
    async with playing(realtime_factor=20.0) as stage, stage.connect(AUTO) as socket:
        await send(socket, {"text": PARKING, "context_id": "a"}, {"text": " ", "context_id": "b"})
        await send(socket, {"close_socket": True})
        messages = await rest(socket)
        assert audio(messages, "a") == s16(PARKING)
        assert [message["contextId"] for message in messages if message["isFinal"]] == ["b", "a"]
        assert socket.close_code == 1000
        assert [row.outcome for row in await stage.rows(2)] == ["ok", "ok"]
    async with playing() as stage, stage.connect() as socket:
        await send(socket, {"close_socket": True})
        assert await rest(socket) == []


async def test_audio_comes_after_its_latency() -> None:
    clock = SystemClock()
    async with playing(first_audio=Constant(150)) as stage, stage.connect(AUTO) as socket:
        began_ns = clock.now_ns()
        await send(socket, {"text": PARKING, "context_id": "a"})
        await socket.recv()
        assert 150 * MS <= clock.now_ns() - began_ns < 15_000 * MS


async def test_silence_ends_contexts_and_then_the_socket() -> None:
    async with playing() as stage, stage.connect("inactivity_timeout=2") as socket:
        await send(socket, {"text": " ", "context_id": "silent"})
        for _ in range(8):
            await asyncio.sleep(0.3)
            await send(socket, {"text": ""})  # keeps the socket open, not the context
        assert await until_final(socket) == [{"isFinal": True, "contextId": "silent"}]
        error, closed = await failure(socket)
    assert (error["error"], error["code"]) == ("input_timeout_exceeded", 1008)
    assert "within the timeout of 2.0 seconds" in error["message"]
    assert (closed.rcvd.code if closed.rcvd else None) == 1008
    assert closed.rcvd.reason == error["message"].encode()[:123].decode()  # type: ignore[union-attr]


async def test_an_empty_text_keeps_a_context_open() -> None:
    async with playing() as stage, stage.connect("inactivity_timeout=2") as socket:
        await send(socket, {"text": " ", "context_id": "a"})
        for _ in range(8):
            await asyncio.sleep(0.3)
            await send(socket, {"text": "", "context_id": "a"})
        await send(socket, {"text": PARKING, "context_id": "a", "flush": True})
        assert audio([json.loads(await socket.recv())])


async def test_a_sixth_context_is_too_many() -> None:
    async with playing() as stage, stage.connect() as socket:
        for name in "abcdef":
            await send(socket, {"text": " ", "context_id": name})
        error, closed = await failure(socket)
        rows = await stage.rows(5)
    assert (error["error"], error["code"]) == ("max_active_conversations", 1008)
    assert (closed.rcvd.code if closed.rcvd else None) == 1008
    assert {row.outcome for row in rows} == {"ok"}  # nothing was left unsaid


# ---------------------------------------------------------------- failures


async def test_over_quota_a_context_ends_at_once_without_audio() -> None:
    """What an exhausted account really met: no error, only the end (pipecat issue 5026)."""
    async with playing(outcomes={"zero_audio": 1}) as stage, stage.connect(AUTO) as socket:
        for name in "ab":
            await send(socket, {"text": " ", "context_id": name}, {"text": PARKING, "context_id": name})
            assert await until_final(socket) == [{"isFinal": True, "contextId": name}]
            await send(socket, {"context_id": name, "close_context": True})
        rows = await stage.rows(2)
        assert stage.twin.as_json()["served"] == {"zero_audio": 2}
    assert [(row.outcome, row.detail["audio_ms"], row.detail["characters"]) for row in rows] == [
        ("zero_audio", 0, len(PARKING))
    ] * 2


@pytest.mark.parametrize(("outcome", "code"), [("quota", "quota_exceeded"), ("error", "something_went_wrong")])
async def test_an_error_closes_the_socket(outcome: str, code: str) -> None:
    async with playing(outcomes={outcome: 1}) as stage, stage.connect(AUTO) as socket:
        await send(socket, {"text": PARKING, "context_id": "a"})
        error, closed = await failure(socket)
        (row,) = await stage.rows()
    assert (error["error"], error["code"], row.outcome) == (code, 1008, outcome)
    assert closed.rcvd is not None
    assert (closed.rcvd.code, closed.rcvd.reason) == (1008, error["message"][:123])
    assert stage.twin.as_json()["served"] == {outcome: 1}


async def test_the_other_contexts_of_a_socket_that_fails_are_cut_off() -> None:
    seed = next(seed for seed in range(100) if fates(seed, 2) == ["ok", "error"])
    settings: dict[str, Any] = {"outcomes": {"error": 0.5}, "seed": seed, "realtime_factor": 1.0}
    async with playing(**settings) as stage, stage.connect(AUTO) as socket:
        await send(socket, {"text": PARKING, "context_id": "a"}, {"text": PARKING, "context_id": "b"})
        await rest_until_closed(socket)
        rows = {row.id: row.outcome for row in await stage.rows(2)}
    assert rows == {"tts/0": "cut off", "tts/1": "error"}


def fates(seed: int, count: int) -> list[str]:
    behaviour = ElevenLabs(outcomes={"error": 0.5}, seed=seed)._behaviour
    return [behaviour.draw("context", number, ("error",)).outcome for number in range(count)]


async def rest_until_closed(socket: websockets.ClientConnection) -> None:
    with pytest.raises(websockets.ConnectionClosedError):
        await rest(socket)


async def test_a_reset_breaks_the_socket() -> None:
    async with playing(outcomes={"reset": 1}) as stage, stage.connect(AUTO) as socket:
        await send(socket, {"text": PARKING, "context_id": "a"})
        with pytest.raises(websockets.ConnectionClosedError) as broken:
            await socket.recv()
        assert broken.value.rcvd is None
        assert (await stage.rows())[0].outcome == "reset"


@pytest.mark.parametrize(("outcome", "share"), [("stall", 0.5), ("hang", 0.0)])
async def test_silence_in_mid_speech(outcome: str, share: float) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        async with stage.connect(AUTO) as socket:
            await send(socket, {"text": PARKING, "context_id": "a"}, {"context_id": "a", "close_context": True})
            octets = b""
            while len(octets) < len(s16(PARKING)) * share - 2:
                octets += audio([json.loads(await socket.recv())])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.15)
        (row,) = await stage.rows()
    assert row.outcome == outcome
    assert row.detail["audio_ms"] == pytest.approx(len(s16(PARKING)) * share / 16, abs=1)


async def test_a_client_that_leaves_in_mid_speech_is_seen() -> None:
    async with playing(realtime_factor=1.0) as stage:
        async with stage.connect(AUTO) as socket:
            await send(socket, {"text": PARKING, "context_id": "a"}, {"text": " ", "context_id": "b"})
            await socket.recv()
        rows = {row.detail["text"]: row.outcome for row in await stage.rows(2)}
    assert rows == {PARKING: "client closed", "": "ok"}


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_a_refused_connection(status: int) -> None:
    async with playing(outcomes={f"http_{status}": 1}) as stage:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with stage.connect():
                pytest.fail("it connected")
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["detail"].keys() == {"status", "message"}


async def test_the_key_may_come_with_the_first_message() -> None:
    speech = {"text": PARKING, "context_id": "a", "flush": True}
    async with playing(api_key="sk_right") as stage:
        for key in ({"xi_api_key": "sk_right"}, {"xi-api-key": "sk_right"}, {"authorization": "Bearer sk_right"}):
            async with stage.connect(key="") as socket:
                await send(socket, {**speech, **key})
                assert audio([json.loads(await socket.recv())])
        async with stage.connect(key="") as socket:
            await send(socket, speech)
            assert (await failure(socket))[0]["error"] == "authentication_required"
        async with stage.connect(key="sk_wrong") as socket:
            await send(socket, speech)
            assert (await failure(socket))[0] == {
                "message": "Invalid API key",
                "error": "invalid_api_key",
                "code": 1008,
            }


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        b"\x00\x01",
        "{}",
        '{"text": 7}',
        '{"text": "x", "context_id": 7}',
        json.dumps({"text": "x", "context_id": "y" * 201}),
        '{"text": "x", "flush": "yes"}',
        '{"text": "x", "voice_settings": []}',
        '{"text": "x", "generation_config": {"chunk_length_schedule": "long"}}',
        '{"text": "x", "generation_config": {"chunk_length_schedule": [NaN]}}',
        '{"text": "x", "generation_config": 7}',
    ],
)
async def test_messages_that_cannot_be_read(sent: str | bytes) -> None:
    async with playing() as stage, stage.connect() as socket:
        await socket.send(sent)
        error, closed = await failure(socket)
    assert error["error"] in {"invalid_input_message", "invalid_generation_config"}
    assert (closed.rcvd.code if closed.rcvd else None) == 1008


async def test_messages_that_ask_too_much() -> None:
    async with playing() as stage:
        async with stage.connect() as socket:
            await send(socket, {"text": " ", "context_id": "a", "voice_settings": {"speed": 1}})
            await send(socket, {"text": "x", "context_id": "a", "voice_settings": {"speed": 1}})
            await send(socket, {"text": "x", "context_id": "a", "voice_settings": {"speed": 0.9}})
            assert (await failure(socket))[0]["error"] == "invalid_voice_settings"
        async with stage.connect() as socket:
            await send(socket, {"text": "x" * 40_001, "context_id": "a"})
            assert (await failure(socket))[0]["error"] == "max_character_limit_exceeded"
        async with stage.connect() as socket:
            await send(socket, {"text": " ", "generation_config": {"chunk_length_schedule": [10]}})
            assert (await failure(socket))[0]["error"] == "invalid_generation_config"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("auto_mode=perhaps", "invalid_parameters"),
        ("inactivity_timeout=181", "invalid_parameters"),
        ("inactivity_timeout=soon", "invalid_parameters"),
    ],
)
async def test_queries_that_cannot_be_served(query: str, code: str) -> None:
    async with playing() as stage, stage.connect(query) as socket:
        assert (await failure(socket))[0]["error"] == code


async def test_formats_that_would_need_an_encoder() -> None:
    async with playing() as stage:
        url = f"ws://127.0.0.1:{stage.port}/v1/text-to-speech/anyone/multi-stream-input"
        for query in ("", "?output_format=mp3_22050_32"):
            async with websockets.connect(url + query) as socket:
                assert (await failure(socket))[0]["error"] == "output_format_not_allowed"


# ---------------------------------------------------------------- one stream, by the SDK


def speak(port: int, texts: list[str], **more: Any) -> list[bytes]:
    """The SDK puts wss before any host; this is what it does without TLS."""
    client = Client(base_url=f"http://127.0.0.1:{port}", api_key="sk_x", timeout=60)
    try:
        client.text_to_speech._ws_base_url = f"ws://127.0.0.1:{port}"

        def text() -> Iterator[str]:
            yield from texts

        asked: dict[str, Any] = {"output_format": "pcm_8000", "model_id": "eleven_flash_v2_5", **more}
        return list(client.text_to_speech.convert_realtime("anyone", text=text(), **asked))
    finally:
        client._client_wrapper.httpx_client.httpx_client.close()


async def test_the_sdk_streams_text_in_and_audio_out() -> None:
    async with playing() as stage:
        tokens = ["There ", "is ", "free parking ", "right behind the building. ", OFFER]
        chunks = await asyncio.to_thread(speak, stage.port, tokens)
        (row,) = await stage.rows()
    assert b"".join(chunks) == s16(PARKING) + bytes(PAUSE_MS * 16) + s16(OFFER)
    assert (row.outcome, row.detail["model"]) == ("ok", "eleven_flash_v2_5")


@pytest.mark.parametrize(
    ("outcome", "because"), [("quota", "quota_exceeded"), ("error", "something_went_wrong"), ("http_503", "503")]
)
async def test_the_sdk_is_told_of_failures(outcome: str, because: str) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        with pytest.raises((ApiError, websockets.InvalidStatus), match=because):
            await asyncio.to_thread(speak, stage.port, [PARKING])


async def test_the_sdk_takes_silence_for_success() -> None:
    async with playing(outcomes={"zero_audio": 1}) as stage:
        assert await asyncio.to_thread(speak, stage.port, [PARKING]) == []


async def test_one_stream_without_contexts() -> None:
    async with playing() as stage, stage.connect(path="stream-input") as socket:
        await send(socket, {"text": " "}, {"text": PARKING, "flush": True}, {"text": OFFER}, {"text": ""})
        messages = await rest(socket)
        assert socket.close_code == 1000
    assert all("contextId" not in message for message in messages)
    assert messages[-1] == {"isFinal": True, "audio": None}
    assert audio(messages) == s16(PARKING) + bytes(PAUSE_MS * 16) + s16(OFFER)
