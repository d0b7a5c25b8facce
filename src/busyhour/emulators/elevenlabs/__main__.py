"""`python -m busyhour.emulators.elevenlabs '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.elevenlabs import ElevenLabs
from busyhour.emulators.elevenlabs.api import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = ElevenLabs()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
