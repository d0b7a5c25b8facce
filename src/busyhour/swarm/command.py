"""`busyhour locust`: Locust, started with our locustfile; the journal is judged when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from busyhour.errors import PlanError, ServiceError
from busyhour.swarm.settings import Settings

EXAMPLE = "busyhour locust plans/telephone.py -- --headless --master --expect-workers 2 -u 2"
LOCUSTFILE = Path(__file__).with_name("files") / "plan.py"
SHAPES = ("light", "medium", "heavy", "stress")
_OURS = ("-f", "--locustfile")
_ON_LOOPBACK = {"LOCUST_WEB_HOST": "127.0.0.1"}  # not all interfaces; a flag and the user's own variable outrank it


def check(words: Sequence[str]) -> None:
    """Raises PlanError where Locust is not installed, or is told to do something else than this plan."""
    if find_spec("locust") is None:
        raise PlanError("Locust is not installed; install it with busyhour's extra: pip install 'busyhour[locust]'")
    for word in words:
        if word.partition("=")[0] in _OURS:
            raise PlanError(f"{word}: the locustfile is busyhour's own here; leave that out")


def run(chosen: Settings, words: Sequence[str]) -> int:
    """Run Locust to its end; its exit code. A worker of Locust's takes the place of this process, and never returns.

    Raises ServiceError where it ended before the run began.
    """
    argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *words]
    if "--worker" in words:
        os.execve(argv[0], argv, os.environ | chosen.environment())  # noqa: S606  (no shell: that is the point)
    chosen = replace(chosen, journal=str(Path(chosen.journal).resolve()))
    Path(chosen.journal).parent.mkdir(parents=True, exist_ok=True)
    environment = _ON_LOOPBACK | os.environ | chosen.environment()
    with subprocess.Popen(argv, env=environment) as locust, _passing_on(locust):  # noqa: S603  (our own words)
        code = locust.wait()
    if not Path(chosen.journal).exists():
        raise ServiceError(f"Locust ended with {code} before the run had begun; what it says above is why")
    return code


@contextmanager
def _passing_on(locust: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ctrl-C reaches Locust as it does us, and SIGTERM from us; it ends in order, and so do we, after it."""

    def hear(number: int, _frame: object) -> None:
        if number == signal.SIGTERM:
            locust.terminate()

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
