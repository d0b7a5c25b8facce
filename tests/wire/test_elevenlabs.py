"""The ElevenLabs twin over HTTP, judged by the official SDK; its account, and its process."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import numpy as np
import pytest
from elevenlabs.client import AsyncElevenLabs
from elevenlabs.client import ElevenLabs as Client
from elevenlabs.core.api_error import ApiError
from elevenlabs.errors import UnprocessableEntityError

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.elevenlabs import ElevenLabs
from busyhour.emulators.elevenlabs.api import application
from busyhour.emulators.twin import Twin
from busyhour.errors import PlanError
from busyhour.media.utterances import PAUSE_MS, sentences, spoken
from busyhour.model import MS

from .stages import OFFER, PARKING, Stage, served

VOICE = "21m00Tcm4TlvDq8ikWAM"
ASK: dict[str, Any] = {
    "voice_id": VOICE,
    "text": PARKING,
    "model_id": "eleven_flash_v2_5",
    "output_format": "pcm_8000",
    "request_options": {"max_retries": 0},
}


@asynccontextmanager
async def playing(*, api_key: str = "", given: str = "sk_x", **settings: Any) -> AsyncIterator[Stage[AsyncElevenLabs]]:
    """By default audio comes at once, a thousand times faster than it plays."""
    service = ElevenLabs(**{"first_audio": Constant(0), "realtime_factor": 1000.0, **settings})
    async with served(service, application, {"api_key": api_key}) as (twin, url):
        client = AsyncElevenLabs(base_url=url, api_key=given, timeout=60)
        try:
            yield Stage(twin, url, client)
        finally:
            await client._client_wrapper.httpx_client.httpx_client.aclose()


def s16(text: str, rate_hz: int = 8000) -> bytes:
    return spoken(text, rate_hz).astype("<i2").tobytes()


async def whole(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([octets async for octets in stream])


# ---------------------------------------------------------------- speaking


@pytest.mark.parametrize("way", ["convert", "stream"])
async def test_text_is_spoken(way: str) -> None:
    async with playing() as stage:
        ask = getattr(stage.client.text_to_speech, way)
        octets = await whole(ask(**{**ASK, "text": f"{PARKING} {OFFER}"}))
        (row,) = await stage.rows()
    assert octets == s16(PARKING) + bytes(PAUSE_MS * 16) + s16(OFFER)
    assert (row.kind, row.who, row.outcome, row.id) == ("tts", "tts", "ok", "tts/0")
    assert row.detail["text"] == f"{PARKING} {OFFER}"
    assert row.detail["characters"] == len(f"{PARKING} {OFFER}")
    assert row.detail["model"] == "eleven_flash_v2_5"
    assert row.detail["audio_ms"] == pytest.approx(len(octets) / 16)
    assert row.due_ns <= row.detail["first_audio_ns"] <= row.ended_ns  # type: ignore[operator]


@pytest.mark.parametrize("name", ["pcm_16000", "pcm_22050", "pcm_24000", "pcm_44100", "ulaw_8000", "alaw_8000"])
async def test_output_formats(name: str) -> None:
    async with playing() as stage:
        octets = await whole(stage.client.text_to_speech.stream(**{**ASK, "output_format": name}))
    kind, rate_hz = name.split("_")
    expected = spoken(PARKING, int(rate_hz))
    if kind == "pcm":
        assert np.array_equal(np.frombuffer(octets, "<i2"), expected)
    else:
        assert len(octets) == len(expected)
        assert octets.count({"ulaw": 0xFF, "alaw": 0xD5}[kind]) < len(octets) / 2


async def test_timestamps_of_the_whole() -> None:
    text = f"{PARKING} And something that nobody has recorded."
    async with playing() as stage:
        answer = await stage.client.text_to_speech.convert_with_timestamps(**{**ASK, "text": text})
    octets = b64decode(answer.audio_base_64)
    assert octets.startswith(s16(PARKING))
    assert answer.alignment is not None
    assert "".join(answer.alignment.characters) == text
    starts, ends = answer.alignment.character_start_times_seconds, answer.alignment.character_end_times_seconds
    assert starts == sorted(starts)
    assert all(start <= end for start, end in zip(starts, ends, strict=True))
    recorded = sentences(8000)["hours.parking"]
    parking = (recorded.words[3].began - recorded.speech_began) / 8000
    assert starts[text.index("parking")] == pytest.approx(parking, abs=0.002)
    assert starts[len(PARKING) + 1] >= len(s16(PARKING)) / 16_000 + PAUSE_MS / 1000 - 0.001
    assert 0.8 * len(octets) / 16_000 < ends[-1] <= len(octets) / 16_000


async def test_timestamps_as_they_come() -> None:
    async with playing() as stage:
        chunks = [chunk async for chunk in stage.client.text_to_speech.stream_with_timestamps(**ASK)]
    assert b"".join(b64decode(chunk.audio_base_64) for chunk in chunks) == s16(PARKING)
    alignments = [chunk.alignment for chunk in chunks if chunk.alignment]
    assert len(alignments) == len(chunks) > 10
    assert "".join(letter for part in alignments for letter in part.characters) == PARKING
    starts = [start for part in alignments for start in part.character_start_times_seconds]
    assert starts == sorted(starts)


async def test_audio_comes_after_its_latency_and_at_its_pace() -> None:
    clock = SystemClock()
    async with playing(first_audio=Constant(100), realtime_factor=10.0) as stage:
        began_ns = clock.now_ns()
        stamps = [clock.now_ns() - began_ns async for _ in stage.client.text_to_speech.stream(**ASK)]
        lasts_ms = len(s16(PARKING)) / 16
        assert 100 * MS <= stamps[0] < 15_000 * MS
        assert stamps[-1] >= (100 + (-(-lasts_ms // 100) - 1) * 10) * MS


async def test_the_synchronous_client() -> None:
    def speak(url: str) -> bytes:
        client = Client(base_url=url, api_key="sk_x", timeout=60)
        try:
            return b"".join(client.text_to_speech.convert(**ASK))
        finally:
            client._client_wrapper.httpx_client.httpx_client.close()

    async with playing() as stage:
        assert await asyncio.to_thread(speak, stage.url) == s16(PARKING)


# ---------------------------------------------------------------- refusing


async def refused(stage: Stage[AsyncElevenLabs], **change: Any) -> ApiError:
    with pytest.raises(ApiError) as problem:
        await whole(stage.client.text_to_speech.convert(**{**ASK, **change}))
    return problem.value


async def test_formats_that_would_need_an_encoder() -> None:
    async with playing() as stage:
        for name in ("mp3_44100_128", "opus_48000_64"):
            error = await refused(stage, output_format=name)
            assert (error.status_code, error.body["detail"]["status"]) == (403, "output_format_not_allowed")
            assert name in error.body["detail"]["message"]
            assert "ulaw_8000" in error.body["detail"]["message"]
        assert (await refused(stage, output_format=None)).status_code == 403  # the default is MP3


async def test_requests_that_are_not_well_formed() -> None:
    async with playing() as stage:
        with pytest.raises(UnprocessableEntityError) as problem:
            await whole(stage.client.text_to_speech.convert(**{**ASK, "output_format": "wav"}))
        assert problem.value.body["detail"][0]["loc"] == ["query", "output_format"]
        with pytest.raises(UnprocessableEntityError) as problem:
            await whole(stage.client.text_to_speech.convert(**{**ASK, "text": 7}))
        assert problem.value.body["detail"][0]["loc"] == ["body", "text"]
        assert (await refused(stage, text="  ")).status_code == 400
        too_long = await refused(stage, text="x" * 40_001)
        assert too_long.body["detail"]["status"] == "max_character_limit_exceeded"
        assert stage.twin.as_json()["served"] == {"http_422": 2, "http_400": 2}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b"[]", b"{}", b"\xff", b'{"text": null}', b'{"text": "x", "voice_settings": 1}']
)
async def test_bodies_that_are_no_request(body: bytes) -> None:
    async with playing() as stage, aiohttp.ClientSession(headers={"xi-api-key": "k"}) as session:
        url = f"{stage.url}/v1/text-to-speech/{VOICE}?output_format=pcm_8000"
        async with session.post(url, data=body) as response:
            detail = (await response.json())["detail"]
            assert (response.status, detail[0]["loc"][0]) == (422, "body")
        async with session.get(f"{stage.url}/v1/nothing") as response:
            assert (response.status, await response.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_refused_by_fate(status: int) -> None:
    async with playing(outcomes={f"http_{status}": 1}) as stage:
        error = await refused(stage)
        assert error.status_code == status
        assert error.body["detail"].keys() == {"status", "message"}
        assert (error.headers or {}).get("retry-after") == ("1" if status == 429 else None)
        assert stage.twin.as_json()["served"] == {f"http_{status}": 1}


async def test_over_quota() -> None:
    async with playing(outcomes={"quota": 1}) as stage:
        error = await refused(stage)
        assert error.status_code == 401
        assert error.body == {
            "detail": {
                "status": "quota_exceeded",
                "message": "This request exceeds your quota of 10000. You have 0 credits remaining, "
                f"while {len(PARKING)} credits are required for this request.",
            }
        }
        (row,) = await stage.rows()
        assert (row.outcome, row.detail["characters"], row.detail["audio_ms"]) == ("quota", len(PARKING), 0)
        assert stage.twin.as_json()["served"] == {"quota": 1}


async def test_other_failures() -> None:
    async with playing(outcomes={"error": 1}) as stage:
        assert (await refused(stage)).status_code == 500
        assert (await stage.rows())[0].outcome == "error"
    async with playing(outcomes={"zero_audio": 1}) as stage:
        assert await whole(stage.client.text_to_speech.stream(**ASK)) == b""
        assert (await stage.rows())[0].outcome == "zero_audio"
    async with playing(outcomes={"stall": 1}) as stage:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(whole(stage.client.text_to_speech.stream(**ASK)), 2)
        (row,) = await stage.rows()
        assert row.outcome == "stall"
        assert row.detail["audio_ms"] == pytest.approx(len(s16(PARKING)) / 32, abs=1)


@pytest.mark.parametrize("outcome", ["hang", "reset"])
async def test_no_answer(outcome: str) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        with pytest.raises((TimeoutError, httpx.HTTPError)):
            await asyncio.wait_for(whole(stage.client.text_to_speech.convert(**ASK)), 1)
        assert (await stage.rows())[0].outcome == outcome


async def test_keys() -> None:
    async with playing(api_key="sk_right", given="sk_wrong") as stage:
        assert (await refused(stage)).body["detail"]["status"] == "invalid_api_key"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{stage.url}/v1/voices") as response:
                assert (response.status, (await response.json())["detail"]["status"]) == (401, "needs_authorization")
            async with session.get(f"{stage.url}/v1/voices", headers={"Authorization": "Bearer sk_right"}) as response:
                assert response.status == 200
    async with playing(api_key="sk_right", given="sk_right") as stage:
        assert await whole(stage.client.text_to_speech.convert(**ASK)) == s16(PARKING)
    with pytest.raises(PlanError, match="api_key"):
        application(Twin("tts", ElevenLabs()._behaviour, SystemClock()), {"api_key": 7})


# ---------------------------------------------------------------- the account, the process


async def test_the_account() -> None:
    async with playing() as stage:
        before = await stage.client.user.get()
        await whole(stage.client.text_to_speech.convert(**ASK))
        after = await stage.client.user.subscription.get()
        voices = await stage.client.voices.get_all()
        models = await stage.client.models.list()
        found = await stage.client.voices.search()
    assert after.character_count - before.subscription.character_count == len(PARKING)
    assert VOICE in [voice.voice_id for voice in voices.voices] == [voice.voice_id for voice in found.voices]
    assert {"eleven_flash_v2_5"} <= {model.model_id for model in models if model.can_do_text_to_speech}


async def test_as_a_process() -> None:
    service = ElevenLabs(name="voice", first_audio=Constant(0), realtime_factor=50.0, api_key="sk_plan")
    async with service.running({}) as endpoint:
        client = AsyncElevenLabs(base_url=endpoint.url, api_key="sk_plan", timeout=60)
        assert await whole(client.text_to_speech.convert(**ASK)) == s16(PARKING)
        (row,) = await service.witnessed(endpoint)
        assert (row.who, row.outcome) == ("voice", "ok")
        await service.behave(endpoint, {"outcomes": {"quota": 1.0}})
        with pytest.raises(ApiError, match="quota_exceeded"):
            await whole(client.text_to_speech.convert(**ASK))
        await client._client_wrapper.httpx_client.httpx_client.aclose()
    with pytest.raises(PlanError, match="no_token"):
        ElevenLabs(outcomes={"no_token": 1})
