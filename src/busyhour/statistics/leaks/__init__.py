"""Leaks: whether memory, or anything else that should stay as it is, grows without end.

`counts` for what should be the same after each batch of calls, `trend` for memory, `cause` for what it is that leaks,
`foresight` for what a run will be able to see.
"""

from busyhour.statistics.leaks.cause import Cause, CauseClass, Sensor, cause, explained
from busyhour.statistics.leaks.counts import Batch, Chance, PerCall, Residue, chance_of_leak, judge_counts
from busyhour.statistics.leaks.foresight import Noise, detectable_per_hour, hours_to_detect
from busyhour.statistics.leaks.traces import Trace
from busyhour.statistics.leaks.trend import Finding, Look, Trend, judge_trend
from busyhour.statistics.leaks.weighing import Kept, Slope

__all__ = [
    "Batch",
    "Cause",
    "CauseClass",
    "Chance",
    "Finding",
    "Kept",
    "Look",
    "Noise",
    "PerCall",
    "Residue",
    "Sensor",
    "Slope",
    "Trace",
    "Trend",
    "cause",
    "chance_of_leak",
    "detectable_per_hour",
    "explained",
    "hours_to_detect",
    "judge_counts",
    "judge_trend",
]
