"""What in a plan is of the wrong kind: a text for a service, an indicator for a gate, one phase for a list of them.

A type checker says so too, but not everybody runs one over a plan, and what is of the wrong kind fails far from where
it was written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from busyhour.model import Plan

_SERVICE = 'a service, like Command("python -m my_agent")'
_GATE = 'a gate, like AtMost(response_latency(steady), 800, "ms")'
_LISTS = {
    "services": ("running", "a service, like a twin of a vendor"),
    "beside": ("running", _SERVICE),
    "phases": ("workload", 'a Phase, like Phase("steady", Poisson(1, seconds=60), Call([...]))'),
    "probes": ("read", "a probe"),
    "gates": ("judge", _GATE),
    "valid_if": ("judge", _GATE),
    "controls": ("benign", "a Control"),
    "tables": ("rows", "a Table"),
}
_SHOWN_CHARACTERS = 60


def misfits(plan: Plan) -> list[str]:
    """A sentence for each thing in the plan that is not what its place asks for, with what would be."""
    found = [*_misfit("its target", plan.target, "running", _SERVICE)]
    if plan.carrier is not None:
        found += _misfit("its carrier", plan.carrier, "dial", "a carrier, like Telnyx() or Twilio()")
    for name, (needed, like) in _LISTS.items():
        found += _misfits(f"its {name}", getattr(plan, name), needed, like)
    return found or [problem for phase in plan.phases for problem in _misfits_of(phase)]


def _misfits_of(phase: object) -> Iterator[str]:
    where = f"the phase {getattr(phase, 'name', '')!r}:"
    arrivals, workload, faults = (getattr(phase, name) for name in ("arrivals", "workload", "faults"))
    yield from _misfit(f"{where} its arrivals", arrivals, "due_ns", "a schedule, like Poisson(1, seconds=60)")
    played = "a Call, in which callers play it: Call([...])" if hasattr(workload, "steps") else "a workload, like Call"
    yield from _misfit(f"{where} its workload", workload, "perform", played)
    yield from _misfits(f"{where} its faults", faults, "injected", "a fault, like NoToken(llm)")


def _misfits(whose: str, values: object, needed: str, like: str) -> Iterator[str]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        yield f"{whose} are {_shown(values)}; give a list of them, in brackets"
        return
    for value in values:
        yield from _misfit(f"{whose}: one", value, needed, like)


def _misfit(whose: str, value: object, needed: str, like: str) -> Iterator[str]:
    if isinstance(value, type) or not hasattr(value, needed):
        yield f"{whose} is {_shown(value)}; give {like}"


def _shown(value: object) -> str:
    """What it is, in so few characters that a person reads it."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if what := getattr(value, "what", ""):
        return f"the indicator of {what}"
    told = repr(value)
    shown = told if len(told) <= _SHOWN_CHARACTERS else f"{told[:_SHOWN_CHARACTERS]}..."
    return f"{shown} (of the kind {type(value).__name__})"
