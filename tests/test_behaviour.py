"""Latency distributions and fates: what is drawn, what is refused, and that a run replays."""

from __future__ import annotations

import json
import math
from random import Random
from statistics import median, quantiles
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from busyhour.emulators.behaviour import (
    LONGEST_MS,
    Behaviour,
    Constant,
    Empirical,
    Latency,
    LogNormal,
    latency_from_json,
)
from busyhour.errors import PlanError

NAN, INF = math.nan, math.inf


def behaviour(**changes: Any) -> Behaviour:
    settings: dict[str, Any] = {
        "possible": ("http_500", "hang", "stall"),
        "latencies": {"first_token": Constant(100)},
        "numbers": {"realtime_factor": 4.0},
        "seed": 3,
    }
    return Behaviour(**{**settings, **changes})


@pytest.mark.parametrize("latency", [Constant(0), Constant(12.5), LogNormal(350, 0.4), Empirical([3, 1, 2.5])])
def test_json_round_trip(latency: Latency) -> None:
    assert latency_from_json(json.loads(json.dumps(latency.as_json()))) == latency


def test_a_bare_number_is_a_constant() -> None:
    assert latency_from_json(80) == Constant(80)


@pytest.mark.parametrize("ms", [-1, -0.001, NAN, INF, LONGEST_MS + 1, True, "80", None])
def test_an_impossible_constant_is_refused(ms: Any) -> None:
    with pytest.raises(PlanError, match="must be a number of ms from 0 to"):
        Constant(ms)


@pytest.mark.parametrize(
    ("median_ms", "sigma", "sentence"),
    [
        (-5, 0.4, "median_ms is -5"),
        (NAN, 0.4, "median_ms is nan"),
        (0, 0.4, "use Constant"),
        (300, -0.1, "sigma is -0.1"),
        (300, NAN, "sigma is nan"),
        (300, 6, "sigma is 6"),
        (300, "0.4", "sigma is '0.4'"),
    ],
)
def test_an_impossible_lognormal_is_refused(median_ms: Any, sigma: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        LogNormal(median_ms, sigma)


@pytest.mark.parametrize(("ms", "sentence"), [([], "empty"), ([1, -2], "-2"), ([NAN], "nan")])
def test_an_impossible_empirical_is_refused(ms: list[float], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Empirical(ms)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        ({"distribution": "normal", "ms": 3}, "known are constant, lognormal and empirical"),
        ({"ms": 3}, "distribution is None"),
        ({"distribution": ["constant"], "ms": 3}, "known are"),
        ({"distribution": "constant"}, "has exactly ms, got nothing"),
        ({"distribution": "constant", "ms": 3, "sigma": 1}, "has exactly ms, got ms, sigma"),
        ({"distribution": "constant", "ms": "3"}, "is '3'"),
        ({"distribution": "empirical", "ms": 3}, "must be a list"),
        ({"distribution": "empirical", "ms": "123"}, "must be a list"),
        ({"distribution": "lognormal", "median_ms": 3, "sigma": None}, "sigma is None"),
        ("80", "must be a number of ms or an object"),
        (True, "must be a number of ms or an object"),
        (NAN, "must be a number of ms or an object"),
        ([80], "must be a number of ms or an object"),
    ],
)
def test_wrong_json_is_refused_with_its_name(form: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence) as refused:
        latency_from_json(form, "first_token")
    assert str(refused.value).startswith("first_token")


def test_lognormal_has_the_median_and_the_tail_it_says() -> None:
    random = Random(1)
    drawn = [LogNormal(350, 0.4).sample_ms(random) for _ in range(20_000)]
    assert median(drawn) == pytest.approx(350, rel=0.02)
    assert quantiles(drawn, n=20)[-1] == pytest.approx(350 * math.exp(1.645 * 0.4), rel=0.03)


def test_no_delay_is_longer_than_an_hour() -> None:
    random = Random(1)
    assert max(LogNormal(LONGEST_MS, 5).sample_ms(random) for _ in range(1000)) == LONGEST_MS


def test_empirical_draws_each_value_equally_often() -> None:
    random = Random(1)
    drawn = [Empirical([10, 20, 30]).sample_ms(random) for _ in range(3000)]
    assert set(drawn) == {10, 20, 30}
    assert min(drawn.count(value) for value in (10, 20, 30)) > 900


# ---------------------------------------------------------------- fates


def test_a_run_replays() -> None:
    first = [behaviour(outcomes={"hang": 0.3}).draw("request", n, ("hang",)).outcome for n in range(200)]
    again = [behaviour(outcomes={"hang": 0.3}).draw("request", n, ("hang",)).outcome for n in range(200)]
    other = [behaviour(outcomes={"hang": 0.3}, seed=4).draw("request", n, ("hang",)).outcome for n in range(200)]
    assert first == again
    assert first != other


def test_outcomes_come_in_their_shares() -> None:
    shares = behaviour(outcomes={"hang": 0.2, "http_500": 0.3})
    drawn = [shares.draw("request", n, ("hang", "http_500")).outcome for n in range(5000)]
    assert drawn.count("hang") / 5000 == pytest.approx(0.2, abs=0.02)
    assert drawn.count("http_500") / 5000 == pytest.approx(0.3, abs=0.02)
    assert drawn.count("ok") / 5000 == pytest.approx(0.5, abs=0.02)


def test_a_stream_meets_only_the_outcomes_that_concern_it() -> None:
    shares = behaviour(outcomes={"hang": 0.5, "http_500": 0.5})
    drawn = {shares.draw("connection", n, ("http_500",)).outcome for n in range(200)}
    assert drawn == {"ok", "http_500"}
    assert behaviour(outcomes={"hang": 1}).draw("request", 0, ("hang",)).outcome == "hang"


def test_streams_are_drawn_apart() -> None:
    shares = behaviour(outcomes={"hang": 0.5})
    fates = {stream: [shares.draw(stream, n, ("hang",)).outcome for n in range(64)] for stream in ("a", "b")}
    assert fates["a"] != fates["b"]


def test_a_change_of_shares_leaves_latencies_as_they_were() -> None:
    calm, ill = (
        behaviour(latencies={"first_token": LogNormal(300, 0.5)}, outcomes=outcomes)
        for outcomes in ({}, {"hang": 0.5, "http_500": 0.5})
    )
    for number in range(20):
        delays = [b.delay_ns("first_token", b.draw("r", number, ("hang", "http_500")).random) for b in (calm, ill)]
        assert delays[0] == delays[1]


def test_a_delay_is_in_nanoseconds() -> None:
    assert behaviour().delay_ns("first_token", Random(0)) == 100_000_000


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outcomes": {429: 0.1}}, "outcome 429 is unknown here; possible are hang, http_500, stall."),
        (
            {"outcomes": {"stalls": 0.1}},
            "'stalls' is unknown here; possible are hang, http_500, stall; did you mean stall?",
        ),
        ({"outcomes": {"explode": 0.1}}, "'explode' is unknown here; possible are hang, http_500, stall"),
        ({"outcomes": {"hang": -0.1}}, "share of outcome 'hang' is -0.1"),
        ({"outcomes": {"hang": 1.1}}, "from 0 to 1"),
        ({"outcomes": {"hang": NAN}}, "nan"),
        ({"outcomes": {"hang": "all"}}, "'all'"),
        ({"outcomes": {"hang": 0.6, "stall": 0.6}}, "add up to 1.2"),
        ({"numbers": {"realtime_factor": 0}}, "realtime_factor is 0"),
        ({"numbers": {"realtime_factor": NAN}}, "realtime_factor is nan"),
        ({"seed": 1.5}, "seed is 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        behaviour(**changes)


def test_shares_that_add_up_to_one_in_floating_point_are_accepted() -> None:
    thirds = {"hang": 0.33, "stall": 0.56, "http_500": 0.11}
    assert sum(thirds.values()) > 1
    assert behaviour(outcomes=thirds).outcomes == thirds


def test_a_partial_change_leaves_the_rest() -> None:
    before = behaviour(outcomes={"hang": 0.5})
    after = before.changed({"first_token": {"distribution": "constant", "ms": 7}})
    assert after.latencies["first_token"] == Constant(7)
    assert (after.outcomes, after.numbers, after.seed) == ({"hang": 0.5}, {"realtime_factor": 4.0}, 3)


def test_outcomes_are_replaced_as_a_whole() -> None:
    after = behaviour(outcomes={"hang": 0.5}).changed({"outcomes": {"stall": 1}})
    assert after.outcomes == {"stall": 1}


def test_what_was_told_can_be_sent_back() -> None:
    before = behaviour(outcomes={"hang": 0.25}, latencies={"first_token": LogNormal(30, 0.1)})
    told = json.loads(json.dumps({**before.as_json(), "served": {"ok": 3}}))
    assert behaviour().changed(told) == before


def test_every_problem_of_a_change_is_listed() -> None:
    with pytest.raises(PlanError) as refused:
        behaviour().changed({"first_token": -1, "outcomes": 3, "realtime_factor": -1, "voice": "x", "seed": "y"})
    told = str(refused.value)
    for part in ("first_token is -1", "outcomes is 3", "realtime_factor is -1", "'voice' is unknown", "seed is 'y'"):
        assert part in told


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
    | st.dictionaries(
        st.sampled_from(["first_token", "outcomes", "seed", "realtime_factor", "served"]),
        st.none() | st.floats() | st.text() | st.dictionaries(st.text(), st.floats()) | st.lists(st.floats()),
    )
)
def test_no_json_breaks_it(change: Any) -> None:
    before = behaviour()
    try:
        after = before.changed(change)
    except PlanError:
        return
    assert json.loads(json.dumps(after.as_json(), allow_nan=False)).keys() == before.as_json().keys()


# ---------------------------------------------------------------- switches


@pytest.mark.parametrize(("given", "is_on"), [(True, True), (1, True), (1.0, True), (False, False), (0, False)])
def test_a_switch_is_true_or_false_and_may_be_written_as_a_number(given: Any, is_on: bool) -> None:
    whole = behaviour(switches={"gullible": False}).changed({"gullible": given})
    assert whole.switches == {"gullible": is_on}
    assert whole.as_json()["gullible"] is is_on
    assert whole.changed(json.loads(json.dumps(whole.as_json()))) == whole


@pytest.mark.parametrize("given", [2, -1, 0.5, "yes", "true", None, [], NAN])
def test_what_is_no_switch_is_refused(given: Any) -> None:
    with pytest.raises(PlanError, match=r"gullible is .* it is a switch: true or false"):
        behaviour(switches={"gullible": False}).changed({"gullible": given})
