"""What a twin before an upstream is told, and how it understands what passes: addresses, events, and each API's ear."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators import Anthropic, Gemini, OpenAI
from busyhour.emulators.anthropic import request as anthropic_request
from busyhour.emulators.anthropic.ears import MessageEar
from busyhour.emulators.gemini import request as gemini_request
from busyhour.emulators.gemini.ears import ReplyEar
from busyhour.emulators.language_model import Asked, Ear, Finished, Settings, Shape
from busyhour.emulators.language_model.hearing import ArrayElements, SentEvents, Unreadable
from busyhour.emulators.language_model.upstream import Upstream
from busyhour.emulators.openai import chat_request, responses_request
from busyhour.emulators.openai.ears import ChatEar, ResponseEar
from busyhour.errors import PlanError
from busyhour.model import JSON

# ---------------------------------------------------------------- settings


@pytest.mark.parametrize("twin", [OpenAI, Anthropic, Gemini])
@pytest.mark.parametrize(
    ("upstream", "sentence"),
    [
        ("ftp://api.openai.com/v1", "upstream is 'ftp://api.openai.com/v1'; it must be the http or https URL"),
        ("api.openai.com", "upstream is 'api.openai.com'; it must be the http or https URL"),
        ("https://", "upstream is 'https://'; it must be the http or https URL"),
        ("https://host:99999/", "upstream is 'https://host:99999/'; it must be the http or https URL"),
        ("https://sk-secret@api.openai.com", "upstream, at api.openai.com, has a name, a key, a query or a fragment"),
        ("https://api.openai.com?key=sk-secret", "upstream, at api.openai.com, has a name, a key, a query"),
        ("ftp://sk-secret@api.openai.com", "upstream is not such a one; it must be the http or https URL"),
    ],
)
def test_an_impossible_upstream_is_refused_in_a_sentence(twin: type[Any], upstream: str, sentence: str) -> None:
    with pytest.raises(PlanError) as caught:
        twin(upstream=upstream)
    (problem,) = caught.value.problems
    assert problem.startswith(sentence)
    assert "sk-secret" not in problem
    assert problem.count(". ") == 0


@pytest.mark.parametrize("idle", [{"models": ["m"]}, {"api_key": "k"}, {"gullible": True}])
def test_what_an_upstream_makes_idle_is_refused(idle: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=f"upstream is set, and so is {next(iter(idle))}"):
        OpenAI(upstream="https://api.openai.com/v1", **idle)
    with pytest.raises(PlanError, match=r"upstream is 5; it must be a URL"):
        Settings.read({"upstream": 5})


@pytest.mark.parametrize(
    ("text", "own", "target", "url"),
    [
        ("https://api.openai.com/v1", "/v1", "/v1/models?a=%2F", "https://api.openai.com/v1/models?a=%2F"),
        ("https://api.openai.com", "/v1", "/v1/models", "https://api.openai.com/v1/models"),
        ("https://host/v1beta/openai/", "/v1", "/v1/models", "https://host/v1beta/openai/models"),
        ("https://host/v9", "/v1", "/v1?x=1", "https://host/v9?x=1"),
        ("https://host/v9", "/v1", "/v10/models", "https://host/v10/models"),
        ("https://host/v9", "/v1", "/models", "https://host/models"),
        ("HTTPS://Host:8443", "", "/v1/messages", "https://host:8443/v1/messages"),
        ("http://host/gateway/", "", "/v1/messages", "http://host/gateway/v1/messages"),
    ],
)
def test_the_upstreams_path_takes_the_place_of_the_twins(text: str, own: str, target: str, url: str) -> None:
    assert str(Upstream.parse(text, own=own).url(target)) == url


def test_an_upstream_comes_back_as_it_went() -> None:
    settings = Settings(models=[], upstream="https://api.openai.com/v1")
    assert Settings.read(settings.as_json()) == settings


# ---------------------------------------------------------------- requests in outline

NAMES = st.sampled_from(
    [
        *("model", "messages", "input", "contents", "role", "content", "parts", "text", "format", "type", "stream"),
        *("response_format", "output_config", "output_format", "generationConfig", "responseMimeType"),
    ]
)
VALUES = (
    st.sampled_from(["user", "json_schema", "text", "application/json"]) | st.integers() | st.none() | st.booleans()
)
BODIES = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def _gemini(raw: bytes) -> Asked:
    def shape(finished: Finished) -> Shape:
        raise AssertionError("a request in outline is not answered here")

    return gemini_request.outlined(raw, model="m", stream=True, shape=shape)


OUTLINES = [chat_request.outlined, responses_request.outlined, anthropic_request.outlined, _gemini]


@pytest.mark.parametrize("outlined", OUTLINES)
@given(raw=st.dictionaries(NAMES, BODIES).map(lambda form: json.dumps(form).encode()) | st.binary(max_size=9))
def test_no_request_breaks_its_outline(outlined: Any, raw: bytes) -> None:
    read: Asked = outlined(raw)
    assert isinstance(read.model, str)
    assert all(isinstance(said.text, str) and isinstance(said.role, str) for said in read.conversation)


@pytest.mark.parametrize(
    ("outlined", "turns", "structured"),
    [
        (OUTLINES[0], {"messages": [{"role": "user", "content": "Hi"}]}, {"response_format": {"type": "json_object"}}),
        (OUTLINES[1], {"input": "Hi"}, {"text": {"format": {"type": "json_schema"}}}),
        (OUTLINES[1], {"input": [{"role": "user", "content": [{"text": "Hi"}]}, {"type": "x"}]}, {}),
        (OUTLINES[2], {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, {"output_format": {"type": "x"}}),
        (OUTLINES[3], {"contents": {"parts": [{"text": "Hi"}]}}, {"generation_config": {"response_mime_type": "?"}}),
    ],
)
def test_an_outline_has_the_words(outlined: Any, turns: dict[str, Any], structured: dict[str, Any]) -> None:
    read: Asked = outlined(json.dumps({"model": "m", "stream": True, "unknown": 1, **turns, **structured}).encode())
    assert (read.model, read.stream) == ("m", True)
    assert next(said.text for said in read.conversation if said.role == "user") == "Hi"
    assert (read.schema is not None) == (bool(structured) and outlined is not _gemini)


# ---------------------------------------------------------------- hearing


@given(data=st.data())
def test_events_are_the_same_however_they_are_cut(data: st.DataObject) -> None:
    end = st.sampled_from([b"\n", b"\r\n"])
    forms = data.draw(st.lists(st.dictionaries(st.text(max_size=3), st.text(), max_size=2), max_size=6))
    parts = []
    for form in forms:
        line = data.draw(end)
        parts.append(b"event: x" + line + b"data: " + json.dumps(form).encode() + line + line)
    body = b"".join(parts)
    events = SentEvents()
    got = [event for piece in _cut(data, body) for event in events.feed(piece)]
    assert [event.form for event in got] == forms
    assert b"".join(event.raw for event in got) == body


@given(data=st.data())
def test_elements_are_the_same_however_they_are_cut(data: st.DataObject) -> None:
    text = st.text(alphabet='ab{}[]"\\,', max_size=6)
    forms = data.draw(st.lists(st.dictionaries(text, st.lists(text, max_size=2), max_size=2), max_size=5))
    body = json.dumps(forms, indent=data.draw(st.sampled_from([None, 1]))).encode()
    elements = ArrayElements()
    got = [event for piece in _cut(data, body) for event in elements.feed(piece)]
    assert [event.form for event in got] == forms
    assert body.startswith(b"".join(event.raw for event in got))


def _cut(data: st.DataObject, body: bytes) -> list[bytes]:
    places = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return [body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)]


@pytest.mark.parametrize("events", [SentEvents, ArrayElements])
def test_an_event_without_end_is_not_kept(events: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("busyhour.emulators.language_model.hearing.EVENT_BYTES_AT_MOST", 1000)
    reading = events()
    assert list(reading.feed(b"[" * 999)) == []
    with pytest.raises(Unreadable):
        list(reading.feed(b"[[["))


KEYS = st.sampled_from(
    [
        *("choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments", "usage", "index"),
        *("type", "output_index", "item", "output", "text", "response", "content_block", "partial_json", "error"),
        *("candidates", "parts", "functionCall", "args", "finishReason", "promptFeedback", "usageMetadata", "input"),
        *("prompt_tokens", "output_tokens", "input_tokens", "candidatesTokenCount", "stop_reason"),
    ]
)
KINDS = st.sampled_from(
    [
        *("response.output_text.delta", "response.function_call_arguments.delta", "response.output_item.added"),
        *("response.completed", "response.failed", "function_call", "message", "message_start", "message_delta"),
        *("content_block_start", "content_block_delta", "text_delta", "input_json_delta", "tool_use", "error"),
    ]
)
LEAVES: st.SearchStrategy[JSON] = st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=3) | KINDS
FORMS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@pytest.mark.parametrize("make", [ChatEar, ResponseEar, MessageEar, ReplyEar])
@given(forms=st.lists(st.dictionaries(KEYS, FORMS, max_size=5), max_size=4))
def test_no_json_breaks_an_ear(make: Any, forms: list[dict[str, Any]]) -> None:
    ear: Ear = make()
    for heard in [*map(ear.event, forms), *map(ear.whole, forms)]:
        assert all(isinstance(text, str) for piece in heard.pieces for text in piece)
        assert all(told is None or told >= 0 for told in (heard.tokens, heard.prompt_tokens))


def test_what_the_real_apis_say_beyond_the_twins() -> None:
    """Thoughts are not heard, cached tokens are billed, hosted tools are not the agent's; and names without arguments
    are calls."""
    message = MessageEar()
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100}
    assert message.event({"type": "message_start", "message": {"usage": usage}}).prompt_tokens == 123
    delta = {"type": "thinking_delta", "thinking": "hm"}
    assert message.event({"type": "content_block_delta", "index": 0, "delta": delta}).pieces == ()
    hosted = {"type": "server_tool_use", "name": "web_search"}
    message.event({"type": "content_block_start", "index": 1, "content_block": hosted})
    query = {"type": "input_json_delta", "partial_json": "{"}
    assert message.event({"type": "content_block_delta", "index": 1, "delta": query}).pieces == ()
    called = {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "name": "transfer"}}
    assert message.event(called).pieces == [("", "2", "transfer")]
    counts = {"promptTokenCount": 7, "candidatesTokenCount": 2, "thoughtsTokenCount": 40}
    parts = [{"text": "hm", "thought": True}, {"text": "Hi"}, {"functionCall": {"name": "transfer"}}]
    heard = ReplyEar().event({"candidates": [{"content": {"parts": parts}}], "usageMetadata": counts})
    assert (heard.pieces, heard.tokens, heard.prompt_tokens) == ([("Hi", "", ""), ("{}", "0", "transfer")], 42, 7)
    refusal = {"type": "response.refusal.delta", "delta": "No."}
    assert ResponseEar().event(refusal).pieces == [("No.", "", "")]
    reasoning = {"type": "response.reasoning_text.delta", "delta": "hm"}
    assert ResponseEar().event(reasoning).pieces == ()
    chat = ChatEar()
    for index in (0, 1):
        call = {"index": index, "function": {"name": f"f{index}", "arguments": ""}}
        assert chat.event({"choices": [{"delta": {"tool_calls": [call]}}]}).pieces == [("", str(index), f"f{index}")]
    later = {"index": 1, "function": {"arguments": "{}"}}
    assert chat.event({"choices": [{"delta": {"tool_calls": [later]}}]}).pieces == [("{}", "1", "f1")]
