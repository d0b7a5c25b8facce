"""What the calls of one carrier share: its manners, its services, and the book of calls in progress."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp

from busyhour.carriers.background import Background
from busyhour.carriers.endings import Ended, TransferEnd
from busyhour.carriers.places import drawn_uuid
from busyhour.carriers.telnyx.media import ErrorShape
from busyhour.carriers.telnyx.webhooks import Webhooks
from busyhour.media.studio import Studio
from busyhour.model import Clock

if TYPE_CHECKING:
    from busyhour.carriers.telnyx.call import Call

COMMAND_IDS_REMEMBERED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How the carrier behaves where Telnyx leaves it open or the world decides."""

    media_within_seconds: float = 5.0  # from the answer to the open media socket
    hangup_within_seconds: float = 1.0  # from a closed media socket to the hangup command; then the call is "lost"
    effect_after_ms: int = 10  # from the answer to a command to its effect
    transfer: TransferEnd = "answered"
    transfer_after_ms: int = 300
    jitter_buffer_ms: int = 0
    error_shape: ErrorShape = "payload"
    l16_little_endian: bool = False
    command_error_share: float = 0.0
    socket_is_call: bool = False  # no call control: who closes the media socket has hung up


@dataclass(frozen=True, slots=True)
class Ids:
    """The names of one call leg. `control` is what commands are addressed to."""

    control: str
    leg: str
    session: str

    @classmethod
    def drawn(cls, random: Random, session: str = "") -> Ids:
        control = base64.urlsafe_b64encode(random.randbytes(40)).decode().rstrip("=")
        leg, own_session = drawn_uuid(random), drawn_uuid(random)
        return cls("v3:" + control, leg, session or own_session)


@dataclass(slots=True)
class Remembered:
    """What is still known of a call that has ended."""

    status: dict[str, Any]
    command_ids: dict[str, int]


@dataclass(kw_only=True, eq=False)
class Exchange:
    """Shared by the calls of one running carrier; `webhooks` and `session` are None where there is no call control."""

    clock: Clock
    studio: Studio
    background: Background
    manners: Manners
    connection_id: str
    user_id: str
    webhooks: Webhooks | None = None
    session: aiohttp.ClientSession | None = None
    calls: dict[str, Call] = field(default_factory=dict)
    ended: Ended[Remembered] = field(default_factory=Ended)

    def forget(self, call: Call) -> None:
        """The call has ended: keep only what late commands are answered with."""
        if self.calls.pop(call.ids.control, None) is not None:
            remembered = Remembered(call.status(), call.command_ids)
            self.ended.add(call.ids.control, remembered, self.clock.now_ns())
