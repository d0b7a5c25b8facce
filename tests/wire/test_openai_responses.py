"""The responses API of the OpenAI twin, judged by the official SDK and by raw requests."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from busyhour.clock import SystemClock
from busyhour.emulators.language_model import Finished, LanguageModel, Refused, finish
from busyhour.emulators.openai import OpenAI
from busyhour.emulators.openai.memory import RESPONSES_AT_MOST, History, Memory
from busyhour.emulators.openai.responses_request import asked
from busyhour.emulators.receptionist import Said
from busyhour.emulators.twin import Twin

from .stages import OFFER, PARKING
from .stages import playing_openai as playing

ASK: dict[str, Any] = {"model": "gpt-4.1-mini", "input": "Where can I park?"}
TUESDAY: dict[str, Any] = {"model": "gpt-4.1-mini", "input": "Tuesday morning please."}
CHECK: Any = {
    "type": "function",
    "name": "check_availability",
    "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
    "strict": False,
}


async def events_of(client: openai.AsyncOpenAI, **more: Any) -> list[Any]:
    stream: Any = await client.responses.create(**{**ASK, "stream": True, **more})
    return [event async for event in stream]


# ---------------------------------------------------------------- the good answers


async def test_a_whole_response() -> None:
    async with playing() as stage:
        answer = await stage.client.responses.create(**ASK, instructions="Be kind.", metadata={"call": "7"})
        row = await stage.row()
    assert answer.output_text == PARKING
    assert (answer.status, answer.object, answer.model) == ("completed", "response", "gpt-4.1-mini")
    assert (answer.instructions, answer.metadata, answer.error) == ("Be kind.", {"call": "7"}, None)
    assert [item.type for item in answer.output] == ["message"]
    assert answer.usage is not None
    assert answer.usage.output_tokens == 9
    assert answer.usage.total_tokens == answer.usage.input_tokens + 9
    assert (row.kind, row.outcome, row.detail["api"], row.detail["model"]) == ("llm", "ok", "responses", "gpt-4.1-mini")
    assert (row.detail["prompt"], row.detail["reply"], row.detail["tokens"]) == ("Where can I park?", PARKING, 9)
    assert row.detail["prompt_tokens"] == answer.usage.input_tokens
    assert (row.detail["tool"], row.detail["arguments"], row.detail["structured"]) == ("", "", False)


async def test_a_streamed_response_has_the_full_sequence_of_events() -> None:
    async with playing() as stage:
        events = await events_of(stage.client)
        row = await stage.row()
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 9,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARKING
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    assert events[-1].response.output_text == PARKING
    assert events[-1].response.usage.output_tokens == 9
    assert (row.outcome, row.detail["reply"]) == ("ok", PARKING)


async def test_the_sdks_stream_helper_agrees() -> None:
    async with playing() as stage:
        async with stage.client.responses.stream(**ASK) as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
            final = await stream.get_final_response()
        async with stage.client.responses.stream(**TUESDAY, tools=[CHECK]) as stream:
            called = await stream.get_final_response()
    assert "".join(deltas) == final.output_text == PARKING
    assert called.output[0].type == "function_call"
    assert called.output[0].name == "check_availability"


async def test_a_token_limit_leaves_it_incomplete() -> None:
    weekdays = "What time do you open?"
    async with playing() as stage:
        whole: Any = await stage.client.responses.create(model="m", input=weekdays, max_output_tokens=16)
        events = await events_of(stage.client, input=weekdays, max_output_tokens=16)
        with pytest.raises(openai.BadRequestError, match="max_output_tokens"):
            await stage.client.responses.create(**ASK, max_output_tokens=3)
    assert events[-1].type == "response.incomplete"
    for answer in (whole, events[-1].response):
        assert (answer.status, answer.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert answer.output_text == "We are open Monday to Friday from eight in the morning to six in the evening"
        assert (answer.usage.output_tokens, answer.output[0].status) == (16, "incomplete")


# ---------------------------------------------------------------- memory


async def test_a_previous_response_is_gone_on_with() -> None:
    async with playing() as stage:
        create = stage.client.responses.create
        first = await create(model="m", input="I would like to make an appointment.")
        second = await create(model="m", input="Tuesday morning please.", previous_response_id=first.id)
        third = await create(model="m", input="Nine o'clock.", previous_response_id=second.id, store=False)
        alone = await create(model="m", input="yes")
        assert (await stage.client.responses.retrieve(second.id)).output_text == OFFER
        with pytest.raises(openai.NotFoundError):
            await stage.client.responses.retrieve(third.id)
        await stage.client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError) as refused:
            await create(model="m", input="hello", previous_response_id=first.id)
    assert third.output_text == "May I have your name please?"
    assert third.previous_response_id == second.id
    assert alone.output_text != third.output_text
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    for number in range(RESPONSES_AT_MOST + 1):
        memory.keep({"id": f"resp_{number}"}, History())
    with pytest.raises(Refused):
        memory.history("resp_0")
    assert memory.history("resp_1") == History()
    monkeypatch.setattr("busyhour.emulators.openai.memory.CHARACTERS_AT_MOST", 10_000)
    memory.keep({"id": "long"}, History(conversation=[Said(role="user", text="x" * 9000)]))
    with pytest.raises(Refused):
        memory.history(f"resp_{RESPONSES_AT_MOST}")
    assert len(memory.history("long").conversation) == 1


# ---------------------------------------------------------------- tools


async def test_a_tool_is_called_and_its_result_answered() -> None:
    async with playing() as stage:
        asking = await stage.client.responses.create(**TUESDAY, tools=[CHECK])
        row = await stage.row()
        call: Any = asking.output[0]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": '{"slots": ["09:00"]}'}
        by_id = await stage.client.responses.create(
            model="m", input=[result], previous_response_id=asking.id, tools=[CHECK]
        )
        user: Any = {"role": "user", "content": [{"type": "input_text", "text": TUESDAY["input"]}]}
        by_items = await stage.client.responses.create(model="m", input=[user, call.model_dump(), result])
        with pytest.raises(openai.BadRequestError, match="No tool output found for function call"):
            await stage.client.responses.create(model="m", input="hello?", previous_response_id=asking.id)
        with pytest.raises(openai.BadRequestError, match="No tool call found"):
            await stage.client.responses.create(model="m", input=[result])
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "check_availability",
        {"day": "tuesday"},
    )
    assert (row.detail["tool"], row.detail["arguments"], row.detail["reply"]) == (
        "check_availability",
        '{"day": "tuesday"}',
        "",
    )
    assert by_id.output_text == by_items.output_text == OFFER


async def test_a_streamed_call() -> None:
    async with playing() as stage:
        events = await events_of(stage.client, **TUESDAY, tools=[CHECK])
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[2] == "output_item.added"
    assert kinds[-3:] == ["function_call_arguments.done", "output_item.done", "completed"]
    pieces = "".join(event.delta for event in events if event.type.endswith("arguments.delta"))
    assert pieces == events[-3].arguments == '{"day": "tuesday"}'


async def test_two_days_are_checked_at_once_unless_that_is_forbidden() -> None:
    both = "Are you free on Tuesday or Thursday?"
    async with playing() as stage:
        several: Any = await stage.client.responses.create(model="m", input=both, tools=[CHECK])
        row = await stage.row()
        one = await stage.client.responses.create(model="m", input=both, tools=[CHECK], parallel_tool_calls=False)
        outputs: Any = [
            {"type": "function_call_output", "call_id": call.call_id, "output": f'{{"slots": {slots}}}'}
            for call, slots in zip(several.output, ("[]", '["09:00"]'), strict=True)
        ]
        after = await stage.client.responses.create(model="m", input=outputs, previous_response_id=several.id)
    days = [json.loads(call.arguments)["day"] for call in several.output]
    assert days == ["tuesday", "thursday"]
    assert len({call.call_id for call in several.output}) == 2
    assert len(one.output) == 1
    assert row.detail["tool"] == "check_availability, check_availability"
    assert after.output_text == OFFER


async def test_tool_choice() -> None:
    async with playing() as stage:
        create = stage.client.responses.create
        none = await create(**TUESDAY, tools=[CHECK], tool_choice="none")
        required = await create(**ASK, tools=[CHECK], tool_choice="required")
        named = await create(**ASK, tools=[CHECK], tool_choice={"type": "function", "name": "check_availability"})
    assert none.output_text == OFFER
    assert required.output[0].type == named.output[0].type == "function_call"


# ---------------------------------------------------------------- structured outputs


class Answer(pydantic.BaseModel):
    reply: str
    day: str | None
    topic: str


async def test_the_sdk_parses_a_structured_output() -> None:
    async with playing() as stage:
        parsed = await stage.client.responses.parse(**TUESDAY, text_format=Answer)
        row = await stage.row()
        async with stage.client.responses.stream(**TUESDAY, text_format=Answer) as stream:
            streamed = await stream.get_final_response()
    for answer in (parsed.output_parsed, streamed.output_parsed):
        assert answer is not None
        assert (answer.reply, answer.day) == (OFFER, "tuesday")
    assert row.detail["structured"] is True


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("http_401", openai.AuthenticationError),
        ("http_429", openai.RateLimitError),
        ("quota", openai.RateLimitError),
        ("http_500", openai.InternalServerError),
        ("http_503", openai.InternalServerError),
    ],
)
async def test_a_fated_refusal_is_the_sdks_own_exception(outcome: str, error: type[openai.APIStatusError]) -> None:
    async with playing(outcomes={outcome: 1}) as stage:
        with pytest.raises(error) as refused:
            await stage.client.responses.create(**ASK)
        assert (await stage.row()).outcome == outcome
        assert stage.twin.as_json()["served"] == {outcome: 1}
    assert (refused.value.code == "insufficient_quota") is (outcome == "quota")
    assert ("Retry-After" in refused.value.response.headers) is (outcome == "http_429")


async def test_a_stall_is_half_the_tokens_and_then_nothing() -> None:
    async with playing(outcomes={"stall": 1}) as stage:
        stream: Any = await stage.client.responses.create(**ASK, stream=True)
        events = [await anext(stream) for _ in range(8)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.3)
        await stream.close()
        row = await stage.row()
        with pytest.raises(openai.APITimeoutError):
            await stage.client.responses.create(**ASK, timeout=1)
    assert "".join(event.delta for event in events[4:]) == row.detail["reply"] == "There is free parking"
    assert (row.outcome, row.detail["tokens"]) == ("stall", 4)


async def test_no_token_and_truncate_and_malformed() -> None:
    async with playing(outcomes={"truncate": 1}) as stage:
        assert [event.type for event in await events_of(stage.client)][-1] == "response.output_text.delta"
    async with playing(outcomes={"malformed": 1}) as stage:
        with pytest.raises(json.JSONDecodeError):
            await events_of(stage.client)
    async with playing(outcomes={"no_token": 1}) as stage:
        stream: Any = await stage.client.responses.create(**ASK, stream=True)
        assert (await anext(stream)).type == "response.created"
        assert (await anext(stream)).type == "response.in_progress"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.3)
        await stream.close()


@pytest.mark.parametrize(
    ("change", "param", "part"),
    [
        ({"input": None}, "input", "Missing required parameter"),
        ({"input": 5}, "input", "expected a string or an array"),
        ({"input": []}, "input", "empty array"),
        ({"input": ["x"]}, "input[0]", "expected an object"),
        ({"input": [{"role": "caller", "content": "x"}]}, "input[0].role", "Supported values"),
        ({"input": [{"role": "user"}]}, "input[0].content", "Missing required"),
        ({"input": [{"role": "user", "content": [5]}]}, "input[0].content[0].type", "Supported values"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text", "Missing"),
        ({"input": [{"type": "dream"}]}, "input[0].type", "Supported values"),
        ({"input": [{"type": "function_call", "call_id": 5}]}, "input[0].call_id", "expected a string"),
        ({"model": None}, "model", "Missing required"),
        ({"background": True}, "background", "must be false"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "not found"),
        ({"instructions": 5}, "instructions", "expected a string"),
        ({"stream": 1}, "stream", "expected a boolean"),
        ({"temperature": 9}, "temperature", "from 0 to 2"),
        ({"metadata": []}, "metadata", "expected an object"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "Supported values"),
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}}, "text.format.name", "pattern"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "Missing required"),
        ({"text": {"format": {"type": "json_object"}}}, "messages", "must contain the word 'json'"),
        ({"tools": [{"type": "web_search"}]}, "tools", "Hosted tool"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "Missing required"),
        ({"tools": [{}]}, "tools[0].type", "Missing required"),
        ({"tool_choice": "required"}, "tool_choice", "must be specified with"),
        ({"tool_choice": "maybe"}, "tool_choice", "Supported values"),
        ({"tools": [CHECK], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "not found"),
    ],
)
async def test_a_malformed_request_is_the_sdks_bad_request(change: dict[str, Any], param: str, part: str) -> None:
    async with playing() as stage:
        with pytest.raises(openai.BadRequestError) as refused:
            await stage.client.post("/responses", body={**ASK, **change}, cast_to=object)
        assert (await stage.row()).outcome == "http_400"
    assert part in refused.value.message
    assert refused.value.param == param


async def test_only_posting_makes_a_response() -> None:
    async with (
        playing() as stage,
        aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session,
        session.get(f"{stage.url}/responses") as response,
    ):
        assert response.status == 405


JSONS: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["role", "type", "content", "call_id", "name", "arguments", "output", "text", "format", "schema", "$ref"]
TYPES = ["message", "function_call", "function_call_output", "reasoning", "input_text", "json_schema"]
ITEMS = st.dictionaries(
    st.sampled_from(KEYS), JSONS | st.sampled_from(["user", *TYPES]) | st.lists(JSONS, max_size=2), max_size=5
)
NAMES = ["input", "tools", "tool_choice", "text", "stream", "max_output_tokens", "metadata", "store", "instructions"]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(more=st.dictionaries(st.sampled_from(NAMES), JSONS | ITEMS | st.lists(ITEMS, max_size=3), max_size=4))
def test_no_json_breaks_the_reading_or_the_reply(more: dict[str, Any]) -> None:
    memory = Memory()
    try:
        read = asked(json.dumps({**ASK, **more}).encode(), memory=memory)
    except Refused:
        return
    twin = Twin("llm", OpenAI()._behaviour, SystemClock())
    assert isinstance(LanguageModel(twin), LanguageModel)
    finished: Finished = finish(read, twin.draw("request", ()).random)
    shape = read.shape(finished)
    events = shape.opening() + b"".join(shape.deltas()) + shape.closing()
    assert events.count(b"\n\n") == events.count(b"event: ")
    assert json.loads(read.shape(finished).whole())["object"] == "response"
