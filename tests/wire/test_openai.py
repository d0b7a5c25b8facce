"""The OpenAI twin, judged by the official SDK and by raw requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from busyhour.clock import SystemClock
from busyhour.emulators import Constant
from busyhour.emulators.language_model import tokens_of
from busyhour.emulators.openai import OpenAI
from busyhour.model import MS

from .stages import OFFER, PARKING
from .stages import playing_openai as playing

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Where can I park?"}]}
CHECK: Any = {
    "type": "function",
    "function": {
        "name": "check_availability",
        "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
    },
}


async def streamed(client: openai.AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(**{**ASK, "stream": True, **more})
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# ---------------------------------------------------------------- the good answers


async def test_a_whole_answer() -> None:
    async with playing() as stage:
        answer: ChatCompletion = await stage.client.chat.completions.create(**ASK)
        row = await stage.row()
    assert answer.choices[0].message.content == PARKING
    assert (answer.choices[0].finish_reason, answer.object, answer.model) == ("stop", "chat.completion", "gpt-4o-mini")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(tokens_of(PARKING)) == 9
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9
    assert (row.kind, row.outcome, row.who, row.id) == ("llm", "ok", "llm", "llm/0")
    assert row.began_ns is not None
    assert row.ended_ns is not None
    assert row.began_ns == row.due_ns <= row.detail["first_token_ns"] <= row.ended_ns  # type: ignore[operator]
    assert (row.detail["prompt"], row.detail["reply"], row.detail["tokens"]) == ("Where can I park?", PARKING, 9)


async def test_a_streamed_answer() -> None:
    async with playing() as stage:
        chunks = await streamed(stage.client)
        row = await stage.row()
    assert text_of(chunks) == PARKING
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None and chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert (row.outcome, row.detail["reply"], row.detail["tokens"]) == ("ok", PARKING, 9)


async def test_usage_is_a_last_chunk_without_choices() -> None:
    async with playing() as stage:
        chunks = await streamed(stage.client, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])


async def test_the_sdks_stream_helper_agrees() -> None:
    async with playing() as stage, stage.client.chat.completions.stream(**ASK) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == PARKING


async def test_the_synchronous_client() -> None:
    async with playing() as stage:

        def ask() -> str | None:
            with openai.OpenAI(base_url=stage.url, api_key="sk-test") as client:
                answer: ChatCompletion = client.chat.completions.create(**ASK)
                return answer.choices[0].message.content

        assert await asyncio.to_thread(ask) == PARKING


async def test_the_answer_is_drawn_from_the_seed() -> None:
    async with playing(seed=4) as one, playing(seed=4) as same, playing(seed=5) as other:
        ids = [(await stage.client.chat.completions.create(**ASK)).id for stage in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]


async def test_a_stop_sequence_ends_the_answer_before_it() -> None:
    async with playing() as stage:
        chunks = await streamed(stage.client, stop=[" right", "building"])
        whole = await stage.client.chat.completions.create(**ASK, stop="free")
    assert text_of(chunks) == "There is free parking"
    assert whole.choices[0].message.content == "There is "
    assert whole.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_token_limit_cuts_the_answer(name: str) -> None:
    async with playing() as stage:
        chunks = await streamed(stage.client, **{name: 3})
        whole = await stage.client.chat.completions.create(**{**ASK, name: 9})
    assert text_of(chunks) == "There is free"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert whole.choices[0].finish_reason == "stop"


async def test_models() -> None:
    async with playing({"models": ["small", "org/large"]}) as stage:
        assert [model.id async for model in stage.client.models.list()] == ["small", "org/large"]
        assert (await stage.client.models.retrieve("small")).owned_by == "system"
        with pytest.raises(openai.NotFoundError):
            await stage.client.models.retrieve("huge")
        with pytest.raises(openai.NotFoundError) as refused:
            await stage.client.chat.completions.create(**ASK)
    assert refused.value.code == "model_not_found"


async def test_content_in_parts() -> None:
    parts = [{"type": "text", "text": "What is your"}, {"type": "text", "text": "address?"}]
    async with playing() as stage:
        answer = await stage.client.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": parts}]})
    assert answer.choices[0].message.content == "We are at twelve River Street, next to the library."


# ---------------------------------------------------------------- tools

TUESDAY: dict[str, Any] = {**ASK, "messages": [{"role": "user", "content": "Tuesday morning please."}]}


async def test_a_tool_is_called_and_its_result_answered() -> None:
    async with playing() as stage:
        asking = await stage.client.chat.completions.create(**TUESDAY, tools=[CHECK])
        message = asking.choices[0].message
        assert asking.choices[0].finish_reason == "tool_calls"
        assert message.content is None
        assert message.tool_calls is not None
        call: Any = message.tool_calls[0]
        assert (call.type, call.function.name) == ("function", "check_availability")
        assert json.loads(call.function.arguments) == {"day": "tuesday"}
        result = {"role": "tool", "tool_call_id": call.id, "content": '{"slots": ["09:00"]}'}
        after = [*TUESDAY["messages"], message.model_dump(exclude_none=True), result]
        answer = await stage.client.chat.completions.create(**{**TUESDAY, "messages": after}, tools=[CHECK])
    assert answer.choices[0].message.content == OFFER


async def test_a_streamed_tool_call_is_put_together_by_the_sdk() -> None:
    async with playing() as stage:
        chunks = await streamed(stage.client, messages=TUESDAY["messages"], tools=[CHECK])
        async with stage.client.chat.completions.stream(**TUESDAY, tools=[CHECK]) as stream:
            final = await stream.get_final_completion()
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].id is not None
    assert deltas[0].function is not None
    assert deltas[0].function.name == "check_availability"
    assert all(delta.id is None and delta.index == 0 for delta in deltas[1:])
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == '{"day": "tuesday"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls[0].function.name == "check_availability"  # type: ignore[index]


async def test_tool_choice() -> None:
    async with playing() as stage:
        create = stage.client.chat.completions.create
        none = await create(**TUESDAY, tools=[CHECK], tool_choice="none")
        required = await create(**ASK, tools=[CHECK], tool_choice="required")
        named = await create(
            **ASK, tools=[CHECK], tool_choice={"type": "function", "function": {"name": "check_availability"}}
        )
    assert none.choices[0].message.content == OFFER
    assert required.choices[0].finish_reason == named.choices[0].finish_reason == "tool_calls"


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("http_401", openai.AuthenticationError),
        ("http_429", openai.RateLimitError),
        ("http_500", openai.InternalServerError),
        ("http_503", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_http_outcome_is_the_sdks_own_exception(
    outcome: str, error: type[openai.APIStatusError], stream: bool
) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        with pytest.raises(error) as refused:
            await stage.client.chat.completions.create(**ASK, stream=stream)
        row = await stage.row()
        assert stage.twin.as_json()["served"] == {outcome: 1}
    assert refused.value.status_code == int(outcome[-3:])
    assert isinstance(refused.value.body, dict)
    assert refused.value.body.keys() == {"message", "type", "param", "code"}
    assert row.outcome == outcome
    assert refused.value.request_id == "req_00000000"


async def test_429_says_when_to_come_back_and_the_sdk_heeds_it() -> None:
    async with playing(outcomes={"http_429": 1}) as stage:
        with pytest.raises(openai.RateLimitError) as refused:
            await stage.client.chat.completions.create(**ASK)
        assert refused.value.response.headers["Retry-After"] == "1"
        assert refused.value.code == "rate_limit_exceeded"
        began_ns = SystemClock().now_ns()
        with pytest.raises(openai.RateLimitError):
            await stage.client.with_options(max_retries=1).chat.completions.create(**ASK)
        assert SystemClock().now_ns() - began_ns >= 1000 * MS
        assert stage.twin.as_json()["served"] == {"http_429": 3}


async def test_the_key_is_checked() -> None:
    async with playing({"api_key": "sk-right"}) as stage, aiohttp.ClientSession() as session:
        with pytest.raises(openai.AuthenticationError) as refused:
            await stage.client.chat.completions.create(**ASK)
        assert refused.value.code == "invalid_api_key"
        right = stage.client.with_options(api_key="sk-right")
        assert (await right.chat.completions.create(**ASK)).choices[0].message.content == PARKING
        for path in ("/models", "/chat/completions"):
            async with session.request("POST" if "chat" in path else "GET", stage.url + path, json=ASK) as response:
                assert response.status == 401
                assert "You didn't provide an API key" in (await response.json())["error"]["message"]


async def test_an_unknown_path_and_method() -> None:
    headers = {"Authorization": "Bearer x"}
    async with playing() as stage, aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{stage.url}/embeddings") as response:
            assert response.status == 404
            assert (await response.json())["error"]["message"] == "Invalid URL (POST /v1/embeddings)"
        async with session.get(f"{stage.url}/chat/completions") as response:
            assert response.status == 405


@pytest.mark.parametrize(
    ("change", "param", "part"),
    [
        ({"messages": None}, "messages", "Missing required parameter"),
        ({"messages": []}, "messages", "empty array"),
        ({"messages": "hello"}, "messages", "but got a string instead"),
        ({"messages": ["hello"]}, "messages[0]", "expected an object"),
        ({"messages": [{"role": "caller", "content": "x"}]}, "messages[0].role", "Supported values are"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "Missing required parameter"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "got null"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "expected a string"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0].type", "Supported values"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "messages[0].role", "preceeding"),
        ({"model": None}, None, "must provide a model"),
        ({"model": 4}, "model", "Invalid type"),
        ({"stream": "yes"}, "stream", "expected a boolean"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"temperature": "hot"}, "temperature", "expected a number"),
        ({"n": 2}, "n", "must be 1"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"max_tokens": True}, "max_tokens", "expected an integer"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "only allowed when 'stream'"),
        ({"tools": []}, "tools", "too short"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing required"),
        ({"tool_choice": "required"}, None, "only allowed when 'tools'"),
        ({"tools": [CHECK], "tool_choice": {"function": {"name": "x"}}}, "tool_choice", "no such function"),
    ],
)
async def test_a_malformed_request_is_the_sdks_bad_request(
    change: dict[str, Any], param: str | None, part: str
) -> None:
    async with playing() as stage:
        with pytest.raises(openai.BadRequestError) as refused:
            await stage.client.post("/chat/completions", body={**ASK, **change}, cast_to=object)
        assert (await stage.row()).outcome == "http_400"
        assert stage.twin.as_json()["served"] == {"http_400": 1}
    assert part in refused.value.message
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"


async def test_a_call_without_its_result_is_refused() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "hello?"}]
    async with playing() as stage:
        with pytest.raises(openai.BadRequestError, match="did not have response messages: call_1"):
            await stage.client.chat.completions.create(**{**ASK, "messages": messages})


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 200_000, b'{"model": "m", "messages": [null]}', b"1" * 5000],
)
async def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    headers = {"Authorization": "Bearer x"}
    async with (
        playing() as stage,
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{stage.url}/chat/completions", data=body) as response,
    ):
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_a_body_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.emulators.twin.BODY_BYTES_AT_MOST", 1000)
    async with (
        playing() as stage,
        aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session,
        session.post(f"{stage.url}/chat/completions", data=b" " * 2000) as response,
    ):
        assert response.status == 413
        assert (await response.json())["error"]["message"] == "The body is longer than 1000 bytes."


# ---------------------------------------------------------------- time


async def test_tokens_come_at_their_pace() -> None:
    async with playing(first_token=Constant(80), between_tokens=Constant(20)) as stage:
        began_ns = SystemClock().now_ns()
        stream: Any = await stage.client.chat.completions.create(**ASK, stream=True)
        stamps = [SystemClock().now_ns() - began_ns async for chunk in stream if chunk.choices[0].delta.content]
        row = await stage.row()
    assert 80 * MS <= stamps[0] < 15_000 * MS
    assert stamps[-1] >= (80 + 8 * 20) * MS
    assert row.detail["first_token_ns"] - row.due_ns >= 80 * MS  # type: ignore[operator]


async def test_a_whole_answer_takes_as_long_as_a_streamed_one() -> None:
    async with playing(first_token=Constant(50), between_tokens=Constant(10)) as stage:
        began_ns = SystemClock().now_ns()
        await stage.client.chat.completions.create(**ASK)
    assert SystemClock().now_ns() - began_ns >= (50 + 8 * 10) * MS


async def test_fifty_at_once() -> None:
    async with playing(first_token=Constant(30), between_tokens=Constant(2)) as stage:
        answers = await asyncio.gather(*(streamed(stage.client) for _ in range(50)))
        rows, dropped = stage.twin.drain()
    assert {text_of(chunks) for chunks in answers} == {PARKING}
    assert (len(rows), dropped, {row.outcome for row in rows}) == (50, 0, {"ok"})


# ---------------------------------------------------------------- grey failures


async def test_no_token_opens_the_stream_and_says_nothing() -> None:
    async with playing(outcomes={"no_token": 1}) as stage:
        stream: Any = await stage.client.chat.completions.create(**ASK, stream=True)
        first = await anext(stream)
        assert first.choices[0].delta.role == "assistant"
        assert not first.choices[0].delta.content
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.3)
        await stream.close()
        row = await stage.row()
    assert (row.outcome, row.detail["first_token_ns"], row.detail["tokens"]) == ("no_token", None, 0)
    assert row.detail["client_closed"] is True


async def test_a_hang_answers_nothing() -> None:
    async with playing(outcomes={"hang": 1}) as stage:
        with pytest.raises(openai.APITimeoutError):
            await stage.client.chat.completions.create(**ASK, timeout=1)
        row = await stage.row()
    assert (row.outcome, row.detail["client_closed"]) == ("hang", True)


async def test_a_reset_breaks_the_connection() -> None:
    async with playing(outcomes={"reset": 1}) as stage:
        with pytest.raises(openai.APIConnectionError):
            await stage.client.chat.completions.create(**ASK)
        assert (await stage.row()).outcome == "reset"
        assert stage.twin.as_json()["served"] == {"reset": 1}


async def test_a_truncated_stream_ends_in_good_order_without_a_finish() -> None:
    async with playing(outcomes={"truncate": 1}) as stage:
        chunks = await streamed(stage.client, stream_options={"include_usage": True})
        row = await stage.row()
    assert text_of(chunks) == "There is free parking"
    assert all(chunk.choices and chunk.choices[0].finish_reason is None for chunk in chunks)
    assert (row.outcome, row.detail["tokens"]) == ("truncate", 4)


async def test_a_malformed_event_in_the_middle() -> None:
    async with playing(outcomes={"malformed": 1}) as stage:
        stream: Any = await stage.client.chat.completions.create(**ASK, stream=True)
        said = [(await anext(stream)).choices[0].delta.content for _ in range(5)]
        with pytest.raises(json.JSONDecodeError):
            await anext(stream)
        assert (await stage.row()).outcome == "malformed"
    assert said == ["", "There", " is", " free", " parking"]


@pytest.mark.parametrize("outcome", ["truncate", "malformed"])
async def test_half_a_body(outcome: str) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        raw = await stage.client.chat.completions.with_raw_response.create(**ASK)
        assert raw.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(raw.content)


async def test_a_client_that_leaves_in_mid_stream_is_seen() -> None:
    async with playing(between_tokens=Constant(60_000)) as stage:
        stream: Any = await stage.client.chat.completions.create(**ASK, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        row = await stage.row()
    assert (row.outcome, row.detail["tokens"], row.detail["reply"]) == ("client closed", 1, "There")


async def test_outcomes_by_share_replay() -> None:
    async def outcomes() -> list[str]:
        async with playing(outcomes={"http_500": 0.5}, seed=11) as stage:
            for _ in range(12):
                try:
                    await stage.client.chat.completions.create(**ASK)
                except openai.InternalServerError:
                    continue
            return [row.outcome for row in stage.twin.drain()[0]]

    once = await outcomes()
    assert set(once) == {"ok", "http_500"}
    assert await outcomes() == once


# ---------------------------------------------------------------- the real process


async def test_the_process_answers_the_sdk_and_is_changed_while_it_runs() -> None:
    service = OpenAI(name="brain", first_token=Constant(1), between_tokens=Constant(0), models=["m"])
    asking = {**ASK, "model": "m"}
    async with (
        service.running({}) as endpoint,
        openai.AsyncOpenAI(base_url=endpoint.url, api_key="x", max_retries=0) as client,
    ):
        assert (await client.chat.completions.create(**asking)).choices[0].message.content == PARKING
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(**ASK)
        told = await service.behave(endpoint, {"outcomes": {"http_503": 1}})
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**asking)
        assert told["served"] == {"ok": 1, "http_404": 1}
        assert [row.outcome for row in await service.witnessed(endpoint)] == ["ok", "http_404", "http_503"]
