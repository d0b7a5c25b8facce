"""What each command does, with its arguments read; each returns the exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.console import Console

from busyhour import controls, listen, matrix, preflight, proofs, prospects, resuming, timeline
from busyhour.attribute import command as attributing
from busyhour.capacity import command as searching
from busyhour.checkpoints import Checkpoints
from busyhour.clock import SystemClock, wall_time
from busyhour.comparing import command as comparing
from busyhour.conduct import Conducted, conduct
from busyhour.distributed import crew
from busyhour.distributed.hiring import too_many
from busyhour.emulate import behave, serve
from busyhour.errors import BusyhourError, JournalError, PlanError, ServiceError
from busyhour.exporting import command as exporting
from busyhour.exporting import telling
from busyhour.faults import lacking
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.learn import command as learning
from busyhour.model import EXIT_CODE, Run
from busyhour.planfile import PlanFile, load
from busyhour.recording import Recording
from busyhour.reports import json as json_report
from busyhour.reports import junit, summary, text
from busyhour.swarm import command as swarm
from busyhour.swarm.settings import Settings


def _html(run: Run, judgement: Judgement, out: TextIO) -> None:
    from busyhour.reports import html  # noqa: PLC0415  (templates and codecs, which no other report needs)

    html.report(run, judgement, out)


REPORTERS: Mapping[str, Callable[[Run, Judgement, TextIO], None]] = {
    "text": text.report,
    "json": json_report.report,
    "junit": junit.report,
    "html": _html,
    "summary": summary.report,
}
FILES = ("html", "json", "junit", "summary")  # flags, each with the file to write that report to
INTERRUPTED = 130


def complain(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"busyhour: {message}\n")


# ---------------------------------------------------------------- commands


def run_plan(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    if arguments.record is not None:
        file = replace(file, plan=replace(file.plan, recording=_recording(arguments.record)))
    _check_processes(arguments, file)
    checkpoints, exports = _checkpoints(arguments), telling.exports(arguments, os.environ)
    preflight.check(file.plan, processes=arguments.processes)
    stamp = wall_time()[:19].translate({ord("-"): None, ord(":"): None})
    journal = Path(arguments.journal or f"runs/{file.path.stem}-{stamp}.journal")
    console, title = _console(), file.path.stem
    with ExitStack() as files:
        reports = _reports(arguments, files)
        for note in _notes(file, arguments.processes):
            console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
        seed, processes = arguments.seed, arguments.processes
        perform = partial(conduct, file, file.plan, journal=journal, seed=seed, title=title, processes=processes)
        perform = partial(perform, checkpoints=checkpoints, exports=exports)
        code = _performed(perform, file, journal, reports, console)
    _say_where(journal, arguments)
    return code


def _notes(file: PlanFile, processes: int) -> Iterator[str]:
    """What a run of it will not show, told before it is made."""
    yield from (f"the phase {phase!r} will not be carried out: {why}" for phase, why in lacking(file.plan).items())
    if crowd := too_many(processes):
        yield crowd
    yield from prospects.foretold(file)


def resume_run(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    checkpoints, exports = _checkpoints(arguments), telling.exports(arguments, os.environ)
    cut = resuming.cut_run(journal, SystemClock().now_ns(), changed_plan=arguments.changed_plan)
    preflight.check(cut.file.plan)
    console, title = _console(), cut.file.path.stem
    with ExitStack() as files:
        reports = _reports(arguments, files)
        console.print(cut.told, highlight=False, soft_wrap=True, markup=False)
        plan, seed = cut.file.plan, cut.seed
        perform = partial(conduct, cut.file, plan, journal=journal, seed=seed, title=title, resuming=cut.resumption)
        perform = partial(perform, checkpoints=checkpoints, exports=exports)
        code = _performed(perform, cut.file, journal, reports, console)
    _say_where(journal, arguments)
    return code


def _performed(
    perform: Callable[..., Conducted],
    file: PlanFile,
    journal: Path,
    reports: Sequence[tuple[str, TextIO]],
    console: Console,
) -> int:
    """The exit code of what was performed, judged and reported."""
    try:
        conducted = perform(console=console)
    except (ServiceError, ExceptionGroup):
        _judged(file, journal, reports)  # a build that reads only them is to see why, too
        raise
    if conducted.stopped is not None:
        console.print(f"The run was cut short: {conducted.stopped}", highlight=False, soft_wrap=True, markup=False)
    return _judged(file, journal, [("text", sys.stdout), *reports])


def run_on_locust(arguments: argparse.Namespace) -> int:
    swarm.check(arguments.theirs)
    file = load(Path(arguments.plan), _options(arguments))
    preflight.check(file.plan)
    for note in prospects.foretold(file):
        complain(f"note: {note}")
    stamp = wall_time()[:19].translate({ord("-"): None, ord(":"): None})
    journal = Path(arguments.journal or f"runs/{file.path.stem}-{stamp}.journal")
    chosen = Settings(str(file.path.resolve()), file.options, arguments.seed, str(journal), arguments.shape)
    with ExitStack() as files:
        reports = _reports(arguments, files)
        ended = swarm.run(chosen, arguments.theirs)
        code = _judged(file, journal, [("text", sys.stdout), *reports])
    _say_where(journal, arguments)
    return ended if PlanError.exit_code <= ended <= BusyhourError.exit_code else code


def _say_where(journal: Path, arguments: argparse.Namespace) -> None:
    sys.stdout.write(f"\njournal: {journal}\n")
    if arguments.html is not None:
        sys.stdout.write(f"report:  {arguments.html}\n")


def judge_journal(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    return _judged(_plan_of(journal, arguments), journal, [("text", sys.stdout)])


def report_journal(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    file = _plan_of(journal, arguments)
    with ExitStack() as files:
        reports = _reports(arguments, files)
        if arguments.format or arguments.output or not reports:
            out = sys.stdout if arguments.output is None else files.enter_context(_opened(Path(arguments.output)))
            reports.append((arguments.format or "text", out))
        return _judged(file, journal, reports)


def prove_gates(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    preflight.check(file.plan)
    console, rows, found = _console(), list[matrix.Row](), dict[str, proofs.GateProof]()
    code = 0
    with tempfile.TemporaryDirectory(prefix="busyhour-prove-") as temporary:
        folder = Path(arguments.journals or temporary)
        try:
            for news in controls.prove(file, only=arguments.only, folder=folder, seed=arguments.seed, console=console):
                if isinstance(news, matrix.Row):
                    rows.append(news)
                    continue
                proofs.keep(file, news)  # at once: what comes later may be interrupted
                found[news.gate] = news
        except controls.Interrupted as interrupted:
            complain(str(interrupted))
            code = INTERRUPTED
    gates = [gate.name for gate in (*file.plan.gates, *file.plan.valid_if)]
    sys.stdout.writelines(f"{line}\n" for line in (*matrix.lines(rows, gates), "") if rows)
    for proof in found.values():
        sys.stdout.write(f"{proof.status.upper():9} {proof.gate}\n")
        if proof.status != proofs.PROVEN:
            sys.stdout.write(f"          {proof.because}\n")
    proven = sum(proof.status == proofs.PROVEN for proof in found.values())
    sys.stdout.write(f"\n{proven} of {len(found)} gates are proven; kept in {proofs.path_of(file)}\n")
    return code or (1 if proven < len(found) else 0)


def find_capacity(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    with ExitStack() as files:
        return searching.capacity(arguments, file, _reports(arguments, files), console=_console())


def attribute_memory(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    return attributing.attribute(arguments, file, sys.stdout, console=_console())


def compare_runs(arguments: argparse.Namespace) -> int:
    with ExitStack() as files:
        out = files.enter_context(_opened(Path(arguments.json))) if arguments.json else None
        return comparing.compare(arguments, _options(arguments), sys.stdout, out, console=_console())


def tell_history(arguments: argparse.Namespace) -> int:
    with ExitStack() as files:
        out = files.enter_context(_opened(Path(arguments.json))) if arguments.json else None
        return comparing.history(arguments, _options(arguments), sys.stdout, out, console=_console())


def export_rows(arguments: argparse.Namespace) -> int:
    return exporting.act(arguments)


def place_call(arguments: argparse.Namespace) -> int:
    return timeline.call(
        arguments.url,
        says=arguments.say,
        patience_seconds=arguments.patience,
        codec=arguments.codec,
        out=sys.stdout,
        carrier=arguments.carrier,
    )


def listen_to(arguments: argparse.Namespace) -> int:
    to = Path(arguments.to) if arguments.to else None
    return listen.listen(Path(arguments.journal), arguments.call, to, sys.stdout)


def emulate_vendor(arguments: argparse.Namespace) -> int:
    return serve.emulate(arguments.words, sys.stdout)


def change_behaviour(arguments: argparse.Namespace) -> int:
    return behave.behave(arguments.words, sys.stdout)


def learn_from_vendor(arguments: argparse.Namespace) -> int:
    return learning.learn(arguments, sys.stdout)


# ---------------------------------------------------------------- their parts


def _check_processes(arguments: argparse.Namespace, file: PlanFile) -> None:
    if arguments.processes < 1:
        raise PlanError(f"--processes {arguments.processes}: give 1 or more")
    if arguments.processes > 1:
        crew.check(file.plan, arguments.processes)


def _judged(file: PlanFile, journal: Path, reports: Sequence[tuple[str, TextIO]]) -> int:
    with open_run(journal) as run:
        judgement = judge(file.plan, run)
        for name, out in reports:
            try:
                REPORTERS[name](run, judgement, out)
                out.flush()
            except OSError as error:
                if out is sys.stdout:
                    raise
                with suppress(OSError):
                    out.close()
                raise _unwritable(Path(out.name), error) from None
    return EXIT_CODE[judgement.outcome]


def _plan_of(journal: Path, arguments: argparse.Namespace) -> PlanFile:
    """The plan that judges a journal: the one given, or the one it was made by."""
    with open_run(journal) as run:
        meta = run.meta
    recorded, options = meta.get("plan"), meta.get("options")
    if not arguments.plan and not isinstance(recorded, str):
        raise JournalError(f"{journal}: it does not say which plan made it; give the plan with --plan")
    path = Path(arguments.plan or str(recorded))
    if not arguments.plan and not path.exists():
        raise PlanError(f"{path}: the plan that made {journal} is no longer there; give another with --plan")
    given = _options(arguments)
    kept = {str(name): str(value) for name, value in options.items()} if isinstance(options, dict) else {}
    file = load(path, given) if given or not kept else _with_recorded(path, kept, journal, asked=bool(arguments.plan))
    if file.source == meta.get("source"):
        return file
    if isinstance(recorded, str) and path.resolve() != Path(recorded).resolve():
        complain(f"note: {journal} was made by {recorded}, and is judged by {path}")
    else:
        complain(f"note: {path} has changed since {journal} was made; it is judged by the plan as it is now")
    return file


def _with_recorded(path: Path, kept: Mapping[str, str], journal: Path, *, asked: bool) -> PlanFile:
    """The plan with the options that a journal was made with. `asked`: it is judged by a plan that was named, which
    need not have them: those it does not take are left out, with a note."""
    try:
        return load(path, kept)
    except PlanError as problem:
        refused = problem
    try:
        taken = {name: text for name, text in kept.items() if _loads(path, {name: text})}
        strange = " ".join(f"{name}={text}" for name, text in kept.items() if name not in taken)
        file = load(path, taken)
    except PlanError:  # it is not the options that are wrong with it
        raise refused from None
    words = f"{journal} was made with {strange}, which {path} does not take"
    if not asked:
        mend = f"give its options with -o, or judge without by --plan {path}"
        raise PlanError([*refused.problems, f"{words}; {mend}"]) from None
    complain(f"note: {words}; it is judged without, unless you give options with -o")
    return file


def _loads(path: Path, options: Mapping[str, str]) -> bool:
    try:
        load(path, options)
    except PlanError:
        return False
    return True


def _checkpoints(arguments: argparse.Namespace) -> Checkpoints | None:
    if arguments.checkpoint is None and not arguments.stop_on_fail:
        return None
    if getattr(arguments, "processes", 1) > 1:
        raise PlanError(
            "--checkpoint and --stop-on-fail read what all processes saw, which is put together when the run is over; "
            "leave them out, or --processes"
        )
    every = {} if arguments.checkpoint is None else {"every_seconds": arguments.checkpoint}
    return Checkpoints(stop_on_fail=arguments.stop_on_fail, **every)


def _recording(asked: str) -> Recording:
    if asked in {"all", "none"}:
        return Recording(all=True) if asked == "all" else Recording.off()
    if not asked.isdecimal():
        raise PlanError(f"--record {asked}: give all, none, or how many calls of each phase, like --record 20")
    return Recording(sample=int(asked), at_once=max(Recording().at_once, int(asked)))


def _options(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = [option.partition("=") for option in arguments.option]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise PlanError(f"--option {wrong[0]!r}: write it as NAME=VALUE")
    options = {name: value for name, _, value in pairs}
    if arguments.scale is None:
        return options
    if "scale" in options:
        raise PlanError(f"--scale {arguments.scale} and --option scale={options['scale']}: give one of them")
    return {**options, "scale": arguments.scale}


def _reports(arguments: argparse.Namespace, files: ExitStack) -> list[tuple[str, TextIO]]:
    """Where else to report to, opened before the run: what cannot be written is known before it is made."""
    asked = ((name, getattr(arguments, name, None)) for name in FILES)
    return [(name, files.enter_context(_opened(Path(path), name))) for name, path in asked if path is not None]


def _opened(path: Path, name: str = "") -> TextIO:
    """A summary is added to what other steps of the build have written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8") if name == "summary" else _Replacement(path)
    except OSError as error:
        raise _unwritable(path, error) from None


class _Replacement(io.TextIOWrapper):
    """What is in the file stays until the first of what takes its place is written: a run may be refused, or killed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("ab"), encoding="utf-8")
        self._replaces = path.is_file()  # a pipe or a device has nothing to lose

    def write(self, text: str) -> int:
        if self._replaces:
            self._replaces = False
            self.truncate(0)
        return super().write(text)


def _unwritable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"{path}: the report cannot be written there: {error.strerror}; give another place")


def _console() -> Console:
    return Console(file=sys.stderr)
