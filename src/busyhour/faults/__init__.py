"""Harms with a proof of effect, undone and verified on every way out."""
