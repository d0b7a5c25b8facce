"""`busyhour attribute` as a user meets it: a target that leaks at known lines, and what is said of others."""

import re
import sys
from pathlib import Path

import pytest

from busyhour.attribute import command as attributing
from busyhour.cli import main

PLAN = Path(__file__).parent / "plans" / "leaking.py"
LEAKY = (Path(__file__).parent / "plans" / "leaky.py").read_text().splitlines()
ROW = re.compile(r" +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)  (\S*leaky\.py):(\d+) (\w+|<\w+>)$")
CALLS = 12


def attribute(*more: str, plan: Path = PLAN) -> int:
    quick = ("--calls", str(CALLS), "--warm-up", "3", "--settle", "0.2")
    return main(["attribute", str(plan), *quick, *more])


def line_of(words: str) -> int:
    """The line of the target's that ends with this comment."""
    return next(number for number, line in enumerate(LEAKY, start=1) if line.endswith(f"# {words}"))


def rows(out: str) -> dict[int, tuple[float, float, float, float]]:
    """By line: MB, KB a call, KB a call in the second half, blocks a call."""
    found = [match.groups() for line in out.splitlines() if (match := ROW.match(line))]
    return {int(number): (float(a), float(b), float(c), float(d)) for a, b, c, d, _, number, _ in found}


def test_the_lines_that_leak_are_named_with_how_much_they_leak(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    capture = tmp_path / "calls.memray"
    assert attribute("--native", "--capture", str(capture)) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"leaky: in {CALLS} calls of requests (all ok), after 3 to warm up, it allocated ")
    found = rows(out)
    mb, kb, late, blocks = found[line_of("leaks about 15 KB")]
    assert 12 < kb < 18
    assert late == pytest.approx(kb, rel=0.1)
    assert mb == pytest.approx(kb * CALLS / 1000, abs=0.001)
    assert 50 <= blocks < 60
    _, kb, late, _ = found[line_of("leaks in a library")]
    assert kb > 3
    assert late == pytest.approx(kb, rel=0.1)
    assert re.search(
        rf"leaky\.py:{line_of('leaks in a library')} call\n +by json/decoder\.py:\d+ raw_decode\n +in C by ", out
    )
    mb, _, late, _ = found[line_of("is kept once")]
    assert mb == pytest.approx(0.4, abs=0.001)
    assert late == 0
    assert sum(row[0] for row in found.values()) < 1  # what was freed is not told of
    assert out.index("own code") < out.index(f"leaky.py:{line_of('is kept once')}")
    assert capture.stat().st_size > 1000


def test_a_worker_that_was_forked_is_looked_into(capsys) -> None:  # type: ignore[no-untyped-def]
    assert attribute("-o", "words=forks") == 0
    _, kb, late, _ = rows(capsys.readouterr().out)[line_of("leaks about 15 KB")]
    assert 12 < kb < 18
    assert late == pytest.approx(kb, rel=0.1)


@pytest.mark.parametrize(
    ("command", "because"),
    [
        ("sleep 60", "leaky: 'sleep 60' runs no Python that can be seen from here"),
        ("python -c pass", "leaky: 'python -c pass' names no program that can be started under memray"),
        ("python -I -m http.server", "leaky: with -I Python ignores PYTHONMALLOC, which memray needs"),
        ("{python} -S {leaky}", r"cannot import memray \(ModuleNotFoundError: No module named 'memray'\); install"),
    ],
)
def test_a_target_that_cannot_be_looked_into_is_said_before_anything_is_started(command, because, capsys) -> None:  # type: ignore[no-untyped-def]
    filled = command.format(python=sys.executable, leaky=PLAN.with_name("leaky.py"))
    assert attribute("-o", f"command={filled}") == 64
    assert re.search(because, capsys.readouterr().err)


def test_memray_is_an_extra(monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(attributing, "find_spec", lambda _: None)
    assert attribute() == 64
    assert "memray is not installed; install it with busyhour's extra: pip install 'busyhour[attribute]'" in (
        capsys.readouterr().err
    )


def test_a_target_of_another_kind_is_said(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other.py"
    changed = "AlreadyRunning(name='leaky', url='http://127.0.0.1:1')"
    text = PLAN.read_text().replace("import Command", "import AlreadyRunning")
    other.write_text(re.sub(r"Command\(.*\)\n", f"{changed}\n", text))
    assert attribute(plan=other) == 64
    assert "leaky: it is of the kind AlreadyRunning, and only a Command can run under memray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "because"),
    [
        (("--calls", "1"), "--calls 1: give 2 to 500"),
        (("--warm-up", "-1"), "--warm-up -1: give 0 to 500"),
        (("--at-once", "0"), "--at-once 0: give 1 to 500"),
        (("--settle", "-1"), "--settle -1: give 0 to 600 seconds"),
        (("--phase", "talk"), "--phase talk: the plan has no such phase; it has requests"),
        (("--phase", "requests", "-o", "idle=1"), "--phase requests: its workload is Idle, of which no single calls"),
        (("-o", "idle=1"), "no phase of the plan has calls and no faults; choose one of requests by --phase"),
    ],
)
def test_wrong_flags_are_said(flags, because, capsys) -> None:  # type: ignore[no-untyped-def]
    assert attribute(*flags) == 64
    assert because in capsys.readouterr().err


def test_a_capture_that_cannot_be_kept_is_said(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert attribute("--capture", str(tmp_path / "nowhere" / "x.memray")) == 66
    assert "x.memray: the capture cannot be written there: No such file or directory" in capsys.readouterr().err
