"""`python -m busyhour.emulators.deepgram '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.deepgram import Deepgram
from busyhour.emulators.deepgram.api import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = Deepgram()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
