"""Reading chat requests: nothing that is JSON breaks it, and tokens keep the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators.language_model import Refused, tokens_of
from busyhour.emulators.openai.application import error
from busyhour.emulators.openai.chat_request import asked
from busyhour.emulators.receptionist import Said

JSONS: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "assistant", "tool", "system"]) | JSONS,
            "content": st.text(max_size=20) | JSONS,
            "tool_calls": JSONS | st.lists(st.fixed_dictionaries({"id": JSONS, "function": JSONS}), max_size=2),
            "tool_call_id": JSONS,
        },
    )
    | JSONS,
    max_size=3,
)
NAMES = ["tools", "tool_choice", "stream", "stop", "n", "max_tokens", "stream_options", "temperature"]


@given(messages=MESSAGES | JSONS, more=st.dictionaries(st.sampled_from(NAMES), JSONS, max_size=3))
def test_no_json_breaks_the_reading(messages: Any, more: dict[str, Any]) -> None:
    try:
        read = asked(json.dumps({"model": "m", "messages": messages, **more}).encode())
    except Refused:
        return
    assert read.conversation
    assert read.prompt_tokens > 0


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


def test_a_sentence_is_about_as_many_tokens_as_words_and_signs() -> None:
    assert tokens_of("It's 2,500 dollars, internationalised.") == [
        *("It", "'", "s", " 2", ",", "500", " dollars", ",", " internatio", "nalised", ".")
    ]


def test_what_a_tool_answered_is_known_by_its_call() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "check", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "free"},
    ]
    read = asked(json.dumps({"model": "m", "messages": messages, "max_tokens": 7, "stop": "x"}).encode())
    assert read.conversation == [
        Said(role="developer", text="Be kind."),
        Said(role="user", text="One two"),
        Said(role="assistant"),
        Said(role="tool", text="free", tool="check"),
    ]
    assert (read.tokens_at_most, read.stops, read.stream, read.force_tool) == (7, ["x"], False, None)


def test_a_refusal_has_the_vendors_shape() -> None:
    with pytest.raises(Refused) as refused:
        asked(b'{"model": "m"}')
    assert error(refused.value) == {
        "error": {
            "message": "Missing required parameter: 'messages'.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "missing_required_parameter",
        }
    }
