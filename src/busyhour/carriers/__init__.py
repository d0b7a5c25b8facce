"""The phone company: twins of carriers, which call the agent as theirs would."""

from busyhour.carriers.telnyx import Telnyx, TelnyxStream

__all__ = ["Telnyx", "TelnyxStream"]
