"""Harms with a proof of effect, undone and verified on every way out."""

from busyhour.faults.claims import contradictions, lacking

__all__ = ["contradictions", "lacking"]
