"""Runs that end as nobody planned: killed, interrupted, without a disk; what they leave behind, and what not."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from busyhour.cli import main
from busyhour.journal import FORMAT_VERSION, Journal
from busyhour.model import Mark
from busyhour.proc import stat

from .runs import arguments, busyhour, marks, operations, pid_of, until

LONG = {"hold": 300, "model": "yes"}  # there is a mid-call
SOON_SECONDS = 90


def in_a_call(journal: Path) -> bool:
    return len(operations(journal, "greeting")) >= 5


def judged(journal: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of `busyhour judge`, and what it prints without the spaces that align it."""
    code = main(["judge", str(journal)])
    out, err = capsys.readouterr()
    assert err == ""
    return code, "\n".join(" ".join(line.split()) for line in out.splitlines())


# ---------------------------------------------------------------- killed


def test_a_killed_harness_leaves_no_process_and_a_journal_that_says_so(journal, traces, capsys) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **LONG)) as run:
        until(lambda: in_a_call(journal))
        assert len(traces.left()) == 5  # the harness, and a twin and an agent, each below its supervisor
        run.send_signal(signal.SIGKILL)
        run.wait()
        until(lambda: not traces.left(), SOON_SECONDS)
    code, out = judged(journal, capsys)
    assert code == 3
    assert "INVALID the journal is whole: it breaks off" in out
    assert "the harness was killed" in out


@pytest.mark.parametrize(
    ("service", "victim", "words"),
    [
        ("llm", lambda pid: pid, "llm was killed by SIGKILL"),
        ("agent", lambda pid: pid, "agent was killed by SIGKILL"),
        ("agent", lambda pid: stat(pid).parent, "agent was lost: its supervisor was killed"),
    ],
    ids=["a twin", "the agent", "its supervisor"],
)
def test_a_killed_service_ends_the_run_and_is_not_held_against_the_target(  # type: ignore[no-untyped-def]
    service, victim: Callable[[int], int], words, journal, traces, capsys
) -> None:
    with busyhour(*arguments(journal, **LONG)) as run:
        until(lambda: in_a_call(journal))
        os.kill(victim(pid_of(journal, service)), signal.SIGKILL)
        out, err = run.communicate(timeout=SOON_SECONDS)
    assert run.returncode == 3
    assert traces.left() == []
    assert err.endswith(f"The run was cut short: {words}\n")
    assert "Traceback" not in err
    assert f"nothing disturbed the services: {words}" in out
    code, again = judged(journal, capsys)
    assert code == 3
    assert f"INVALID nothing disturbed the services: {words}" in again
    assert {call.outcome for call in operations(journal, "call")} <= {"cut off", "lost"}


# ---------------------------------------------------------------- interrupted


def starting(journal: Path) -> bool:
    return {mark.name for mark in marks(journal, "service.started")} == {"llm", "telnyx"}


def stopping(journal: Path) -> bool:
    return bool(marks(journal, "phase.ended"))


@pytest.mark.parametrize(
    ("when", "options"),
    [
        (starting, {"mischief": "never gets healthy", "model": "yes"}),
        (in_a_call, {**LONG, "calls": 500}),  # most of which are still to come
        (in_a_call, {**LONG, "per_second": 0}),  # all of them have come: it waits for the last
        (stopping, {"mischief": "ignores SIGTERM", "stop_within": 60}),
    ],
    ids=["services start", "calls arrive", "the last calls drain", "services stop"],
)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_the_run_in_order(when, options, times, journal, traces, capsys) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **options)) as run:
        until(lambda: when(journal))
        for _ in range(times):
            os.killpg(run.pid, signal.SIGINT)  # as the terminal does: to all of the foreground
        _, err = run.communicate(timeout=SOON_SECONDS)
    assert run.returncode in {2, 3}
    assert traces.left() == []
    assert err.endswith("The run was cut short: stopped by Ctrl-C\n")
    assert "Traceback" not in err
    assert not journal.with_name(journal.name + "-wal").exists()
    assert {call.outcome for call in operations(journal, "call")} <= {"cut off", "ok"}
    code, out = judged(journal, capsys)
    assert code == run.returncode
    assert "the journal is whole: " not in out


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A module that never gets imported, and the file that is there once it is being imported."""
    reached = tmp_path / "reached"
    module = tmp_path / "modules" / "numpy.py"
    module.parent.mkdir()
    module.write_text(f"import pathlib, signal\npathlib.Path({str(reached)!r}).touch()\nsignal.pause()\n")
    return module, reached


def test_ctrl_c_while_it_is_being_imported_is_no_traceback(journal, stalled, traces) -> None:  # type: ignore[no-untyped-def]
    module, reached = stalled
    with busyhour(*arguments(journal), PYTHONPATH=str(module.parent)) as run:
        until(reached.exists)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=SOON_SECONDS) == ("", "")
    assert run.returncode == -signal.SIGINT
    assert traces.left() == []
    assert not journal.exists()


def test_ctrl_c_while_the_plan_is_being_read_is_no_traceback(journal, stalled, traces) -> None:  # type: ignore[no-untyped-def]
    plan, reached = stalled
    with busyhour("run", str(plan), "--journal", str(journal)) as run:
        until(reached.exists)
        run.send_signal(signal.SIGINT)
        assert run.communicate(timeout=SOON_SECONDS) == ("", "busyhour: interrupted\n")
    assert run.returncode == 130
    assert traces.left() == []
    assert not journal.exists()


# ---------------------------------------------------------------- without a disk, without a reader


def test_a_full_disk_ends_the_run_at_once_and_what_was_written_is_judged(journal, traces, capsys) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **LONG)) as run:
        until(lambda: in_a_call(journal))
        resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (4096, 4096))  # a write beyond fails as on a full disk
        out, err = run.communicate(timeout=SOON_SECONDS)
    assert run.returncode == 66
    assert traces.left() == []
    assert out == ""
    assert err.count("busyhour: ") == 1
    assert f"busyhour: {journal} cannot be written: " in err
    assert "what was written before can be judged. Make room there, or give another place with --journal" in err
    assert "Traceback" not in err
    code, said = judged(journal, capsys)
    assert code == 3
    assert "INVALID the journal is whole: it breaks off" in said
    assert operations(journal, "greeting")


def test_a_reader_that_goes_away_is_no_traceback(journal, traces) -> None:  # type: ignore[no-untyped-def]
    with busyhour(*arguments(journal, **LONG)) as run:
        until(lambda: in_a_call(journal))
        assert run.stdout is not None
        run.stdout.close()  # as when the same Ctrl-C has ended the `tee` behind it
        os.killpg(run.pid, signal.SIGINT)
        assert run.stderr is not None
        err = run.stderr.read()
        assert run.wait(SOON_SECONDS) == 141
    assert err.endswith("The run was cut short: stopped by Ctrl-C\n")
    assert traces.left() == []


# ---------------------------------------------------------------- journals that are none


def newer(journal: Path) -> None:
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda journal: journal.unlink(),
            "there is no journal {0}; runs write theirs to runs/, or where --journal says",
        ),
        (
            lambda journal: journal.write_text(""),
            "{0} is empty: its run did not get as far as to begin; make the run again",
        ),
        (
            lambda journal: journal.write_text("key,value\n"),
            "{0} is no journal of busyhour (it is not SQLite); name the file",
        ),
        (lambda journal: os.truncate(journal, journal.stat().st_size // 2), "{0} is damaged: "),
        (newer, "{0} was written by a newer busyhour: its format is 2, this one reads 1; upgrade busyhour to read it"),
    ],
    ids=["missing", "empty", "foreign", "truncated", "newer"],
)
@pytest.mark.parametrize("command", ["judge", "report"])
def test_a_journal_that_is_none_is_one_clear_sentence(command, spoil, words, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    with Journal.create(journal, {"plan": "plan.py"}) as written:
        written.append(Mark(1, "run.began"))
    spoil(journal)
    assert main([command, str(journal)]) == 66
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("busyhour: " + words.format(journal))
    assert err.count("\n") == 1
