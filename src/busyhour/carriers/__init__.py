"""The phone company: twins of carriers, which call the agent as theirs would."""

from busyhour.carriers.telnyx import Telnyx, TelnyxStream, TeXML
from busyhour.carriers.twilio import Twilio

__all__ = ["TeXML", "Telnyx", "TelnyxStream", "Twilio"]
