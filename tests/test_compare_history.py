"""`busyhour history`: the series of a folder, and the run that a change came with."""

import io
import json
import re
from argparse import ArgumentParser
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console
from tests.made_runs import PLAN, made

from busyhour.comparing.command import history, history_arguments
from busyhour.comparing.metrics import Metric
from busyhour.comparing.past import Series
from busyhour.comparing.reading import Origin, Reading
from busyhour.errors import JournalError, PlanError
from busyhour.model import Estimate

LATENCY = "p90 response latency in steady"


def told(*words: object, out: io.TextIOBase | None = None) -> tuple[str, dict[str, Any]]:
    parser = ArgumentParser()
    history_arguments(parser, lambda sub: None)
    text, json_out = io.StringIO(), io.StringIO()
    chosen = parser.parse_args([str(word) for word in words])
    assert history(chosen, {}, out or text, json_out, console=Console(file=io.StringIO())) == 0  # type: ignore[arg-type]
    return text.getvalue(), json.loads(json_out.getvalue())


def nights(folder: Path, count: int, *, changed_from: int = 10**9, **more: Any) -> Path:
    random = Random(2)
    for n in range(count):
        ms = random.gauss(600, 8) * (1.25 if n >= changed_from else 1)
        made(folder / f"night-{n:02}.journal", ms, at=n, seed=n, commit=f"c{n:02}", **more)
    return folder


def test_a_change_is_named_with_its_run_and_commit(tmp_path: Path) -> None:
    text, found = told(nights(tmp_path, 14, changed_from=9))
    (group,) = found["groups"]
    latency = next(one for one in group["series"] if one["metric"] == LATENCY)
    (change,) = latency["changes"]
    assert (change["at"], Path(change["journal"]).name) == (9, "night-09.journal")
    assert 20 < change["percent"] < 30
    assert "from run 10 of 14, night-09.journal (2026-11-20 00:09 UTC, commit c09) on" in text
    drawn = next(line for line in text.splitlines() if "|" in line).strip()
    assert drawn.index("|") == 9
    assert len(drawn) == 15


def test_the_order_is_that_of_time_not_of_names(tmp_path: Path) -> None:
    for n in range(8):
        made(tmp_path / f"{9 - n}.journal", 600 + n, at=n, seed=n)
    (group,) = told(tmp_path)[1]["groups"]
    assert [Path(run["journal"]).stem for run in group["runs"]] == list("98765432")


def test_a_flat_history_says_what_it_would_have_seen(tmp_path: Path) -> None:
    text, found = told(nights(tmp_path, 12))
    assert not any(series["changes"] for series in found["groups"][0]["series"])
    assert "no change; one of " in text
    assert "would show in half of all cases" in text


def test_what_stands_for_several_runs_is_called_their_mean(tmp_path: Path) -> None:
    """Of 600 and 640 ms "620 ms" is the latency of no run."""
    for n, ms in enumerate([600.0, 640.0]):
        made(tmp_path / f"{n}.journal", ms, at=n, seed=n)
    text, _ = told(tmp_path)
    values = [series["values"] for series in told(tmp_path, "--only", LATENCY)[1]["groups"][0]["series"]]
    assert f"{LATENCY}: mean {sum(values[0]) / 2:.0f} ms\n" in text
    assert "rate of successful calls in steady: 100 %\n" in text, "of what is the same in all it need not be said"


def test_a_level_before_and_after_a_change_is_a_mean(tmp_path: Path) -> None:
    text, _ = told(nights(tmp_path, 14, changed_from=9), "--only", LATENCY)
    assert re.search(rf"{LATENCY}: mean \d+ ms, then \d+ ms\n", text)


def test_a_change_of_a_percentage_is_told_in_points(tmp_path: Path) -> None:
    nights(tmp_path, 10)
    for n in range(10, 20):
        made(tmp_path / f"night-{n:02}.journal", 600, at=n, seed=n, lost=8 + n % 2)
    text, _ = told(tmp_path, "--only", "successful")
    assert "100 % before, 78.8 % after (-21.2 pp), from run 11 of 20" in text


def test_a_series_in_which_nothing_differs_promises_nothing(tmp_path: Path) -> None:
    series = told(nights(tmp_path, 8), "--only", "successful")[1]["groups"][0]["series"]
    assert [(one["smallest_seen"], one["changes"]) for one in series] == [(None, [])]


def test_a_run_without_a_reading_takes_no_place_in_the_series() -> None:
    metric = Metric("x", "ms", 1)
    values = [600.0, None, 604, 608, 596, 680, None, 684, 688, 676]
    readings = [Reading(Origin(Path("r")), {metric: Estimate("x", "ms", 1, one, one, one)}) for one in values]
    series = Series.of(metric, readings, 1)
    assert [change.at for change in series.changes] == [5]
    assert Series.of(metric, readings, 10**6).changes == ()  # one of a million series has to show more


def test_too_few_runs_say_how_many_it_takes(tmp_path: Path) -> None:
    text, _ = told(nights(tmp_path, 4))
    assert "a change is looked for from 6 runs on: 2 more" in text


def test_other_options_and_machines_are_other_histories(tmp_path: Path) -> None:
    nights(tmp_path, 6)
    made(tmp_path / "options.journal", 900, at=100, options={"limit_ms": "700"})
    made(tmp_path / "machine.journal", 900, at=101, machine="Linux arm64, 64 cores")
    made(tmp_path / "seed.journal", 600, at=102, options={"seed": "9"})  # other callers are no other history
    groups = told(tmp_path)[1]["groups"]
    assert sorted(len(group["runs"]) for group in groups) == [1, 1, 7]


def test_that_the_plan_was_edited_is_told_of_a_change_and_ends_no_history(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for n in range(12):
        late = {"source": f"{PLAN.read_text()}#"} if n >= 6 else {}
        made(folder / f"{n:02}.journal", 600 if n < 6 else 800, at=n, seed=n, **late)  # type: ignore[arg-type]
    text, found = told(folder)
    assert len(found["groups"]) == 1
    assert "from run 7 of 12, 06.journal (2026-11-20 00:06 UTC; the plan was edited before it) on" in text


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    nights(tmp_path, 6)
    (tmp_path / "empty.journal").write_bytes(b"")
    (tmp_path / "notes.journal").write_text("x" * 100)
    made(tmp_path / "timeless.journal", 600, started_at=None)
    made(tmp_path / "killed.journal", 600, at=50, end="")
    text, found = told(tmp_path)
    assert len(found["unread"]) == 3
    assert "empty.journal is empty" in text
    assert "notes.journal is no journal of busyhour" in text
    assert "timeless.journal: it does not say when it began" in text
    assert "left out: killed.journal: it is INVALID" in text
    assert [bool(run["left_out"]) for run in found["groups"][0]["runs"]] == [False] * 6 + [True]


def test_runs_that_were_never_answered_stand_out(tmp_path: Path) -> None:
    nights(tmp_path, 8)
    for n in range(8, 14):
        made(tmp_path / f"night-{n:02}.journal", inf, at=n, seed=n)
    text, found = told(tmp_path, "--only", "latency")
    assert "|!!!!!!" in text
    assert "infinite after, from run 9 of 14" in text
    assert found["groups"][0]["series"][0]["changes"][0]["after"] == "infinity"


def test_the_deaths_of_the_target_are_told(tmp_path: Path) -> None:
    nights(tmp_path, 6)
    made(tmp_path / "zz.journal", 600, at=50, end="run.stopped", died=True)
    assert "the target died in run 7 of 7, zz.journal" in told(tmp_path)[0]


def test_a_terminal_that_knows_no_blocks_gets_plain_signs(tmp_path: Path) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii")
    told(nights(tmp_path, 8), out=out)
    out.flush()
    assert LATENCY in raw.getvalue().decode("ascii")


@pytest.mark.parametrize("name", ["nowhere", "empty", "unread"])
def test_a_folder_without_a_history_is_refused(tmp_path: Path, name: str) -> None:
    if name != "nowhere":
        (tmp_path / name).mkdir()
    if name == "unread":
        (tmp_path / name / "x.journal").write_bytes(b"")
    with pytest.raises(JournalError, match=r"no such folder|no journal in this folder|is empty"):
        told(tmp_path / name)


def test_a_plan_that_is_gone_costs_its_own_history_only(tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    gone.write_text(PLAN.read_text())
    made(tmp_path / "runs" / "old.journal", 600, at=90, plan=gone)
    gone.unlink()
    with pytest.raises(PlanError, match="no longer there"):
        told(tmp_path / "runs")
    text, found = told(nights(tmp_path / "runs", 6))
    assert len(found["groups"]) == 1
    assert "gone.py: the plan that made" in text
