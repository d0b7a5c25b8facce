"""A profile: how a vendor really behaved, as `busyhour learn` wrote it down, for its twin to behave alike.

A JSON file. Each latency is kept as at most 1,000 order statistics, evenly spaced over what was measured, which the
twin draws from (`Empirical`): 10 KB that replay every quantile from p0.1 to p99.9. Nothing of what was said is in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from busyhour.emulators.behaviour import Empirical, Latency, latency_from_json
from busyhour.errors import PlanError
from busyhour.model import JSON

FORMAT = 1
KEPT_AT_MOST = 1_000
_BYTES_AT_MOST = 16 * 1024 * 1024
_KEY = "busyhour_profile"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Abandoned:
    """n: how many waits for a thing ended before it came, because the client left; unseen: of which share of all it is
    known only that they take more than `longer_than_ms`, which is what the latency has for them."""

    n: int
    unseen: float
    longer_than_ms: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """latencies, numbers and outcomes by the names the vendor's twin has for them; `measured`: how many values each
    latency rests on, `abandoned`: and how many waits that were broken off; `requests`: how many the shares of the
    outcomes rest on."""

    vendor: str
    learned: str  # when, ISO 8601
    upstream: str  # the origin it was learned from
    requests: int
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    measured: Mapping[str, int] = field(default_factory=dict)
    abandoned: Mapping[str, Abandoned] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, float] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What the vendor's twin takes by keyword. Outcomes only if there were any, so that it keeps its own else."""
        return {**self.latencies, **self.numbers, **({"outcomes": dict(self.outcomes)} if self.outcomes else {})}

    def as_json(self) -> dict[str, JSON]:
        return {
            _KEY: FORMAT,
            "vendor": self.vendor,
            "learned": self.learned,
            "upstream": self.upstream,
            "requests": self.requests,
            "latencies": {
                name: {"n": self.measured.get(name, 0), **latency.as_json()} for name, latency in self.latencies.items()
            },
            "abandoned": {name: asdict(waits) for name, waits in self.abandoned.items()},
            "numbers": dict(self.numbers),
            "outcomes": dict(self.outcomes),
        }

    def write(self, path: Path) -> None:
        """All of it or nothing, whatever happens meanwhile. Raises PlanError when it cannot be written."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            try:
                beside.write_text(json.dumps(self.as_json(), indent=1), encoding="utf-8")
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as problem:
            raise PlanError(f"{path}: the profile cannot be written there: {problem.strerror}") from None


def learned(twin: Callable[..., T], path: str | Path, **settings: object) -> T:
    """A twin that behaves as its vendor did when the profile was learned: `learned(OpenAI, "openai.json", seed=3)`.

    settings: as for the class itself; they outrank the profile's. Raises PlanError.
    """
    name, known = _fields(twin)
    profile = read(Path(path), name.lower())
    if strange := sorted(profile.settings().keys() - known):
        raise PlanError(f"{path}: it sets {', '.join(strange)}, which {name} does not have; learn it again")
    return twin(**{**profile.settings(), **settings})


def _fields(twin: object) -> tuple[str, set[str]]:
    if not isinstance(twin, type) or not is_dataclass(twin):
        raise PlanError(f"learned({twin!r:.80}, ...): give the class of a twin, like OpenAI")
    return twin.__name__, {item.name for item in fields(twin)}


def read(path: Path, vendor: str) -> Profile:
    """The profile of that vendor. Raises PlanError: missing, corrupt, of another vendor, of a newer format."""
    try:
        if path.stat().st_size > _BYTES_AT_MOST:
            raise PlanError(f"{path}: a profile is far smaller than {_BYTES_AT_MOST >> 20} MB; is it another file?")
        form = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise PlanError(
            f"{path}: the profile cannot be read: {problem.strerror}; `busyhour learn` writes one"
        ) from None
    except (ValueError, RecursionError):
        raise _corrupt(path, "it is not JSON") from None
    if not isinstance(form, dict) or _KEY not in form:
        raise PlanError(f"{path}: no profile of busyhour's; make one with `busyhour learn {vendor} ...`")
    version = form[_KEY]
    if isinstance(version, int) and version > FORMAT:
        raise PlanError(f"{path}: a profile of format {version}, newer than the {FORMAT} known here; update busyhour")
    if version != FORMAT:
        raise _corrupt(path, f"its format is {version!r}")
    if form.get("vendor") != vendor:
        raise PlanError(f"{path}: a profile of {form.get('vendor')!r:.50}, not of {vendor!r}; give that vendor's")
    return _profile(form, path)


def spaced(values: Sequence[float]) -> list[float]:
    """At most 1,000 of the values, in order: the quantiles (i + 0.5) / 1000, to a microsecond (values in ms)."""
    ordered = sorted(values)
    n = len(ordered)
    if n > KEPT_AT_MOST:
        ordered = [ordered[int((i + 0.5) * n / KEPT_AT_MOST)] for i in range(KEPT_AT_MOST)]
    return [round(value, 3) for value in ordered]


def _profile(form: Mapping[str, Any], path: Path) -> Profile:
    groups: dict[str, dict[str, Any]] = {}
    for group in ("latencies", "numbers", "outcomes"):
        if not isinstance(form.get(group), dict):
            raise _corrupt(path, f"{group} is missing or no object")
        groups[group] = form[group]
    requests = form.get("requests")
    if not isinstance(requests, int) or isinstance(requests, bool) or requests < 0:
        raise _corrupt(path, f"requests is {requests!r:.50}")
    latencies, measured = {}, {}
    for name, value in groups["latencies"].items():
        if not isinstance(value, dict) or not isinstance(value.get("n"), int):
            raise _corrupt(path, f"the latency {name!r:.50} does not say how many were measured (n)")
        try:
            latencies[name] = latency_from_json({key: item for key, item in value.items() if key != "n"}, name)
        except PlanError as problem:
            raise _corrupt(path, str(problem)[:200]) from None
        measured[name] = value["n"]
    for group in ("numbers", "outcomes"):
        for name, value in groups[group].items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise _corrupt(path, f"{name!r:.50} of {group} is {value!r:.50}, no number")
    return Profile(
        vendor=str(form["vendor"]),
        learned=str(form.get("learned", "")),
        upstream=str(form.get("upstream", "")),
        requests=requests,
        latencies=latencies,
        measured=measured,
        abandoned=_abandoned(form, path),
        numbers=groups["numbers"],
        outcomes=groups["outcomes"],
    )


def _abandoned(form: Mapping[str, Any], path: Path) -> dict[str, Abandoned]:
    """Profiles that were learned before this was counted say nothing of it."""
    found = form.get("abandoned", {})
    if not isinstance(found, dict):
        raise _corrupt(path, "abandoned is no object")
    for name, value in found.items():
        match value:
            case {"n": int(), "unseen": int() | float(), "longer_than_ms": int() | float()} if len(value) == 3:
                continue
        raise _corrupt(path, f"{name!r:.50} of abandoned is {value!r:.80}")
    return {name: Abandoned(**value) for name, value in found.items()}


def measured_latency(values: Sequence[float]) -> Empirical:
    """The latency that draws from measured delays, of milliseconds."""
    return Empirical(spaced(values))


def _corrupt(path: Path, what: str) -> PlanError:
    return PlanError(f"{path}: the profile is corrupt: {what.rstrip('.')}; learn it again")
