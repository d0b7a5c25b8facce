"""The report that people look at: one HTML file, without a network, on a screen, a telephone or paper."""

from __future__ import annotations

from typing import TextIO

from busyhour.gates import Judgement
from busyhour.model import Run
from busyhour.reports.html.page import write


def report(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write the whole page to `out`: every sentence and figure as in the other reports, with its charts and sound."""
    write(run, judgement, out)
