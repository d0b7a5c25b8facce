"""What the operator reads: rows of what went wrong, and what a call has used."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from voice_agent import log


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if type(handler) is logging.StreamHandler]
    log.configure("INFO")
    for handler in [*ours, *root.handlers]:
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


def _rows(caplog: Any, event: str) -> list[dict[str, Any]]:
    return [dict(record.fields) for record in caplog.records if record.getMessage() == event]


async def test_every_failure_of_a_turn_is_a_row(worlds: Callable[..., Any], caplog: Any) -> None:
    caplog.set_level("INFO", "voice_agent")
    async with worlds(ANTHROPIC_API_KEY="k", BREAKER_FAILURES="1", CARTESIA_API_KEY="k") as world:
        world.openai.modes.append("500")
        world.anthropic.modes.extend(["truncate", "500"])
        async with world.calling("the call") as caller:
            await caller.greeted()
            await caller.say("When are you open?")
            await caller.next("mark")
    call = {"call": "the call"}
    failed = {"provider": "openai", "reason": "HTTP 500", "attempt": 1, "spoken": False}
    truncated = {"provider": "anthropic", "reason": "truncated", "attempt": 2, "spoken": True}
    assert _rows(caplog, "vendor failed") == [{**call, **failed}, {**call, **truncated}]
    assert _rows(caplog, "failover") == [{**call, "provider": "openai", "to": "anthropic", "reason": "HTTP 500"}]
    assert [(row["provider"], row["state"]) for row in _rows(caplog, "breaker")] == [
        ("openai", "open"),
        ("anthropic", "open"),
    ]
    assert _rows(caplog, "fallback") == [{**call, "kind": "apology"}]
    ended = _rows(caplog, "call ended")[0]
    assert ended["cartesia_characters"] == len("Hello there.") + len("We are open until six.") + len(
        "I am sorry, I am having some trouble right now."
    )
    assert ended["deepgram_seconds"] >= 0.6


def test_the_error_log_has_troubles_only_and_is_bounded(restored: None, tmp_path: Path) -> None:
    path = tmp_path / "errors.jsonl"
    log.configure("ERROR", str(path), 10_000)
    line = log.Log().bound(call="c")
    line.info("said", text="no trouble")
    line.warning("odd")
    for number in range(300):
        line.trouble("failover", provider="openai", to="anthropic", reason=f"{number}")
    log.configure("INFO")  # closes the file
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert rows[-1]["reason"] == "299"
    assert {row["event"] for row in rows} == {"failover"}
    assert rows[-1]["call"] == "c"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["errors.jsonl", "errors.jsonl.1"]
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= 10_000


def test_an_error_log_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    keys = dict.fromkeys(("TELNYX_API_KEY", "OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY"), "k")
    environment = {**os.environ, **keys, "TELNYX_VERIFY": "off", "ERROR_LOG": str(tmp_path / "none" / "log")}
    command = [sys.executable, "-m", "voice_agent"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 64
    assert run.stderr == f"voice_agent: ERROR_LOG: {tmp_path}/none/log cannot be written: No such file or directory\n"
