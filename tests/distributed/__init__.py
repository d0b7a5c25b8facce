"""Runs in several processes: shares, the leader, its workers, the front, and one journal of all."""
