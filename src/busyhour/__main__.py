"""`python -m busyhour`, and the command `busyhour`."""

import signal
import sys


def main() -> int:
    """Run the command line. Ctrl-C just ends it until there is something to undo; when all is said it is too late."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not ignored by who started us
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from busyhour import cli  # noqa: PLC0415  (a second of imports, in which Ctrl-C would be a traceback)

    try:
        try:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return cli.main()
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # in the instant before it was ignored
        return cli.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
