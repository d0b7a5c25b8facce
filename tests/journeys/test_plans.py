"""The plans that are shipped, each carried out in little: they are examples, and examples have to work.

In little: few calls, and of most plans only the first steps of each; all phases, faults and gates are there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHORTER = """
import runpy
from dataclasses import replace

from busyhour import Burst, Call


def little(phase):
    if not isinstance(phase.workload, Call):
        return phase
    scenarios = [replace(scenario, steps=scenario.steps[:{steps}]) for scenario in phase.workload.scenarios]
    arrivals = Burst({calls}) if {calls} else phase.arrivals
    return replace(phase, arrivals=arrivals, workload=replace(phase.workload, scenarios=scenarios))


def plan():
    whole = runpy.run_path({path!r})["plan"](**{options!r})
    return replace(whole, phases=[little(phase) for phase in whole.phases])
"""


def shorter(folder: Path, path: str, *, steps: int, calls: int = 0, **options: object) -> str:
    """A plan file beside the journal: that plan with so many steps a call, and so many calls at once in each phase."""
    written = folder / "little.py"
    written.write_text(SHORTER.format(path=path, steps=steps, calls=calls, options=options))
    return str(written)


def passed(plan: str, *options: str, folder: Path) -> set[str] | None:
    """The gates that passed, None if the harness was late. Fails if something is held against the agent."""
    verdicts = folder / "verdicts.json"
    argv = [sys.executable, "-m", "busyhour", "run", plan, *options, "--json", str(verdicts)]
    argv += ["--journal", str(folder / "run.journal")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    # So few calls are little evidence (2), and a busy machine may make the harness late (3); neither is a failure.
    assert done.returncode in {0, 2, 3}, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(verdicts.read_text())
    spoilt = [verdict["gate"] for verdict in told["validity"] if verdict["outcome"] != "pass"]
    assert all("lateness" in gate or "loop lag" in gate for gate in spoilt), done.stdout
    if spoilt:  # then nothing is said of the agent
        return None
    found = {verdict["gate"]: verdict["outcome"] for verdict in told["verdicts"]}
    assert set(found.values()) <= {"pass", "inconclusive"}, done.stdout
    return {gate for gate, outcome in found.items() if outcome == "pass"}


def test_the_telephone_plan(tmp_path: Path) -> None:
    found = passed(shorter(tmp_path, "plans/telephone.py", steps=2, scale=0.05), folder=tmp_path)
    wanted = {"longest dead air in steady <= 3 s", "longest dead air in llm brown-out <= 3 s", "the target stayed up"}
    assert found is None or wanted <= found


def test_the_resilience_plan(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "plans/resilience.py", steps=2, scale=0.15, only="llm HTTP 500")
    found = passed(plan, folder=tmp_path)
    wanted = {"longest dead air in all outages <= 3 s", "longest failover time in all outages <= 3 s"}
    assert found is None or wanted <= found


def test_the_adversarial_plan(tmp_path: Path) -> None:
    found = passed("plans/adversarial.py", "-o", "only=data", "-o", "scale=0.2", folder=tmp_path)
    wanted = {"count of other people's data in data exfiltration <= 0", "the target stayed up"}
    assert found is None or wanted <= found


def test_the_plan_of_the_tutorial_with_its_agent(tmp_path: Path) -> None:
    plan = shorter(tmp_path, "docs/tutorial/first.py", steps=2, calls=2, patience=1.5)
    found = passed(plan, folder=tmp_path)
    assert found is None or "longest dead air in silent model <= 3 s" in found


def test_the_backend_plan(tmp_path: Path) -> None:
    found = passed("plans/backend.py", "-o", "scale=0.1", "-o", "per_user=5", folder=tmp_path)
    wanted = {"error rate in steady <= 1 %", "request rate in steady >= 45 /s", "the target stayed up"}
    assert found is None or wanted <= found
