"""A twin of Telnyx: Call Control v2 with its media WebSocket, judged by the vendor's own SDK."""

from busyhour.carriers.telnyx.line import TelnyxLine
from busyhour.carriers.telnyx.twin import Telnyx, TelnyxStream

__all__ = ["Telnyx", "TelnyxLine", "TelnyxStream"]
