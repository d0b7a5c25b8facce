"""What memory does without a reason: noise that forgets slowly, on top of noise that forgets at once.

The first is the AR(1) process of any spacing (Ornstein and Uhlenbeck): correlation exp(-dt / memory). With a memory
far beyond the trace it is a random walk. How long the memory is and how much of the noise has none is not known, so
nothing is chosen: every fit is made under all of them and weighed by how well each explains the readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busyhour.statistics.leaks.traces import Floats

_MEMORIES = (8.0, 1.5, 0.5, 0.2, 0.08, 0.03, 0.012)
"""Shares of the span."""
_FORGETFUL = (0.0, 0.25, 1.5)
"""The variance of the noise without memory, in units of what the other moves by in a tenth of the span: beside a random
walk, whose variance in the long run is boundless, a share of that would be far too much."""


@dataclass(frozen=True, eq=False)
class Noises:
    """Candidate noises at the times of a trace: for each its memory in hours, the share of its variance without
    memory, the inverse of its correlation matrix and the logarithm of that matrix's determinant."""

    memory: Floats
    forgetful: Floats
    precision: Floats
    log_determinant: Floats

    def only(self, picked: npt.NDArray[np.intp]) -> Noises:
        """Those whose index is picked."""
        return Noises(self.memory[picked], self.forgetful[picked], self.precision[picked], self.log_determinant[picked])


def noises(hours: Floats, weight: Floats) -> Noises:
    """The grid of candidates. A block of weight w (Huber) is taken to have noise of its own that makes it w as good."""
    span = float(hours[-1] - hours[0])
    memory = np.repeat([share * span for share in _MEMORIES], len(_FORGETFUL))
    ratio = np.tile(_FORGETFUL, len(_MEMORIES)) * (1 - np.exp(-span / 10 / memory))
    forgetful = ratio / (1 + ratio)
    apart = np.abs(hours[:, None] - hours[None, :])
    alike = np.exp(-apart[None] / memory[:, None, None]) * (1 - forgetful)[:, None, None]
    own = forgetful[:, None] + (1 / weight**2 - 1)[None, :] + 1e-6
    alike[:, np.arange(len(hours)), np.arange(len(hours))] += own
    return Noises(memory, forgetful, np.linalg.inv(alike), np.linalg.slogdet(alike)[1])
