"""The command line: each command in `acting`, its words in `flags`.

Exit codes: 0 pass, 1 fail, 2 inconclusive or not run, 3 invalid; 64 plan or flags, 66 journal, 69 service; 70 our bug;
130 interrupted before anything was measured; 141 nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from busyhour.cli.acting import INTERRUPTED, complain
from busyhour.cli.flags import parser
from busyhour.emulate.flags import unrecognized
from busyhour.errors import BusyhourError, PlanError

__all__ = ["INTERRUPTED", "UNREAD", "main"]
UNREAD = 141
_MISUSED = 2  # argparse's own, which here is INCONCLUSIVE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Expected failures are one clear message on stderr, never a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    ours = words.index("--") if words[:1] == ["locust"] and "--" in words else len(words)  # what follows is Locust's
    try:
        arguments, strange = parser().parse_known_args(words[:ours], argparse.Namespace(theirs=words[ours + 1 :]))
        if strange:
            arguments.grammar.error(unrecognized(arguments.grammar, strange))
        command: Callable[[argparse.Namespace], int] = arguments.command
        code = command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as ended:
        if ended.code == _MISUSED:
            return PlanError.exit_code
        raise
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BaseException as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return UNREAD
        expected = _expected(error)
        if expected is None:
            traceback.print_exc()
            complain("this is a bug of busyhour's own; please report it with the lines above")
            return BusyhourError.exit_code
        complain(str(expected))
        return expected.exit_code


def _expected(error: BaseException) -> BusyhourError | None:
    """The expected failure in an error or in a group of them, if all of it was expected."""
    if isinstance(error, BusyhourError):
        return error
    if isinstance(error, BaseExceptionGroup) and all(_expected(e) is not None for e in error.exceptions):
        return _expected(error.exceptions[0])
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
