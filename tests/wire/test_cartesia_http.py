"""The HTTP endpoints of the Cartesia twin, judged by the official SDK; its process, and the synchronous client."""

from __future__ import annotations

import asyncio
import io
import json
import wave
from base64 import b64decode
from typing import Any

import aiohttp
import cartesia
import pytest

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.cartesia import Cartesia
from busyhour.emulators.cartesia.api import application
from busyhour.emulators.twin import Twin, listening
from busyhour.media.utterances import PAUSE_MS, spoken

from .cartesia_stage import REQUEST, S16, playing, s16
from .stages import OFFER, PARKING


async def test_bytes() -> None:
    async with playing() as stage:
        response = await stage.client.tts.generate(**{**REQUEST, "transcript": f"{PARKING} {OFFER}"})
        octets = await response.read()
        row = await stage.row()
    assert octets == s16(PARKING) + bytes(PAUSE_MS * 16) + s16(OFFER)
    assert (row.kind, row.outcome, row.detail["text"]) == ("tts", "ok", f"{PARKING} {OFFER}")


async def test_a_wav_file() -> None:
    async with playing() as stage:
        form = {"container": "wav", "encoding": "pcm_s16le", "sample_rate": 16000}
        response = await stage.client.tts.generate(**{**REQUEST, "output_format": form})
        octets = await response.read()
    with wave.open(io.BytesIO(octets)) as read:
        assert read.getframerate() == 16000
        assert read.readframes(10**7) == spoken(PARKING, 16000).astype("<i2").tobytes()


async def test_server_sent_events() -> None:
    async with playing() as stage:
        stream = await stage.client.tts.generate_sse(**REQUEST, add_timestamps=True, context_id="mine")
        events: list[Any] = [event async for event in stream]
    assert [event.type for event in events] == ["timestamps", *["chunk"] * (len(events) - 2), "done"]
    assert b"".join(event.audio for event in events[1:-1]) == s16(PARKING)
    assert {event.context_id for event in events} == {"mine"}


@pytest.mark.parametrize("path", ["bytes", "sse"])
@pytest.mark.parametrize(
    ("outcome", "error"), [("error", cartesia.InternalServerError), ("reset", cartesia.APIConnectionError)]
)
async def test_failures_over_http(path: str, outcome: str, error: type[Exception]) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        ask: Any = stage.client.tts.generate if path == "bytes" else stage.client.tts.generate_sse
        with pytest.raises(error):
            await ask(**REQUEST)
        assert stage.twin.as_json()["served"] == {outcome: 1}
        assert (await stage.row()).outcome == outcome


@pytest.mark.parametrize("path", ["bytes", "sse"])
async def test_without_credit_there_is_an_error_that_says_so(path: str) -> None:
    async with playing(outcomes={"quota": 1}) as stage:
        ask: Any = stage.client.tts.generate if path == "bytes" else stage.client.tts.generate_sse
        with pytest.raises(cartesia.APIStatusError) as refused:
            await ask(**REQUEST)
        row = await stage.row()
    assert refused.value.status_code == 402
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["error_code"] == "quota_exceeded"
    assert (row.outcome, row.detail["characters"], row.detail["audio_ms"]) == ("quota", len(PARKING), 0)


async def test_a_key_that_is_not_the_one_that_was_set() -> None:
    twin = Twin("tts", Cartesia()._behaviour, SystemClock())
    async with listening(application(twin, {"api_key": "sk_car_right"})) as port:
        async with cartesia.AsyncCartesia(api_key="sk_car_wrong", base_url=f"http://127.0.0.1:{port}") as client:
            with pytest.raises(cartesia.AuthenticationError):
                await client.tts.generate(**REQUEST)
        async with cartesia.AsyncCartesia(api_key="sk_car_right", base_url=f"http://127.0.0.1:{port}") as client:
            assert await (await client.tts.generate(**REQUEST)).read() == s16(PARKING)


async def test_zero_audio_over_http() -> None:
    async with playing(outcomes={"zero_audio": 1}) as stage:
        assert await (await stage.client.tts.generate(**REQUEST)).read() == b""
        stream = await stage.client.tts.generate_sse(**REQUEST)
        assert [event.type async for event in stream] == ["done"]


async def test_bad_requests_over_http() -> None:
    async with playing() as stage:
        with pytest.raises(cartesia.BadRequestError, match="transcript must not be empty"):
            await stage.client.tts.generate(**{**REQUEST, "transcript": " "})
        with pytest.raises(cartesia.BadRequestError, match="container must be one of raw, wav here"):
            await stage.client.tts.generate(**{**REQUEST, "output_format": {"container": "mp3", "sample_rate": 8000}})
        with pytest.raises(cartesia.NotFoundError):
            await stage.client.voices.get("nobody")
        with pytest.raises(cartesia.APIStatusError) as refused:
            await stage.client.get("/tts/websocket", cast_to=object)
        assert stage.twin.as_json()["served"] == {"http_400": 2, "http_404": 1, "http_426": 1}
    assert refused.value.status_code == 426


# ---------------------------------------------------------------- the synchronous client


# It uses the websockets library in a way that this has deprecated.
@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
async def test_the_synchronous_client() -> None:
    def speak(url: str) -> bytes:
        sockets = url.replace("http", "ws")
        with (
            cartesia.Cartesia(api_key="x", base_url=url, websocket_base_url=sockets) as client,
            client.tts.websocket_connect() as socket,
        ):
            speech = socket.context(model_id="sonic-3", voice="v", output_format=S16, timeout=60)
            speech.push(PARKING)
            speech.no_more_inputs()
            return b"".join(event.audio or b"" for event in speech.receive() if event.type == "chunk")

    async with playing() as stage:
        assert await asyncio.to_thread(speak, str(stage.client.base_url)) == s16(PARKING)


# ---------------------------------------------------------------- the real process


async def test_the_process_speaks_fifty_at_once_and_is_changed_while_it_runs() -> None:
    service = Cartesia(name="voice", first_audio=Constant(20), realtime_factor=8.0)
    async with service.running({}) as endpoint, aiohttp.ClientSession() as session:
        url = f"{endpoint.url}/tts/websocket?api_key=x".replace("http", "ws")
        async with session.ws_connect(url) as socket:
            for number in range(50):
                await socket.send_str(json.dumps(REQUEST | {"context_id": str(number)}))
            octets: dict[str, int] = {}
            done = 0
            while done < 50:
                event = await socket.receive_json()
                done += event["type"] == "done"
                octets[event["context_id"]] = octets.get(event["context_id"], 0) + len(b64decode(event.get("data", "")))
        assert set(octets.values()) == {len(s16(PARKING))}
        rows = await service.witnessed(endpoint)
        assert [(row.who, row.outcome) for row in rows] == [("voice", "ok")] * 50
        await service.behave(endpoint, {"outcomes": {"http_401": 1}})
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
