"""Gates set an estimate against a limit; `judge` gives all the verdicts of a run.

Five outcomes. PASS and FAIL need evidence, each with an error rate of at most alpha. INCONCLUSIVE: something was
measured, but too little or too near the limit. NOT_RUN: nothing was measured, be it that the phase never began or that
it gave no reading. INVALID: the run says nothing of the target, because the harness or a fault did not do its part.

The sentence of a verdict is composed here, once; every report prints it verbatim.
"""

from __future__ import annotations

from busyhour.gates.judgement import Judgement, Tabled, judge, unsaid
from busyhour.gates.leaks import NoLeak, NothingLeft
from busyhour.gates.limits import AtLeast, AtMost, Between, Holds

__all__ = ["AtLeast", "AtMost", "Between", "Holds", "Judgement", "NoLeak", "NothingLeft", "Tabled", "judge", "unsaid"]
