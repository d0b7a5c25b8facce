"""`python -m busyhour.emulators.openai '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.openai import OpenAI
from busyhour.emulators.openai.application import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = OpenAI()
    raise SystemExit(
        run(application, default=default._behaviour, default_name=default.name, path="/v1", argv=sys.argv[1:])
    )
