"""A media stream without a network, whose frames take the compiled lane or the long way, in Python."""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pybase64
import pytest
from hypothesis import strategies as st
from picows import WSMsgType
from picows.picows import _make_test_ws_frame

from busyhour import fastlane
from busyhour.carriers.media_socket import MediaSocket
from busyhour.carriers.telnyx.media import TelnyxFrames
from busyhour.fastlane import NO_TAIL
from busyhour.media.codec import codec
from busyhour.media.leg import Leg
from busyhour.media.playout import Playout
from busyhour.media.speech import WINDOW_NS
from busyhour.media.studio import Studio
from busyhour.model import MS, SECOND, Clock, HeardKind

LANE = "busyhour.fastlane._compiled"
PLAIN = bool(os.environ.get("BUSYHOUR_PLAIN"))
compiled = pytest.mark.skipif(bool(fastlane.WHY_NOT), reason=f"no lane to compare: {fastlane.WHY_NOT}")


@dataclass
class Rig:
    """One media stream with a leg, without a network: what it was told, and when."""

    clock: Clock
    by_lane: bool
    jitter_buffer_ns: int = 0
    told: list[tuple[int, object]] = field(default_factory=list)
    direct: bool = False  # the lane read the socket, at the end
    shared: Studio | None = None

    def __post_init__(self) -> None:
        self.studio = self.shared or Studio(self.clock)
        pcmu = codec("PCMU")
        self.leg = Leg(
            studio=self.studio,
            codec=pcmu,
            send=lambda _payload, _index: None,
            clock=self.clock,
            jitter_buffer_ns=self.jitter_buffer_ns,
        )
        self.socket = MediaSocket(
            dialect=TelnyxFrames("stream"),
            owner=self,
            clock=self.clock,
            bytes_per_second=8_000,
            inbox=self.studio.inbox,
        )
        self.socket.hear_by(self.leg)

    def gets(self, kind: WSMsgType, payload: bytes, *, whole: bool = True) -> None:
        frame = _make_test_ws_frame(kind, payload, whole, False)
        listener = self.socket.ear if self.by_lane else self.socket._socket
        assert listener is not None
        listener.on_ws_frame(None, frame)

    def note(self, what: object) -> None:
        self.told.append((self.clock.now_ns(), what))

    def socket_opened(self, at_ns: int) -> None: ...

    def heard_media(self, octets: bytes, at_ns: int) -> None:
        raise AssertionError("the leg hears it")

    def heard_mark(self, name: str, at_ns: int) -> None:
        self.note(("mark", at_ns))
        self.leg.mark(name, at_ns, self.note)

    def heard_clear(self, at_ns: int) -> None:
        self.note(("clear", at_ns, self.leg.clear(at_ns)))

    def heard_malformed(self, detail: str) -> None:
        self.note(detail)

    def broke_protocol(self, detail: str) -> None:
        self.note(detail)
        self.leg.end(self.clock.now_ns(), "protocol error", detail)

    async def listen(self) -> None:
        while True:
            heard = await self.leg.hear(self.clock.now_ns() + SECOND)
            self.note(heard)
            if heard is not None and heard.kind == HeardKind.ENDED:
                return

    def state(self) -> dict[str, object]:
        self.studio.decode()
        self.leg._listen(self.clock.now_ns())
        playout, speech = self.leg._playout, self.leg._speech
        return {
            "counts": self.socket.counts,
            "playout": (playout.ended_ns, playout._whole_ns, untold(playout)),
            "speech": (speech.sounding, speech.offset_ns, speech._last_ns),
        }


def untold(playout: Playout) -> list[tuple[int, int]]:
    """Its windows that are still to be told, however they are cut into stretches: when each begins, 1 if it is loud."""
    windows = (playout._whole_ns - playout._tail_ns) // WINDOW_NS
    tail = [] if playout._tail_ns == NO_TAIL else [(playout._tail_ns, 0, bytes([playout._tail_loud]) * windows)]
    stretches = ((began_ns, enumerate(octets)) for began_ns, _, octets in [*playout._queue, *tail])
    return [(began_ns + i * WINDOW_NS, loud) for began_ns, octets in stretches for i, loud in octets][playout._taken :]


def media(octets: bytes) -> bytes:
    return json.dumps({"event": "media", "media": {"payload": pybase64.b64encode(octets).decode()}}).encode()


TONE = codec("PCMU").encode((8_000 * np.sin(np.arange(160) / 3)).astype(np.int16))
CLICK = codec("PCMU").silence[:100] + TONE[:40] + codec("PCMU").silence[:20]
TEXT, BINARY = WSMsgType.TEXT, WSMsgType.BINARY
MESSAGES: dict[str, tuple[WSMsgType, bytes]] = {
    "silence": (TEXT, media(codec("PCMU").silence)),
    "tone": (TEXT, media(TONE)),
    "click": (TEXT, media(CLICK)),
    "half a frame": (TEXT, media(TONE[:80])),
    "three frames": (TEXT, media(3 * TONE)),
    "nothing": (TEXT, media(b"")),
    "mark": (TEXT, b'{"event": "mark", "mark": {"name": "here"}}'),
    "clear": (TEXT, b'{"event": "clear"}'),
    "spaced otherwise": (TEXT, media(TONE).replace(b": ", b":")),
    "no base64": (TEXT, media(TONE).replace(b"/", b"*")),
    "no JSON": (TEXT, b"{"),
    "binary": (BINARY, TONE),
}
often = st.sampled_from(["silence", "tone"])
STEPS = st.lists(
    st.tuples(
        often | st.sampled_from(sorted(MESSAGES)), st.integers(1, 40), st.sampled_from([0, 5, 19, 20, 20, 21, 45])
    ),
    max_size=25,
)


async def performed(rig: Rig, steps: Sequence[tuple[str, int, int]]) -> dict[str, object]:
    async with rig.studio.turning():
        rig.leg.open(rig.clock.now_ns())
        if not rig.by_lane:  # it looks around at each of its slots, whether there is a reason or not
            assert rig.leg._slot is not None
            rig.leg._slot.leg = None
        listener = asyncio.create_task(rig.listen())
        for number, (name, count, every_ms) in enumerate(steps):
            for _ in range(count if name in ("silence", "tone", "click") else 1):
                kind, payload = MESSAGES[name]
                if number % 7 == 6 and name == "tone":  # in two pieces
                    rig.gets(kind, payload[:50], whole=False)
                    rig.gets(WSMsgType.CONTINUATION, payload[50:])
                else:
                    rig.gets(kind, payload)
                await rig.clock.sleep_until(rig.clock.now_ns() + every_ms * MS)
        await rig.clock.sleep_until(rig.clock.now_ns() + 700 * MS)
        state = rig.state()
        rig.leg.end(rig.clock.now_ns(), "hung up")
        await listener
    return state


class StillClock:
    """Time stands: nothing is played, so that all that was heard can be looked at."""

    def now_ns(self) -> int:
        return SECOND

    async def sleep_until(self, at_ns: int) -> None:
        await asyncio.sleep(0)


def websocket_frame(opcode: int, payload: bytes, *, last: bool = True) -> bytes:
    first = opcode | (0x80 if last else 0)
    if len(payload) < 126:
        return bytes([first, len(payload)]) + payload
    if len(payload) < 1 << 16:
        return bytes([first, 126]) + len(payload).to_bytes(2) + payload
    return bytes([first, 127]) + len(payload).to_bytes(8) + payload
