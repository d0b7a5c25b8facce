"""What `busyhour locust` was asked for, as Locust's process finds it: in the environment."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

VARIABLE = "BUSYHOUR_LOCUST"


@dataclass(frozen=True)
class Settings:
    """plan: its path on this machine. shape: of the users that Locust shows, "" for Locust's own options."""

    plan: str
    options: Mapping[str, str]
    seed: int
    journal: str
    shape: str = ""

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


def settings() -> Settings:
    """Of this process."""
    return Settings(**json.loads(os.environ[VARIABLE]))
