"""The error tree.

    BusyhourError
    ├── PlanError        the plan is wrong: every problem, listed                      exit 64
    ├── JournalError     the journal is missing, foreign, newer, truncated, unwritable exit 66
    ├── ServiceError     a service did not start, died, or does not answer             exit 69
    └── ProtocolError    the far end broke its wire format; inside a call it is data, not a crash

Each message names the thing, the place and the mend. Anything else that escapes is our bug: exit 70.
"""

from __future__ import annotations

from collections.abc import Sequence

TWIN_CANNOT = "twin cannot"
"""The outcome of a call whose agent asked for what the carrier can do and its twin cannot: data too, and the whole run
is INVALID, for what the agent is worth it does not say."""


class BusyhourError(Exception):
    """The root: an expected failure with a message fit for a person. `exit_code` follows sysexits.h."""

    exit_code = 70


class PlanError(BusyhourError):
    """The plan cannot be executed. `problems` has one sentence for each thing wrong with it."""

    exit_code = 64

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class JournalError(BusyhourError):
    """The journal cannot be read or written."""

    exit_code = 66


class ServiceError(BusyhourError):
    """A service did not start, died or does not answer; the message carries its last lines."""

    exit_code = 69


class ProtocolError(BusyhourError):
    """The far end sent what its protocol does not allow. Workloads record it as an operation's outcome."""

    exit_code = 69
