"""Gates from OpenSLO: what is mapped, and that all else is refused with its place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from busyhour import indicators, openslo
from busyhour.arrivals import Burst
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.model import Gate, Outcome, Phase
from busyhour.testing import answered, whole_run
from busyhour.workloads.idle import Idle

STEADY = Phase("steady", Burst(1), Idle(seconds=1))

# As the specification shows its SLOs: one with a threshold for a shop's search, one with a ratio of a web site.
THRESHOLD = """
apiVersion: openslo/v1
kind: SLO
metadata:
  name: fast-answers
  displayName: Callers do not wait
spec:
  description: How long callers wait for an answer.
  service: receptionist
  indicator:
    metadata:
      name: answer-latency
    spec:
      thresholdMetric:
        metricSource:
          type: busyhour
          spec:
            indicator: response_latency
  timeWindow:
    - duration: 2w
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Good experience
      op: lte
      value: 800
      target: 0.95
  alertPolicies:
"""
RATIO = """
apiVersion: openslo/v1
kind: SLO
metadata: {name: answered}
spec:
  service: receptionist
  indicator:
    metadata: {name: turns}
    spec:
      ratioMetric:
        counter: true
        bad:
          metricSource: {type: busyhour, spec: {indicator: missed_turns, phase: outage}}
        total:
          metricSource: {type: busyhour, spec: {}}
  objectives:
    - {displayName: internal, targetPercent: 99.5}
    - {displayName: contract, target: 0.95}
"""
PRODUCTION = """
apiVersion: openslo/v1
kind: SLO
metadata:
  name: calls
  annotations: {busyhour/indicator: call_success}
spec:
  indicatorRef: calls-that-went-well
  budgetingMethod: Occurrences
  objectives: [{target: 0.98}]
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: calls-that-went-well}
spec:
  ratioMetric:
    counter: true
    good: {metricSource: {metricSourceRef: mimir, type: Prometheus, spec: {query: "sum(rate(calls_ok[5m]))"}}}
    total: {metricSource: {metricSourceRef: mimir, type: Prometheus, spec: {query: "sum(rate(calls[5m]))"}}}
---
apiVersion: openslo/v1
kind: Service
metadata: {name: receptionist}
spec: {description: It answers the telephone.}
"""


def gates(tmp_path: Path, text: str, *, phase: Phase | str | None = STEADY, only: tuple[str, ...] = ()) -> list[Gate]:
    path = tmp_path / "slo.yaml"
    path.write_text(text, encoding="utf-8")
    return openslo.gates(path, phase=phase, only=only)


def problems(tmp_path: Path, text: str, *, phase: Phase | str | None = STEADY, only: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(PlanError) as failure:
        gates(tmp_path, text, phase=phase, only=only)
    assert all(problem.startswith(str(tmp_path / "slo.yaml")) for problem in failure.value.problems)
    return [problem.removeprefix(f"{tmp_path / 'slo.yaml'}: ") for problem in failure.value.problems]


# ---------------------------------------------------------------- what is mapped


def test_a_threshold_of_a_share_of_events_is_a_quantile(tmp_path: Path) -> None:
    assert gates(tmp_path, THRESHOLD) == [AtMost(indicators.response_latency("steady", 0.95), 800, "ms")]


def test_a_ratio_has_a_gate_for_each_objective(tmp_path: Path) -> None:
    share = indicators.missed_turns("outage")
    assert gates(tmp_path, RATIO, phase=None) == [AtMost(share, 0.5, "%"), AtMost(share, 5, "%")]


def test_an_slo_for_production_is_judged_by_its_annotation(tmp_path: Path) -> None:
    assert gates(tmp_path, PRODUCTION) == [AtLeast(indicators.call_success("steady"), 98, "%")]


def test_the_sli_may_be_annotated_instead(tmp_path: Path) -> None:
    text = PRODUCTION.replace("  annotations: {busyhour/indicator: call_success}\n", "").replace(
        "metadata: {name: calls-that-went-well}",
        "metadata: {name: calls-that-went-well, annotations: {busyhour/indicator: yield_rate, busyhour/phase: cut in}}",
    )
    assert gates(tmp_path, text) == [AtLeast(indicators.yield_rate("cut in"), 98, "%")]


def test_events_within_a_time_are_good_ones(tmp_path: Path) -> None:
    source = "{type: busyhour, spec: {indicator: first_audio_latency, at_most: 1.5, unit: s}}"
    text = RATIO.replace("bad:", "good:").replace(
        "{type: busyhour, spec: {indicator: missed_turns, phase: outage}}", source
    )
    assert gates(tmp_path, text) == [
        AtMost(indicators.first_audio_latency("steady", q), 1.5, "s") for q in (0.995, 0.95)
    ]


@pytest.mark.parametrize(("kind", "indicator"), [("success", "call_success"), ("failure", "error_rate")])
def test_a_ratio_that_is_one_already(tmp_path: Path, kind: str, indicator: str) -> None:
    metric = (
        f"ratioMetric: {{rawType: {kind}, raw: {{metricSource: {{type: busyhour, spec: {{indicator: {indicator}}}}}}}}}"
    )
    text = f"""
apiVersion: openslo/v1
kind: SLO
metadata: {{name: raw}}
spec:
  indicator: {{spec: {{{metric}}}}}
  objectives: [{{target: 0.9}}]
"""
    expected = {
        "success": AtLeast(indicators.call_success("steady"), 90, "%"),
        "failure": AtMost(indicators.error_rate("steady"), 10, "%"),
    }
    assert gates(tmp_path, text) == [expected[kind]]


def test_the_type_may_be_that_of_the_data_source(tmp_path: Path) -> None:
    source = "---\napiVersion: openslo/v1\nkind: DataSource\nmetadata: {name: ours}\nspec: {type: busyhour}\n"
    text = THRESHOLD.replace("type: busyhour", "metricSourceRef: ours") + source
    assert gates(tmp_path, text) == gates(tmp_path, THRESHOLD)


@pytest.mark.parametrize("indicator", openslo.LATENCIES)
def test_every_latency_is_mapped_in_its_own_unit(tmp_path: Path, indicator: str) -> None:
    (gate,) = gates(tmp_path, THRESHOLD.replace("response_latency", indicator))
    assert isinstance(gate, AtMost)
    assert gate.indicator == getattr(indicators, indicator)("steady", 0.95)
    assert gate.unit == gate.indicator.unit


@pytest.mark.parametrize("indicator", [*openslo.GOOD, *openslo.BAD])
def test_every_share_is_mapped(tmp_path: Path, indicator: str) -> None:
    part = "good" if indicator in openslo.GOOD else "bad"
    (first, _) = gates(tmp_path, RATIO.replace("missed_turns", indicator).replace("bad:", f"{part}:"))
    share = getattr(indicators, indicator)("outage")
    assert first == (AtLeast(share, 99.5, "%") if part == "good" else AtMost(share, 0.5, "%"))


def test_the_gates_judge_a_run(tmp_path: Path) -> None:
    run = whole_run(*(answered([300.0, 500.0], number=n) for n in range(60)))
    (fast,) = gates(tmp_path, THRESHOLD)
    assert fast.judge(run).outcome is Outcome.PASS
    (slow,) = gates(tmp_path, THRESHOLD.replace("value: 800", "value: 400"))
    assert slow.judge(run).outcome is Outcome.FAIL


def test_a_demand_is_made_once_and_only_of_those_that_are_asked_for(tmp_path: Path) -> None:
    both = f"{THRESHOLD}---{THRESHOLD.replace('fast-answers', 'again')}---{RATIO}"
    assert len(gates(tmp_path, both)) == 3
    assert gates(tmp_path, both, only=("again",)) == gates(tmp_path, THRESHOLD)
    assert problems(tmp_path, both, only=("fast-answer",)) == [
        "SLO 'fast-answer': is not in it; did you mean fast-answers?"
    ]


# ---------------------------------------------------------------- what is refused

THRESHOLD_AT, RATIO_AT = "spec.indicator.spec.thresholdMetric", "spec.indicator.spec.ratioMetric"
SOURCE = f"{THRESHOLD_AT}.metricSource.spec"
OUTAGE = "{type: busyhour, spec: {indicator: missed_turns, phase: outage}}"
WRONG = {
    "spec.budgetingMethod: 'Timeslices' has no meaning for a run; Occurrences has": (
        "budgetingMethod: Occurrences",
        "budgetingMethod: Timeslices",
    ),
    "spec.objectives[0]: give either target or targetPercent": (
        "target: 0.95",
        "target: 0.95\n      targetPercent: 95",
    ),
    "spec.objectives[0]: a target of 95 is not between 0 and 1; 0.95 is 95 %": ("target: 0.95", "target: 95"),
    "spec.objectives[0]: a target of 1 is not between 0 and 1; 0.95 is 95 %": ("target: 0.95", "target: 1"),
    "spec.objectives[0]: a target of 0 asks for nothing; 0.95 is 95 %": ("target: 0.95", "target: 0"),
    "spec.objectives[0].target: 'most' is no number": ("target: 0.95", "target: most"),
    "spec.objectives[0].target: True is no number": ("target: 0.95", "target: true"),
    "spec.objectives[0].value: nan is no number": ("value: 800", "value: .nan"),
    "spec.objectives[0].value: None is no number": ("      value: 800\n", ""),
    "spec.objectives[0].op: it is 'gte'; of a latency it can be lte or lt": ("op: lte", "op: gte"),
    "spec.objectives[0]: it is no object, but 'x'": (
        "- displayName: Good experience\n      op: lte\n      value: 800\n      target: 0.95",
        "- x",
    ),
    "spec.objectives: it is missing": ("objectives:", "goals:"),
    "spec: give either indicator or indicatorRef": ("  indicator:\n", "  indicatorRef: x\n  indicator:\n"),
    "spec.indicator: its spec is missing": ("    spec:\n      thresholdMetric", "    sli:\n      thresholdMetric"),
    "spec.indicator.spec: give either thresholdMetric or ratioMetric": ("thresholdMetric:", "averageMetric:"),
    f"{THRESHOLD_AT}.metricSource: it is missing": ("metricSource:", "source:"),
    (
        f"{THRESHOLD_AT}.metricSource: its type is 'Any', which busyhour cannot ask; annotate the "
        "SLO with busyhour/indicator, or give a source of the type busyhour"
    ): ("type: busyhour", "type: Any"),
    (f"{SOURCE}: indicator is 'response_latncy', which has no mapping; did you mean response_latency?"): (
        "response_latency",
        "response_latncy",
    ),
    f"{SOURCE}: q is no setting of it; there are: indicator, phase, unit, at_most": (
        "indicator: response_latency",
        "indicator: response_latency\n            q: 0.9",
    ),
    (
        f"{SOURCE}: call_success is no time of each event, of which a share "
        "could be within a value; give it as a ratioMetric"
    ): ("response_latency", "call_success"),
    (f"{SOURCE}: at_most is for a ratioMetric; a thresholdMetric has the objective's `value`"): (
        "indicator: response_latency",
        "indicator: response_latency\n            at_most: 9",
    ),
    (
        "spec.objectives[0]: p95 response latency in steady <= 800 %: '%' is no unit of it; "
        "give 'ns' or 'us' or 'ms' or 's' or 'min'"
    ): ("indicator: response_latency", "indicator: response_latency\n            unit: '%'"),
}


@pytest.mark.parametrize("said", WRONG, ids=lambda said: said[:60])
def test_what_cannot_be_mapped_is_refused_with_its_place(tmp_path: Path, said: str) -> None:
    old, new = WRONG[said]
    assert old in THRESHOLD
    assert problems(tmp_path, THRESHOLD.replace(old, new)) == [f"SLO 'fast-answers', {said}"]


WRONG_RATIO = {
    f"{RATIO_AT}.good: missed_turns counts what is bad; give it as bad": ("bad:", "good:"),
    f"{RATIO_AT}.bad: call_success counts what is good; give it as good": (
        "missed_turns",
        "call_success",
    ),
    f"{RATIO_AT}: give good and total, or bad and total, or raw and rawType": ("total:", "all:"),
    f"{RATIO_AT}.rawType: it is None; give success or failure": (
        f"bad:\n          metricSource: {OUTAGE}\n        total:",
        "raw:",
    ),
    f"{RATIO_AT}.bad.metricSource.spec: at_most is missing: within what is dead_air good?": (
        "missed_turns",
        "dead_air",
    ),
    f"{RATIO_AT}.bad: what is within at_most is good; give dead_air as good": (
        "missed_turns",
        "dead_air, at_most: 3",
    ),
    (f"{RATIO_AT}.bad.metricSource.spec: at_most has no meaning for missed_turns, which is no time"): (
        "missed_turns",
        "missed_turns, at_most: 3",
    ),
}


@pytest.mark.parametrize("said", WRONG_RATIO, ids=lambda said: said[:60])
def test_a_ratio_that_cannot_be_mapped_is_refused_with_its_place(tmp_path: Path, said: str) -> None:
    old, new = WRONG_RATIO[said]
    assert old in RATIO
    assert problems(tmp_path, RATIO.replace(old, new)) == [f"SLO 'answered', {said}"]


def test_a_phase_must_be_said_somewhere(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, THRESHOLD, phase=None)
    assert problem.endswith("which phase? say it here, as `phase`, or give `phase` to openslo.gates")


def test_an_sli_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = PRODUCTION.replace("indicatorRef: calls-that-went-well", "indicatorRef: calls-that-went-wel")
    (problem,) = problems(tmp_path, text)
    assert problem.startswith("SLO 'calls', spec.indicatorRef: there is no SLI 'calls-that-went-wel' in it; did you")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = f"{THRESHOLD.replace('op: lte', 'op: gt')}---{RATIO.replace('bad:', 'good:')}"
    assert len(problems(tmp_path, text)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no SLO in it"),
        ("- 1\n", "document 1: it is no object, but [1]"),
        (
            "apiVersion: openslo/v1alpha\nkind: SLO\nmetadata: {name: x}\nspec: {}",
            "apiVersion is 'openslo/v1alpha'; openslo/v1",
        ),
        ("apiVersion: openslo/v1\nkind: SLOs\nmetadata: {name: x}\nspec: {}", "kind is 'SLOs'; did you mean SLO?"),
        ("apiVersion: openslo/v1\nkind: SLO\nspec: {}", "metadata.name is missing"),
        ("apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: x}", "spec is missing"),
        ("a: b: c", "it is no YAML: mapping values are not allowed here"),
        ("\x00", "it is no YAML"),
        ("!!python/object/apply:os.system [ls]", "it is no YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_openslo_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in problems(tmp_path, text)[0]


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read: No such file or directory"):
        openslo.gates(tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001)
    with pytest.raises(PlanError, match="it has more than 1 MB"):
        openslo.gates(large)


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    (problem,) = problems(tmp_path, THRESHOLD)
    assert problem.endswith("which is not installed: pip install 'busyhour[openslo]'")
