"""A twin of Twilio: TwiML, media streams and the calls API, judged by the vendor's own SDK."""

from busyhour.carriers.twilio.twin import Twilio, TwilioStream

__all__ = ["Twilio", "TwilioStream"]
