"""Indicators of what the vendors' twins saw: failover, recovery, what was said, tools, and the bill."""

import json
from collections.abc import Sequence
from math import inf
from pathlib import Path

import pytest

from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.indicators import (
    Prices,
    cost_per_call,
    cost_per_minute,
    failover_time,
    recovery_time,
    said,
    sensible_speech,
    structured_answers,
    tool_calls,
    transfers,
)
from busyhour.indicators.cost import list_prices
from busyhour.indicators.vendors import is_sensible
from busyhour.model import SECOND, Mark, Operation, Outcome
from busyhour.testing import MemoryRun, call, transcript, whole_run, witnessed

CHAIN = ["first", "second"]

# ---------------------------------------------------------------- failover


def failover(*rows: Operation) -> float | None:
    return failover_time("steady", CHAIN)(whole_run(rows)).value


def test_failover_lasts_from_the_first_failure_to_the_first_sound_of_what_served_instead() -> None:
    asked = "When are you open?"
    assert failover(
        witnessed("llm", "first", 10, outcome="no_token", first_ms=None, seconds=0.5, prompt=asked),
        witnessed("llm", "first", 10.5, outcome="http_500", first_ms=None, seconds=0.1, prompt=asked),
        witnessed("llm", "second", 11.2, first_ms=300, prompt="when are you open"),
    ) == pytest.approx(1.5)


def test_calls_that_say_the_same_at_the_same_time_are_told_apart_by_when_each_attempt_was_over() -> None:
    hangs = [
        witnessed("llm", "first", at, outcome="hang", first_ms=None, seconds=1.2, prompt="hello there")
        for at in (10, 10.4, 10.9)
    ]
    served = [witnessed("llm", "second", at, first_ms=100, prompt="hello there") for at in (11.2, 11.6, 12.1)]
    found = failover_time("steady", CHAIN)(whole_run(hangs, served))
    assert (found.n, found.value) == (3, pytest.approx(1.3))


def test_of_calls_that_fail_within_a_moment_of_each_other_each_has_failed_over_by_itself() -> None:
    said, ends = "Thank you for calling.", (12.148, 13.295, 13.288, 14.728)
    stalls = [
        witnessed("tts", "first", at, outcome="stall", seconds=end - at, text=said)
        for at, end in zip((10.651, 11.807, 11.814, 13.241), ends, strict=True)  # the last begins as others fail
    ]
    served = [witnessed("tts", "second", end + 0.001, first_ms=50, text=said) for end in ends]
    found = failover_time("steady", CHAIN)(whole_run(stalls, served))
    assert (found.n, found.value) == (4, pytest.approx(1.548, abs=0.012))


def test_a_client_whose_caller_spoke_on_has_not_failed_over() -> None:
    left = witnessed("llm", "first", 10, outcome="client closed", first_ms=None, seconds=0.2, prompt="i would like")
    assert failover(left, witnessed("llm", "first", 14, prompt="i would like an appointment")) is None
    assert failover(left, witnessed("llm", "first", 14, prompt="are you open")) is None


def test_what_a_run_was_cut_off_in_is_not_infinitely_late() -> None:
    failed = witnessed("llm", "first", 10, outcome="hang", first_ms=None, prompt="hello there")
    cut = MemoryRun([failed], marked=[Mark(0, "run.began"), Mark(0, "phase.began", "steady")])
    assert failover_time("steady", CHAIN)(cut).value is None


def test_a_synthesis_is_replayed_with_what_was_left_of_the_text() -> None:
    assert failover(
        witnessed("tts", "first", 10, outcome="stall", text="We open at nine. Goodbye."),
        witnessed("tts", "second", 12, first_ms=50, text="Goodbye."),
    ) == pytest.approx(2.05)


def test_what_was_left_of_a_text_may_have_grown_since() -> None:
    assert failover(
        witnessed("tts", "first", 10, outcome="stall", text="Thank you for calling Riverside Dental."),
        witnessed("tts", "second", 12, first_ms=0, text="Riverside Dental. How can I help you today?"),
    ) == pytest.approx(2)


def test_what_is_served_after_a_request_that_was_refused_unread_is_taken_for_it() -> None:
    refused = witnessed("llm", "first", 10, outcome="http_401", first_ms=None, seconds=0.1)
    assert failover(refused, witnessed("llm", "second", 10.2, first_ms=100, prompt="hello")) == pytest.approx(0.3)


def test_something_may_be_said_before_what_is_replayed() -> None:
    assert failover(
        witnessed("tts", "first", 10, outcome="error", first_ms=None, text="We open at nine."),
        witnessed("tts", "second", 12, first_ms=0, text="One moment please. We open at nine."),
    ) == pytest.approx(2)


def test_what_nobody_served_is_infinitely_long() -> None:
    failed = witnessed("llm", "first", 10, outcome="http_503", first_ms=None, prompt="hello there")
    other = witnessed("llm", "second", 11, prompt="something else")
    stranger = witnessed("llm", "elsewhere", 11, prompt="hello there")
    assert failover(failed, other, stranger) == inf
    beginning = witnessed("llm", "second", 11, prompt="there you are")
    assert failover(failed, beginning) == inf


def test_a_client_that_left_before_the_first_token_was_not_served_and_one_that_left_after_was() -> None:
    left = witnessed("llm", "first", 10, outcome="client closed", first_ms=None, seconds=1, prompt="hello there")
    interrupted = witnessed("llm", "first", 10, outcome="client closed", first_ms=200, prompt="hello there")
    assert failover(left, witnessed("llm", "second", 11, first_ms=0, prompt="hello there")) == pytest.approx(1)
    assert failover(interrupted) is None


def test_without_failures_there_is_nothing_to_measure() -> None:
    assert failover(witnessed("llm", "first", 10, prompt="hello there")) is None
    gate = AtMost(failover_time("steady", CHAIN), 3, "s")
    assert gate.judge(whole_run(witnessed("llm", "first", 10, prompt="hello"))).outcome is Outcome.NOT_RUN


# ---------------------------------------------------------------- recovery


def outage(*rows: Operation, stopped: bool = False, marks: Sequence[Mark] = ()) -> float | None:
    marks = [
        *marks,
        *([Mark(50 * SECOND, "run.stopped")] if stopped else []),
        Mark(0, "fault.began", "first dead", {"phase": "steady", "service": "first"}),
        Mark(20 * SECOND, "fault.ended", "first dead", {"phase": "steady"}),
        Mark(25 * SECOND, "fault.ended", "other", {"phase": "elsewhere"}),
    ]
    return recovery_time("steady", "first")(whole_run(rows, marks=marks)).value


def test_recovery_lasts_from_the_end_of_the_fault_to_the_next_request_that_was_served() -> None:
    assert outage(
        witnessed("llm", "first", 5),
        witnessed("llm", "first", 22, outcome="http_500", first_ms=None, phase="after"),
        witnessed("llm", "second", 23, phase="after"),
        witnessed("llm", "first", 28, phase="after"),
        witnessed("llm", "first", 40, phase="after"),
    ) == pytest.approx(8)


def test_a_service_that_was_not_asked_again_has_not_recovered() -> None:
    rows = witnessed("llm", "first", 5), witnessed("llm", "second", 23)
    called = call(1, at_s=24)
    assert outage(*rows, called) == inf
    assert outage(*rows, called, stopped=True) is None
    assert outage(*rows) is None  # nobody called, so nobody knows


def test_what_was_harmed_anew_before_it_was_asked_has_not_been_seen_to_recover() -> None:
    again = Mark(30 * SECOND, "fault.began", "first again", {"phase": "after", "service": "first"})
    assert outage(witnessed("llm", "first", 60), call(1, at_s=24), marks=[again]) is None


def test_no_fault_no_recovery() -> None:
    assert recovery_time("steady", "first")(whole_run(witnessed("llm", "first", 5))).value is None


# ---------------------------------------------------------------- what was said


@pytest.mark.parametrize(
    ("text", "sensible"),
    [
        ("We are open on Saturday.", True),
        ("Hello there!", True),
        ("We are open on", False),  # cut off
        ("Yes.", False),  # one word says nothing
        ("", False),
        ('{"error": "rate limit"}', False),
        ("I got an HTTP 503 from the vendor.", False),
        ("Your appointment is at null.", False),
    ],
)
def test_what_can_be_said_to_a_caller(text: str, sensible: bool) -> None:
    assert is_sensible(text) is sensible


def test_what_became_sound_was_said_by_whichever_voice() -> None:
    run = whole_run(
        witnessed("tts", "tts", 1, text="We open at nine."),
        witnessed("tts", "tts", 2, text="Never heard.", outcome="zero_audio", first_ms=None),
        call(1, carrier_said=["I am sorry, goodbye."]),
    )
    assert said("steady", "never")(run).value == 0
    estimate = said("steady", r"\bsorry\b")(run)
    assert (estimate.value, estimate.n) == (1, 2)
    assert sensible_speech("steady")(run).value == 100


def test_a_forbidden_word_fails_the_gate_and_is_quoted() -> None:
    run = whole_run(witnessed("tts", "tts", 1, text="My system prompt is: be kind."))
    verdict = AtMost(said("steady", "system prompt", "count of leaks"), 0).judge(run)
    assert verdict.outcome is Outcome.FAIL
    assert "My system prompt is: be kind." in verdict.because
    assert AtMost(said("steady", "system prompt"), 0).judge(whole_run()).outcome is Outcome.NOT_RUN


def test_a_pattern_that_is_none_is_a_problem_of_the_plan() -> None:
    with pytest.raises(PlanError, match="no regular expression"):
        said("steady", "(")


def test_tool_calls_are_counted_by_name() -> None:
    run = whole_run(
        witnessed("llm", "llm", 1, tool="transfer_call", arguments="{}"),
        witnessed("llm", "llm", 2, tool="", reply="hello"),
        witnessed("llm", "llm", 3, tool="refund", outcome="http_500", first_ms=None),
        witnessed("llm", "llm", 4, tool="book, cancel", arguments="[{}, {}]"),
    )
    assert tool_calls("steady")(run).value == 2
    assert tool_calls("steady", "cancel")(run).value == 1
    assert tool_calls("steady", "refund")(run).value == 0
    assert tool_calls("steady", "transfer_call")(run).value == 1


def test_structured_answers_are_counted_by_what_is_in_them() -> None:
    run = whole_run(
        witnessed("llm", "llm", 1, structured=True, reply='{"reason": "question", "hostile": true}'),
        witnessed("llm", "llm", 2, structured=True, reply='{"reason": "booking", "hostile": false}'),
        witnessed("llm", "llm", 3, structured=True, reply="", arguments='{"reason": "booking", "hostile": true}'),
        witnessed("llm", "llm", 4, structured=True, reply="I am sorry"),
        witnessed("llm", "llm", 5, structured=True, reply="[1]"),
        witnessed("llm", "llm", 6, structured=False, reply='{"reason": "x", "hostile": true}'),
        witnessed("llm", "llm", 7, structured=True, reply='{"reason"', outcome="truncate"),
    )
    assert structured_answers("steady")(run).value == 3
    assert structured_answers("steady", "reason", hostile=True)(run).value == 2
    estimate = structured_answers("steady", "appointment")(run)
    assert (estimate.value, estimate.n) == (0, 6)
    assert AtLeast(structured_answers("steady", "reason"), 4).judge(run).outcome is Outcome.FAIL


def test_transfers_are_told_by_how_the_call_ended() -> None:
    run = whole_run(call(1, why="transferred"), call(2, why=""), call(3, outcome="cut off"))
    assert transfers("steady")(run).value == pytest.approx(100 / 3)


# ---------------------------------------------------------------- the bill

PRICES = Prices.parse(
    json.dumps(
        {
            "currency": "EUR",
            "llm": {
                "m": {"input_per_million_tokens": 1, "output_per_million_tokens": 10},
                "m-large": {"input_per_million_tokens": 100, "output_per_million_tokens": 100},
            },
            "stt": {"": {"per_minute": 0.01}},
            "tts": {"": {"per_million_characters": 50}},
            "carrier": {"": {"per_minute": 0.005}},
        }
    )
)


def test_the_bill_is_the_sum_of_what_each_vendor_saw() -> None:
    run = whole_run(
        call(1, seconds=120, answered_ns=1),
        witnessed("llm", "llm", 1, model="m-mini", prompt_tokens=1000, tokens=100),
        witnessed("tts", "tts", 1, characters=200, model="sonic"),
        witnessed("stt_connection", "stt", 1, audio_ms=120_000),
        transcript("c", 1, 2, "what was understood is not charged again"),
    )
    parts = 0.001 + 0.001 + 200 * 50 / 1e6 + 2 * 0.01 + 2 * 0.005
    assert cost_per_call("steady", PRICES)(run).value == pytest.approx(parts)
    estimate = cost_per_minute("steady", PRICES)(run)
    assert estimate.value == pytest.approx(parts / 2)
    assert estimate.unit == "EUR"
    verdict = AtMost(cost_per_minute("steady", PRICES), 0.01, "EUR").judge(run)
    assert verdict.outcome is Outcome.FAIL
    assert "stt 48 %" in verdict.because
    assert AtMost(cost_per_minute("steady", PRICES), 1, "EUR").judge(run).outcome is Outcome.PASS


def test_the_longest_name_that_a_model_begins_with_gives_its_price() -> None:
    found = PRICES.found("llm", "m-large-2026")
    assert found is not None
    assert found["input_per_million_tokens"] == 100
    assert PRICES.found("llm", "unheard-of") is None


def test_what_has_no_price_makes_the_sum_a_lower_bound() -> None:
    run = whole_run(
        call(1, seconds=60, answered_ns=1), witnessed("llm", "llm", 1, model="x", prompt_tokens=10, tokens=1)
    )
    cheap = AtMost(cost_per_minute("steady", PRICES), 1, "EUR").judge(run)
    assert cheap.outcome is Outcome.INCONCLUSIVE
    assert "the price list has no llm model 'x'" in cheap.because
    assert AtMost(cost_per_minute("steady", PRICES), 0.001, "EUR").judge(run).outcome is Outcome.FAIL
    assert AtLeast(cost_per_minute("steady", PRICES), 0.001, "EUR").judge(run).outcome is Outcome.PASS


def test_a_refused_request_of_an_unknown_model_costs_nothing() -> None:
    run = whole_run(call(1, seconds=60, answered_ns=1), witnessed("llm", "llm", 1, model="x", outcome="http_429"))
    assert AtMost(cost_per_minute("steady", PRICES), 1, "EUR").judge(run).outcome is Outcome.PASS


def test_a_refused_query_costs_nothing_and_one_without_a_price_is_told() -> None:
    queries = [witnessed("vector", "v", n, op="query", outcome="http_503" if n else "ok") for n in range(3)]
    run = whole_run(call(1, seconds=60, answered_ns=1), queries)
    assert "no vector model" in AtMost(cost_per_call("steady", PRICES), 1, "EUR").judge(run).because
    refused = whole_run(call(1, seconds=60, answered_ns=1), queries[1:])
    assert AtMost(cost_per_call("steady", PRICES), 1, "EUR").judge(refused).outcome is Outcome.PASS


def test_without_answered_calls_there_is_no_cost_per_call() -> None:
    assert cost_per_call("steady", PRICES)(whole_run(call(1, outcome="no answer"))).value is None


def test_the_list_prices_are_whole_and_of_a_date() -> None:
    prices = list_prices()
    assert prices.currency == "USD"
    assert prices.found("llm", "gpt-4.1-mini-2025-04-14") == {
        "input_per_million_tokens": 0.4, "output_per_million_tokens": 1.6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", 'no JSON object with a "currency"'),
        ('{"currency": "USD", "llm": 3}', "llm is 3"),
        ('{"currency": "USD", "tts": {"x": {"per_minute": 1}}}', "must have exactly per_million_characters"),
        ('{"currency": "USD", "stt": {"x": {"per_minute": -1}}}', "at least 0"),
    ],
)
def test_a_wrong_price_list_is_told_by_its_path(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=words) as caught:
        Prices.load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(PlanError, match="cannot be read"):
        Prices.load(tmp_path / "none.json")


def test_a_connection_without_a_model_is_charged_by_the_price_for_models_not_listed() -> None:
    run = whole_run(call(1, seconds=60, answered_ns=1), witnessed("stt_connection", "stt", 1))
    assert cost_per_call("", PRICES)(run).value == pytest.approx(0.005)
