"""How times are written in the page."""

from __future__ import annotations

_MINUTE, _HOUR = 60, 3600


def clock(seconds: float) -> str:
    """Since the run began: "0:07", "12:30", "1:02:30"."""
    whole = max(0, int(seconds))
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02}:{whole % _MINUTE:02}"


def duration(seconds: float) -> str:
    """How long: "0.4 s", "12 s", "2 min 29 s", "8 h 4 min"."""
    if seconds < _MINUTE:
        return f"{seconds:.3g} s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f} min {seconds % _MINUTE:.0f} s"
    return f"{seconds // _HOUR:.0f} h {seconds % _HOUR // _MINUTE:.0f} min"
