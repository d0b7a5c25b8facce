"""Pre-production verification for real-time voice agents."""

__version__ = "0.1.0"
