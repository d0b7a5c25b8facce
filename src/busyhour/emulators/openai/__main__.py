"""`python -m busyhour.emulators.openai '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from busyhour.emulators.openai import OpenAI
from busyhour.emulators.openai.application import application
from busyhour.emulators.twin import run


def main(argv: Sequence[str]) -> int:
    default = OpenAI()
    return run(application, default=default._behaviour, default_name=default.name, path="/v1", argv=argv)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
