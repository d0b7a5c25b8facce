"""The sizes of what a service writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from busyhour.errors import PlanError
from busyhour.model import Endpoint
from busyhour.probes.files import Files
from busyhour.probes.missing import Missing

from .puppet import AGENT

NOWHERE = Endpoint("")


def test_files_and_folders_are_read_as_megabytes(tmp_path: Path) -> None:
    log, spool = tmp_path / "agent.log", tmp_path / "spool"
    log.write_bytes(b"x" * 2_500_000)
    (spool / "deep").mkdir(parents=True)
    (spool / "one").write_bytes(b"x" * 1000)
    (spool / "deep" / "two").write_bytes(b"x" * 500)
    (spool / "link").symlink_to(log)
    probe = Files(AGENT, {"log_mb": log, "spool_mb": str(spool)}, every_seconds=0)
    assert probe.service == AGENT.name
    assert probe.read(NOWHERE) == {"log_mb": 2.5, "spool_mb": pytest.approx(0.0015)}
    log.write_bytes(b"")
    assert probe.read(NOWHERE)["log_mb"] == 0
    assert probe.missing() == []


def test_what_is_not_there_is_told_of_once_and_read_as_soon_as_it_is(tmp_path: Path) -> None:
    late = tmp_path / "late.log"
    probe = Files(AGENT, {"log_mb": late}, every_seconds=0)
    assert probe.read(NOWHERE) == {}
    assert probe.read(NOWHERE) == {}
    why = f"{late} cannot be read: No such file or directory; correct the path that Files is given"
    assert probe.missing() == [Missing(("log_mb",), why)]
    late.write_bytes(b"x" * 1_000_000)
    assert probe.read(NOWHERE) == {"log_mb": 1.0}
    assert probe.missing() == []


def test_it_is_read_now_and_then_and_when_a_phase_ends(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b"x")
    probe = Files(AGENT, {"log_mb": log}, every_seconds=3600)
    assert probe.read(NOWHERE) != {}
    assert probe.read(NOWHERE) == {}
    probe.read_all_next()
    assert probe.read(NOWHERE) != {}


@pytest.mark.parametrize(
    ("paths", "every", "says"),
    [
        ({}, 10.0, "nothing to read"),
        ({"log": "x"}, 10.0, "its name must end in _mb"),
        ({"log_mb": "x"}, -1.0, "it must be 0 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(paths: dict[str, str], every: float, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        Files(AGENT, paths, every_seconds=every)
