"""The Gemini twin, judged by the official SDK, asynchronous and synchronous, and by raw requests."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Literal

import aiohttp
import pydantic
import pytest
from google import genai
from google.genai import errors, types

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.gemini import Gemini
from busyhour.emulators.gemini.api import application
from busyhour.emulators.language_model import Settings, tokens_of
from busyhour.model import MS

from .stages import AT_ONCE, OFFER, PARKING, Stage, served

# The SDK's own use of aiohttp; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

MODEL = "gemini-2.5-flash"
PARK = "Where can I park?"
DAY = types.Schema.model_validate({"type": "OBJECT", "properties": {"day": {"type": "STRING"}}, "required": ["day"]})
CHECK = types.FunctionDeclaration(name="check_availability", parameters=DAY)
TOOLS = [types.Tool(function_declarations=[CHECK])]
BOOK = "I'd like an appointment on Tuesday."


class Asking(Stage[genai.Client]):
    async def ask(self, contents: Any = PARK, **config: Any) -> types.GenerateContentResponse:
        settings = types.GenerateContentConfig(**config)
        return await self.client.aio.models.generate_content(model=MODEL, contents=contents, config=settings)

    async def streamed(self, contents: Any = PARK, **config: Any) -> list[types.GenerateContentResponse]:
        settings = types.GenerateContentConfig(**config)
        stream = await self.client.aio.models.generate_content_stream(model=MODEL, contents=contents, config=settings)
        return [chunk async for chunk in stream]


@asynccontextmanager
async def playing(models: list[str] | None = None, *, api_key: str = "", **settings: Any) -> AsyncIterator[Asking]:
    service = Gemini(**{**AT_ONCE, **settings})
    more = Settings(models=models or [], api_key=api_key, gullible=service.gullible).as_json()
    async with served(service, application, more) as (twin, url):
        client = genai.Client(api_key="key", http_options=types.HttpOptions(base_url=url, timeout=60_000))
        try:
            yield Asking(twin, url, client)
        finally:
            await client.aio.aclose()
            client.close()


def client_of(stage: Asking) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(stage.url, headers={"x-goog-api-key": "key"})


def text_of(chunks: list[types.GenerateContentResponse]) -> str:
    return "".join(chunk.text or "" for chunk in chunks)


def reason(answer: types.GenerateContentResponse) -> types.FinishReason | None:
    assert answer.candidates
    return answer.candidates[0].finish_reason


# ---------------------------------------------------------------- the good answers


async def test_a_whole_answer() -> None:
    async with playing() as stage:
        answer = await stage.ask(system_instruction="You are a receptionist.", temperature=0.2)
        row = await stage.row()
    assert answer.text == PARKING
    assert reason(answer) == types.FinishReason.STOP
    assert answer.model_version == MODEL
    assert answer.response_id
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.candidates_token_count == len(tokens_of(PARKING)) == 9
    assert answer.usage_metadata.prompt_token_count is not None
    assert answer.usage_metadata.total_token_count == answer.usage_metadata.prompt_token_count + 9
    assert (row.kind, row.outcome, row.who, row.detail["api"]) == ("llm", "ok", "llm", "generate")
    assert (row.detail["prompt"], row.detail["reply"], row.detail["tokens"]) == (PARK, PARKING, 9)
    assert (row.detail["model"], row.detail["structured"], row.detail["tool"]) == (MODEL, False, "")
    assert row.detail["prompt_tokens"] == answer.usage_metadata.prompt_token_count


async def test_a_streamed_answer() -> None:
    async with playing() as stage:
        chunks = await stage.streamed()
        row = await stage.row()
    assert text_of(chunks) == PARKING
    assert [reason(chunk) for chunk in chunks] == [None] * 9 + [types.FinishReason.STOP]
    assert [chunk.usage_metadata.candidates_token_count for chunk in chunks if chunk.usage_metadata] == [
        *range(1, 10),
        9,
    ]
    assert len({chunk.response_id for chunk in chunks}) == 1
    assert (row.outcome, row.detail["reply"], row.detail["tokens"]) == ("ok", PARKING, 9)


async def test_the_synchronous_client() -> None:
    async with playing() as stage:

        def ask() -> tuple[str | None, str]:
            whole = stage.client.models.generate_content(model=MODEL, contents=PARK)
            stream = stage.client.models.generate_content_stream(model=MODEL, contents=PARK)
            return whole.text, "".join(chunk.text or "" for chunk in stream)

        assert await asyncio.to_thread(ask) == (PARKING, PARKING)


async def test_a_chat_remembers_what_was_said() -> None:
    async with playing() as stage:
        chat = stage.client.aio.chats.create(model=MODEL)
        await chat.send_message(BOOK)
        answer = await chat.send_message("Nine o'clock, please.")
        rows, _ = stage.twin.drain()
    assert answer.text == "May I have your name please?"
    assert rows[-1].detail["prompt"] == "Nine o'clock, please."


async def test_the_json_array_form_of_a_stream() -> None:
    body = {"contents": [{"parts": [{"text": PARK}]}]}
    path = f"/v1beta/models/{MODEL}:streamGenerateContent"
    async with playing() as stage, client_of(stage) as session, session.post(path, json=body) as response:
        chunks = json.loads(await response.text())
        kind = response.content_type
    assert kind == "application/json"
    assert "".join(chunk["candidates"][0]["content"]["parts"][0]["text"] for chunk in chunks) == PARKING
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"


async def test_the_key_may_be_in_the_query_and_fields_in_snake_case() -> None:
    body = {
        "system_instruction": {"parts": {"text": "Be kind."}},
        "contents": {"parts": {"text": PARK}},
        "generation_config": {"max_output_tokens": 4},
    }
    path = f"/v1/models/{MODEL}:generateContent?key=secret"
    async with (
        playing(api_key="secret") as stage,
        aiohttp.ClientSession(stage.url) as session,
        session.post(path, json=body) as response,
    ):
        answer = await response.json()
    assert response.status == 200
    assert answer["candidates"][0]["content"]["parts"][0]["text"] == "There is free parking"
    assert answer["candidates"][0]["finishReason"] == "MAX_TOKENS"


async def test_limits_and_stops() -> None:
    async with playing() as stage:
        short = await stage.ask(max_output_tokens=3)
        stopped = await stage.streamed(stop_sequences=[" right"])
    assert (short.text, reason(short)) == ("There is free", types.FinishReason.MAX_TOKENS)
    assert (text_of(stopped), reason(stopped[-1])) == ("There is free parking", types.FinishReason.STOP)


async def test_tokens_are_counted_and_models_listed() -> None:
    async with playing() as stage:
        counted = await stage.client.aio.models.count_tokens(model=MODEL, contents=PARK)
        answer = await stage.ask()
        names = [model.name async for model in await stage.client.aio.models.list(config={"page_size": 2})]
        one = await stage.client.aio.models.get(model="gemini-2.5-pro")
    assert answer.usage_metadata is not None
    assert counted.total_tokens == answer.usage_metadata.prompt_token_count
    assert names == ["models/gemini-2.5-flash", "models/gemini-2.5-flash-lite", "models/gemini-2.5-pro"]
    assert (one.name, one.input_token_limit) == ("models/gemini-2.5-pro", 1_048_576)


# ---------------------------------------------------------------- functions


async def test_a_function_is_called_and_its_result_spoken() -> None:
    async with playing() as stage:
        first = await stage.ask(BOOK, tools=TOOLS)
        row = await stage.row()
        assert first.function_calls is not None
        call = first.function_calls[0]
        assert first.candidates
        assert first.candidates[0].content is not None
        done = types.Part.from_function_response(name="check_availability", response={"slots": ["09:00", "14:30"]})
        second = await stage.ask(
            [
                types.Content(role="user", parts=[types.Part.from_text(text=BOOK)]),
                first.candidates[0].content,
                types.Content(role="user", parts=[done]),
            ],
            tools=TOOLS,
        )
    assert (call.name, call.args) == ("check_availability", {"day": "tuesday"})
    assert call.id
    assert first.text is None
    assert reason(first) == types.FinishReason.STOP
    assert second.text == OFFER
    assert (row.detail["tool"], row.detail["arguments"], row.detail["reply"]) == (
        "check_availability",
        '{"day": "tuesday"}',
        "",
    )


async def test_a_streamed_call_is_one_part() -> None:
    async with playing() as stage:
        chunks = await stage.streamed(BOOK, tools=TOOLS)
    calls = [call for chunk in chunks for call in chunk.function_calls or []]
    assert [(call.name, call.args) for call in calls] == [("check_availability", {"day": "tuesday"})]
    assert reason(chunks[-1]) == types.FinishReason.STOP


async def test_the_sdk_calls_a_python_function_by_itself() -> None:
    asked: list[str] = []

    def check_availability(day: str) -> str:
        """Free times of a day."""
        asked.append(day)
        return "09:00, 14:30"

    async with playing() as stage:
        answer = await stage.ask(BOOK, tools=[check_availability])
    assert asked == ["tuesday"]
    assert answer.text == OFFER


@pytest.mark.parametrize(
    ("mode", "names", "called"),
    [("ANY", None, True), ("ANY", ["check_availability"], True), ("NONE", None, False), ("AUTO", None, False)],
)
async def test_the_tool_config_decides(
    mode: Literal["ANY", "NONE", "AUTO"], names: list[str] | None, called: bool
) -> None:
    calling = types.FunctionCallingConfig(mode=types.FunctionCallingConfigMode(mode), allowed_function_names=names)
    async with playing() as stage:
        answer = await stage.ask(tools=TOOLS, tool_config=types.ToolConfig(function_calling_config=calling))
    assert bool(answer.function_calls) is called


# ---------------------------------------------------------------- structured outputs


class Booking(pydantic.BaseModel):
    day: str
    urgent: bool
    kind: Literal["cleaning", "check-up"]
    notes: list[str] | None = None


async def test_a_schema_is_answered_by_json_that_validates() -> None:
    async with playing() as stage:
        answer = await stage.ask(BOOK, response_mime_type="application/json", response_schema=Booking)
        row = await stage.row()
        streamed = await stage.streamed(
            BOOK, response_mime_type="application/json", response_json_schema=Booking.model_json_schema()
        )
    assert isinstance(answer.parsed, Booking)
    assert answer.parsed.day == "tuesday"
    assert Booking.model_validate_json(text_of(streamed)).day == "tuesday"
    assert row.detail["structured"] is True


async def test_json_without_a_schema_is_an_object() -> None:
    async with playing() as stage:
        assert isinstance(json.loads((await stage.ask(response_mime_type="application/json")).text or ""), dict)


# ---------------------------------------------------------------- what the vendor refuses


async def refused(stage: Asking, body: Any, *, path: str = f"/v1beta/models/{MODEL}:generateContent") -> dict[str, Any]:
    async with client_of(stage) as session, session.post(path, json=body) as response:
        answer: dict[str, Any] = await response.json()
        assert answer["error"]["code"] == response.status
        return dict(answer["error"])


GOOD: dict[str, Any] = {"contents": [{"parts": [{"text": PARK}]}]}
CALLED = {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": "hello"}, "Invalid value at 'contents'"),
        ({**GOOD, "prompt": "x"}, 'Unknown name "prompt": Cannot find field.'),
        ({**GOOD, "generationConfig": {"maxTokens": 7}}, "Unknown name \"maxTokens\" at 'generation_config'"),
        ({**GOOD, "generationConfig": {"temperature": 3}}, "temperature value of 3 but the supported range is from 0"),
        ({**GOOD, "generationConfig": {"maxOutputTokens": "x"}}, "'generation_config.max_output_tokens' (TYPE_INT32)"),
        ({**GOOD, "generationConfig": {"stopSequences": ["a"] * 6}}, "at most 5, got 6"),
        ({**GOOD, "generationConfig": {"responseSchema": {"type": "OBJECT"}}}, "only allowed with a JSON mimetype"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "Please use a valid role: user, model."),
        ({"contents": [{"parts": []}]}, "parts must not be empty"),
        ({"contents": [{"parts": [{}]}]}, "required oneof field 'data' must have one initialized field"),
        ({"contents": [*GOOD["contents"], CALLED, *GOOD["contents"]]}, "number of function response parts is equal"),
        ({**GOOD, "tools": [{"functionDeclarations": [{"name": "1 x"}]}]}, "Invalid function name"),
        (
            {**GOOD, "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["g"]}}},
            "Allowed function name 'g' is not among",
        ),
    ],
)
async def test_mistakes_are_answered_as_the_vendor_does(body: Any, said: str) -> None:
    async with playing() as stage:
        error = await refused(stage, body)
        row = await stage.row()
    assert said in error["message"]
    assert (error["code"], error["status"]) == (400, "INVALID_ARGUMENT")
    assert row.outcome == "http_400"


async def test_keys_and_models() -> None:
    async with playing(["gemini-2.5-pro"], api_key="right") as stage:
        with pytest.raises(errors.ClientError, match="API key not valid") as caught:
            await stage.ask()
        assert caught.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        async with aiohttp.ClientSession(stage.url) as session, session.get("/v1beta/models") as response:
            assert response.status == 403
            assert (await response.json())["error"]["status"] == "PERMISSION_DENIED"
    async with playing(["gemini-2.5-pro"]) as stage:
        with pytest.raises(errors.ClientError, match=r"models/gemini-2\.5-flash is not found for API version v1"):
            await stage.ask()
        assert (await refused(stage, GOOD, path="/v1beta/models/x:predict"))["status"] == "NOT_FOUND"


async def test_malformed_requests_never_crash_it() -> None:
    random = Random(5)
    odd: list[Any] = [
        None,
        True,
        -1,
        1e400,
        10**400,
        "x",
        "\ud800",
        [],
        {},
        [[]],
        [{}],
        {"parts": [{"text": 7}]},
        [None],
    ]
    names = ("contents", "tools", "toolConfig", "systemInstruction", "generationConfig")
    inner = ("stopSequences", "responseSchema", "responseMimeType", "maxOutputTokens", "topK", "candidateCount")
    bodies = [
        json.dumps({**GOOD, **{name: random.choice(odd) for name in random.sample(names, 2)}}) for _ in range(120)
    ]
    bodies += [json.dumps({**GOOD, "generationConfig": {name: value}}) for name in inner for value in odd]
    json_only = {"responseMimeType": "application/json"}
    shapes: list[Any] = [{"type": []}, {"properties": []}, {"items": 7}, {"enum": [[]]}, {"propertyOrdering": [[]]}]
    bodies += [
        json.dumps({**GOOD, "generationConfig": {**json_only, "responseSchema": one}}) for one in [*shapes, *odd]
    ]
    bodies += ["", "[]", "null", "\x00", "[" * 100_000, '{"a":' * 5000, '{"contents":' * 900]
    async with playing() as stage, client_of(stage) as session:
        for body in bodies:
            raw = body.encode("utf-8", "replace")
            for method in ("generateContent", "countTokens"):
                async with session.post(f"/v1beta/models/{MODEL}:{method}", data=raw) as response:
                    answer = await response.json()
                    assert response.status in (200, 400), (body, answer)
                    assert response.status == 200 or answer["error"]["status"] == "INVALID_ARGUMENT"
        async with session.post(
            f"/v1beta/models/{MODEL}:generateContent", data=io.BytesIO(b"x" * (17 << 20))
        ) as response:
            assert response.status == 413
        assert (await stage.ask()).text == PARKING


# ---------------------------------------------------------------- fates


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [
        ("http_401", 401, "UNAUTHENTICATED"),
        ("http_429", 429, "RESOURCE_EXHAUSTED"),
        ("quota", 429, "RESOURCE_EXHAUSTED"),
        ("http_500", 500, "INTERNAL"),
        ("http_503", 503, "UNAVAILABLE"),
    ],
)
async def test_a_fated_refusal(outcome: str, code: int, status: str) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        with pytest.raises(errors.APIError) as caught:
            await stage.ask()
        with pytest.raises(errors.APIError):
            await stage.streamed()
        rows, _ = stage.twin.drain()
    assert (caught.value.code, caught.value.status) == (code, status)
    assert [row.outcome for row in rows] == [outcome, outcome]
    if code == 429:
        kinds = {detail["@type"].rpartition(".")[2]: detail for detail in caught.value.details["error"]["details"]}
        assert kinds["RetryInfo"]["retryDelay"] == ("1s" if outcome == "http_429" else "43200s")


async def test_the_sdk_retries_a_429_as_it_is_told() -> None:
    options = types.HttpRetryOptions(attempts=2, initial_delay=0.01, max_delay=0.01, http_status_codes=[429])
    async with playing(outcomes={"http_429": 1}) as stage:
        config = types.GenerateContentConfig(http_options=types.HttpOptions(retry_options=options))
        with pytest.raises(errors.ClientError):
            await stage.client.aio.models.generate_content(model=MODEL, contents=PARK, config=config)
        rows, _ = stage.twin.drain()
    assert len(rows) == 2


async def test_a_blocked_answer_has_no_text() -> None:
    seen: set[str] = set()
    async with playing(outcomes={"blocked": 1}) as stage:
        for _ in range(12):
            answer = await stage.ask()
            chunks = await stage.streamed()
            assert answer.text is None
            assert text_of(chunks) == ""
            if answer.prompt_feedback is not None:
                seen.add(str(answer.prompt_feedback.block_reason))
            else:
                seen.add(str(reason(answer)))
        rows, _ = stage.twin.drain()
    assert seen == {"BlockedReason.SAFETY", "FinishReason.SAFETY"}
    assert {(row.outcome, row.detail["tokens"], row.detail["reply"]) for row in rows} == {("blocked", 0, "")}


async def test_a_truncated_stream_ends_without_a_reason() -> None:
    async with playing(outcomes={"truncate": 1}) as stage:
        chunks = await stage.streamed()
    assert text_of(chunks) == "There is free parking"
    assert all(reason(chunk) is None for chunk in chunks)


async def test_a_malformed_event_is_refused_by_the_sdk() -> None:
    async with playing(outcomes={"malformed": 1}) as stage:
        with pytest.raises(errors.UnknownApiResponseError):
            await stage.streamed()
        assert (await stage.row()).outcome == "malformed"


@pytest.mark.parametrize(("outcome", "texts"), [("stall", 4), ("no_token", 0)])
async def test_a_stream_that_stays_open(outcome: str, texts: int) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        stream = await stage.client.aio.models.generate_content_stream(model=MODEL, contents=PARK)
        got = [await anext(stream) for _ in range(texts)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.2)
        row = await stage.row()
    assert len(got) == texts
    assert (row.outcome, row.detail["client_closed"]) == (outcome, True)


async def test_latencies_are_kept() -> None:
    async with playing(first_token=Constant(60), between_tokens=Constant(5)) as stage:
        clock = SystemClock()
        began_ns = clock.now_ns()
        stream = await stage.client.aio.models.generate_content_stream(model=MODEL, contents=PARK)
        at = [clock.now_ns() - began_ns async for _ in stream]
    assert 60 * MS <= at[0] < 20_000 * MS
    assert at[8] >= 100 * MS


async def test_the_process_serves() -> None:
    service = Gemini(first_token=Constant(0), between_tokens=Constant(0))
    async with service.running({}) as endpoint, aiohttp.ClientSession(headers={"x-goog-api-key": "key"}) as session:
        async with session.post(f"{endpoint.url}/v1beta/models/{MODEL}:generateContent", json=GOOD) as response:
            answer = await response.json()
        (row,) = await service.witnessed(endpoint)
    assert answer["candidates"][0]["content"]["parts"][0]["text"] == PARKING
    assert row.detail["reply"] == PARKING
