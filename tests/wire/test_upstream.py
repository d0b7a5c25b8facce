"""A language-model twin before the real API, judged by the vendors' SDKs: twin A passes on to twin B, whose rows it
must repeat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pydantic
import pytest
from aiohttp import web
from google import genai
from google.genai import errors, types

from busyhour.clock import SystemClock
from busyhour.emulators import Anthropic, Constant, Gemini, OpenAI
from busyhour.emulators.anthropic.application import application as anthropic_application
from busyhour.emulators.gemini.api import application as gemini_application
from busyhour.emulators.openai.application import application as openai_application
from busyhour.emulators.twin import Twin, hang, listening
from busyhour.model import SECOND, Operation

from .stages import row_of

# The google-genai SDK's own use of aiohttp; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")

PARK = "Where can I park?"
PARKING = "There is free parking right behind the building."
TUESDAY = "Are you free on Tuesday or on Thursday?"
KEY = "sk-only-the-upstream-may-see-this"
DAY: dict[str, Any] = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}
CHECK = "check_availability"


class Answer(pydantic.BaseModel):
    reply: str
    urgent: bool


@dataclass(frozen=True)
class Spoken:
    """What an SDK made of an answer."""

    text: str
    calls: list[tuple[str, Any]]


Ask = Callable[["Stage", str, bool], Coroutine[Any, Any, Spoken]]


@dataclass
class Stage:
    """A stands before B; the SDK's client knows A only."""

    a: Twin
    b: Twin
    client: Any

    async def rows(self) -> tuple[Operation, Operation]:
        """What A and what B have witnessed of the one request."""
        return await row_of(self.a), await row_of(self.b)


async def served(twin: Twin) -> dict[str, Any]:
    """How many requests met which outcome, once there is any."""
    async with asyncio.timeout(60):
        while True:
            if counted := twin.as_json()["served"]:
                assert isinstance(counted, dict)
                return counted
            await asyncio.sleep(0.002)


# ---------------------------------------------------------------- the APIs, as their SDKs speak them


async def chat(stage: Stage, text: str, stream: bool) -> Spoken:
    asking: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}
    if text == TUESDAY:
        asking["tools"] = [{"type": "function", "function": {"name": CHECK, "parameters": DAY}}]
    if not stream:
        answer = await stage.client.chat.completions.create(**asking)
        message = answer.choices[0].message
        calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []]
        return Spoken(message.content or "", calls)
    async with stage.client.chat.completions.stream(**asking) as events:
        final = (await events.get_final_completion()).choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in final.tool_calls or []]
    return Spoken(final.content or "", calls)


async def responses(stage: Stage, text: str, stream: bool) -> Spoken:
    asking: dict[str, Any] = {"model": "gpt-4o-mini", "input": text}
    if text == TUESDAY:
        asking["tools"] = [{"type": "function", "name": CHECK, "parameters": DAY, "strict": False}]
    if not stream:
        answer = await stage.client.responses.create(**asking)
    else:
        async with stage.client.responses.stream(**asking) as events:
            answer = await events.get_final_response()
    calls = [(item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"]
    return Spoken(answer.output_text, calls)


async def messages(stage: Stage, text: str, stream: bool) -> Spoken:
    asking: dict[str, Any] = {
        "model": "claude-haiku-4-5",
        "max_tokens": 200,
        "messages": [{"role": "user", "content": text}],
    }
    if text == TUESDAY:
        asking["tools"] = [{"name": CHECK, "input_schema": DAY}]
    if not stream:
        answer = await stage.client.messages.create(**asking)
    else:
        async with stage.client.messages.stream(**asking) as events:
            answer = await events.get_final_message()
    said = "".join(block.text for block in answer.content if block.type == "text")
    return Spoken(said, [(block.name, block.input) for block in answer.content if block.type == "tool_use"])


async def generate(stage: Stage, text: str, stream: bool) -> Spoken:
    tool = types.Tool(function_declarations=[types.FunctionDeclaration(name=CHECK, parameters_json_schema=DAY)])
    config = types.GenerateContentConfig(tools=[tool] if text == TUESDAY else None)
    model = stage.client.aio.models
    if stream:
        events = await model.generate_content_stream(model="gemini-2.5-flash", contents=text, config=config)
        answers = [event async for event in events]
    else:
        answers = [await model.generate_content(model="gemini-2.5-flash", contents=text, config=config)]
    calls = [call for answer in answers for call in answer.function_calls or []]
    parts = [part for answer in answers for part in (answer.parts or []) if part.text]
    return Spoken("".join(part.text or "" for part in parts), [(str(call.name), call.args) for call in calls])


@dataclass(frozen=True)
class Vendor:
    """base: the path with which the twin's own begin."""

    service: type[Any]
    application: Callable[[Twin, Mapping[str, Any]], web.Application]
    client: Callable[[str], AbstractAsyncContextManager[Any]]
    base: str = ""


def _openai(url: str) -> AbstractAsyncContextManager[Any]:
    return openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60)


def _anthropic(url: str) -> AbstractAsyncContextManager[Any]:
    return anthropic.AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0, timeout=60)


@asynccontextmanager
async def _genai(url: str) -> AsyncIterator[genai.Client]:
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=url, timeout=60_000))
    try:
        yield client
    finally:
        await client.aio.aclose()
        client.close()


_OPENAI = Vendor(OpenAI, openai_application, _openai, "/v1")
_ANTHROPIC = Vendor(Anthropic, anthropic_application, _anthropic)
_GEMINI = Vendor(Gemini, gemini_application, _genai)
APIS: dict[Ask, Vendor] = {chat: _OPENAI, responses: _OPENAI, messages: _ANTHROPIC, generate: _GEMINI}
every_api = pytest.mark.parametrize("ask", APIS, ids=lambda ask: ask.__name__)
streamed_or_whole = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@asynccontextmanager
async def playing(ask: Ask, *, a: dict[str, float] | None = None, **b: Any) -> AsyncIterator[Stage]:
    """a: the outcomes of A; b: the settings of B."""
    vendor = APIS[ask]
    settings = {"first_token": Constant(0), "between_tokens": Constant(0), **b}
    twin_b = Twin("b", vendor.service(**settings)._behaviour, SystemClock())
    # A's own latency is an hour: none of it must be added.
    twin_a = Twin("a", vendor.service(first_token=Constant(3_600_000), outcomes=a or {})._behaviour, SystemClock())
    async with listening(vendor.application(twin_b, {})) as behind:
        more = {"upstream": f"http://127.0.0.1:{behind}{vendor.base}"}
        async with (
            listening(vendor.application(twin_a, more)) as port,
            vendor.client(f"http://127.0.0.1:{port}{vendor.base}") as client,
        ):
            yield Stage(twin_a, twin_b, client)


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a twin has said all that it says and keeps its client waiting from then on."""
    reached = asyncio.Event()

    async def told() -> None:
        reached.set()
        await hang()

    for module in ("answering", "relay"):
        monkeypatch.setattr(f"busyhour.emulators.language_model.{module}.hang", told)
    return reached


def alike(row: Operation, *besides: str) -> dict[str, Any]:
    """What must be the same in the rows of both."""
    apart = {"first_token_ns", "upstream", *besides}
    return {"outcome": row.outcome, **{name: value for name, value in row.detail.items() if name not in apart}}


def times(row: Operation) -> tuple[int, int, int]:
    """Began, first token, ended."""
    first_ns, ended_ns = row.detail["first_token_ns"], row.ended_ns
    assert isinstance(first_ns, int)
    assert ended_ns is not None
    return row.began_ns or 0, first_ns, ended_ns


# ---------------------------------------------------------------- good answers


@every_api
@streamed_or_whole
async def test_an_answer_passes_and_both_rows_are_alike(ask: Ask, stream: bool) -> None:
    async with playing(ask) as stage:
        spoken = await ask(stage, PARK, stream)
        a, b = await stage.rows()
    assert spoken == Spoken(PARKING, [])
    assert alike(a) == alike(b)
    assert (a.outcome, a.detail["reply"], a.detail["prompt"], a.detail["tokens"]) == ("ok", PARKING, PARK, 9)
    assert str(a.detail["upstream"]).startswith("http://127.0.0.1:")
    (began_a, first_a, ended_a), (began_b, first_b, _) = times(a), times(b)
    assert 0 < began_a <= began_b <= first_b <= first_a <= ended_a < began_a + 5 * SECOND


@every_api
@streamed_or_whole
async def test_calls_of_functions_pass(ask: Ask, stream: bool) -> None:
    async with playing(ask) as stage:
        spoken = await ask(stage, TUESDAY, stream)
        a, b = await stage.rows()
    assert spoken.calls == [(CHECK, {"day": "tuesday"}), (CHECK, {"day": "thursday"})]
    assert alike(a) == alike(b)
    assert a.detail["tool"] == f"{CHECK}, {CHECK}"
    assert [json.loads(text) for text in json.loads(str(a.detail["arguments"]))] == [call[1] for call in spoken.calls]


async def test_structured_outputs_pass() -> None:
    said: list[Any] = [{"role": "user", "content": PARK}]
    async with playing(chat) as stage:
        parsed = await stage.client.chat.completions.parse(
            model="m",
            messages=said,
            response_format=Answer,
        )
        rows = [await stage.rows()]
        responded = await stage.client.responses.parse(model="m", input=PARK, text_format=Answer)
        rows.append(await stage.rows())
    async with playing(messages) as stage:
        told = await stage.client.messages.parse(
            model="m",
            max_tokens=100,
            messages=said,
            output_format=Answer,
        )
        rows.append(await stage.rows())
    async with playing(generate) as stage:
        config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=Answer)
        generated = await stage.client.aio.models.generate_content(model="m", contents=PARK, config=config)
        rows.append(await stage.rows())
    answers = [parsed.choices[0].message.parsed, responded.output_parsed, told.parsed_output, generated.parsed]
    assert [isinstance(answer, Answer) and answer.reply == PARKING for answer in answers] == [True] * 4
    assert [alike(a) == alike(b) for a, b in rows] == [True] * 4
    assert [a.detail["structured"] for a, _ in rows] == [True] * 4


async def test_the_usage_that_is_told_counts() -> None:
    """A chat stream tells its usage only when asked; then it is not the pieces that are counted."""
    async with playing(chat) as stage:
        for more in ({}, {"stream_options": {"include_usage": True}}):
            stream: Any = await stage.client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": PARK}], stream=True, **more
            )
            told = [chunk.usage async for chunk in stream]
            a, b = await stage.rows()
            assert alike(a) == alike(b)
            assert (told[-1] is not None) == bool(more)


async def test_what_the_twin_would_refuse_is_the_upstreams_to_judge() -> None:
    """The twin makes one choice only; before an upstream it asks for as many as the client wants."""
    async with playing(chat) as stage:
        with pytest.raises(openai.BadRequestError, match="'n' must be 1"):
            await stage.client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": PARK}], n=2, response_format={"type": "text"}
            )
        a, b = await stage.rows()
    assert (a.outcome, a.detail["prompt"], a.detail["model"]) == ("http_400", PARK, "m")
    assert (b.outcome, a.detail["structured"], a.detail["prompt_tokens"]) == ("http_400", False, 0)


async def test_other_paths_pass_unwitnessed() -> None:
    async with playing(responses, outcomes={}) as stage:
        first = await stage.client.responses.create(model="m", input=PARK)
        a, _ = await stage.rows()
        again = await stage.client.responses.create(model="m", input="And when?", previous_response_id=first.id)
        followed, _ = await stage.rows()
        assert (await stage.client.responses.retrieve(first.id)).output_text == first.output_text == a.detail["reply"]
        await stage.client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await stage.client.responses.retrieve(first.id)
        assert [model.id async for model in stage.client.models.list()] == [
            *("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")
        ]
        assert (stage.a.drain(), stage.b.drain()) == (([], 0), ([], 0))
    assert (again.output_text, followed.detail["prompt"]) == (followed.detail["reply"], "And when?")
    async with playing(messages) as stage:
        counted = await stage.client.messages.count_tokens(model="m", messages=[{"role": "user", "content": PARK}])
        assert counted.input_tokens > 5
    async with playing(generate) as stage:
        assert (await stage.client.aio.models.count_tokens(model="m", contents=PARK)).total_tokens == (
            counted.input_tokens
        )


# ---------------------------------------------------------------- errors


@every_api
@pytest.mark.parametrize("outcome", ["http_401", "http_429", "http_500", "http_503", "quota"])
async def test_an_error_of_the_upstream_is_the_clients(ask: Ask, outcome: str) -> None:
    async with playing(ask, outcomes={outcome: 1.0}) as stage:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, errors.APIError)) as caught:
            await ask(stage, PARK, True)
        a, b = await stage.rows()
    status = getattr(caught.value, "status_code", 0) or getattr(caught.value, "code", 0)
    assert a.outcome == f"http_{status}"
    assert b.outcome == outcome
    assert "busyhour" not in str(caught.value).lower()
    assert (a.detail["prompt"], a.detail["tokens"], a.detail["prompt_tokens"]) == (PARK, 0, 0)
    if outcome == "http_429" and isinstance(caught.value, openai.APIStatusError | anthropic.APIStatusError):
        assert caught.value.response.headers["retry-after"] == "1"
    assert stage.a.as_json()["served"] == {a.outcome: 1}


@pytest.mark.parametrize("ask", [chat, responses, messages])  # google-genai asks again, of its own accord
async def test_a_reset_of_the_upstream_resets_the_client(ask: Ask) -> None:
    async with playing(ask, outcomes={"reset": 1.0}) as stage:
        with pytest.raises((openai.APIConnectionError, anthropic.APIConnectionError)):
            await ask(stage, PARK, True)
        a, b = await stage.rows()
    assert (a.outcome, b.outcome) == ("reset", "reset")


@every_api
@pytest.mark.parametrize("outcome", ["truncate", "malformed"])
async def test_a_stream_that_the_upstream_breaks_is_told_so(ask: Ask, outcome: str) -> None:
    async with playing(ask, outcomes={outcome: 1.0}) as stage:
        # Each SDK has its own idea of a broken stream, from none at all to a JSONDecodeError.
        await asyncio.gather(ask(stage, PARK, True), return_exceptions=True)
        a, b = await stage.rows()
    assert alike(a) == alike(b)
    assert (a.outcome, a.detail["reply"], a.detail["tokens"]) == (outcome, "There is free parking", 4)


@every_api
@pytest.mark.parametrize("outcome", ["no_token", "stall"])
async def test_the_client_leaves_and_the_upstream_knows(ask: Ask, outcome: str, hangs: asyncio.Event) -> None:
    async with playing(ask, outcomes={outcome: 1.0}) as stage:
        asking = asyncio.create_task(ask(stage, PARK, True))
        await hangs.wait()
        assert await served(stage.b) == {outcome: 1}
        for _ in range(100):  # turns of the loop of all three, in which what tokens there are pass; more never come
            await asyncio.sleep(0.001)
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        a, b = await stage.rows()
    assert (a.outcome, b.outcome) == ("client closed", outcome)
    assert (a.detail["client_closed"], b.detail["client_closed"]) == (True, True)
    assert alike(a, "outcome") | {"outcome": ""} == alike(b) | {"outcome": ""}


# ---------------------------------------------------------------- fates of A


@every_api
@pytest.mark.parametrize("outcome", ["http_401", "http_429", "http_500", "http_503", "quota"])
async def test_a_refusal_of_the_twin_never_reaches_the_upstream(ask: Ask, outcome: str) -> None:
    async with playing(ask, a={outcome: 1.0}) as stage:
        refused = (await asyncio.gather(ask(stage, PARK, True), return_exceptions=True))[0]
        row = await row_of(stage.a)
        assert (stage.b.drain(), stage.b.as_json()["served"]) == (([], 0), {})
    assert isinstance(refused, openai.APIStatusError | anthropic.APIStatusError | errors.APIError)
    assert (row.outcome, "upstream" in row.detail) == (outcome, False)
    assert stage.a.as_json()["served"] == {outcome: 1}


@every_api
@pytest.mark.parametrize("outcome", ["truncate", "malformed"])
async def test_the_twin_breaks_a_good_stream(ask: Ask, outcome: str) -> None:
    async with playing(ask, a={outcome: 1.0}) as stage:
        await asyncio.gather(ask(stage, PARK, True), return_exceptions=True)
        a, b = await stage.rows()
    assert (a.outcome, a.detail["reply"], a.detail["tokens"]) == (outcome, PARKING.removesuffix("."), 8)
    assert b.outcome in ("ok", "client closed")
    assert stage.a.as_json()["served"] == {outcome: 1}


@every_api
@streamed_or_whole
@pytest.mark.parametrize("outcome", ["no_token", "stall", "hang"])
async def test_the_twin_keeps_a_good_answer(ask: Ask, stream: bool, outcome: str, hangs: asyncio.Event) -> None:
    async with playing(ask, a={outcome: 1.0}) as stage:
        asking = asyncio.create_task(ask(stage, PARK, stream))
        await hangs.wait()
        assert await served(stage.a) == {outcome: 1}
        assert not asking.done()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        row = await row_of(stage.a)
    assert (row.outcome, row.detail["client_closed"]) == (outcome, True)
    assert row.detail["tokens"] == (8 if stream else 9) * (outcome == "stall")


async def test_the_twins_filter_needs_no_upstream() -> None:
    async with playing(generate, a={"blocked": 1.0}) as stage:
        assert await generate(stage, PARK, True) == await generate(stage, PARK, False) == Spoken("", [])
        rows, _ = stage.a.drain()
        assert stage.b.drain() == ([], 0)
    assert [row.outcome for row in rows] == ["blocked", "blocked"]
