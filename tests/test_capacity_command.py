"""`busyhour capacity` as a user meets it: what it prints, its exit codes, how it ends, what it says of wrong input."""

import html
import json
import re
import signal
from pathlib import Path

import pytest
from tests.journeys.runs import PLAN as WIRE
from tests.journeys.runs import busyhour, until

from busyhour.cli import main

PLAN = Path(__file__).parent / "plans" / "crowded.py"
LATE = ("-o", "limit_ms=9000", "-o", "lag_ms=9000")  # is nothing to be said of where the target refuses
QUICK = ("--seconds", "0.5", "--confirm", "1", "--resolution", "0.2")


def searched(folder: Path, *more: str) -> int:
    return main(["capacity", str(PLAN), "--journals", str(folder), *QUICK, *more])


def test_the_capacity_is_found_and_told(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    journals = tmp_path / "journals"
    written = ("--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html"))
    assert searched(journals, *LATE, "-o", "capacity=12", *written, "--at-least", "12") == 0
    out = capsys.readouterr().out
    assert "12 at once pass all 2 gates" in out
    assert f"journals: {journals}" in out
    told = json.loads((tmp_path / "c.json").read_text())
    assert told["passed"] == 12
    assert told["sentence"] in out
    assert told["sentence"] in html.unescape((tmp_path / "c.html").read_text())
    kept = sorted(path.name for path in journals.iterdir())
    assert kept[:2] == ["01-hold-1.journal", "02-ramp-4.journal"]
    assert len(kept) == len(told["levels"])
    assert main(["judge", str(journals / kept[-1])]) in {1, 2}  # a journal like any other


def test_a_harness_that_cannot_place_more_is_the_limit_and_is_said_to_be(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert searched(tmp_path, "-o", "capacity=12", "-o", "beyond=blocks", "--resolution", "0.5") == 3
    out = capsys.readouterr().out
    assert "the limit is the harness's, the target's lies higher" in out or "the harness is the limit" in out
    assert "loop lag of the harness" in out


def test_a_harness_whose_loop_stands_still_says_nothing_of_the_target(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert searched(tmp_path, "--phase", "talk", "-o", "blocked=1") == 3
    out = capsys.readouterr().out
    assert "talk: the harness is the limit, at 1 already, so nothing is said of the target" in out
    assert "loop lag of the harness" in out
    assert len(list(tmp_path.iterdir())) == 2


def test_gates_that_fail_at_one_call_are_said_at_once(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert searched(tmp_path, "-o", "limit_ms=10", "--at-least", "5") == 1
    out = capsys.readouterr().out
    assert "talk: gates fail at one call, so there is no capacity to look for (p90 response latency in talk is" in out
    assert len(list(tmp_path.iterdir())) == 1


def test_a_target_that_dies_at_the_first_call_is_said_to_have_died(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["capacity", str(WIRE), "-o", "mischief=dies in a call", "--phase", "talk", "--journals", str(tmp_path)]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "talk: gates fail at one call, so there is no capacity to look for (the target stayed up: agent " in out
    assert "exited with 7; its last lines: out of ideas" in out
    assert len(list(tmp_path.iterdir())) == 1  # it was not called again


def test_a_target_that_does_not_start_is_a_service_error(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["capacity", str(WIRE), "-o", "mischief=dies at start", "--phase", "talk", "--journals", str(tmp_path)]
    assert main(words) == 69
    captured = capsys.readouterr()
    assert "exited with 1 when it was started; its last lines:\n    no API key: set AGENT_KEY" in captured.err
    assert "Traceback" not in captured.err
    assert re.fullmatch(r"phase talk, up to \d+ calls at once\n", captured.out)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_with_what_is_known(tmp_path, sign) -> None:  # type: ignore[no-untyped-def]
    words = ("capacity", str(PLAN), "--journals", str(tmp_path / "j"), *QUICK, *LATE, "-o", "capacity=500")
    with busyhour(*words) as process:
        until(lambda: len(list((tmp_path / "j").glob("*.journal"))) >= 3)
        process.send_signal(sign)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "stopped before any level had passed" in out
    assert "journals:" in out
    assert "Traceback" not in err
    assert not list((tmp_path / "j").glob("*-wal"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--phase", "nonsense"], 64, "--phase nonsense: the plan has no such phase; it has greeting, talk"),
        (["--most", "1000000"], 64, "--most 1000000: only "),
        (["--most", "0"], 64, "most=0: a capacity search needs at least 1"),
        (["--start", "0"], 64, "start=0"),
        (["--resolution", "2"], 64, "resolution=2: it is a share of the capacity"),
        (["--seconds", "0"], 64, "needs a window of some seconds"),
        (["--calls", "0"], 64, "a call to measure"),
        (["--json", "/proc/no/such/c.json"], 66, "cannot be written there"),
        (["--journals", f"{PLAN}/x"], 66, "cannot be made a folder for the journals"),
        (["-o", "nonsense=1"], 64, "there is no option 'nonsense'"),
    ],
)
def test_wrong_input_is_one_clear_sentence_before_anything_is_started(
    tmp_path,
    capsys,
    monkeypatch,
    arguments,
    code,
    words,  # type: ignore[no-untyped-def]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["capacity", str(PLAN), *arguments]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out
    assert not list(tmp_path.rglob("*.journal"))


def test_a_search_does_not_overwrite_the_journals_of_another(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "01-hold-1.journal").write_text("precious")
    assert searched(tmp_path) == 66
    assert (tmp_path / "01-hold-1.journal").read_text() == "precious"
    assert "exists already" in capsys.readouterr().err
