"""The control matrix: what counts as caught, as explained, and as a failure without cause."""

import pytest

from busyhour.matrix import Row, lines, summary
from busyhour.model import Outcome

LATE = Row(
    variation="late",
    outcomes={"latency": Outcome.FAIL, "dead air": Outcome.FAIL, "success": Outcome.PASS},
    red_for=frozenset({"latency"}),
    may_redden=frozenset({"dead air"}),
)


def row(outcome: Outcome, **sets: frozenset[str]) -> Row:
    return Row(variation="v", outcomes={"g": outcome}, **sets)


def test_a_failure_is_meant_or_explained_or_without_cause() -> None:
    assert [LATE.cell(gate) for gate in ("latency", "dead air", "success", "elsewhere")] == ["F", "f", ".", " "]
    assert LATE.caught
    assert LATE.without_cause == ()
    stray = Row(variation="v", outcomes={"latency": Outcome.FAIL, "success": Outcome.FAIL}, red_for=LATE.red_for)
    assert stray.without_cause == ("success",)
    assert stray.cell("success") == "!"


@pytest.mark.parametrize(
    ("outcome", "cell"),
    [(Outcome.PASS, "."), (Outcome.INCONCLUSIVE, "?"), (Outcome.NOT_RUN, "-"), (Outcome.INVALID, "x")],
)
def test_what_is_no_failure_is_not_caught(outcome: Outcome, cell: str) -> None:
    harmful = row(outcome, red_for=frozenset({"g"}))
    assert harmful.cell("g") == cell
    assert not harmful.caught
    assert harmful.without_cause == ()


def test_a_gate_meant_to_fail_that_was_not_judged_is_not_caught() -> None:
    assert not Row(variation="v", outcomes={}, red_for=frozenset({"g"})).caught


def test_the_matrix_names_each_gate_once_and_sums_up() -> None:
    benign = row(Outcome.FAIL, benign_for=frozenset({"g"}))
    text = list(lines([LATE, benign], ["latency", "g", "dead air", "success", "never judged"]))
    assert text[0].split() == ["1", "2", "3", "4"]
    assert text[1].split() == ["late", "F", "f", "."]
    assert text[2].split() == ["v", "!"]
    assert [line.split(maxsplit=1) for line in text[4:8]] == [
        ["1", "latency"], ["2", "g"], ["3", "dead air"], ["4", "success"],
    ]  # fmt: skip
    assert text[-1] == summary([LATE, benign])
    assert summary([LATE, benign]) == (
        "1 of 1 harmful variations are caught by the gates meant for them; 0 of 1 benign ones stay green; "
        "1 gate failed without cause"
    )


def test_a_variation_that_is_red_for_one_gate_and_benign_for_another_counts_as_harmful() -> None:
    both = row(Outcome.FAIL, red_for=frozenset({"g"}), benign_for=frozenset({"other"}))
    assert summary([both]).startswith("1 of 1 harmful variations are caught by the gates meant for them; 0 of 0 benign")


def test_no_rows_make_no_claim() -> None:
    assert "0 of 0" in summary([])


@pytest.mark.parametrize("outcome", [Outcome.INCONCLUSIVE, Outcome.NOT_RUN, Outcome.INVALID])
def test_a_benign_run_that_says_nothing_did_not_stay_green(outcome: Outcome) -> None:
    assert "0 of 1 benign ones stay green" in summary([row(outcome, benign_for=frozenset({"g"}))])
    assert "1 of 1 benign ones stay green" in summary([row(Outcome.PASS, benign_for=frozenset({"g"}))])
    assert "0 of 1 benign ones stay green" in summary([row(Outcome.PASS, benign_for=frozenset({"never judged"}))])
