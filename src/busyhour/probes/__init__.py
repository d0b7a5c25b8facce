"""Readings of what runs: the services' processes, and the harness itself."""
