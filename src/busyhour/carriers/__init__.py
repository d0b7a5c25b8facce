"""The phone company: twins of carriers, which call the agent as theirs would."""

from busyhour.carriers.telnyx import Telnyx, TelnyxStream, TeXML
from busyhour.carriers.twilio import Twilio, TwilioStream
from busyhour.carriers.websocket import PlainWebSocket
from busyhour.carriers.wire import Rule, Template, Wire, plivo, vonage

__all__ = [
    "PlainWebSocket",
    "Rule",
    "TeXML",
    "Telnyx",
    "TelnyxStream",
    "Template",
    "Twilio",
    "TwilioStream",
    "Wire",
    "plivo",
    "vonage",
]
