"""The recording proxy between the vendors' own SDKs and their twins: what it learns is what the twin was told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import openai
import pinecone
import pytest
import websockets
from elevenlabs.client import AsyncElevenLabs
from google import genai
from google.genai import types

from busyhour.emulators import Anthropic, Constant, ElevenLabs, Gemini, OpenAI, Pinecone
from busyhour.learn.lessons import Lessons
from busyhour.learn.llm import ANTHROPIC, GEMINI, OPENAI, LanguageModel
from busyhour.learn.proxy import Upstream, passing
from busyhour.learn.student import Student
from busyhour.learn.tts import ElevenLabsStudent
from busyhour.learn.vectors import Vectors

ASKED = "When do you open on Saturday?"
FEW = Constant(40), Constant(5)  # ms to the first token, and between tokens


@asynccontextmanager
async def between(twin: Any, student: Student, api: str = "") -> AsyncIterator[str]:
    async with (
        twin.running({}) as endpoint,
        passing(Upstream.parse(endpoint.url, api), student, 0) as port,
    ):
        yield f"http://127.0.0.1:{port}"


def approximately(**ms: float) -> Any:
    """So many milliseconds, once each; a busy machine makes them later, never earlier."""
    return {name: [pytest.approx(value + 9_995, abs=10_000)] for name, value in ms.items()}


def check_tokens(lessons: Lessons, requests: int) -> None:
    assert [20 < ms < 10_000 for ms in lessons.delays["first_token"]] == [True] * requests
    assert len(lessons.delays["between_tokens"]) >= 5 * requests
    ordered = sorted(lessons.delays["between_tokens"])
    # Who reads late finds several at once: then the longest gap is longer, and the others are nothing.
    assert ordered[-1] > 2
    assert ordered[len(ordered) // 2] < 500
    assert lessons.outcomes == {}
    assert lessons.finished == requests


async def test_anthropic_messages() -> None:
    lessons = Lessons()
    twin = Anthropic(first_token=FEW[0], between_tokens=FEW[1])
    async with (
        between(twin, LanguageModel(lessons, ANTHROPIC)) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client,
    ):
        for _ in range(2):
            async with client.messages.stream(
                model="claude-opus-4-8", max_tokens=200, messages=[{"role": "user", "content": ASKED}]
            ) as stream:
                assert len(await stream.get_final_text()) > 20
    check_tokens(lessons, 2)


async def test_openai_responses() -> None:
    lessons = Lessons()
    twin = OpenAI(first_token=FEW[0], between_tokens=FEW[1])
    async with (
        between(twin, LanguageModel(lessons, OPENAI), "/v1") as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
    ):
        for _ in range(2):
            stream = await client.responses.create(model="gpt-4.1", input=ASKED, stream=True)
            assert [event.type async for event in stream][-1] == "response.completed"
    check_tokens(lessons, 2)


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
async def test_gemini_streams() -> None:
    lessons = Lessons()
    twin = Gemini(first_token=FEW[0], between_tokens=FEW[1])
    async with between(twin, LanguageModel(lessons, GEMINI)) as url:
        client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url, timeout=60_000))
        try:
            for _ in range(2):
                stream = await client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents=ASKED)
                assert len("".join([chunk.text or "" async for chunk in stream])) > 20
        finally:
            await client.aio.aclose()
            client.close()
    assert [20 < ms < 500 for ms in lessons.delays["first_token"]] == [True] * 2
    assert len(lessons.delays["between_tokens"]) >= 2
    assert (lessons.outcomes, lessons.finished) == ({}, 2)


async def test_pinecone_queries_and_upserts() -> None:
    lessons = Lessons()
    async with (
        between(Pinecone(dimension=2, query=Constant(30), upsert=Constant(60)), Vectors(lessons)) as url,
        pinecone.AsyncIndex(host=url, api_key="k") as index,
    ):
        await index.upsert(vectors=[("a", [1.0, 0.0])])
        found = await index.query(vector=[1.0, 0.1], top_k=1)
    assert [match.id for match in found.matches] == ["a"]
    assert lessons.delays == approximately(upsert=60, query=30)


async def test_elevenlabs_over_http() -> None:
    lessons = Lessons()
    async with between(ElevenLabs(first_audio=Constant(60), realtime_factor=10), ElevenLabsStudent(lessons)) as url:
        client = AsyncElevenLabs(base_url=url, api_key="k", timeout=60)
        try:
            for _ in range(5):  # what is learned is their median: a machine that stalls does not spoil it
                spoken = client.text_to_speech.stream(voice_id="v", text=ASKED, output_format="pcm_16000")
                assert len(b"".join([chunk async for chunk in spoken])) > 16_000
        finally:
            await client._client_wrapper.httpx_client.httpx_client.aclose()
    assert lessons.delays == {"first_audio": approximately(first_audio=60)["first_audio"] * 5}
    profile = lessons.profile(vendor="elevenlabs", upstream="", learned="")
    assert profile is not None
    assert profile.numbers["realtime_factor"] == pytest.approx(10, rel=0.35)


async def test_elevenlabs_over_a_socket() -> None:
    lessons = Lessons()
    async with between(ElevenLabs(first_audio=Constant(60), realtime_factor=10), ElevenLabsStudent(lessons)) as url:
        path = "/v1/text-to-speech/v/multi-stream-input?model_id=eleven_flash_v2_5&output_format=pcm_16000"
        headers = {"xi-api-key": "k"}
        async with websockets.connect(url.replace("http", "ws") + path, additional_headers=headers) as socket:
            for message in (
                {"text": " ", "context_id": "a"},
                {"text": f"{ASKED} ", "context_id": "a"},
                {"context_id": "a", "flush": True},
                {"context_id": "a", "close_context": True},
            ):
                await socket.send(json.dumps(message))
            while json.loads(await socket.recv()).get("isFinal") is not True:
                pass
    assert lessons.delays == approximately(first_audio=60)
    assert (lessons.outcomes, lessons.finished) == ({}, 1)
