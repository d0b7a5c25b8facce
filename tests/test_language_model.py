"""What the language-model twins share: how a reply is cut, and what the parents tell their processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour import emulators
from busyhour.emulators.language_model import Asked, Finished, Settings, Shape, finish, prompt_tokens, tokens_of
from busyhour.emulators.receptionist import Said, Tool
from busyhour.errors import PlanError

PARKING = "There is free parking right behind the building."
CHECK = Tool(name="check_availability", parameters={"type": "object", "properties": {"day": {"type": "string"}}})


def asking(text: str, **more: Any) -> Asked:
    def shape(finished: Finished) -> Shape:
        raise AssertionError("a reply is not dressed before it is finished")

    return Asked(**{"model": "m", "conversation": [Said(role="user", text=text)], "shape": shape, **more})


def test_a_reply_is_one_text() -> None:
    done = finish(asking("Where can I park?"), Random(1))
    assert [part.text for part in done.parts] == [PARKING]
    assert (done.finish, done.stopped_by, done.tokens) == ("stop", "", 9)
    assert (len(done.key), len(done.parts[0].key)) == (32, 24)
    assert done.key == finish(asking("Where can I park?"), Random(1)).key != finish(asking("Hi"), Random(2)).key


@given(stops=st.lists(st.sampled_from(["There", " is", "free", "right", "xyz", "building."]), max_size=4))
def test_the_first_stop_in_the_text_ends_it(stops: list[str]) -> None:
    done = finish(asking("Where can I park?", stops=stops), Random(1))
    found = [stop for stop in stops if stop in PARKING]
    assert done.parts[0].text == PARKING[: min((PARKING.index(stop) for stop in found), default=None)]
    assert (done.finish == "stop_sequence", done.stopped_by in found) == (bool(found), bool(found))


@pytest.mark.parametrize("limit", [1, 4, 8, 9, 100])
def test_the_limit_cuts(limit: int) -> None:
    done = finish(asking("Where can I park?", tokens_at_most=limit), Random(1))
    assert done.tokens == min(9, limit)
    assert done.finish == ("length" if limit < 9 else "stop")


def test_several_calls_share_the_limit() -> None:
    both = "Are you free on Tuesday or on Thursday?"
    done = finish(asking(both, tools=[CHECK]), Random(1))
    assert [(part.tool, json.loads(part.text)["day"]) for part in done.parts] == [
        ("check_availability", "tuesday"),
        ("check_availability", "thursday"),
    ]
    assert (done.finish, done.parts[0].key != done.parts[1].key) == ("tool", True)
    first = len(done.parts[0].pieces)
    cut = finish(asking(both, tools=[CHECK], tokens_at_most=first + 2), Random(1))
    assert (cut.finish, [len(part.pieces) for part in cut.parts]) == ("length", [first, 2])
    assert len(finish(asking(both, tools=[CHECK], tokens_at_most=first - 1), Random(1)).parts) == 1
    assert len(finish(asking(both, tools=[CHECK], parallel=False), Random(1)).parts) == 1


def test_a_schema_is_answered_by_json_unless_a_function_is_called() -> None:
    schema = {"type": "object", "properties": {"reply": {"type": "string"}}, "required": ["reply"]}
    assert json.loads(finish(asking("Where can I park?", schema=schema), Random(1)).parts[0].text) == {"reply": PARKING}
    called = finish(asking("Tuesday please", schema=schema, tools=[CHECK]), Random(1))
    assert called.parts[0].tool == "check_availability"


def test_tools_cost_prompt_tokens() -> None:
    said = [Said(role="user", text="Where can I park?")]
    assert prompt_tokens(said) == 4 + len(tokens_of("Where can I park?")) + 3
    assert prompt_tokens(said, [{"name": "f"}]) > prompt_tokens(said)


def test_settings_come_back_as_they_went() -> None:
    settings = Settings(models=["a"], api_key="k", gullible=True)
    assert Settings.read(settings.as_json()) == settings
    assert Settings.read({}) == Settings(models=[])
    assert Settings.read({"gullible": 1}).gullible is True


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"models": "m"}, "models is 'm'; it must be a list of names."),
        ({"models": [5]}, r"models is \[5\]; it must be a list of names."),
        ({"api_key": 5}, "api_key is 5; it must be a string."),
        ({"gullible": "yes"}, "gullible is 'yes'; it must be true or false."),
        ({"colour": "red"}, "setting 'colour' is unknown to this twin; known are models, api_key, gullible."),
    ],
)
def test_impossible_settings_are_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Settings.read(more)


@pytest.mark.parametrize("make", [emulators.OpenAI, emulators.Anthropic, emulators.Gemini])
def test_a_name_is_no_list_of_letters(make: Callable[..., object]) -> None:
    with pytest.raises(PlanError, match="models is 'gpt-5'; it must be a list of names"):
        make(models="gpt-5")


def test_the_twins_are_exported_and_a_wrong_name_is_not() -> None:
    for name in ("OpenAI", "Anthropic"):
        assert getattr(emulators, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Grok'"):
        emulators.Grok  # noqa: B018  (asking for it is the test)
