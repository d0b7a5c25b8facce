"""The verdicts for programs: JSON of a stable shape.

    {
      "format": "busyhour.judgement", "version": 1,
      "outcome": "pass" | "not run" | "inconclusive" | "fail" | "invalid",
      "exit_code": 0 | 1 | 2 | 3,
      "run": {"plan": ..., "started_at": ..., ...},        what the journal says of itself
      "validity": [VERDICT, ...],                          asked of the harness; all must pass
      "verdicts": [VERDICT, ...],                          asked of the target
      "tables": [{"title", "columns": [...], "rows": [{"name", "cells": [ESTIMATE | null, ...]}, ...]}, ...],
      "diagnoses": [{"gate", "because", "owner", "n", "of", "stages": [STAGE, ...],   of latencies that were missed
                     "unanswered": [{"stage", "count"}, ...]}, ...]
    }
    VERDICT  = {"gate", "outcome", "because", "proof": "proven" | "unproven" | "", "estimate": ESTIMATE | null,
                "limits": {"at_least": NUMBER | null, "at_most": NUMBER | null}}       in the unit of the estimate
    ESTIMATE = {"what", "unit", "n", "value": NUMBER | null, "low": NUMBER | null, "high": NUMBER | null}
    STAGE    = {"name", "ms", "share", "low": NUMBER | null, "high": NUMBER | null, "typical_ms": NUMBER | null}
    NUMBER   = a JSON number, "infinity" or "-infinity", which JSON has no numbers for

`judgement.schema.json` beside this file is its JSON Schema (draft 2020-12); `schema()` gives it.

Fields may be added within a version; none is removed or given another meaning. What does either is a new version, with
a schema of its own, and is in the CHANGELOG.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from math import inf
from typing import TextIO

from busyhour.gates import Judgement, Tabled
from busyhour.indicators.stages import Diagnosis
from busyhour.model import JSON, Estimate, Run, Verdict

FORMAT, VERSION = "busyhour.judgement", 1
_NOT_OF_THE_RUN = ("proofs", "source")  # told verdict by verdict; a whole file


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write one JSON object and a newline to `out`."""
    json.dump(_judgement(run, judgement), out, indent=2, allow_nan=False)
    out.write("\n")


def schema() -> str:
    """The JSON Schema of what `report` writes."""
    return files("busyhour").joinpath("reports/judgement.schema.json").read_text(encoding="utf-8")


def _judgement(run: Run, judgement: Judgement) -> Mapping[str, JSON]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "outcome": judgement.outcome.value,
        "exit_code": judgement.exit_code,
        "run": {key: value for key, value in run.meta.items() if key not in _NOT_OF_THE_RUN},
        "validity": [_verdict(verdict) for verdict in judgement.validity],
        "verdicts": [_verdict(verdict) for verdict in judgement.verdicts],
        "tables": [_table(table) for table in judgement.tables],
        "diagnoses": [_diagnosis(diagnosis) for diagnosis in judgement.diagnoses],
    }


def _table(table: Tabled) -> Mapping[str, JSON]:
    rows = [
        {"name": name, "cells": [None if cell is None else _estimate(cell) for cell in cells]}
        for name, cells in table.rows
    ]
    return {"title": table.title, "columns": list(table.columns), "rows": rows}


def _diagnosis(diagnosis: Diagnosis) -> Mapping[str, JSON]:
    return {
        "gate": diagnosis.gate,
        "because": diagnosis.because,
        "owner": diagnosis.owner,
        "n": diagnosis.n,
        "of": diagnosis.of,
        "stages": [
            {
                "name": stage.name,
                "ms": _number(stage.ms),
                "share": _number(stage.share),
                "low": _number(stage.low),
                "high": _number(stage.high),
                "typical_ms": _number(stage.typical_ms),
            }
            for stage in diagnosis.stages
        ],
        "unanswered": [{"stage": stage, "count": count} for stage, count in diagnosis.unanswered],
    }


def _verdict(verdict: Verdict) -> Mapping[str, JSON]:
    return {
        "gate": verdict.gate,
        "outcome": verdict.outcome.value,
        "because": verdict.because,
        "proof": verdict.proof,
        "estimate": None if verdict.estimate is None else _estimate(verdict.estimate),
        "limits": dict(zip(("at_least", "at_most"), map(_number, verdict.limits), strict=True)),
    }


def _estimate(estimate: Estimate) -> Mapping[str, JSON]:
    return {
        "what": estimate.what,
        "unit": estimate.unit,
        "n": estimate.n,
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
    }


def _number(value: float | None) -> float | str | None:
    return {inf: "infinity", -inf: "-infinity"}.get(value, value) if value is not None else None
