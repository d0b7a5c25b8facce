"""`busyhour compare`: what is said of two builds, and what is not."""

import io
import json
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from math import inf, log
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.made_runs import PLAN, made, side

from busyhour.cli import main
from busyhour.comparing import telling
from busyhour.comparing.command import arguments, compare
from busyhour.comparing.metrics import Limit, Metric
from busyhour.comparing.reading import ENDED, STAYED_UP
from busyhour.comparing.weighing import Scale
from busyhour.errors import JournalError, PlanError
from busyhour.gates.health import TARGET
from busyhour.statistics.wording import number

LATENCY = "p90 response latency in steady"
SUCCESS = "rate of successful calls in steady"
EVEN = (600, 610, 590, 605, 595)


def compared(*words: object, terminal: bool = False) -> tuple[int, str, dict[str, Any]]:
    """The exit code, the text, the JSON."""
    parser = ArgumentParser()
    arguments(parser, lambda sub: None)
    chosen = parser.parse_args([str(word) for word in words])
    out, json_out = (Terminal() if terminal else io.StringIO()), io.StringIO()
    code = compare(chosen, {}, out, json_out, console=Console(file=io.StringIO()))
    return code, out.getvalue(), json.loads(json_out.getvalue())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def outcomes(told: dict[str, Any]) -> dict[str, str]:
    return {row["metric"]: row["outcome"] for row in told["metrics"]}


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    def make(before: Sequence[float], after: Sequence[float], **more: Any) -> tuple[Path, Path]:
        """Two folders; `more` is of the later build."""
        side(tmp_path, "a", before, first=0)
        side(tmp_path, "b", after, first=1, **more)
        return tmp_path / "a", tmp_path / "b"

    return make


# ---------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("factor", "word", "code"),
    [
        (1.0, "equivalent", 0),
        (1.3, "regression", 1),
        (0.7, "improvement", 0),
        (1.1, "inconclusive", 2),
        (0.9, "no worse", 0),
    ],
)
def test_the_shift_of_five_runs_a_side_decides(runs: Any, factor: float, word: str, code: int) -> None:
    exit_code, text, told = compared(*runs(EVEN, [factor * ms for ms in EVEN]))
    assert outcomes(told) == {LATENCY: word, SUCCESS: "equivalent"}
    assert (exit_code, told["exit_code"], told["outcome"]) == (code, code, word)
    assert f"{word.upper():14}{LATENCY}: " in text


def test_fewer_good_calls_are_worse(runs: Any) -> None:
    before, after = runs(EVEN, EVEN, lost=8)
    code, text, told = compared(before, after)
    assert code == 1
    assert outcomes(told)[SUCCESS] == "regression"
    assert "100 % in A, 80 % in B, -20 pp, worse by more than 1 pp (5 v 5 runs, p .0079 among 2 metrics)" in text


def test_the_other_way_about_it_is_an_improvement(runs: Any) -> None:
    before, after = runs(EVEN, EVEN, lost=8)
    assert outcomes(compared(after, before)[2])[SUCCESS] == "improvement"


def test_the_sentence_names_medians_shift_interval_tolerance_and_chance(runs: Any) -> None:
    _, text, told = compared(*runs(EVEN, [1.3 * ms for ms in EVEN]))
    row = told["metrics"][0]
    low, high = row["low"], row["high"]
    assert (row["tolerance"], row["shift_unit"]) == (10, "%")
    assert 10 < low < row["shift"] < high
    assert f" ms in B, +{number(row['shift'])} % (+{number(low)} to +{number(high)}), worse" in row["because"]
    assert row["because"].endswith("(5 v 5 runs, p .0079 among 2 metrics)")
    assert row["because"] in text


def test_a_tolerance_in_the_metrics_unit_is_of_the_difference(runs: Any) -> None:
    row = compared(*runs(EVEN, [1.3 * ms for ms in EVEN]), "--tolerance", "latency=50ms")[2]["metrics"][0]
    assert (row["tolerance"], row["shift_unit"], row["outcome"]) == (50, "ms", "regression")
    assert row["shift"] == pytest.approx(0.3 * row["median"][0], rel=0.2)


def test_a_share_of_what_may_be_nothing_is_of_the_median() -> None:
    """Counts of 0 have no ratio; five of 100 more against a tenth of 100 are within it."""
    metric = Metric("count of things", "", 1)
    scale = Scale.of(metric, Limit(0.1, is_share=True), [100.0, 0.0, 100.0], [105.0])
    assert scale.unit == ""
    assert scale.bounds == pytest.approx((-10, 10))
    assert Scale.of(metric, Limit(0.1, is_share=True), [100.0], [105.0]).bounds == pytest.approx((log(0.9), log(1.1)))


def test_a_tolerance_may_be_wider_narrower_and_of_one_metric(runs: Any) -> None:
    before, after = runs(EVEN, [1.2 * ms for ms in EVEN], lost=1)
    assert outcomes(compared(before, after)[2]) == {LATENCY: "regression", SUCCESS: "regression"}
    assert compared(before, after, "--tolerance", "50%", "--tolerance", "10pp")[0] == 0
    named = compared(before, after, "--tolerance", "latency=0.5s", "--tolerance", "success=5%")
    assert named[0] == 0
    assert [(row["tolerance"], row["shift_unit"]) for row in named[2]["metrics"]] == [(500, "ms"), (5, "%")]
    assert "--only" not in compared(before, after, "--only", "LATENCY", "--tolerance", "1ms")[1]


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_what_may_be_worse_either_way_has_no_better(tmp_path: Path, factor: float) -> None:
    side(tmp_path, "a", EVEN, first=0, options={"band": "true"})
    side(tmp_path, "b", [factor * ms for ms in EVEN], first=1, options={"band": "true"})
    rows = {row["metric"]: row for row in compared(tmp_path / "a", tmp_path / "b")[2]["metrics"]}
    assert rows["p50 response latency in steady"]["worse"] == "either"
    assert rows["p50 response latency in steady"]["outcome"] == "regression"


# ---------------------------------------------------------------- too little to tell


def test_one_run_a_side_is_never_more_than_inconclusive(tmp_path: Path) -> None:
    first, last = made(tmp_path / "a.journal", 600), made(tmp_path / "b.journal", 1200, at=1)
    code, text, told = compared(first, last)
    assert (code, outcomes(told)[LATENCY]) == (2, "inconclusive")
    row = told["metrics"][0]
    assert row["of_calls"]
    assert row["low"] > 300
    assert row["because"].endswith(" by calls alone, one run a side)")
    assert (row["shift_unit"], row["tolerance"]) == ("ms", pytest.approx(row["median"][0] / 10))
    assert "How much runs differ from each other, and machines, is not in them" in text


def test_fewer_than_five_runs_say_what_they_could_reach(runs: Any) -> None:
    code, text, _ = compared(*runs(EVEN[:4], [900, 910, 905, 890]))
    assert code == 2
    assert "4 v 4 runs can reach p .014 at best, make 5 a side" in text


def test_among_many_metrics_five_runs_cannot_show_a_regression_and_say_so(tmp_path: Path) -> None:
    plan = tmp_path / "many.py"
    quantiles = ", ".join(f"AtMost(response_latency(steady, q={q / 100}), 1000, 'ms')" for q in range(50, 66))
    plan.write_text(PLAN.read_text().replace('AtMost(response_latency(steady, q=0.9), limit_ms, "ms")', quantiles))
    before, after = tmp_path / "a", tmp_path / "b"
    for n, ms in enumerate(EVEN):
        made(before / f"{n}.journal", ms, at=2 * n, seed=n, plan=plan)
        made(after / f"{n}.journal", 2 * ms, at=2 * n + 1, seed=n, plan=plan)
    code, text, told = compared(before, after)
    assert (code, told["outcome"]) == (2, "inconclusive")
    assert "5 v 5 runs cannot show a regression among 17 metrics, only that there is none: make 6 runs a side" in text
    assert "alone it would be a regression, but 5 v 5 runs can reach p .004 at best, and among 17 metrics" in text
    assert compared(before, after, "--only", "p50")[0] == 1


def test_what_was_never_answered_is_worse_than_any_answer(runs: Any) -> None:
    code, text, told = compared(*runs(EVEN, [inf] * 5))
    assert code == 1
    row = told["metrics"][0]
    assert (row["shift"], row["low"]) == ("infinity", "infinity")
    assert "infinite in B, +infinite, worse" in text


def test_what_was_measured_on_one_side_only_is_not_decided(runs: Any) -> None:
    code, text, _ = compared(*runs(EVEN, EVEN, calls=0))
    assert code == 2
    assert f"{LATENCY}: not measured in B" in text


# ---------------------------------------------------------------- runs that do not count


def test_invalid_runs_and_runs_cut_short_are_left_out_and_named(runs: Any) -> None:
    before, after = runs(EVEN, EVEN)
    made(after / "killed.journal", 5000, at=60, seed=8, end="")
    made(after / "stopped.journal", 5000, at=61, seed=9, end="run.stopped")
    code, text, told = compared(before, after)
    assert code == 0
    assert "killed.journal: it is INVALID: the journal is whole: it breaks off" in text
    assert "stopped.journal: it was cut short: stopped by Ctrl-C" in text
    assert [bool(run["left_out"]) for run in told["b"]] == [False] * 5 + [True] * 2


def test_without_a_run_that_counts_nothing_is_decided(runs: Any) -> None:
    code, text, _ = compared(*runs(EVEN, EVEN, end=""))
    assert code == 2
    assert "B has no run that counts, so that nothing is compared" in text
    assert text.rstrip().endswith("INCONCLUSIVE")


@pytest.mark.parametrize(("dead", "code"), [(1, 2), (5, 1)])
def test_a_build_whose_target_dies_is_no_good_however_fast_it_is(tmp_path: Path, dead: int, code: int) -> None:
    side(tmp_path, "a", EVEN, first=0)
    for n in range(5):
        late = {"end": "run.stopped", "died": True} if n < dead else {}
        made(tmp_path / "b" / f"{n}.journal", 300, at=1 + 2 * n, seed=n, **late)  # type: ignore[arg-type]
    exit_code, text, _ = compared(tmp_path / "a", tmp_path / "b")
    assert exit_code == code
    assert f"deaths of the target: in 0 of 5 runs of A, in {dead} of 5 runs of B" in text


def test_the_names_by_which_runs_are_left_out_are_the_verdicts() -> None:
    assert {STAYED_UP, ENDED} <= {check.name for check in TARGET}


# ---------------------------------------------------------------- what else differs


@pytest.mark.parametrize(
    ("unlike", "sentence"),
    [
        (
            {"machine": "Linux arm64, 64 cores"},
            "the machine differs: Linux x86_64, 2 cores in A; Linux arm64, 64 cores in B",
        ),
        ({"options": {"limit_ms": "5"}}, "the plan's options differ: none in A; limit_ms=5 in B"),
        ({"processes": 2}, "the number of processes of the harness differs: 1 in A; 2 in B"),
        ({"source": "plan = 1\n"}, "the plan differs: plan 1 in A; plan 2 in B (21 lines, the first is line 1)"),
    ],
)
def test_runs_that_differ_by_more_than_the_build_are_refused(runs: Any, unlike: dict[str, Any], sentence: str) -> None:
    before, after = runs(EVEN, EVEN, **unlike)
    with pytest.raises(PlanError) as refused:
        compared(before, after)
    assert sentence in str(refused.value)
    assert "--even-if-different" in str(refused.value)
    code, text, told = compared(before, after, "--even-if-different")
    assert code == 0
    assert f"different: {sentence}" in text
    assert told["differs"] == [sentence]


def test_runs_of_other_phases_are_refused(runs: Any) -> None:
    before, after = runs(EVEN, EVEN, phases=("steady", "outage"))
    with pytest.raises(PlanError, match="the list of phases carried out differs: steady in A; steady, outage in B"):
        compared(before, after)
    assert compared(before, after, "--even-if-different")[0] == 0


def test_an_option_that_names_the_build_may_differ(runs: Any) -> None:
    before, after = runs(EVEN, EVEN, options={"limit_ms": "900"})
    assert compared(before, after, "--build", "limit_ms")[0] == 0


def test_other_callers_on_one_side_are_refused(tmp_path: Path) -> None:
    for n in range(5):
        made(tmp_path / "a" / f"{n}.journal", EVEN[n], at=2 * n, seed=0)
        made(tmp_path / "b" / f"{n}.journal", EVEN[n], at=2 * n + 1, seed=1)
    with pytest.raises(PlanError, match="the seed differs: 0 in A; 1 in B: other callers"):
        compared(tmp_path / "a", tmp_path / "b")


def test_the_same_callers_in_every_run_are_told(tmp_path: Path) -> None:
    for n in range(5):
        made(tmp_path / "a" / f"{n}.journal", EVEN[n], at=2 * n)
        made(tmp_path / "b" / f"{n}.journal", EVEN[n], at=2 * n + 1)
    assert (
        "all runs have the seed 0: the same callers in each, of whom this holds"
        in compared(tmp_path / "a", tmp_path / "b")[1]
    )


def test_versions_and_an_order_without_turns_are_told(tmp_path: Path) -> None:
    side(tmp_path, "a", EVEN, first=0)
    side(tmp_path, "b", EVEN, first=100, version="0.2.0", commit="3f2a")
    _, text, _ = compared(tmp_path / "a", tmp_path / "b")
    assert "note: the version of busyhour differs: 0.1.0 in A; 0.2.0 in B" in text
    assert "note: all runs of A were made before those of B" in text
    assert "B  5 runs of compared.py, 2026-11-20 01:40 UTC to 2026-11-20 01:48 UTC, commit 3f2a, busyhour 0.2.0" in text


def test_a_plan_edited_since_judges_as_it_is_now_and_says_so(runs: Any, tmp_path: Path) -> None:
    before, after = runs(EVEN, EVEN)
    plan = tmp_path / "edited.py"
    plan.write_text(f"{PLAN.read_text()}\n# edited\n")
    _, text, _ = compared(before, after, "--plan", plan)
    assert f"note: {plan} has changed since these runs were made" in text


# ---------------------------------------------------------------- the command line


def test_runs_may_be_named_one_by_one(runs: Any) -> None:
    before, after = runs(EVEN, EVEN)
    listed = compared(*sorted(before.iterdir()), "--to", *sorted(after.iterdir()))
    assert listed[2] == compared(before, after)[2]


def test_wrong_words_are_refused_with_the_mend(runs: Any, tmp_path: Path) -> None:
    before, after = runs(EVEN, EVEN)
    (empty := tmp_path / "empty").mkdir()
    wrong: list[tuple[type[Exception], list[object], str]] = [
        (PlanError, [before], "only one was given"),
        (PlanError, [before, after, after], "3 were given"),
        (PlanError, [before, before], "it is named twice; each run counts once"),
        (PlanError, [before, after, "--tolerance", "x"], "--tolerance x: write it as 5%"),
        (PlanError, [before, after, "--tolerance", "=5%"], "write it as 5%"),
        (PlanError, [before, after, "--tolerance", "laten=5%", "--tolerance", "nope=5%"], "nope=...: no metric"),
        (PlanError, [before, after, "--tolerance", "latency=5KB"], "KB is not what is measured; give % or one of: ms"),
        (PlanError, [before, after, "--only", "nope"], "there are: p90 response latency in steady; rate of"),
        (PlanError, [before, after, "--plan", tmp_path / "nowhere.py"], "there is no such plan file"),
        (JournalError, [before, tmp_path / "nowhere.journal"], "there is no journal"),
        (JournalError, [before, empty], "there is no journal in this folder"),
    ]
    for kind, words, sentence in wrong:
        with pytest.raises(kind) as refused:
            compared(*words)
        assert sentence in str(refused.value)


def test_a_copy_of_a_run_is_no_second_run(runs: Any) -> None:
    before, after = runs(EVEN, EVEN)
    (before / "copy.journal").write_bytes((before / "a0.journal").read_bytes())
    with pytest.raises(PlanError, match=r"copy\.journal: it is the same run as .*a0\.journal; each run counts once"):
        compared(before, after)


def test_a_plan_that_is_gone_can_be_given(tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    gone.write_text(PLAN.read_text())
    runs = [made(tmp_path / f"{n}.journal", 600, at=n, plan=gone) for n in range(2)]
    gone.unlink()
    with pytest.raises(PlanError, match=r"gone\.py: the plan that made .* is no longer there; give it with --plan"):
        compared(*runs)
    assert compared(*runs, "--plan", PLAN)[0] == 2


def test_the_json_has_the_shape_that_its_module_describes(runs: Any) -> None:
    told = compared(*runs(EVEN, EVEN))[2]
    described = telling.__doc__ or ""
    for part in (told, told["metrics"][0], told["a"][0]):
        assert all(f'"{key}"' in described for key in part)
    assert (told["format"], told["version"], told["alpha"]) == ("busyhour.comparison", 1, 0.05)
    assert told["a"][0]["values"][SUCCESS] == 100


def test_the_command_line_gives_the_exit_code(runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = map(str, runs(EVEN, [1.3 * ms for ms in EVEN]))
    assert main(["compare", before, after, "--json", str(tmp_path / "out.json")]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["outcome"] == "regression"
    assert main(["compare", after, before]) == 0
    assert main(["compare", before, after, "--tolerance", "nonsense"]) == 64
    assert main(["compare", before, str(tmp_path / "nowhere")]) == 66
    assert main(["history", before]) == 0
    assert "a change is looked for from 6 runs on: 1 more" in capsys.readouterr().out


def test_a_terminal_is_no_wider_than_80_columns_and_a_pipe_has_a_sentence_a_line(
    runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    before, after = runs(EVEN, [1.3 * ms for ms in EVEN])
    shown, piped = compared(before, after, terminal=True)[1], compared(before, after)[1]
    assert "\x1b[" in shown
    assert "\x1b[" not in piped
    monkeypatch.setenv("NO_COLOR", "1")
    plain = compared(before, after, terminal=True)[1]
    assert "\x1b[3" not in plain
    bare = plain.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, bare.splitlines())) <= 80
    assert " ".join(bare.split()) == " ".join(piped.split())
