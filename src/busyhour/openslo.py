"""Gates from service level objectives that are written down already, in OpenSLO v1 (https://github.com/OpenSLO/OpenSLO).

    plan = Plan(..., gates=[*openslo.gates("slo.yaml", phase=steady), ...])

What is measured is named in one of two ways. A metricSource of the type "busyhour" says it in its spec:

    metricSource: {type: busyhour, spec: {indicator: response_latency, unit: ms}}

An SLO whose metricSource is for production says it in its annotations, so that one file serves both:

    metadata: {name: fast-answers, annotations: {busyhour/indicator: response_latency, busyhour/unit: ms}}

A run is its own time window, so `timeWindow` says nothing here, nor do alert policies. What cannot be mapped is
refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from busyhour import indicators
from busyhour.errors import PlanError
from busyhour.gates import AtLeast, AtMost
from busyhour.model import Gate, Indicator, Phase

_VERSION = "openslo/v1"
_TYPE = "busyhour"
_BYTES_MAX = 1_000_000
_KINDS = ("AlertCondition", "AlertNotificationTarget", "AlertPolicy", "DataSource", "SLI", "SLO", "Service")
_SETTINGS = ("indicator", "phase", "unit", "at_most")

_Where: TypeAlias = "Phase | str"
_Object: TypeAlias = Mapping[str, Any]

LATENCIES: Mapping[str, tuple[Callable[[_Where, float], Indicator], str]] = {
    "response_latency": (indicators.response_latency, "ms"),
    "first_audio_latency": (indicators.first_audio_latency, "ms"),
    "call_setup": (indicators.call_setup, "ms"),
    "barge_in_stop": (indicators.barge_in_stop, "ms"),
    "dead_air": (indicators.dead_air, "s"),
    "request_latency": (indicators.request_latency, "ms"),
    "service_latency": (indicators.service_latency, "ms"),
}
"""Of each event a time, and the unit that `value` is in where none is said: "99 % within 800 ms" is a P99."""

GOOD: Mapping[str, Callable[[_Where], Indicator]] = {
    "call_success": indicators.call_success,
    "yield_rate": indicators.yield_rate,
    "sensible_speech": indicators.sensible_speech,
}
"""Shares of good events."""

BAD: Mapping[str, Callable[[_Where], Indicator]] = {
    "missed_turns": indicators.missed_turns,
    "error_rate": indicators.error_rate,
    "transfers": indicators.transfers,
}
"""Shares of bad ones."""


def gates(path: str | os.PathLike[str], *, phase: Phase | str | None = None, only: Sequence[str] = ()) -> list[Gate]:
    """The gates of the SLOs in a file, in their order, each once.

    phase: what is judged, where neither spec nor annotation says `phase`. only: names of the SLOs to take; none: all.
    Raises PlanError with everything that is wrong, by file, object and field, and for what has no meaning for a run.
    """
    file = _File(Path(path))
    found: dict[Gate, None] = {}
    problems: list[str] = []
    slos = [one for one in file.objects if one["kind"] == "SLO"]
    names = [_name(slo) for slo in slos]
    problems += [
        file.problem(f"SLO {name!r}", "", _near("is not in it", name, names)) for name in only if name not in names
    ]
    if not slos:
        problems.append(f"{file.path}: there is no SLO in it")
    for slo in slos:
        if only and _name(slo) not in only:
            continue
        try:
            found |= dict.fromkeys(_Mapping(file, slo, phase).gates())
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError(problems)
    return list(found)


# ---------------------------------------------------------------- the file


class _File:
    """The objects of a file, each with an apiVersion, a kind and a name. Raises PlanError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = [one for one in _documents(path) if one is not None]
        problems = []
        for number, one in enumerate(self.objects, start=1):
            problems += [f"{path}: document {number}: {said}" for said in _wrong(one)]
        if problems:
            raise PlanError(problems)

    def named(self, kind: str, name: object) -> _Object | None:
        return next((one for one in self.objects if one["kind"] == kind and _name(one) == name), None)

    def problem(self, which: str, where: str, said: str) -> str:
        return f"{self.path}: {which}{', ' if where else ''}{where}: {said}"


def _documents(path: Path) -> list[Any]:
    try:
        import yaml  # noqa: PLC0415  (an extra that need not be installed)
    except ImportError:
        raise PlanError(
            f"{path}: to read it PyYAML is needed, which is not installed: pip install 'busyhour[openslo]'"
        ) from None
    try:
        with path.open("rb") as file:
            octets = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise PlanError(f"{path}: it cannot be read: {error.strerror}") from None
    if len(octets) > _BYTES_MAX:
        raise PlanError(f"{path}: it has more than {_BYTES_MAX // 1_000_000} MB; give a file of SLOs")
    try:
        return list(yaml.safe_load_all(octets))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PlanError(f"{path}: it is no YAML: {' '.join(str(error).split())}") from None


def _wrong(one: object) -> Iterator[str]:
    if not isinstance(one, Mapping):
        yield f"it is no object, but {_shown(one)}"
        return
    version, kind = one.get("apiVersion"), one.get("kind")
    if version != _VERSION:
        yield f"apiVersion is {_shown(version)}; {_VERSION} is what is read"
    elif kind not in _KINDS:
        yield _near(f"kind is {_shown(kind)}", str(kind), _KINDS)
    metadata, spec = one.get("metadata"), one.get("spec")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        yield "metadata.name is missing"
    if not isinstance(spec, Mapping):
        yield "spec is missing"


def _name(one: _Object) -> str:
    return str(one["metadata"]["name"])


def _near(said: str, word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word, known, n=1)
    return f"{said}; did you mean {near[0]}?" if near else f"{said}; {_there_are(known)}"


def _there_are(known: Iterable[str]) -> str:
    return f"there are: {', '.join(known) or 'none'}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- one SLO


@dataclass(frozen=True)
class _Named:
    """What an SLO measures, and where the file says so."""

    indicator: str
    phase: _Where
    unit: str
    at_most: float | None
    where: str


class _Mapping:
    """From one SLO to its gates. Every method raises PlanError."""

    def __init__(self, file: _File, slo: _Object, phase: _Where | None) -> None:
        self._file, self._slo, self._phase = file, slo, phase
        self._spec: _Object = slo["spec"]

    def gates(self) -> list[Gate]:
        method = self._spec.get("budgetingMethod", "Occurrences")
        if method != "Occurrences":
            self._refuse("spec.budgetingMethod", f"{_shown(method)} has no meaning for a run; Occurrences has")
        objectives = self._spec.get("objectives")
        if not isinstance(objectives, list) or not objectives:
            self._refuse("spec.objectives", "it is missing")
        sli, where = self._indicator()
        threshold, ratio = sli["spec"].get("thresholdMetric"), sli["spec"].get("ratioMetric")
        if (threshold is None) == (ratio is None):
            self._refuse(f"{where}.spec", "give either thresholdMetric or ratioMetric")
        gate = (
            self._threshold(sli, threshold, f"{where}.spec.thresholdMetric")
            if ratio is None
            else self._ratio(sli, ratio, f"{where}.spec.ratioMetric")
        )
        made: list[Gate] = []
        for number, objective in enumerate(objectives):
            at = f"spec.objectives[{number}]"
            if not isinstance(objective, Mapping):
                self._refuse(at, f"it is no object, but {_shown(objective)}")
            made.append(gate(objective, self._target(objective, at), at))
        return made

    def _problem(self, where: str, said: str) -> PlanError:
        return PlanError(self._file.problem(f"SLO {_name(self._slo)!r}", where, said))

    def _refuse(self, where: str, said: str) -> NoReturn:
        raise self._problem(where, said)

    def _indicator(self) -> tuple[_Object, str]:
        """The SLI, in place or by name, and where it is."""
        inline, name = self._spec.get("indicator"), self._spec.get("indicatorRef")
        if (inline is None) == (name is None):
            self._refuse("spec", "give either indicator or indicatorRef")
        if name is not None:
            names = [_name(one) for one in self._file.objects if one["kind"] == "SLI"]
            sli = self._file.named("SLI", name)
            if sli is None:
                self._refuse("spec.indicatorRef", _near(f"there is no SLI {_shown(name)} in it", str(name), names))
            return sli, f"SLI {name!r}"
        if not isinstance(inline, Mapping) or not isinstance(inline.get("spec"), Mapping):
            self._refuse("spec.indicator", "its spec is missing")
        return inline, "spec.indicator"

    # ---------------------------------------------------------------- what is measured

    def _threshold(self, sli: _Object, metric: object, where: str) -> Callable[[_Object, float, str], Gate]:
        named = self._named(sli, metric, where)
        if named.at_most is not None:
            self._refuse(named.where, "at_most is for a ratioMetric; a thresholdMetric has the objective's `value`")
        if named.indicator not in LATENCIES:
            self._refuse(
                named.where,
                f"{named.indicator} is no time of each event, of which a share could be within a value; "
                + ("give it as a ratioMetric" if named.indicator in {**GOOD, **BAD} else _there_are(LATENCIES)),
            )

        def gate(objective: _Object, target: float, at: str) -> Gate:
            if objective.get("op") not in {"lte", "lt"}:
                self._refuse(f"{at}.op", f"it is {_shown(objective.get('op'))}; of a latency it can be lte or lt")
            value = self._number(objective.get("value"), f"{at}.value")
            return self._within(named, target, value, at)

        return gate

    def _ratio(self, sli: _Object, metric: object, where: str) -> Callable[[_Object, float, str], Gate]:
        if not isinstance(metric, Mapping):
            self._refuse(where, f"it is no object, but {_shown(metric)}")
        part, good = self._counted(metric, where)
        named = self._named(sli, metric[part], f"{where}.{part}")
        if named.indicator in LATENCIES:
            if named.at_most is None:
                self._refuse(named.where, f"at_most is missing: within what is {named.indicator} good?")
            if not good:
                self._refuse(f"{where}.{part}", f"what is within at_most is good; give {named.indicator} as good")
        elif named.at_most is not None:
            self._refuse(named.where, f"at_most has no meaning for {named.indicator}, which is no time")
        elif (named.indicator in BAD) == good:
            kind = "bad" if good else "good"
            self._refuse(f"{where}.{part}", f"{named.indicator} counts what is {kind}; give it as {kind}")

        def gate(_: _Object, target: float, at: str) -> Gate:
            if named.at_most is not None:
                return self._within(named, target, named.at_most, at)
            share = float(f"{100 * target:.12g}")
            if named.indicator in GOOD:
                return AtLeast(GOOD[named.indicator](named.phase), share, "%")
            return AtMost(BAD[named.indicator](named.phase), float(f"{100 - share:.12g}"), "%")

        return gate

    def _counted(self, metric: _Object, where: str) -> tuple[str, bool]:
        """Which part of a ratio names what is counted, and whether it counts what is good."""
        parts = [part for part in ("good", "bad", "raw") if part in metric]
        if len(parts) != 1 or (parts == ["raw"]) == ("total" in metric):
            self._refuse(where, "give good and total, or bad and total, or raw and rawType")
        if parts == ["raw"] and metric.get("rawType") not in {"success", "failure"}:
            self._refuse(f"{where}.rawType", f"it is {_shown(metric.get('rawType'))}; give success or failure")
        return parts[0], parts == ["good"] or metric.get("rawType") == "success"

    def _named(self, sli: _Object, metric: object, where: str) -> _Named:
        """What a metric measures: by its source, or by the annotations of the SLI or of the SLO."""
        source = metric.get("metricSource") if isinstance(metric, Mapping) else None
        if not isinstance(source, Mapping):
            self._refuse(f"{where}.metricSource", "it is missing")
        kind = source.get("type") or self._type_of(source.get("metricSourceRef"))
        if kind == _TYPE:
            where, settings = f"{where}.metricSource.spec", source.get("spec")
            if not isinstance(settings, Mapping):
                self._refuse(where, "it is missing: say which indicator, like {indicator: response_latency}")
            if unknown := [str(key) for key in settings if key not in _SETTINGS]:
                self._refuse(where, _near(f"{unknown[0]} is no setting of it", unknown[0], _SETTINGS))
            return self._settled(settings, where)
        for one, place in ((sli, "the SLI's metadata"), (self._slo, "metadata")):
            annotations = (one.get("metadata") or {}).get("annotations") or {}
            said = {key: annotations.get(f"{_TYPE}/{key}") for key in _SETTINGS}
            if said["indicator"] is not None:
                return self._settled(said, f"{place}.annotations")
        mend = f"annotate the SLO with {_TYPE}/indicator, or give a source of the type {_TYPE}"
        raise self._problem(f"{where}.metricSource", f"its type is {_shown(kind)}, which busyhour cannot ask; {mend}")

    def _type_of(self, name: object) -> object:
        """By its DataSource, which need not be in the file."""
        source = None if name is None else self._file.named("DataSource", name)
        return None if source is None else source["spec"].get("type")

    def _settled(self, settings: _Object, where: str) -> _Named:
        name = settings.get("indicator")
        known = [*LATENCIES, *GOOD, *BAD]
        if name not in known:
            self._refuse(where, _near(f"indicator is {_shown(name)}, which has no mapping", str(name), known))
        phase = settings.get("phase") or self._phase
        if phase is None:
            self._refuse(where, "which phase? say it here, as `phase`, or give `phase` to openslo.gates")
        at_most = settings.get("at_most")
        return _Named(
            str(name),
            phase if isinstance(phase, Phase) else str(phase),
            str(settings.get("unit") or ""),
            None if at_most is None else self._number(at_most, f"{where}, at_most"),
            where,
        )

    # ---------------------------------------------------------------- what is demanded

    def _within(self, named: _Named, target: float, value: float, at: str) -> Gate:
        """That a share of `target` is within the value: the quantile is."""
        measure, unit = LATENCIES[named.indicator]
        try:
            return AtMost(measure(named.phase, target), value, named.unit or unit)
        except PlanError as error:
            self._refuse(at, str(error))

    def _target(self, objective: _Object, at: str) -> float:
        share, percent = objective.get("target"), objective.get("targetPercent")
        if (share is None) == (percent is None):
            self._refuse(at, "give either target or targetPercent")
        if share is not None:
            target = self._number(share, f"{at}.target")
        else:
            target = float(f"{self._number(percent, f'{at}.targetPercent') / 100:.12g}")
        if not 0 < target < 1:
            why = "asks for nothing" if target == 0 else "is not between 0 and 1"
            self._refuse(at, f"a target of {target:g} {why}; 0.95 is 95 %")
        return target

    def _number(self, value: object, where: str) -> float:
        """Annotations are words."""
        try:
            number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not isfinite(number):
            self._refuse(where, f"{_shown(value)} is no number")
        return number
