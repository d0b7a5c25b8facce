"""The page of the control matrix says of each plan what its proofs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "control-matrix.md").read_text(encoding="utf-8")
PLANS = sorted(path.name.removesuffix(".proofs.json") for path in (ROOT / "plans").glob("*.proofs.json"))


def proven(plan: str) -> dict[str, bool]:
    gates = json.loads((ROOT / "plans" / f"{plan}.proofs.json").read_text(encoding="utf-8"))["gates"]
    return {name: gate["status"] == "proven" for name, gate in gates.items()}


def section(plan: str) -> str:
    return PAGE.partition(f"## plans/{plan}.py: ")[2].partition("\n## ")[0]


@pytest.mark.parametrize("plan", PLANS)
def test_it_counts_the_proven(plan: str) -> None:
    gates = proven(plan)
    assert section(plan).splitlines()[0] == f"{sum(gates.values())} of {len(gates)} gates PROVEN"


@pytest.mark.parametrize("plan", PLANS)
def test_each_gate_that_is_proven_is_turned_red_by_a_variation(plan: str) -> None:
    rows = re.findall(r"^\| `[^|]+` \| ([^|]+) \|", section(plan), flags=re.MULTILINE)
    red = {gate.strip() for row in rows for gate in row.split(";")}
    gates = proven(plan)
    assert red <= gates.keys()
    assert {gate for gate in gates if gates[gate]} <= red


@pytest.mark.parametrize("plan", PLANS)
def test_each_gate_that_is_not_is_told_of(plan: str) -> None:
    missing = [gate for gate, done in proven(plan).items() if not done and f'"{gate}"' not in section(plan)]
    assert missing == []
