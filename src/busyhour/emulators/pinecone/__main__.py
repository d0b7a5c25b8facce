"""`python -m busyhour.emulators.pinecone '<json settings>'`: see twin.run."""

from __future__ import annotations

import sys

from busyhour.emulators.pinecone import Pinecone
from busyhour.emulators.pinecone.api import application
from busyhour.emulators.twin import run

if __name__ == "__main__":
    default = Pinecone()
    raise SystemExit(run(application, default=default._behaviour, default_name=default.name, argv=sys.argv[1:]))
