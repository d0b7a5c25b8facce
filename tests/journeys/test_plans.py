"""The plans that are shipped, each carried out in little: they are examples, and examples have to work.

In little: few calls, and of most plans only the first steps of each; all phases, faults and gates are there. Whether
the harness was late is a gate like the others: a busy machine may make it so, which is no failure of the example.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SHORTER = """
import runpy
from dataclasses import replace

from busyhour import Burst, Call
from busyhour.workloads.idle import Idle


def little(phase):
    if isinstance(phase.workload, Idle):
        return replace(phase, workload=Idle(seconds=0.5))
    if not isinstance(phase.workload, Call):
        return phase
    scenarios = [replace(scenario, steps=scenario.steps[:{steps}]) for scenario in phase.workload.scenarios]
    arrivals = Burst({calls}) if {calls} else phase.arrivals
    return replace(phase, arrivals=arrivals, workload=replace(phase.workload, scenarios=scenarios))


def plan():
    whole = runpy.run_path({path!r})["plan"](**{options!r})
    lateness = [gate for gate in whole.valid_if if gate.name.startswith({lateness!r})]
    return replace(
        whole,
        phases=[little(phase) for phase in whole.phases],
        gates=[*whole.gates, *lateness],
        valid_if=[gate for gate in whole.valid_if if gate not in lateness],
    )
"""
LATENESS = ("p99 send lateness", "p99 loop lag of the harness")


def shorter(folder: Path, path: str, *, steps: int = 99, calls: int = 0, **options: object) -> str:
    """A plan file beside the journal: that plan with so many steps a call, and so many calls at once in each phase."""
    written = folder / "little.py"
    written.write_text(SHORTER.format(path=path, steps=steps, calls=calls, options=options, lateness=LATENESS))
    return str(written)


def check(plan: str, *wanted: str, folder: Path) -> None:
    """These gates pass, and no other fails, if the harness was not late."""
    verdicts = folder / "verdicts.json"
    argv = [sys.executable, "-m", "busyhour", "run", plan, "--json", str(verdicts)]
    argv += ["--journal", str(folder / "run.journal")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in {0, 1, 2}, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(verdicts.read_text())
    assert {verdict["outcome"] for verdict in told["validity"]} == {"pass"}, done.stdout
    found = {verdict["gate"]: verdict["outcome"] for verdict in told["verdicts"]}
    late = {gate for gate in found if gate.startswith(LATENESS) and found[gate] != "pass"}
    assert {gate: found[gate] for gate in wanted} == dict.fromkeys(wanted, "pass"), done.stdout
    # So few calls are little evidence.
    assert late or set(found.values()) <= {"pass", "inconclusive"}, done.stdout


def test_the_telephone_plan(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/telephone.py", steps=2, scale=0.05)
    silence = ("longest dead air in steady <= 3 s", "longest dead air in llm brown-out <= 3 s")
    check(plan, *silence, "the target stayed up", folder=tmp_path)


def test_the_resilience_plan(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/resilience.py", steps=2, scale=0.15, only="llm HTTP 500")
    wanted = ("longest dead air in all outages <= 3 s", "longest failover time in all outages <= 3 s")
    check(plan, *wanted, folder=tmp_path)


def test_the_adversarial_plan(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/adversarial.py", only="data", scale=0.2)
    check(plan, "count of other people's data in data exfiltration <= 0", "the target stayed up", folder=tmp_path)


def test_the_plan_of_the_tutorial_with_its_agent(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "docs/tutorial/first.py", steps=2, calls=2, patience=1.5)
    check(plan, "longest dead air in silent model <= 3 s", folder=tmp_path)


def test_the_backend_plan(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/backend.py", scale=0.1, per_user=5)
    wanted = ("error rate in steady <= 1 %", "request rate in steady >= 45 /s", "the target stayed up")
    check(plan, *wanted, folder=tmp_path)


def test_the_soak_plan_without_its_hours(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/soak.py", steps=1, calls=3, scale=0, kb_per_call=5000)
    kept = "private dirty memory kept per call by voice-agent from {} <= 5000 KB"
    wanted = (kept.format("warm-up to batch 3"), kept.format("given up 1 to given up 4"))
    check(plan, *wanted, "the target stayed up", folder=tmp_path)  # what is left so soon after calls, may go yet
