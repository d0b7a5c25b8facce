"""A twin of Telnyx: Call Control v2 and TeXML with its media WebSocket, judged by the vendor's own SDK."""

from busyhour.carriers.telnyx.texml import TeXML
from busyhour.carriers.telnyx.twin import Telnyx, TelnyxStream

__all__ = ["TeXML", "Telnyx", "TelnyxStream"]
