"""The compiled fast lane against the long way, in Python: the same frames, the same end."""

import asyncio
import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pybase64
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server
from picows.picows import _make_test_ws_frame

from busyhour import fastlane
from busyhour.carriers.agent_socket import Closed
from busyhour.carriers.media_socket import MediaSocket
from busyhour.carriers.telnyx.media import TelnyxFrames
from busyhour.clock import SystemClock, VirtualClock
from busyhour.fastlane import plain
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.speech import WINDOWS_PER_SECOND, loud_windows
from busyhour.media.studio import Batch, Studio
from busyhour.model import MS, SECOND, Audio, Clock, Heard, HeardKind

CODECS = [
    codec("PCMU"),
    codec("PCMA"),
    codec("L16", 8_000),
    codec("L16", 16_000, little_endian=True),
    codec("L16", 48_000),
]
LANE = "busyhour.fastlane._compiled"
PLAIN = bool(os.environ.get("BUSYHOUR_PLAIN"))
compiled = pytest.mark.skipif(PLAIN, reason="BUSYHOUR_PLAIN is set: there is no lane to compare")


def test_it_is_compiled_where_it_can_be() -> None:
    assert shutil.which("cc") is None or PLAIN or not fastlane.WHY_NOT


def lane_with(change: str, **environment: str) -> str:
    """What a process says of its lane that has done this before."""
    code = f"{change}; from busyhour import fastlane; from busyhour.media.leg import Leg; print(fastlane.WHY_NOT)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_it_can_be_left_out() -> None:
    assert lane_with("pass", BUSYHOUR_PLAIN="1") == "BUSYHOUR_PLAIN is set"


@compiled
@pytest.mark.parametrize(
    ("change", "why_not"),
    [
        ("import picows; picows.__version__ = '0.1'", "and this is 0.1"),
        (f"import sys; sys.modules[{LANE!r}] = sys", "SOURCE_SHA256"),  # whatever it is
        (
            f"import sys, types; sys.modules[{LANE!r}] = types.SimpleNamespace(SOURCE_SHA256='another')",
            "run make, or python",
        ),
    ],
)
def test_it_is_not_used_where_it_does_not_fit(change: str, why_not: str) -> None:
    assert why_not in lane_with(change)


# ---------------------------------------------------------------- frames, judged


@compiled
@pytest.mark.parametrize("named", CODECS, ids=str)
def test_windows_are_judged_as_in_python(named: Codec) -> None:
    meter = Batch(named).meter
    assert meter is not None
    random = np.random.default_rng(1)
    for level in (0, 30, 200, 260, 320, 2_000, 30_000):
        samples = np.clip(random.normal(0, level, named.frame_samples), -32_768, 32_767).astype(np.int16)
        octets = named.encode(samples)
        expected = loud_windows(named.decode(octets), named.rate_hz // WINDOWS_PER_SECOND)
        assert meter.loud(pybase64.b64encode(octets)) == expected.tobytes()


@compiled
@pytest.mark.parametrize("named", CODECS, ids=str)
def test_what_is_no_frame_in_base64_is_left_to_python(named: Codec) -> None:
    meter = Batch(named).meter
    assert meter is not None
    good = pybase64.b64encode(named.silence)
    assert meter.loud(good) is not None
    for at in (0, 1, 2, 3, 70, len(good) - 5):
        for wrong in b'="\\\n -_.\x00\x80\xff':
            assert meter.loud(good[:at] + bytes([wrong]) + good[at + 1 :]) is None
    for wrong_end in (b"AAAA", b"A===", b"====", b"AB=="):
        assert meter.loud(good[:-4] + wrong_end) is None or (not good.endswith(b"=") and wrong_end == b"AAAA")
    assert meter.loud(good[:-4]) is None
    assert meter.loud(b"") is None


@compiled
@given(st.lists(st.integers(-5, 300) | st.integers(0, 1 << 40) | st.integers(0, 1 << 62)))
def test_durations_are_counted_as_in_python(durations_ns: list[int]) -> None:
    # Beyond 2**53 numpy's doubles round a duration up to the next bucket: four months.
    durations = array("q", [min(duration, 1 << 53) for duration in durations_ns])
    assert fastlane.upper_edges(durations, 7) == plain.upper_edges(durations, 7)


# ---------------------------------------------------------------- what an agent sends


@dataclass
class Rig:
    """One media stream with a leg, without a network: what it was told, and when."""

    clock: Clock
    by_lane: bool
    jitter_buffer_ns: int = 0
    told: list[tuple[int, object]] = field(default_factory=list)
    direct: bool = False  # the lane read the socket, at the end

    def __post_init__(self) -> None:
        self.studio = Studio(self.clock)
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
            "playout": (playout.ended_ns, playout._whole_ns, playout._hush_ns, list(playout._queue)),
            "speech": (speech.sounding, speech.offset_ns, speech._last_ns),
        }


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


@compiled
@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from([0, 0, 60 * MS]))
def test_what_is_heard_and_when_it_is_told_are_the_same(
    steps: Sequence[tuple[str, int, int]], jitter_buffer_ns: int
) -> None:
    outcomes = []
    for by_lane in (True, False):
        clock = VirtualClock()
        rig = Rig(clock, by_lane, jitter_buffer_ns)
        state = clock.run(performed(rig, steps))
        outcomes.append((rig.told, state))
    assert outcomes[0] == outcomes[1]


@compiled
def test_most_frames_take_the_lane() -> None:
    clock = VirtualClock()
    rig = Rig(clock, by_lane=True)
    handed_on: list[bytes] = []
    put = rig.socket._socket._put
    rig.socket._socket._put = lambda row: (handed_on.append(row[2]), put(row))
    clock.run(performed(rig, [("silence", 40, 20), ("tone", 40, 20), ("silence", 40, 20), ("tone", 40, 20)]))
    assert rig.socket.counts.received == 160
    assert len(handed_on) == 1  # from which the others are recognised
    kinds = [heard.kind for _, heard in rig.told if isinstance(heard, Heard)]
    assert kinds == [HeardKind.ONSET, HeardKind.OFFSET, HeardKind.ONSET, HeardKind.OFFSET, HeardKind.ENDED]


@compiled
def test_frames_that_take_the_lane_count_among_those_that_are_too_many() -> None:
    rig = Rig(StillClock(), by_lane=True)
    for _ in range(4):
        rig.socket._socket.passed(500)
    assert not rig.told
    rig.socket._socket.passed(500)
    assert [what for _, what in rig.told] == ["more than 2000 frames in a second"]


# ---------------------------------------------------------------- what an agent gets


class Agent(WSListener):
    def __init__(self, heard: list[bytes]) -> None:
        self._heard = heard

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == TEXT:
            self._heard.append(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()


class Caller:
    """Owner of a stream to a real socket."""

    def __init__(self, studio: Studio, url: str, *, by_lane: bool) -> None:
        self.leg = Leg(studio=studio, codec=codec("PCMU"), send=lambda _payload, _index: None)
        self.socket = MediaSocket(
            dialect=TelnyxFrames("a stream"),
            owner=self,
            clock=SystemClock(),
            bytes_per_second=8_000,
            inbox=studio.inbox,
        )
        self._url, self._by_lane = url, by_lane

    async def open(self) -> None:
        await self.socket.open(self._url, headers={}, timeout_seconds=10)

    def socket_opened(self, at_ns: int) -> None:
        self.socket.say("start", {})
        self.leg.send_by(self.socket.send_audio, self.socket if self._by_lane else None)
        self.leg.open(at_ns)

    def heard_media(self, octets: bytes, at_ns: int) -> None: ...
    def heard_mark(self, name: str, at_ns: int) -> None: ...
    def heard_clear(self, at_ns: int) -> None: ...
    def heard_malformed(self, detail: str) -> None: ...
    def broke_protocol(self, detail: str) -> None: ...


async def conversed() -> tuple[list[bytes], list[bytes]]:
    """What an agent gets of a caller by the lane, and by Python."""
    heard: dict[str, list[bytes]] = {"/lane": [], "/python": []}

    def accept(request: WSUpgradeRequest) -> Agent:
        return Agent(heard[request.path.decode()])

    server = await ws_create_server(accept, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    studio = Studio()
    async with studio.turning():
        callers = [Caller(studio, f"{url}{path}", by_lane=path == "/lane") for path in heard]
        for caller in callers:
            await caller.open()
        samples = (8_000 * np.sin(np.arange(2_400) / 3)).astype(np.int16)
        for caller in callers:
            pause = Audio("pause", "pause", np.zeros(1_920, np.int16), 8_000, 0, 1)
            await caller.leg.say(pause)  # 12 frames: on to numbers of two digits
            spoken = await caller.leg.say(Audio("hum", "hum", samples, 8_000, 400, 2_000))
            assert 20 * MS < spoken.ended_ns - spoken.began_ns < SECOND
            caller.socket.say("dtmf", {"digit": "1"})
            caller.leg.end(SystemClock().now_ns(), "hung up")
            caller.socket.close()
            await caller.socket.closed()
        counts = [caller.socket.counts.sent for caller in callers]
    server.close()
    await server.wait_closed()
    assert [sum(b'"media"' in message for message in messages) for messages in heard.values()] == counts
    return heard["/lane"], heard["/python"]


def test_what_is_sent_is_the_same_to_the_octet() -> None:
    by_lane, by_python = uvloop.run(conversed())

    def spoken(messages: Sequence[bytes]) -> list[str]:
        payloads = [json.loads(message)["media"]["payload"] for message in messages if b'"media"' in message]
        return [payload for payload in payloads if payload.strip("/") != "w=="]

    for messages in (by_lane, by_python):
        numbers = [int(json.loads(message)["sequence_number"]) for message in messages]
        assert numbers == list(range(1, len(messages) + 1))
        chunks = [json.loads(m)["media"] for m in messages if b'"media"' in m]
        assert [int(chunk["chunk"]) for chunk in chunks] == list(range(1, len(chunks) + 1))
        assert [int(chunk["timestamp"]) for chunk in chunks] == list(range(0, 20 * len(chunks), 20))
    assert by_lane[:11] == by_python[:11]  # silence, with the same numbers
    assert spoken(by_lane) == spoken(by_python)
    assert spoken(by_lane)


# ---------------------------------------------------------------- however the network cuts it


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


LONG = media(TONE * 400)  # 85 KB: more than is read at once
ON_THE_WIRE: dict[str, tuple[bytes, bytes]] = {  # and which windows are loud
    "silence": (websocket_frame(1, media(codec("PCMU").silence)), bytes(8)),
    "tone": (websocket_frame(1, media(TONE)), b"\1" * 8),
    "two pieces": (websocket_frame(1, media(TONE)[:90], last=False) + websocket_frame(0, media(TONE)[90:]), b"\1" * 8),
    "ping": (websocket_frame(9, b"are you there"), b""),
    "short": (websocket_frame(1, b"{}"), b""),
    "long": (websocket_frame(1, LONG), b"\1" * 3_200),
}


async def fed(data: bytes, cuts: Sequence[int] = ()) -> tuple[Rig, Closed | None]:
    """A stream that gets this over a socket, so many octets at a time, and then a mark; how it ended, if it did."""
    talking = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        key = next(
            line[19:] for line in request.decode().split("\r\n") if line.lower().startswith("sec-websocket-key:")
        )
        proof = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        )
        writer.write(head + proof + b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await talking.wait()
        at = 0
        for size in [*cuts, len(data)]:
            writer.write(data[at : at + size])
            at += size
            for _ in range(3):  # let it be read, or not: both is to be right
                await asyncio.sleep(0)
        writer.write(websocket_frame(1, MESSAGES["mark"][1]))
        with suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    rig = Rig(StillClock(), by_lane=True)
    async with rig.studio.turning():
        host, port = server.sockets[0].getsockname()
        await rig.socket.open(f"ws://{host}:{port}", headers={}, timeout_seconds=10)
        closed = asyncio.create_task(rig.socket.closed())
        talking.set()
        async with asyncio.timeout(20):
            while not rig.leg._playout.marks and not closed.done():
                rig.studio.decode()
                await asyncio.sleep(0)
        how = closed.result() if closed.done() else None
        transport = rig.socket._socket._transport
        assert transport is not None
        rig.direct = not transport.underlying_transport.is_reading()
        rig.socket.close()
        await closed
        server.close()
    return rig, how


async def cut(frames: Sequence[str], cuts: Sequence[int]) -> tuple[Rig, bytes]:
    """A stream that gets those frames; and what it should have heard."""
    rig, _ = await fed(b"".join(ON_THE_WIRE[name][0] for name in ["tone", *frames]), cuts)
    return rig, b"".join(ON_THE_WIRE[name][1] for name in ["tone", *frames])


@compiled
@pytest.mark.parametrize(
    "wrong",
    [
        b"\x81\xfe" + len(media(TONE)).to_bytes(2) + bytes(4) + media(TONE),  # masked, by a mask that changes nothing
        b"\x81\x7f" + len(media(TONE)).to_bytes(8) + media(TONE),  # a length in eight octets that two could hold
    ],
)
def test_what_breaks_the_protocol_is_not_taken(wrong: bytes) -> None:
    good = ON_THE_WIRE["tone"][0]
    _, how = uvloop.run(fed(4 * good + wrong + good))
    assert how is not None
    assert not how.clean
    assert how.how.startswith("websocket: ")


@compiled
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(ON_THE_WIRE)) | st.sampled_from(["silence", "tone"]), max_size=40),
    st.lists(st.integers(1, 900), max_size=30),
)
def test_frames_are_the_same_however_they_are_cut(frames: list[str], cuts: list[int]) -> None:
    frames = [name for i, name in enumerate(frames) if name != "long" or "long" not in frames[:i]]
    rig, expected = uvloop.run(cut(frames, cuts))
    rig.leg._playout._end_hush()
    assert b"".join(loud for _, _, loud in rig.leg._playout._queue) == expected
    assert rig.socket.counts.received == 2 + len(frames) - frames.count("ping")
    assert rig.socket.counts.malformed == frames.count("short")


@compiled
@pytest.mark.parametrize("cuts", [[], [100, 100, 1, 1], [700, 3_000]])
def test_sockets_are_read_directly_again_after_half_a_frame(cuts: list[int]) -> None:
    rig, _ = uvloop.run(cut(["silence"] * 10, cuts))
    assert rig.direct


@compiled
def test_an_error_of_our_own_in_the_lane_is_raised_by_who_waits_for_the_end() -> None:
    async def fail() -> None:
        def broken(_loud: bytes, _at_ns: int) -> bool:
            raise ZeroDivisionError("a bug of ours")

        rig = Rig(StillClock(), by_lane=True)
        agent: list[WSTransport] = []

        class Talker(WSListener):
            def on_ws_connected(self, transport: WSTransport) -> None:
                agent.append(transport)

        server = await ws_create_server(lambda _request: Talker(), "127.0.0.1", 0)
        async with rig.studio.turning():
            await rig.socket.open(
                f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", headers={}, timeout_seconds=10
            )
            closed = asyncio.create_task(rig.socket.closed())
            async with asyncio.timeout(20):
                while not closed.done():
                    agent[0].send(*MESSAGES["tone"])
                    rig.studio.decode()
                    rig.leg.take_windows = broken if rig.socket.before else rig.leg.take_windows  # type: ignore[method-assign]
                    rig.leg._steady = False
                    await asyncio.sleep(0)
                with pytest.raises(ZeroDivisionError):
                    await closed
        server.close()

    uvloop.run(fail())
