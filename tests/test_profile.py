"""Profiles: what survives its file, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from busyhour.emulators import Constant, Empirical, OpenAI
from busyhour.emulators.profile import Profile, learned, read, spaced
from busyhour.errors import PlanError

PROFILE = Profile(
    vendor="openai",
    learned="2026-11-20T10:00:00Z",
    upstream="https://api.openai.com",
    requests=4,
    latencies={"first_token": Empirical([300, 400])},
    measured={"first_token": 2},
    outcomes={"http_429": 0.25},
)


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    PROFILE.write(path)
    assert read(path, "openai") == PROFILE
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]
    twin = learned(OpenAI, path, seed=4, between_tokens=Constant(1))
    assert (twin.first_token, twin.between_tokens, twin.seed) == (Empirical([300, 400]), Constant(1), 4)
    assert twin.outcomes == {"http_429": 0.25}


def test_long_lessons_make_short_profiles() -> None:
    assert spaced([3, 1, 2]) == [1, 2, 3]
    values = spaced([n / 7 for n in range(100_000)])
    assert len(values) == 1000
    assert values[500] == pytest.approx(50_000 / 7, rel=1e-2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the profile is corrupt: it is not JSON; learn it again"),
        ('{"busyhour_profile": 1, "ven', "the profile is corrupt: it is not JSON"),
        ("[" * 100_000, "corrupt: it is not JSON"),
        ("[]", "no profile of busyhour's; make one with `busyhour learn openai ...`"),
        ('{"name": "x"}', "no profile of busyhour's"),
        ('{"busyhour_profile": 2}', "a profile of format 2, newer than the 1 known here; update busyhour"),
        ('{"busyhour_profile": "1"}', "corrupt: its format is '1'"),
        ('{"busyhour_profile": 1, "vendor": "cartesia"}', "a profile of 'cartesia', not of 'openai'; give that"),
        ('{"busyhour_profile": 1, "vendor": "openai"}', "latencies is missing or no object"),
    ],
)
def test_what_is_no_profile_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(PlanError) as refused:
        read(path, "openai")
    assert str(refused.value).startswith(f"{path}: ")
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"requests": -1}, "requests is -1"),
        ({"latencies": {"first_token": 3}}, "the latency 'first_token' does not say how many were measured"),
        (
            {"latencies": {"first_token": {"n": 1, "distribution": "empirical", "ms": []}}},
            "the list of delays is empty",
        ),
        ({"latencies": {"first_token": {"n": 1, "distribution": "empirical", "ms": ["x"]}}}, "a number of ms"),
        ({"outcomes": {"hang": "often"}}, "'hang' of outcomes is 'often', no number"),
        ({"numbers": []}, "numbers is missing or no object"),
    ],
)
def test_a_damaged_profile_is_one_sentence(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**PROFILE.as_json(), **change}))
    with pytest.raises(PlanError) as refused:
        read(path, "openai")
    assert "the profile is corrupt: " in str(refused.value)
    assert sentence in str(refused.value)


def test_a_profile_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**PROFILE.as_json(), "numbers": {"speed": 2}}))
    with pytest.raises(PlanError, match="it sets speed, which OpenAI does not have; learn it again"):
        learned(OpenAI, path)
    path.write_text(json.dumps({**PROFILE.as_json(), "outcomes": {"explode": 0.5}}))
    with pytest.raises(PlanError, match="outcome 'explode' is unknown here"):
        learned(OpenAI, path)
    with pytest.raises(PlanError, match="give the class of a twin, like OpenAI"):
        learned(dict, path)
    with pytest.raises(PlanError, match="the profile cannot be written there: No such file"):
        PROFILE.write(tmp_path / "no" / "p.json")
