"""The commands, their flags, and the words of `--help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from busyhour import __version__, fastlane, listen, resuming, timeline
from busyhour.attribute import command as attributing
from busyhour.capacity import command as searching
from busyhour.cli import acting
from busyhour.comparing import command as comparing
from busyhour.emulate import behave, serve
from busyhour.emulate.vendors import VENDORS
from busyhour.exporting import command as exporting
from busyhour.exporting import telling
from busyhour.learn import command as learning
from busyhour.swarm import command as swarm

_AddCommand: TypeAlias = Callable[
    [str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser
]  # name, what it does, about, example


def version() -> str:
    lane = f"the fast lane is not in use: {fastlane.WHY_NOT}" if fastlane.WHY_NOT else "with the fast lane"
    return f"busyhour {__version__}, {lane}"


def parser() -> argparse.ArgumentParser:
    """The whole grammar; `command` of the result is what to do with it, `grammar` that of the command alone."""
    ours = argparse.ArgumentParser(
        prog="busyhour",
        description="Pre-production verification for voice agents: calls your agent, through faults, and judges it.",
        epilog="exit codes: 0 pass, 1 fail, 2 inconclusive or not run, 3 invalid, 64 plan, 66 journal, 69 service",
    )
    ours.add_argument("--version", action="version", version=version())
    commands = ours.add_subparsers(required=True, metavar="COMMAND")

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
        sub.set_defaults(command=act, grammar=sub)
        return sub

    _add_running(command)
    _add_locust(command)
    _add_judging(command)
    _add_of_many_runs(command)
    exporting.arguments(command("export", acting.export_rows, "write the rows of a journal", exporting.EXAMPLE))
    _add_measuring(command)
    _add_commands_without_a_plan(command)
    return ours


def _add_running(command: _AddCommand) -> None:
    run = command(
        "run", acting.run_plan, "carry out a plan and judge it", "busyhour run plans/telephone.py --junit verdicts.xml"
    )
    run.add_argument("plan", help="the plan file")
    _plan_options(run)
    run.add_argument("--journal", help="where to write what happened (default: runs/PLAN-TIME.journal)")
    run.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")
    run.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that share the arrivals, a core each (default 1)"
    )
    run.add_argument(
        "--record", metavar="CALLS", help="keep the sound of: all, none, or N calls of each phase besides the worst"
    )

    cut = command("resume", acting.resume_run, "continue a run that was cut, in the same journal", resuming.EXAMPLE)
    cut.add_argument("journal")
    cut.add_argument("--changed-plan", action="store_true", help="continue though the plan file was changed since")
    for sub in (run, cut):
        _add_files(sub)
        telling.arguments(sub)
        sub.add_argument("--checkpoint", type=float, metavar="SECONDS", help="between verdicts on the way")
        sub.add_argument("--stop-on-fail", action="store_true", help="end a run that is lost (a look every hour)")


def _add_judging(command: _AddCommand) -> None:
    again = command(
        "judge", acting.judge_journal, "judge a journal again", "busyhour judge runs/telephone-20261120T101500.journal"
    )
    again.add_argument("journal")
    again.add_argument("--plan", help="judge by this plan (default: the one that made the journal)")
    _plan_options(again)

    report = command(
        "report",
        acting.report_journal,
        "write a report of a journal",
        "busyhour report runs/x.journal --html report.html",
    )
    report.add_argument("journal")
    report.add_argument("--plan", help="judge by this plan (default: the one that made the journal)")
    _add_files(report)
    report.add_argument("--format", choices=acting.REPORTERS, help="of one more report (default: text, if no other)")
    report.add_argument("--output", metavar="FILE", help="where to write that (default: standard output)")
    _plan_options(report)


def _plan_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the plan's own"
    )
    sub.add_argument("--scale", metavar="SHARE", help="of how long the plan takes: --scale 0.05 is -o scale=0.05")


def _add_files(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--html", metavar="FILE", help="write the report to look at and listen to: one HTML file")
    sub.add_argument("--json", metavar="FILE", help="write the verdicts as JSON")
    sub.add_argument("--junit", metavar="FILE", help="write the verdicts as JUnit XML")
    sub.add_argument("--summary", metavar="FILE", help="add the verdicts as Markdown, like $GITHUB_STEP_SUMMARY")


def _add_locust(command: _AddCommand) -> None:
    on_locust = command("locust", acting.run_on_locust, "carry out a plan on Locust, by its workers", swarm.EXAMPLE)
    on_locust.add_argument("plan", help="the plan file; what follows `--` is for Locust")
    _plan_options(on_locust)
    on_locust.add_argument("--journal", help="where to write what happened (default: runs/PLAN-TIME.journal)")
    on_locust.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")
    on_locust.add_argument("--shape", choices=swarm.SHAPES, default="", help="of the users that Locust shows")
    _add_files(on_locust)


def _add_of_many_runs(command: _AddCommand) -> None:
    comparing.arguments(
        command("compare", acting.compare_runs, "say whether a build is worse than another", comparing.EXAMPLE),
        _plan_options,
    )
    comparing.history_arguments(
        command("history", acting.tell_history, "show a folder of runs, and what changed", comparing.EXAMPLE_HISTORY),
        _plan_options,
    )


def _add_measuring(command: _AddCommand) -> None:
    prove = command(
        "prove",
        acting.prove_gates,
        "show that every gate can fail",
        "busyhour prove plans/telephone.py --only barge-in",
    )
    prove.add_argument("plan", help="the plan file")
    _plan_options(prove)
    prove.add_argument("--only", default="", metavar="TEXT", help="only gates whose name contains this")
    prove.add_argument("--journals", metavar="FOLDER", help="keep the controls' journals here")
    prove.add_argument("--seed", type=int, default=0, help="of the callers' random choices (default 0)")

    searching.arguments(
        command("capacity", acting.find_capacity, "find how many calls at once pass all gates", searching.EXAMPLE),
        _plan_options,
    )
    attributing.arguments(
        command(
            "attribute", acting.attribute_memory, "name the lines of the target that hold memory", attributing.EXAMPLE
        ),
        _plan_options,
    )


def _add_commands_without_a_plan(command: _AddCommand) -> None:
    ear = command("listen", acting.listen_to, "hear what a call of a run sounded like", listen.EXAMPLE)
    ear.add_argument("journal")
    ear.add_argument("call", nargs="?", help="its name (default: print a table of the calls there are)")
    ear.add_argument("--to", metavar="FILE", help="the WAV file to write: caller left, agent right (default: CALL.wav)")

    call = command("call", acting.place_call, "place one call and print its timeline", timeline.EXAMPLE)
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
    twin = command("emulate", acting.emulate_vendor, "serve a twin of a vendor", serve.EXAMPLE)
    names = f"one of {', '.join(VENDORS)}; its flags: busyhour emulate VENDOR --help"
    twin.add_argument("words", nargs=argparse.REMAINDER, metavar="VENDOR ...", help=names)

    other = command("behave", acting.change_behaviour, "show or change how a running twin behaves", behave.EXAMPLE)
    flags = "the twin's URL, then what is to change; its flags: busyhour behave URL --help"
    other.add_argument("words", nargs=argparse.REMAINDER, metavar="URL ...", help=flags)

    learning.arguments(
        command("learn", acting.learn_from_vendor, "learn how a vendor behaves, for its twin", learning.EXAMPLE)
    )
