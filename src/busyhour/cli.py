"""The command line: run, resume, judge, report, prove, capacity, attribute, listen, call, emulate, behave, learn.

Exit codes: 0 pass, 1 fail, 2 inconclusive or not run, 3 invalid; 64 plan, 66 journal, 69 service; 70 our own bug;
130 interrupted before anything was measured; 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO, TypeAlias

from rich.console import Console

from busyhour import __version__, controls, listen, matrix, preflight, proofs, resuming, timeline
from busyhour.attribute import command as attributing
from busyhour.capacity import command as searching
from busyhour.checkpoints import Checkpoints
from busyhour.clock import SystemClock, wall_time
from busyhour.conduct import Conducted, conduct
from busyhour.distributed import crew
from busyhour.distributed.hiring import too_many
from busyhour.emulate import behave, serve
from busyhour.emulate.vendors import VENDORS
from busyhour.errors import BusyhourError, JournalError, PlanError, ServiceError
from busyhour.faults import lacking
from busyhour.gates import Judgement, judge
from busyhour.journal import open_run
from busyhour.learn import command as learning
from busyhour.model import EXIT_CODE, Run
from busyhour.planfile import PlanFile, load
from busyhour.recording import Recording
from busyhour.reports import json as json_report
from busyhour.reports import junit, text
from busyhour.swarm import command as swarm
from busyhour.swarm.settings import Settings

_AddCommand: TypeAlias = Callable[
    [str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser
]  # name, what it does, about, example
REPORTERS: Mapping[str, Callable[[Run, Judgement, TextIO], None]] = {
    "text": text.report,
    "json": json_report.report,
    "junit": junit.report,
}
INTERRUPTED = 130
UNREAD = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Expected failures are one clear message on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    ours = words.index("--") if words[:1] == ["locust"] and "--" in words else len(words)  # what follows is Locust's
    arguments = _parser().parse_args(words[:ours], argparse.Namespace(theirs=words[ours + 1 :]))
    try:
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return UNREAD
        expected = _expected(error)
        if expected is None:
            traceback.print_exc()
            _complain("this is a bug of busyhour's own; please report it with the lines above")
            return BusyhourError.exit_code
        _complain(str(expected))
        return expected.exit_code


def _expected(error: BaseException) -> BusyhourError | None:
    """The expected failure in an error or in a group of them, if all of it was expected."""
    if isinstance(error, BusyhourError):
        return error
    if isinstance(error, BaseExceptionGroup) and all(_expected(e) is not None for e in error.exceptions):
        return _expected(error.exceptions[0])
    if isinstance(error, SystemExit):
        raise error
    return None


def _unread() -> bool:
    """Whether who read our output is gone (`| head`; a `| tee` that the same Ctrl-C ended): it is silenced then."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        asked = select.poll()
        asked.register(stream, 0)  # a pipe without a reader reports POLLERR unasked
        if asked.poll(0):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            gone = True
    return gone


def _complain(message: str) -> None:
    sys.stderr.write(f"busyhour: {message}\n")


# ---------------------------------------------------------------- commands


def _run(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    if arguments.record is not None:
        file = replace(file, plan=replace(file.plan, recording=_recording(arguments.record)))
    _check_processes(arguments, file)
    preflight.check(file.plan, processes=arguments.processes)
    stamp = wall_time()[:19].translate({ord("-"): None, ord(":"): None})
    journal = Path(arguments.journal or f"runs/{file.path.stem}-{stamp}.journal")
    console, title = _console(), file.path.stem
    with ExitStack() as files:
        reports = _reports(arguments, files)
        for phase, why in lacking(file.plan).items():
            note = f"note: the phase {phase!r} will not be carried out: {why}"
            console.print(note, highlight=False, soft_wrap=True, markup=False)
        if crowd := too_many(arguments.processes):
            console.print(f"note: {crowd}", highlight=False, soft_wrap=True, markup=False)
        seed, processes = arguments.seed, arguments.processes
        perform = partial(conduct, file, file.plan, journal=journal, seed=seed, title=title, processes=processes)
        perform = partial(perform, checkpoints=_checkpoints(arguments))
        code = _performed(perform, file, journal, reports, console)
    sys.stdout.write(f"\njournal: {journal}\n")
    return code


def _resume(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    cut = resuming.cut_run(journal, SystemClock().now_ns(), changed_plan=arguments.changed_plan)
    preflight.check(cut.file.plan)
    console, title = _console(), cut.file.path.stem
    with ExitStack() as files:
        reports = _reports(arguments, files)
        console.print(cut.told, highlight=False, soft_wrap=True, markup=False)
        plan, seed = cut.file.plan, cut.seed
        perform = partial(conduct, cut.file, plan, journal=journal, seed=seed, title=title, resuming=cut.resumption)
        perform = partial(perform, checkpoints=_checkpoints(arguments))
        code = _performed(perform, cut.file, journal, reports, console)
    sys.stdout.write(f"\njournal: {journal}\n")
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


def _locust(arguments: argparse.Namespace) -> int:
    swarm.check(arguments.theirs)
    file = load(Path(arguments.plan), _options(arguments))
    preflight.check(file.plan)
    stamp = wall_time()[:19].translate({ord("-"): None, ord(":"): None})
    journal = Path(arguments.journal or f"runs/{file.path.stem}-{stamp}.journal")
    chosen = Settings(str(file.path.resolve()), file.options, arguments.seed, str(journal), arguments.shape)
    with ExitStack() as files:
        reports = _reports(arguments, files)
        ended = swarm.run(chosen, arguments.theirs)
        code = _judged(file, journal, [("text", sys.stdout), *reports])
    sys.stdout.write(f"\njournal: {journal}\n")
    return ended if PlanError.exit_code <= ended <= BusyhourError.exit_code else code


def _judge(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    return _judged(_plan_of(journal, arguments), journal, [("text", sys.stdout)])


def _report(arguments: argparse.Namespace) -> int:
    journal = Path(arguments.journal)
    file = _plan_of(journal, arguments)
    with ExitStack() as files:
        out = sys.stdout if arguments.output is None else files.enter_context(_opened(Path(arguments.output)))
        return _judged(file, journal, [(arguments.format, out)])


def _prove(arguments: argparse.Namespace) -> int:
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
            _complain(str(interrupted))
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


def _capacity(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    with ExitStack() as files:
        out = files.enter_context(_opened(Path(arguments.json))) if arguments.json else None
        return searching.capacity(arguments, file, out, console=_console())


def _attribute(arguments: argparse.Namespace) -> int:
    file = load(Path(arguments.plan), _options(arguments))
    return attributing.attribute(arguments, file, sys.stdout, console=_console())


def _call(arguments: argparse.Namespace) -> int:
    return timeline.call(
        arguments.url,
        says=arguments.say,
        patience_seconds=arguments.patience,
        codec=arguments.codec,
        out=sys.stdout,
        carrier=arguments.carrier,
    )


def _listen(arguments: argparse.Namespace) -> int:
    to = Path(arguments.to) if arguments.to else None
    return listen.listen(Path(arguments.journal), arguments.call, to, sys.stdout)


def _emulate(arguments: argparse.Namespace) -> int:
    return serve.emulate(arguments.words, sys.stdout)


def _behave(arguments: argparse.Namespace) -> int:
    return behave.behave(arguments.words, sys.stdout)


def _learn(arguments: argparse.Namespace) -> int:
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
    chosen = _options(arguments) or ({str(k): str(v) for k, v in options.items()} if isinstance(options, dict) else {})
    file = load(path, chosen)
    if file.source != meta.get("source"):
        _complain(f"note: {path} has changed since {journal} was made; it is judged by the plan as it is now")
    return file


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
        raise PlanError(f"--option {wrong[0]}: write it as NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _reports(arguments: argparse.Namespace, files: ExitStack) -> list[tuple[str, TextIO]]:
    """Where else to report to, opened before the run: what cannot be written is known before it is made."""
    return [
        (name, files.enter_context(_opened(Path(path))))
        for name, path in (("json", arguments.json), ("junit", arguments.junit))
        if path is not None
    ]


def _opened(path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"{path}: the report cannot be written there: {error.strerror}; give another place")


def _console() -> Console:
    return Console(file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="busyhour",
        description="Pre-production verification for voice agents: calls your agent, through faults, and judges it.",
        epilog="exit codes: 0 pass, 1 fail, 2 inconclusive or not run, 3 invalid, 64 plan, 66 journal, 69 service",
    )
    parser.add_argument("--version", action="version", version=f"busyhour {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, act: Callable[[argparse.Namespace], int], about: str, example: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=act)
        return sub

    def plan_options(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the plan's own"
        )

    run = command("run", _run, "carry out a plan and judge it", "busyhour run plans/telephone.py --junit verdicts.xml")
    run.add_argument("plan", help="the plan file")
    plan_options(run)
    run.add_argument("--journal", help="where to write what happened (default: runs/PLAN-TIME.journal)")
    run.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")
    run.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that share the arrivals, a core each (default 1)"
    )
    run.add_argument(
        "--record", metavar="CALLS", help="keep the sound of: all, none, or N calls of each phase besides the worst"
    )

    _add_locust(command, plan_options)
    cut = command("resume", _resume, "continue a run that was cut, in the same journal", resuming.EXAMPLE)
    cut.add_argument("journal")
    cut.add_argument("--changed-plan", action="store_true", help="continue though the plan file was changed since")
    for sub in (run, cut):
        sub.add_argument("--json", metavar="FILE", help="write the verdicts as JSON too")
        sub.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML too")
        sub.add_argument("--checkpoint", type=float, metavar="SECONDS", help="between verdicts on the way")
        sub.add_argument("--stop-on-fail", action="store_true", help="end a run that is lost (a look every hour)")

    again = command("judge", _judge, "judge a journal again", "busyhour judge runs/telephone-20261120T101500.journal")
    again.add_argument("journal")
    again.add_argument("--plan", help="judge by this plan (default: the one that made the journal)")
    plan_options(again)

    report = command("report", _report, "write a report of a journal", "busyhour report runs/x.journal --format junit")
    report.add_argument("journal")
    report.add_argument("--plan", help="judge by this plan (default: the one that made the journal)")
    report.add_argument("--format", choices=REPORTERS, default="text")
    report.add_argument("--output", metavar="FILE", help="(default: standard output)")
    plan_options(report)

    _add_measuring(command, plan_options)
    _add_commands_without_a_plan(command)
    return parser


def _add_locust(command: _AddCommand, plan_options: Callable[[argparse.ArgumentParser], None]) -> None:
    on_locust = command("locust", _locust, "carry out a plan on Locust, by its workers", swarm.EXAMPLE)
    on_locust.add_argument("plan", help="the plan file; what follows `--` is for Locust")
    plan_options(on_locust)
    on_locust.add_argument("--journal", help="where to write what happened (default: runs/PLAN-TIME.journal)")
    on_locust.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")
    on_locust.add_argument("--shape", choices=swarm.SHAPES, default="", help="of the users that Locust shows")
    on_locust.add_argument("--json", metavar="FILE", help="write the verdicts as JSON too")
    on_locust.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML too")


def _add_measuring(command: _AddCommand, plan_options: Callable[[argparse.ArgumentParser], None]) -> None:
    prove = command(
        "prove", _prove, "show that every gate can fail", "busyhour prove plans/telephone.py --only barge-in"
    )
    prove.add_argument("plan", help="the plan file")
    plan_options(prove)
    prove.add_argument("--only", default="", metavar="TEXT", help="only gates whose name contains this")
    prove.add_argument("--journals", metavar="FOLDER", help="keep the controls' journals here")
    prove.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")

    searching.arguments(
        command("capacity", _capacity, "find how many calls at once pass all gates", searching.EXAMPLE), plan_options
    )
    attributing.arguments(
        command("attribute", _attribute, "name the lines of the target that hold memory", attributing.EXAMPLE),
        plan_options,
    )


def _add_commands_without_a_plan(command: _AddCommand) -> None:
    ear = command("listen", _listen, "hear what a call of a run sounded like", listen.EXAMPLE)
    ear.add_argument("journal")
    ear.add_argument("call", nargs="?", help="its name (default: print a table of the calls there are)")
    ear.add_argument("--to", metavar="FILE", help="the WAV file to write: caller left, agent right (default: CALL.wav)")

    call = command("call", _call, "place one call and print its timeline", timeline.EXAMPLE)
    call.add_argument("url", help="ws:// URL of an agent's media stream")
    call.add_argument(
        "--say", action="append", default=[], metavar="TEXT", help="an utterance's name, a text, or a .wav"
    )
    call.add_argument(
        "--patience", type=float, default=6.0, metavar="SECONDS", help="to wait for each answer (default 6)"
    )
    call.add_argument("--codec", choices=("PCMU", "PCMA", "L16"), default="PCMU", help="of Telnyx (default PCMU)")
    call.add_argument(
        "--carrier", choices=timeline.CARRIERS, default="telnyx", help="whose media stream it speaks (default telnyx)"
    )

    # What flags these two take is known once the vendor, or the twin, is: they read the rest of the line themselves.
    twin = command("emulate", _emulate, "serve a twin of a vendor", serve.EXAMPLE)
    names = f"one of {', '.join(VENDORS)}; its flags: busyhour emulate VENDOR --help"
    twin.add_argument("words", nargs=argparse.REMAINDER, metavar="VENDOR ...", help=names)

    other = command("behave", _behave, "show or change how a running twin behaves", behave.EXAMPLE)
    flags = "the twin's URL, then what is to change; its flags: busyhour behave URL --help"
    other.add_argument("words", nargs=argparse.REMAINDER, metavar="URL ...", help=flags)

    learning.arguments(command("learn", _learn, "learn how a vendor behaves, for its twin", learning.EXAMPLE))
