"""`python -m busyhour.emulators.deepgram '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from busyhour.emulators.deepgram import Deepgram
from busyhour.emulators.deepgram.api import application
from busyhour.emulators.twin import run


def main(argv: Sequence[str]) -> int:
    default = Deepgram()
    return run(application, default=default._behaviour, default_name=default.name, argv=argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
