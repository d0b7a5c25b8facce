"""The target's command: what of it is Python, what its program, and how it is started to be tracked."""

import subprocess
import sys
from pathlib import Path

import pytest

from busyhour.attribute.commands import Python, python_of, tracked
from busyhour.attribute.reading import Frame, named
from busyhour.errors import PlanError
from busyhour.services import Command


@pytest.mark.parametrize(
    ("command", "interpreter", "program", "package"),
    [
        ("python -m voice_agent", ["python"], ["-m", "voice_agent"], "voice_agent"),
        ("/opt/venv/bin/python3.12 -m a.b --port 1", ["/opt/venv/bin/python3.12"], ["-m", "a.b", "--port", "1"], "a"),
        ("python3 app.py -m x -c y", ["python3"], ["app.py", "-m", "x", "-c", "y"], ""),
        (
            "python -u -X dev -W error -Wignore -OO app.py",
            ["python", "-u", "-X", "dev", "-W", "error", "-Wignore", "-OO"],
            ["app.py"],
            "",
        ),
        (
            "python3.13t --check-hash-based-pycs never a.py",
            ["python3.13t", "--check-hash-based-pycs", "never"],
            ["a.py"],
            "",
        ),
    ],
)
def test_a_command_that_runs_python(command: str, interpreter: list[str], program: list[str], package: str) -> None:
    found = python_of(Command(command))
    assert found == Python(interpreter, program)
    assert found.package == package


@pytest.mark.parametrize("command", ["python", "python -", "python -m", "python -c x", "python -um x", "python -X dev"])
def test_a_command_without_a_program_that_could_be_started(command: str) -> None:
    with pytest.raises(PlanError, match="names no program that can be started under memray; write it as `python -m"):
        python_of(Command(command))


@pytest.mark.parametrize("first", ["#!{python}", "#!/usr/bin/env python3", "#! {python} -u"])
def test_a_script_of_pythons(tmp_path: Path, first: str) -> None:
    script = tmp_path / "serve"
    script.write_text(first.format(python=sys.executable) + "\nimport sys\n")
    script.chmod(0o755)
    found = python_of(Command(f"{script} --workers 2"))
    assert list(found.program) == [str(script), "--workers", "2"]
    assert Path(found.interpreter[0]).name.startswith("python")
    on_the_path = python_of(Command("serve x", env={"PATH": str(tmp_path)}))
    assert list(on_the_path.program) == [str(script), "x"]
    below = python_of(Command("./serve", cwd=str(tmp_path)))
    assert Path(below.program[0]).samefile(script)


@pytest.mark.parametrize("first", ["#!/bin/sh", "", "#!", "\x7fELF"])
def test_a_program_of_another_kind(tmp_path: Path, first: str) -> None:
    script = tmp_path / "serve"
    script.write_text(f"{first}\n")
    with pytest.raises(PlanError, match="runs no Python that can be seen from here"):
        python_of(Command(str(script)))


PROGRAM = """
import json, os, sys
import {beside}
print(json.dumps([__name__, sys.argv, sys.path[0], {beside}.HERE, os.environ["PYTHONMALLOC"]]))
sys.exit(7)
"""


@pytest.mark.parametrize("by", ["script", "module"])
def test_a_tracked_program_finds_itself_as_it_would_alone(tmp_path: Path, by: str) -> None:
    """Name, arguments, imports, exit code."""
    (tmp_path / "beside.py").write_text("HERE = 1\n")
    (tmp_path / "program.py").write_text(PROGRAM.format(beside="beside"))
    words = ["program.py"] if by == "script" else ["-m", "program"]
    target = Command([sys.executable, *words, "--option", "value"], cwd=str(tmp_path))
    listening = tmp_path / "desk"
    changed = tracked(target, python_of(target), listening)
    alone, told = (
        subprocess.run(argv, cwd=tmp_path, env={"PYTHONMALLOC": "malloc"}, capture_output=True, timeout=60, check=False)
        for argv in (target.command, _with_somebody_there(listening, list(changed.command)))
    )
    assert alone.returncode == told.returncode == 7, told.stderr
    assert told.stdout == alone.stdout
    assert changed.env["PYTHONMALLOC"] == "malloc"


def _with_somebody_there(listening: Path, argv: list[str]) -> list[str]:
    """The command, with a socket to report at."""
    here = (
        f"import socket, subprocess, sys; s = socket.socket(socket.AF_UNIX); s.bind({str(listening)!r}); s.listen(); "
    )
    return [sys.executable, "-c", f"{here}sys.exit(subprocess.run({argv!r}).returncode)"]


def test_the_names_of_lines() -> None:
    assert named(Frame("f", f"{Path.cwd()}/systems/agent/call.py", 3)) == "systems/agent/call.py:3 f"
    assert named(Frame("f", "/opt/venv/lib/python3.11/site-packages/anyio/tasks.py", 3)) == "anyio/tasks.py:3 f"
    assert named(Frame("f", "/usr/lib/python3.11/json/decoder.py", 3)) == "json/decoder.py:3 f"
    assert named(Frame("no line of Python", "", 0)) == "no line of Python"
