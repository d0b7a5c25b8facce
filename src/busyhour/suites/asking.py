"""The fixture `busyhour`: what a test asks for is begun, waited for, judged, told to pytest, and put away."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest

from busyhour import planfile, preflight
from busyhour.clock import wall_time
from busyhour.errors import BusyhourError, PlanError
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.model import Audio, Carrier, Plan, Run, Service
from busyhour.reports import html, text
from busyhour.suites import calling, running
from busyhour.suites.aside import Asides
from busyhour.suites.calling import PlacedCall
from busyhour.suites.running import Judged

T = TypeVar("T")
_NAME_CHARACTERS = 80  # of a test, in the name of a file


class Busyhour:
    """What a test asks of busyhour. Each method waits until it is done, in a sync test and in an async one.

    In an async test whose own event loop must go on meanwhile, because the agent runs on it: `await
    asyncio.to_thread(busyhour.call, ...)`.
    """

    def __init__(
        self, node: pytest.Item, folders: pytest.TempPathFactory, *, kept: Path | None, pages: Path | None
    ) -> None:
        """kept: where the journals of all runs stay; where none, those of failing runs do, in a folder of `folders`.
        pages: where the HTML reports of failing runs are written."""
        self._node, self._folders, self._kept, self._pages = node, folders, kept, pages
        self._asides = Asides()
        self._temporary: Path | None = None
        self._passed: list[Path] = []
        self._numbers = count(1)

    def __enter__(self) -> Busyhour:
        self._node.config.pluginmanager.register(self._asides)
        return self

    def __exit__(self, *_: object) -> None:
        """End what is still going on, and forget the journals of runs that passed, unless all are to be kept."""
        self._node.config.pluginmanager.unregister(self._asides)
        self._asides.stop()
        if self._temporary is not None:
            for journal in self._passed:
                journal.unlink(missing_ok=True)
            with suppress(OSError):  # what failed is kept in it
                self._temporary.rmdir()

    def run(self, plan: str | os.PathLike[str], *, seed: int = 0, **options: object) -> Judged:
        """Carry out a plan file in a process of its own, as `busyhour run PLAN -o NAME=VALUE ...` does.

        plan: from the root of the suite, or from the folder of the test. The test fails unless all gates pass.
        """
        __tracebackhide__ = True
        if not isinstance(plan, str | os.PathLike):
            raise self._failure([f"busyhour.run takes the path of a plan file, not a {_kind(plan)}; see busyhour.plan"])
        path, journal = self._found(Path(plan)), self._journal()

        def carry_out() -> Plan:
            file = planfile.load(path, {name: str(value) for name, value in options.items()})
            preflight.check(file.plan)
            self._asides.do(partial(running.in_a_process, path, file.options, seed=seed, journal=journal))
            return file.plan

        return self._judged(path.name, self._done(carry_out, journal), journal)

    def plan(self, plan: Plan, *, seed: int = 0) -> Judged:
        """Carry out a Plan that the test has made, in this process. The test fails unless all gates pass.

        Its demands on the harness (`valid_if`) say whether the process of the tests kept its clock.
        """
        __tracebackhide__ = True
        if not isinstance(plan, Plan):
            raise self._failure([f"busyhour.plan takes a Plan, not a {_kind(plan)}; a plan file is for busyhour.run"])
        journal, folder = self._journal(), self._node.path.parent

        def carry_out() -> None:
            if problems := planfile.check(plan):
                raise PlanError(problems)
            preflight.check(plan)
            self._asides.do(partial(running.in_this_process, plan, seed=seed, journal=journal, folder=folder))

        self._done(carry_out, journal)
        return self._judged("the plan", plan, journal)

    def call(
        self,
        target: str | Service,
        *,
        path: str = "",
        says: Sequence[str | Audio] = (),
        carrier: str | Carrier = "telnyx",
        services: Sequence[Service] = (),
        patience_seconds: float = 6.0,
        codec: str = "PCMU",
        must_answer: bool = True,
    ) -> PlacedCall:
        """Place one call, as `busyhour call` does, and give what the caller heard.

        target: the ws:// URL of an agent that is running, or a Service (`Command("python my_agent.py")`) that is
        started for this call, after `services` and the carrier, which its environment may name. path: of its media
        socket. carrier: a name that `busyhour call --carrier` knows, or a Carrier. says: utterances, or their names,
        texts or WAV files. The test fails when there is no call; and, unless must_answer is False, when a turn is not
        answered or the agent ends the call before its time.
        """
        __tracebackhide__ = True
        work = partial(
            calling.place,
            target,
            path=path,
            says=[says] if isinstance(says, str) else says,
            carrier=carrier,
            services=services,
            patience_seconds=patience_seconds,
            codec=codec,
        )
        placed = self._done(lambda: self._asides.do(work), hint=calling.hint_for_a_blocked_loop())
        self._node.add_report_section("call", "timeline", placed.timeline)
        if must_answer and (problems := placed.problems()):
            raise self._failure(problems)
        return placed

    # ---------------------------------------------------------------- what is said of a run

    def _done(self, attempt: Callable[[], T], journal: Path | None = None, hint: str = "") -> T:
        """What it gives; the test fails with what was expected to be able to fail."""
        __tracebackhide__ = True
        try:
            return attempt()
        except (BusyhourError, ExceptionGroup) as error:
            raise self._failure([running.expected(error), hint], journal) from None

    def _judged(self, title: str, plan: Plan, journal: Path) -> Judged:
        __tracebackhide__ = True
        judgement, page = self._done(lambda: self._told(title, plan, journal))
        if sentences := running.failing(judgement):
            raise self._failure(sentences, journal, page)
        self._passed.append(journal)
        return running.Judged(judgement, journal)

    def _told(self, title: str, plan: Plan, journal: Path) -> tuple[Judgement, str]:
        """The judgement, and a line that says where its HTML report is."""
        with open_run(journal) as run:
            judgement = judge(plan, run)
            self._tell(title, run, judgement)
            return judgement, self._page(run, judgement, journal) if running.failing(judgement) else ""

    def _tell(self, title: str, run: Run, judgement: Judgement) -> None:
        """All sentences: on the terminal with a failing test, and as properties of the test in pytest's JUnit XML."""
        told = StringIO()
        text.report(run, judgement, told)
        self._node.add_report_section("call", f"verdicts of {title}", told.getvalue())
        for verdict in (*judgement.validity, *judgement.verdicts):
            said = f"{verdict.outcome.value.upper()}: {verdict.because}"
            self._node.user_properties.append((f"busyhour: {verdict.gate}", said))

    def _page(self, run: Run, judgement: Judgement, journal: Path) -> str:
        """Write the HTML report, if it is wanted; a line that says where it is, or why not."""
        if self._pages is None:
            return ""
        page = self._pages / f"{journal.stem}.html"
        try:
            with page.open("w", encoding="utf-8") as out:
                html.report(run, judgement, out)
        except (OSError, BusyhourError) as error:  # the verdicts are to be told, whatever becomes of their page
            return f"no report: {page} cannot be written: {error}"
        return f"report: {page}"

    def _failure(self, lines: Sequence[str], journal: Path | None = None, page: str = "") -> BaseException:
        """What fails the test, with the journal of the run named in it and in the properties of the test."""
        kept = ""
        if journal is not None and journal.exists():
            kept = f"journal: {journal}"
            self._node.user_properties.append(("busyhour journal", str(journal)))
        return pytest.fail.Exception("\n".join(filter(None, (*lines, kept, page))))

    # ---------------------------------------------------------------- files

    def _found(self, path: Path) -> Path:
        """Where there is such a file; where it was first looked for, if there is none."""
        places = (self._node.config.rootpath, self._node.path.parent, Path.cwd())
        return next((place / path for place in places if (place / path).is_file()), places[0] / path)

    def _journal(self) -> Path:
        """Of a name that is free. In a folder that is kept, it says when, and which worker of xdist it was."""
        name = re.sub(r"[^\w.-]+", "-", self._node.nodeid.replace(".py::", "-"))[-_NAME_CHARACTERS:].strip("-.")
        if self._kept is not None:
            worker = os.environ.get("PYTEST_XDIST_WORKER", "")
            name = "-".join(filter(None, (name, re.sub("[-:]", "", wall_time()[:19]), worker)))
        elif self._temporary is None:
            self._temporary = self._folders.mktemp("busyhour")
        folder = self._kept or self._temporary
        assert folder is not None
        numbered = (f"-{number}" if number > 1 else "" for number in self._numbers)
        places = (folder / f"{name}{number}.journal" for number in numbered)
        return next(place for place in places if not place.exists())


def _kind(value: object) -> str:
    return type(value).__name__
