"""What has been proven of a plan's gates, kept in a file beside the plan.

A proof holds for the plan as it was, proven by the busyhour that proved it: after any change of either, a gate is
unproven until it is proven again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from busyhour import __version__
from busyhour.clock import wall_time
from busyhour.errors import JournalError
from busyhour.planfile import PlanFile

PROVEN, UNPROVEN = "proven", "unproven"
_FORMAT = 1


@dataclass(frozen=True)
class GateProof:
    """What became of one gate's control. `status` is "proven" or "unproven"; `because` says what was seen."""

    gate: str
    status: str
    because: str


def path_of(file: PlanFile) -> Path:
    return file.path.with_name(file.path.stem + ".proofs.json")


def known(file: PlanFile) -> Mapping[str, str]:
    """Gate name -> status, of the proofs that still hold. A file that cannot be read proves nothing."""
    now = _state(file)
    return {
        name: str(gate.get("status"))
        for name, gate in _stored(file).items()
        if isinstance(gate, Mapping) and all(gate.get(key) == value for key, value in now.items())
    }


def keep(file: PlanFile, proof: GateProof) -> Path:
    """Add a proof to those of the plan as it is now; gates that the plan had before it was changed are forgotten.

    Raises JournalError when it cannot be written.
    """
    path, state = path_of(file), _state(file)
    gates = {name: gate for name, gate in _stored(file).items() if name in known(file)}
    gates[proof.gate] = {"status": proof.status, "because": proof.because, "proved_at": wall_time(), **state}
    text = json.dumps({"version": _FORMAT, "gates": gates}, indent=2, ensure_ascii=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JournalError(f"{path}: the proofs cannot be kept there: {error.strerror}") from None
    return path


def _state(file: PlanFile) -> dict[str, str]:
    return {"busyhour": __version__, "plan_sha256": sha256(file.source.encode()).hexdigest()}


def _stored(file: PlanFile) -> dict[str, Any]:
    try:
        stored = json.loads(path_of(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    gates = stored.get("gates") if isinstance(stored, Mapping) and stored.get("version") == _FORMAT else None
    return dict(gates) if isinstance(gates, Mapping) else {}
