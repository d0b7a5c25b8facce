"""A plan as a file: a typed Python file whose `plan` is a Plan, or a function that makes one from options.

Everything that can be known to be wrong before anything is started is said at once, each thing in a sentence.
"""

from __future__ import annotations

import inspect
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from busyhour.arrivals import Hold
from busyhour.errors import PlanError
from busyhour.faults import contradictions
from busyhour.kinds import misfits
from busyhour.model import Checkable, Gate, Phase, Plan, Variation


def _switch(text: str) -> bool:
    """Raises ValueError. Not `bool`: of a text that is anything but empty, that is True."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


_CONVERTERS: Mapping[str, Callable[[str], object]] = {"str": str, "int": int, "float": float, "bool": _switch}


@runtime_checkable
class Calling(Protocol):
    """A workload that can call other services than the plan's target."""

    @property
    def called(self) -> frozenset[str]: ...


@dataclass(frozen=True)
class PlanFile:
    """A plan, where it came from and with which options: what a journal remembers so that it can be judged again."""

    path: Path
    options: Mapping[str, str]
    source: str
    plan: Plan


def load(path: Path, options: Mapping[str, str] | None = None) -> PlanFile:
    """Load and check a plan. Raises PlanError with every problem found."""
    options = dict(options or {})
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PlanError(f"{path}: there is no such plan file; plans shipped with busyhour are in plans/") from None
    except OSError as trouble:
        raise PlanError(f"{path}: cannot be read as a plan: {trouble.strerror}; name a Python file") from None
    except UnicodeDecodeError as trouble:
        raise PlanError(f"{path}: cannot be read as a plan: {trouble}; save it as UTF-8") from None
    try:
        names = runpy.run_path(str(path), run_name="busyhour_plan")
    except PlanError as error:
        raise _placed(error, path) from None
    except SyntaxError as error:
        raise PlanError(f"{path}:{error.lineno}: this is not Python: {error.msg}") from None
    except (Exception, SystemExit) as error:  # the plan's own code failed: say where
        raise PlanError(f"{_place(error, path)}: {type(error).__name__}: {error}") from None
    plan = _made(path, names.get("plan"), options)
    if problems := check(plan):
        raise PlanError([f"{path}: {problem}" for problem in problems])
    return PlanFile(path, options, source, plan)


def _placed(error: PlanError, path: Path) -> PlanError:
    """Raised by busyhour, of a line of the plan if it was that which made something that cannot be."""
    return PlanError([f"{_place(error, path)}: {problem}" for problem in error.problems])


def _place(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _made(path: Path, plan: object, options: Mapping[str, str]) -> Plan:
    if plan is None:
        raise PlanError(f"{path}: it defines no `plan`; end the file with `plan = Plan(...)`")
    if isinstance(plan, Plan):
        if options:
            mend = ""
            if "scale" in options:
                mend = "; to be scaled, `plan` must be a function that takes `scale: float = 1.0`"
            raise PlanError(f"{path}: it takes no options, but {', '.join(sorted(options))} was given{mend}")
        return plan
    if not callable(plan):
        raise PlanError(f"{path}: `plan` is a {type(plan).__name__}; it must be a Plan or a function that returns one")
    try:
        made = plan(**_converted(plan, options))
    except PlanError as error:
        raise _placed(error, path) from None
    except (Exception, SystemExit) as error:  # the plan's own code again
        raise PlanError(f"{_place(error, path)}: {type(error).__name__}: {error}") from None
    if not isinstance(made, Plan):
        raise PlanError(f"{path}: `plan()` returned a {type(made).__name__}, not a Plan")
    return made


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _converted(plan: Callable[..., Any], options: Mapping[str, str]) -> dict[str, object]:
    """The options as the types which the function's annotations name."""
    parameters = inspect.signature(plan).parameters
    problems, values = [], {}
    for name, text in options.items():
        if name not in parameters:
            known = ", ".join(parameters) or "none"
            mend = "; to be scaled, its plan() must take `scale: float = 1.0`" if name == "scale" else ""
            problems.append(f"there is no option {name!r}; the plan's options are: {known}{mend}")
            continue
        annotation = parameters[name].annotation
        kind = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "str")
        try:
            values[name] = _CONVERTERS.get(kind, str)(text)
        except ValueError:
            problems.append(f"option {name}={text!r} is not a valid {kind}")
    problems += [
        f"the option {name!r} has no default and is not given: write -o {name}=VALUE, or give it a default in plan()"
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind in _NAMED and name not in options
    ]
    if problems:
        raise PlanError(problems)
    return values


def check(plan: Plan) -> list[str]:
    """Every problem of a plan that can be seen without starting it."""
    if strange := misfits(plan):
        return strange  # nothing else could be asked of it
    problems = _double("phase", [phase.name for phase in plan.phases])
    services = plan.everyone
    problems += _double("service", [service.name for service in services])
    problems += _double("gate", [gate.name for gate in [*plan.gates, *plan.valid_if]])
    phases = {phase.name for phase in plan.phases}
    known = ", ".join(sorted(phases)) or "none"
    if not plan.phases:
        problems.append("the plan has no phases; give at least one Phase")
    if not plan.gates:
        problems.append("the plan has no gates, so nothing could be said of the target; give at least one")
    for gate in [*plan.gates, *plan.valid_if]:
        problems += [
            f"the gate {gate.name!r} reads the phase {phase!r}, which is not in the plan (its phases: {known})"
            for phase in gate.phases
            if phase not in phases
        ]
    names = {service.name for service in services}
    for phase in plan.phases:
        problems += _impossible(phase)
        problems += _strangers(phase, [service.name for service in plan.beside])
    problems += contradictions(plan)
    problems += plan.recording.problems()
    problems += [
        f"a probe watches {probe.service!r}, which is not in the plan (its services: {', '.join(sorted(names))})"
        for probe in plan.probes
        if probe.service not in names
    ]
    for table in plan.tables:
        problems += [
            f"the table {table.title!r} has {len(table.columns)} columns, and {len(cells)} indicators in {row!r}"
            for row, cells in table.rows.items()
            if len(cells) != len(table.columns)
        ]
    gates = {gate.name for gate in [*plan.gates, *plan.valid_if]}
    for control in plan.controls:
        if control.gate.name not in gates:
            problems.append(f"a control is for the gate {control.gate.name!r}, which is not in the plan")
        for variation in (control.red, control.benign):
            strange = _strange_variation(variation, names, phases)
            problems += strange or contradictions(vary(plan, variation))
    return list(dict.fromkeys(problems))


def _impossible(phase: Phase) -> list[str]:
    problems = []
    if isinstance(phase.arrivals, Hold) and phase.arrivals.at_once > phase.at_once:
        problems.append(
            f"the phase {phase.name!r} is to hold {phase.arrivals.at_once} operations in progress, "
            f"but has room for {phase.at_once}; raise its at_once"
        )
    if isinstance(phase.workload, Checkable):
        problems += [f"the phase {phase.name!r}: {problem}" for problem in phase.workload.problems()]
    return problems


def _called(phase: Phase) -> list[str]:
    """Who is called in it beside the plan's target."""
    return sorted(phase.workload.called) if isinstance(phase.workload, Calling) else []


def _strangers(phase: Phase, beside: Sequence[str]) -> list[str]:
    there = ", ".join(beside) or "nobody"
    return [
        f"the phase {phase.name!r} calls {name!r}, which does not stand beside the plan's target ({there} does); "
        "put it into the plan's beside"
        for name in _called(phase)
        if name not in beside
    ]


def _strange_variation(variation: Variation, services: set[str], phases: set[str]) -> list[str]:
    unknown = [s.name for s in variation.services if s.name not in services]
    strays = [name for name in [*variation.faults, *(p.name for p in variation.phases)] if name not in phases]
    changes = [f"replaces a service {name!r}" for name in unknown] + [f"changes a phase {name!r}" for name in strays]
    changes += [f"runs a phase {name!r}" for name in variation.only if name not in phases]
    return [f"the variation {variation.name!r} {change} that is not in the plan" for change in changes]


def _double(what: str, names: Sequence[str]) -> list[str]:
    return [
        f"there are {names.count(name)} {what}s named {name!r}; names must differ"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def vary(plan: Plan, variation: Variation, only_phases: Sequence[str] = ()) -> Plan:
    """The plan with a variation applied, and only the named phases (all, if none is named); of those who stand beside
    the target, only whom they call."""
    services = {service.name: service for service in variation.services}
    phases = {phase.name: phase for phase in variation.phases}

    def changed(phase: Phase) -> Phase:
        phase = phases.get(phase.name, phase)
        return replace(phase, faults=[*phase.faults, *variation.faults.get(phase.name, ())])

    kept = [phase for phase in plan.phases if not only_phases or phase.name in only_phases]
    names = {phase.name for phase in kept}
    called = {name for phase in kept for name in _called(phases.get(phase.name, phase))}

    def readable(gates: Sequence[Gate]) -> list[Gate]:
        # A variation that names its phases shows a gate on many of them some.
        return [
            gate
            for gate in gates
            if names.issuperset(gate.phases) or (variation.only and not names.isdisjoint(gate.phases))
        ]

    return replace(
        plan,
        target=services.get(plan.target.name, plan.target),
        carrier=plan.carrier and services.get(plan.carrier.name, plan.carrier),  # type: ignore[arg-type]  # same name, same role
        services=[services.get(service.name, service) for service in plan.services],
        beside=[services.get(service.name, service) for service in plan.beside if service.name in called],
        phases=[changed(phase) for phase in kept],
        gates=readable(plan.gates),
        valid_if=readable(plan.valid_if),
        controls=(),
        tables=(),
    )
