"""A real agent between real twins, one stage of which is slow by a known amount: the diagnosis names it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SLOW_MS = 800
OWNERS = {
    "end-pointing": 400,
    "STT final": SLOW_MS,
    "LLM first token": SLOW_MS,
    "TTS first audio": SLOW_MS,
    "agent and network": SLOW_MS,
}


def test_the_slow_stage_of_a_run_is_named_with_what_it_took(tmp_path: Path) -> None:
    verdicts = tmp_path / "verdicts.json"
    argv = [sys.executable, "-m", "busyhour", "run", "tests/plans/stages.py", "-o", f"slow_ms={SLOW_MS}"]
    argv += ["--json", str(verdicts), "--journal", str(tmp_path / "run.journal")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in {1, 2}, done.stdout + done.stderr  # so few turns fail no gate, and pass none
    told: dict[str, Any] = json.loads(verdicts.read_text())
    found = {one["gate"].removeprefix("p50 ").removesuffix(" <= 100 ms"): one for one in told["diagnoses"]}
    for owner, ms in OWNERS.items():
        diagnosis = found[f"response latency in {owner}"]
        stages = {stage["name"]: stage for stage in diagnosis["stages"]}
        assert diagnosis["owner"] == owner, diagnosis["because"]
        assert "end-pointing and STT" not in stages, diagnosis["because"]
        # The end of speech is found by its level: the last of it may be too quiet to count.
        assert 0.8 * ms <= stages[owner]["ms"] < ms + 600, diagnosis["because"]
        assert sum(stage["share"] for stage in stages.values()) == pytest.approx(1)
        assert diagnosis["because"] in done.stdout
    greeting = found["first-audio latency in TTS first audio"]
    assert greeting["owner"] == "TTS first audio", greeting["because"]
