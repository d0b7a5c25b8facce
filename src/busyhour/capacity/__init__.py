"""How many calls at once a target carries with all gates passing: a phase of a plan, run at one level after another."""

from busyhour.capacity.finding import Capacity, Seen, Settings, find
from busyhour.capacity.telling import lines_of, report, told

__all__ = ["Capacity", "Seen", "Settings", "find", "lines_of", "report", "told"]
