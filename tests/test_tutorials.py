"""The tutorials: their pages show what is in their files, and what is in their files works."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from busyhour import planfile

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


def agent(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for vendor in ("DEEPGRAM_URL", "OPENAI_BASE_URL", "CARTESIA_URL"):
        monkeypatch.setenv(vendor, "http://127.0.0.1:9")
    spec = importlib.util.spec_from_file_location("agent_of_the_tutorial", TUTORIAL / "agent.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Deaf:
    """A transcriber that never says anything."""

    def __aiter__(self) -> Deaf:
        return self

    async def __anext__(self) -> object:
        return await asyncio.get_running_loop().create_future()


async def test_nothing_of_the_agent_goes_on_after_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on, speaks to sockets that are closed."""
    module, begun = agent(monkeypatch), asyncio.Event()

    async def say(*_: object) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(module, "say", say)
    conversation = asyncio.create_task(module.converse(None, Deaf(), None))
    await begun.wait()
    conversation.cancel()
    await asyncio.wait([conversation])
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_the_plan_of_the_first_tutorial_is_as_its_page_shows_it() -> None:
    page = (TUTORIAL / "01-your-own-agent.md").read_text()
    shown = re.findall("```python\n(.*?)```", page, flags=re.DOTALL)
    code = (TUTORIAL / "first.py").read_text()
    assert shown
    assert [line for block in shown for line in block.splitlines() if f"    {line}\n" not in code] == []
    plan = planfile.load(TUTORIAL / "first.py").plan
    assert [gate.name for gate in plan.gates if "first-audio latency" in gate.name], "an agent that never greets passes"


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
