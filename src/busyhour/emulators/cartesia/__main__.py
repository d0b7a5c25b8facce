"""`python -m busyhour.emulators.cartesia '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.cartesia import Cartesia
from busyhour.emulators.cartesia.api import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = Cartesia()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
