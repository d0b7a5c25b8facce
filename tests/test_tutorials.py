"""The second tutorial: its page shows what is in its file, and what is in its file works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial"

SHORT = """
import runpy
from dataclasses import replace

from busyhour import Burst


def short(phase):
    scenarios = [replace(one, steps=one.steps[:2]) for one in phase.workload.scenarios]
    return replace(phase, arrivals=Burst(2), workload=replace(phase.workload, scenarios=scenarios))


def plan(patience: float = 60):
    whole = runpy.run_path("whole.py")["plan"](patience)
    gates = [gate for gate in whole.gates if "dead air" in gate.name]
    return replace(whole, phases=[short(whole.phases[1])], gates=gates, valid_if=(), controls=())
"""
NO_LIMITS = (r"< [0-9.]+", "< 60_000"), (r'\d+, "(ms|s)"', r'60, "\1"')  # of a busy machine


@pytest.mark.long
def test_the_tutorial(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tests as they stand, but for the limits; of the plan of the first tutorial, two calls in the last phase."""
    code = (TUTORIAL / "test_agent.py").read_text()
    page = (TUTORIAL / "02-in-your-own-tests.md").read_text()
    shown = re.findall("```python\n(.*?)```", page, flags=re.DOTALL)
    assert shown
    assert [block for block in shown if block not in code] == []
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for pattern, free in NO_LIMITS:
        code = re.sub(pattern, free, code)
    for name, text in {
        "agent.py": (TUTORIAL / "agent.py").read_text(),
        "whole.py": (TUTORIAL / "first.py").read_text().replace('3, "s"', '60, "s"'),
        "first.py": SHORT,
        "test_agent.py": code,
    }.items():
        (pytester.path / name).write_text(text)
    result = pytester.runpytest_subprocess(
        "-p", "busyhour.pytest_plugin", "-p", "no:cacheprovider", "-p", "xdist", "-n3"
    )
    result.assert_outcomes(passed=3)
