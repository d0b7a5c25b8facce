"""The target's command, changed so that its memory can be tracked. The rest of it stays what it was."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from busyhour.errors import PlanError
from busyhour.model import Service
from busyhour.services import Command

TRACKED = Path(__file__).with_name("tracked.py")
EXTRA = "pip install 'busyhour[attribute]'"
_PYTHON = re.compile(r"python(\d(\.\d+)?t?)?$")
_WITH_VALUE = {"-W", "-X", "--check-hash-based-pycs"}
_VALUE_ATTACHED = ("-W", "-X")
_DEAF = "EI"  # options by which Python does not hear of PYTHONMALLOC
_START_SECONDS = 30.0
_SLOWER = 3  # a tracked program starts and stops at most so many times more slowly


@dataclass(frozen=True)
class Python:
    """A command that runs a Python program: the interpreter with its options, then the program with its arguments."""

    interpreter: Sequence[str]
    program: Sequence[str]

    @property
    def package(self) -> str:
        """What is run by `-m`, up to the first dot; empty for a script."""
        return self.program[1].partition(".")[0] if self.program[0] == "-m" else ""

    def tracked(self, socket: Path) -> list[str]:
        return [*self.interpreter, str(TRACKED), str(socket), *self.program]


def python_of(target: Service) -> Python:
    """How the target is run by Python. Raises PlanError where it is not, or where that cannot be seen."""
    if not isinstance(target, Command):
        raise PlanError(
            f"{target.name}: it is of the kind {type(target).__name__}, and only a Command can run under memray; "
            "give the plan one that starts it"
        )
    argv = shlex.split(target.command) if isinstance(target.command, str) else list(target.command)
    python = _parsed(target.name, argv if _is_python(argv[0]) else _by_script(target, argv))
    if deaf := [word for word in python.interpreter[1:] if word[1:2] != "-" and set(word[1:]) & set(_DEAF)]:
        raise PlanError(f"{target.name}: with {deaf[0]} Python ignores PYTHONMALLOC, which memray needs; leave it out")
    return python


def tracked(target: Command, python: Python, socket: Path) -> Command:
    """The same service, reporting at the socket.

    Python takes each block from malloc(3): of its own allocator's, memray would see but the arenas.
    """
    return replace(
        target,
        command=python.tracked(socket),
        env={**target.env, "PYTHONMALLOC": "malloc"},
        start_within_seconds=_SLOWER * target.start_within_seconds,
        stop_within_seconds=_SLOWER * target.stop_within_seconds,
    )


def check_memray(target: Command, python: Python) -> None:
    """Raises PlanError where the target's own interpreter has no memray."""
    own = {name: value for name, value in target.env.items() if isinstance(value, str)}
    argv = [*python.interpreter, "-c", "import memray"]
    try:
        asked = subprocess.run(  # noqa: S603  (the plan's own command)
            argv, cwd=target.cwd, env={**os.environ, **own}, capture_output=True, check=False, timeout=_START_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlanError(f"{target.name}: {shlex.join(argv)} could not be run: {error}") from None
    if asked.returncode:
        why = asked.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        raise PlanError(
            f"{target.name}: its Python ({python.interpreter[0]}) cannot import memray ({why[0]}); install busyhour's "
            f"extra where the target runs: {EXTRA}"
        )


def _is_python(word: str) -> bool:
    return _PYTHON.fullmatch(Path(word).name) is not None


def _by_script(target: Command, argv: Sequence[str]) -> list[str]:
    """The words of a script whose first line names Python, as installers write them (uvicorn, gunicorn)."""
    where = os.environ.get("PATH", "")
    path = target.env.get("PATH")
    found = shutil.which(argv[0], path=path if isinstance(path, str) else where)
    if "/" in argv[0]:
        found = str(Path(target.cwd or ".", argv[0]))
    try:
        with open(found or argv[0], "rb") as script:
            first = script.readline(512).decode(errors="replace")
    except OSError:
        first = ""
    words = shlex.split(first[2:]) if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if not words or not _is_python(words[0]):
        raise PlanError(
            f"{target.name}: {shlex.join(argv)!r} runs no Python that can be seen from here, and memray sees into "
            "nothing else; start it by `python -m MODULE`, `python SCRIPT`, or a script whose first line names python"
        )
    return [*words, str(found), *argv[1:]]


def _parsed(name: str, argv: Sequence[str]) -> Python:
    """The words up to the program, and from it on."""
    at = 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] not in {"-m", "-c", "-"}:
        at += 2 if argv[at] in _WITH_VALUE else 1
    program = argv[at:]
    attached = [word for word in argv[1:at] if not word.startswith(("--", *_VALUE_ATTACHED)) and set(word) & set("cm")]
    if attached or not program or program[0] in {"-c", "-"} or program == ["-m"]:
        raise PlanError(
            f"{name}: {shlex.join(argv)!r} names no program that can be started under memray; write it as "
            "`python -m MODULE` or `python SCRIPT`"
        )
    return Python(argv[:at], program)
