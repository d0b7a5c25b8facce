"""`python -m busyhour.emulators.gemini '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.gemini import Gemini
from busyhour.emulators.gemini.api import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = Gemini()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
