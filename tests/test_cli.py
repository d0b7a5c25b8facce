"""The command line as a user meets it: outcomes and exit codes, reports, proofs, and what it says of wrong input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from busyhour.cli import main
from busyhour.errors import JournalError
from busyhour.journal import open_run

PLAN = Path(__file__).parent / "plans" / "memory.py"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A copy, so that proofs are kept beside it and not in the source tree."""
    return Path(shutil.copy(PLAN, tmp_path / "memory.py"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


def run(plan: Path, journal: Path, *more: str) -> int:
    return main(["run", str(plan), "--journal", str(journal), *more])


def test_a_run_that_passes_prints_each_sentence_and_the_journal(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal) == 0
    out = capsys.readouterr().out
    assert "p95 response latency in talk is" in out
    assert "within 100 ms" in out
    assert f"journal: {journal}" in out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-o", "answers_ms=200"], 1),  # over the limit
        (["-o", "calls=20"], 2),  # 20 turns cannot show a P95
        (["-o", "at_once=10"], 3),  # the harness dropped arrivals
    ],
)
def test_exit_codes_follow_the_roll_up_now_and_when_judged_again(plan, journal, options, code) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal, *options) == code
    assert main(["judge", str(journal)]) == code
    assert main(["judge", str(journal), "-o", "limit_ms=5000"]) in {0, 2, 3}


UNAVAILABLE = """
class Flight:
    name, service = "agent in flight", "agent"

    def lacking(self):
        return "needs wings [two]: grow them"

    @asynccontextmanager
    async def injected(self, endpoints, clock):
        raise FaultUnavailable(self.lacking())
        yield


def plan():
    whole = grounded()
    (talk,) = whole.phases
    return replace(whole, phases=[talk, replace(talk, name="aloft", faults=[Flight()])])
"""


def test_a_phase_that_cannot_be_carried_out_is_noted_at_the_start_and_the_run_goes_on(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    imports = (
        "from contextlib import asynccontextmanager\nfrom dataclasses import replace\n"
        "from busyhour.model import FaultUnavailable\n"
    )
    plan.write_text(imports + plan.read_text().replace("def plan(", "def grounded(") + UNAVAILABLE)
    assert run(plan, journal) == 2
    told = capsys.readouterr()
    note = "note: the phase 'aloft' will not be carried out: the fault 'agent in flight' needs wings [two]: grow them"
    assert told.err.splitlines()[0] == note
    assert told.err.count(note) == 1
    assert "p95 response latency in talk is" in told.out


def test_reports_are_written_in_each_format(plan, journal, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal, "--json", str(tmp_path / "v.json"), "--junit", str(tmp_path / "v.xml")) == 0
    assert json.loads((tmp_path / "v.json").read_text())["outcome"] == "pass"
    assert ElementTree.parse(tmp_path / "v.xml").getroot().tag in {"testsuite", "testsuites"}
    capsys.readouterr()
    assert main(["report", str(journal), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "pass"


def test_proofs_are_kept_and_marked_in_the_next_run(plan, journal, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal) == 0
    assert "UNPROVEN" in capsys.readouterr().out
    assert main(["prove", str(plan)]) == 1  # the gate on the harness has no control in this plan
    out = capsys.readouterr().out
    assert "PROVEN    p95 response latency in talk <= 100 ms" in out
    assert "UNPROVEN  count of dropped arrivals" in out
    assert "2 of 2 harmful variations are caught by the gates meant for them; 1 of 1 benign ones stay green" in out
    assert run(plan, tmp_path / "second.journal") == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any("response latency" in line and "UNPROVEN" in line for line in lines)


def test_a_control_that_does_not_turn_its_gate_red_leaves_it_unproven(plan, capsys) -> None:  # type: ignore[no-untyped-def]
    plan.write_text(plan.read_text().replace("carrier(150)", "carrier(60)"))
    assert main(["prove", str(plan), "--only", "latency"]) == 1
    assert "UNPROVEN  p95 response latency" in capsys.readouterr().out


@pytest.mark.parametrize(("named", "status"), [("", "UNPROVEN"), ("may_redden=[median], ", "PROVEN")])
def test_a_gate_that_fails_without_cause_is_unproven_until_the_cause_is_named(plan, capsys, named, status) -> None:  # type: ignore[no-untyped-def]
    median = """
    median = AtMost(response_latency(talk, q=0.5), 100, "ms")
    fine = Variation("""
    text = (
        plan.read_text().replace("    fine = Variation(", median, 1).replace("gates=[latency", "gates=[median, latency")
    )
    slower = 'Variation(name="slower", services=[carrier(160)], may_redden=[latency])'
    control = f"controls=[Control(median, red={slower}, benign=fine),"
    text = text.replace("controls=[", control).replace('Variation(name="slow", ', f'Variation(name="slow", {named}')
    plan.write_text(text)
    assert main(["prove", str(plan), "--only", "response latency"]) == (0 if status == "PROVEN" else 1)
    out = capsys.readouterr().out
    assert f"\n{status:9} p50 response latency in talk" in out
    assert ("failed without cause under slow" in out) == (status == "UNPROVEN")


def test_a_gate_that_is_not_being_proven_fails_with_cause_under_its_own_control(plan, capsys) -> None:  # type: ignore[no-untyped-def]
    text = plan.read_text().replace('red=Variation(name="slow", services=[carrier(150)])', "red=slow")
    slow = """    slow = Variation(name="slow", services=[carrier(150)])
    mean = AtMost(response_latency(talk, q=0.5), 100, "ms")
    return Plan("""
    text = text.replace("    return Plan(", slow).replace("gates=[latency", "gates=[mean, latency")
    plan.write_text(text.replace("controls=[", "controls=[Control(mean, red=slow, benign=fine),"))
    assert main(["prove", str(plan), "--only", "p95"]) == 0
    out = capsys.readouterr().out
    assert "slow f F" in out
    assert "no gate failed without cause" in out


# ---------------------------------------------------------------- judged by which plan

WITHOUT_OPTIONS = "\n\nmade = plan\nplan = made()\n"


def test_a_journal_judged_by_another_plan_says_which_made_it(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal) == 0
    other = Path(shutil.copy(plan, plan.with_name("other.py")))
    capsys.readouterr()
    assert main(["judge", str(journal), "--plan", str(other)]) == 0
    assert capsys.readouterr().err == ""  # it is the same plan, elsewhere
    other.write_text(plan.read_text() + "\n")
    assert main(["judge", str(journal), "--plan", str(other)]) == 0
    assert capsys.readouterr().err == f"busyhour: note: {journal} was made by {plan}, and is judged by {other}\n"
    plan.write_text(plan.read_text() + "\n")
    assert main(["judge", str(journal)]) == 0
    assert f"note: {plan} has changed since {journal} was made" in capsys.readouterr().err


def test_options_of_a_journal_that_the_plan_does_not_take(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal, "-o", "calls=75", "-o", "limit_ms=5") == 1
    other = plan.with_name("other.py")
    other.write_text(plan.read_text().replace("calls: int = 70", "callers: int = 70").replace("(calls)", "(callers)"))
    capsys.readouterr()
    assert main(["judge", str(journal), "--plan", str(other)]) == 1  # the limit is the journal's
    told = capsys.readouterr()
    assert f"{journal} was made with calls=75, which {other} does not take; it is judged without" in told.err
    assert "over 5 ms" in told.out
    other.write_text(plan.read_text() + WITHOUT_OPTIONS)
    assert main(["judge", str(journal), "--plan", str(other)]) == 0
    assert f"was made with calls=75 limit_ms=5, which {other} does not take" in capsys.readouterr().err
    plan.write_text(plan.read_text() + WITHOUT_OPTIONS)
    assert main(["judge", str(journal)]) == 64  # by the plan that made it: nobody said that they may be left out
    assert f"give its options with -o, or judge without by --plan {plan}" in capsys.readouterr().err
    assert main(["judge", str(journal), "--plan", str(plan)]) == 0
    other.write_text("nonsense(")
    capsys.readouterr()
    assert main(["judge", str(journal), "--plan", str(other)]) == 64
    assert "this is not Python" in capsys.readouterr().err


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "no/such/plan.py"], 64, "there is no such plan file"),
        (["run", str(PLAN), "-o", "colour=red"], 64, "there is no option 'colour'"),
        (["run", str(PLAN), "-o", "colour"], 64, "write it as NAME=VALUE"),
        (["run", str(PLAN), "--json", "/proc/no/such/v.json"], 66, "cannot be written there"),
        (["run", str(PLAN), "--journal", f"{PLAN}/x.journal"], 66, "cannot be made a folder for the journal"),
        (
            ["run", str(PLAN), "--journal", str(PLAN.parent)],
            66,
            f"{PLAN.parent} is a folder; name the file of the journal",
        ),
        (["judge", "no.journal"], 66, "no.journal"),
        (["judge", str(PLAN)], 66, "memory.py"),
        (["report", "/"], 66, "/"),
        (["prove", str(PLAN), "--only", "nonsense"], 64, "no gate's name contains 'nonsense'"),
        (["call", "http://127.0.0.1:9"], 64, "give the agent's WebSocket"),
    ],
)
def test_wrong_input_is_one_clear_sentence(arguments, code, words, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_report_for_which_there_is_no_room_is_one_clear_sentence(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal, "--json", "/dev/full") == 66
    error = capsys.readouterr().err
    assert error.endswith(
        "busyhour: /dev/full: the report cannot be written there: No space left on device; give another place\n"
    )
    assert "Traceback" not in error


def test_proofs_that_cannot_be_kept_are_one_clear_sentence(plan, capsys) -> None:  # type: ignore[no-untyped-def]
    plan.with_name("memory.proofs.json").mkdir()
    assert main(["prove", str(plan), "--only", "latency"]) == 66
    assert "memory.proofs.json: the proofs cannot be kept there: Is a directory" in capsys.readouterr().err


def test_an_existing_journal_is_never_overwritten(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    journal.write_text("precious")
    assert run(plan, journal) == 66
    assert journal.read_text() == "precious"


def test_a_refused_run_leaves_the_reports_of_the_one_before(plan, journal, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    verdict = tmp_path / "verdict.json"
    verdict.write_text("of the run before")
    journal.write_text("precious")
    assert run(plan, journal, "--json", str(verdict)) == 66
    assert verdict.read_text() == "of the run before"
    journal.unlink()
    assert run(plan, journal, "--json", str(verdict)) == 0
    assert json.loads(verdict.read_text())["outcome"] == "pass"


def test_every_command_has_help_with_an_example(capsys) -> None:  # type: ignore[no-untyped-def]
    for command in ("run", "judge", "report", "prove", "capacity", "call", "emulate", "behave", "learn"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert "example:\n  busyhour " in capsys.readouterr().out


@pytest.mark.parametrize("words", [["run"], ["run", "plan.py", "--sede", "1"], ["judge"], ["nonsense"], []])
def test_a_mistyped_command_is_not_taken_for_an_inconclusive_run(words, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(words) == 64
    assert "usage: busyhour" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage", "hint"),
    [
        (["run", "p.py", "--htlm", "x.html"], "run", "--htlm x.html; did you mean --html?"),
        (["run", "p.py", "--htlm=x.html"], "run", "--htlm=x.html; did you mean --html?"),
        (
            ["run", "p.py", "--sead", "1", "--recrod", "all"],
            "run",
            "--sead 1 --recrod all; did you mean --seed --record?",
        ),
        (["judge", "x.journal", "second.journal"], "judge", "second.journal"),
        (["judge", "x.journal", "--colour"], "judge", "--colour"),
        (
            ["emulate", "openai", "--frist-token", "2s"],
            "emulate openai",
            "--frist-token 2s; did you mean --first-token?",
        ),
    ],
)
def test_a_misspelt_flag_is_told_by_its_command(words, usage, hint, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(words) == 64
    told = capsys.readouterr().err
    assert told.startswith(f"usage: busyhour {usage} ")
    assert told.endswith(f"busyhour {usage}: error: unrecognized arguments: {hint}\n")


def test_reports_are_written_into_folders_that_are_not_there_yet(plan, journal, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    places = {name: tmp_path / "new" / name for name in ("html", "json", "junit", "summary")}
    assert run(plan, journal, *(word for name, path in places.items() for word in (f"--{name}", str(path)))) == 0
    sentence = "p95 response latency in talk is"
    assert all(sentence in path.read_text() for path in places.values())
    assert main(["report", str(journal), "--summary", str(places["summary"])]) == 0
    assert places["summary"].read_text().count(sentence) == 2  # added to what is there
    assert sentence in capsys.readouterr().out


def test_scale_is_an_option_of_the_plan(plan, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(plan, journal, "--scale", "0.5") == 64
    assert "there is no option 'scale'" in capsys.readouterr().err
    assert run(plan, journal, "--scale", "0.5", "-o", "scale=1") == 64
    assert "give one of them" in capsys.readouterr().err


# ---------------------------------------------------------------- ends that nobody planned


@pytest.fixture
def long_run(plan: Path, journal: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of a minute in a process of its own, once calls are in progress."""
    command = [sys.executable, "-m", "busyhour", "run", str(plan), "-o", "seconds=60", "--journal", str(journal)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        while not _calls(journal):
            assert process.poll() is None, process.communicate()
        yield process
        process.kill()


def _calls(journal: Path) -> int:
    """How many calls the journal holds by now: 0 while it cannot be read yet."""
    if not journal.exists() or not journal.stat().st_size:
        return 0
    try:
        with open_run(journal) as run:
            return len(run.operations("call"))
    except JournalError:
        return 0


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(long_run, journal, sign) -> None:  # type: ignore[no-untyped-def]
    long_run.send_signal(sign)
    _, err = long_run.communicate(timeout=60)
    assert long_run.returncode in {2, 3}
    assert "stopped by" in err
    assert "Traceback" not in err
    assert not journal.with_name(journal.name + "-wal").exists()
    assert main(["judge", str(journal)]) == long_run.returncode


def test_what_is_left_of_a_killed_run_is_judged_and_not_passed(long_run, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    os.kill(long_run.pid, signal.SIGKILL)
    long_run.wait()
    assert main(["judge", str(journal)]) == 3
    assert "INVALID" in capsys.readouterr().out
