"""The control matrix: which gate said what of which variation of a plan. Pure.

A gate that fails where nothing explains it would condemn a sound system: such a failure is "without cause". A cause is
that the variation is the gate's own red control, or that it names the gate in `may_redden`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from busyhour.model import Outcome

CAUGHT, EXPLAINED, WITHOUT_CAUSE = "F", "f", "!"
_OTHERS = {Outcome.PASS: ".", Outcome.INCONCLUSIVE: "?", Outcome.NOT_RUN: "-", Outcome.INVALID: "x"}
_LEGEND = (
    f"{CAUGHT} fails, as it must; {EXPLAINED} fails, with cause; {WITHOUT_CAUSE} fails without cause; . passes; "
    "? inconclusive; - not run; x invalid run"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One variation's run: what each gate that could be read there said. Gates are known by their names."""

    variation: str
    outcomes: Mapping[str, Outcome]
    red_for: frozenset[str] = frozenset()
    benign_for: frozenset[str] = frozenset()
    may_redden: frozenset[str] = frozenset()

    @property
    def caught(self) -> bool:
        """Whether every gate meant to see it failed."""
        return all(self.outcomes.get(gate) is Outcome.FAIL for gate in self.red_for)

    @property
    def green(self) -> bool:
        """Whether no gate failed, and every gate meant to pass did: a run that says nothing is not green."""
        passed = all(self.outcomes.get(gate) is Outcome.PASS for gate in self.benign_for)
        return passed and Outcome.FAIL not in self.outcomes.values()

    @property
    def without_cause(self) -> tuple[str, ...]:
        """The gates that failed though nothing explains it."""
        excused = self.red_for | self.may_redden
        return tuple(gate for gate, said in self.outcomes.items() if said is Outcome.FAIL and gate not in excused)

    def cell(self, gate: str) -> str:
        """One character; a blank for a gate that was not judged there."""
        said = self.outcomes.get(gate)
        if said is None:
            return " "
        if said is not Outcome.FAIL:
            return _OTHERS[said]
        return CAUGHT if gate in self.red_for else WITHOUT_CAUSE if gate in self.without_cause else EXPLAINED


def lines(rows: Sequence[Row], gates: Iterable[str]) -> Iterator[str]:
    """The matrix as text: a line a variation, a column a gate, numbered, and the names of the gates below."""
    judged = [gate for gate in gates if any(gate in row.outcomes for row in rows)]
    width = max((len(row.variation) for row in rows), default=0)
    cell = len(str(len(judged))) + 1
    yield " " * width + "".join(f"{number:>{cell}}" for number in range(1, len(judged) + 1))
    for row in rows:
        yield f"{row.variation:{width}}" + "".join(f"{row.cell(gate):>{cell}}" for gate in judged).rstrip()
    yield _LEGEND
    yield from (f"{number:>{cell}}  {gate}" for number, gate in enumerate(judged, start=1))
    yield summary(rows)


def summary(rows: Sequence[Row]) -> str:
    """ "11 of 12 harmful variations are caught by the gate meant for them; 9 of 9 benign ones stay green; ..." """
    red, benign = [row for row in rows if row.red_for], [row for row in rows if row.benign_for and not row.red_for]
    caught = sum(row.caught for row in red)
    green = sum(row.green for row in benign)
    stray = sum(len(row.without_cause) for row in rows)
    failures = "no gate failed" if not stray else "1 gate failed" if stray == 1 else f"{stray} gates failed"
    return (
        f"{caught} of {len(red)} harmful variations are caught by the gates meant for them; "
        f"{green} of {len(benign)} benign ones stay green; {failures} without cause"
    )
