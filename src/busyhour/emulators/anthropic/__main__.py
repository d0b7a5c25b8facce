"""`python -m busyhour.emulators.anthropic '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.anthropic import Anthropic
from busyhour.emulators.anthropic.application import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = Anthropic()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
