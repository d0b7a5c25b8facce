"""What every journey has: a journal of its own, and a mark on all processes that it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from .runs import MARKER, Traces


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    traces = Traces()
    monkeypatch.setenv(MARKER, traces.value)
    return traces


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"
