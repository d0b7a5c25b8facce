import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pybase64
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.clock import SystemClock, VirtualClock
from busyhour.errors import ProtocolError
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.studio import Studio
from busyhour.media.utterances import utterance
from busyhour.model import MS, Audio, CallFailed, Clock, Heard, HeardKind, Spoken

ONSET, OFFSET, GAP, DTMF, ENDED = HeardKind.ONSET, HeardKind.OFFSET, HeardKind.GAP, HeardKind.DTMF, HeardKind.ENDED
PCMU = codec("PCMU")
CODECS = [PCMU, codec("PCMA"), codec("L16", 8_000), codec("L16", 16_000), codec("L16", 24_000)]


def sound(ms: float, rate_hz: int = 8_000) -> np.ndarray:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(round(ms * rate_hz / 1_000)) / rate_hz)).astype(np.int16)


def silence(ms: float, rate_hz: int = 8_000) -> np.ndarray:
    return np.zeros(round(ms * rate_hz / 1_000), np.int16)


def payload(samples: np.ndarray, named: Codec = PCMU) -> bytes:
    return pybase64.b64encode(named.encode(samples))


def frames(samples: np.ndarray, named: Codec = PCMU) -> list[bytes]:
    size = named.frame_samples
    return [payload(samples[at : at + size], named) for at in range(0, len(samples), size)]


def saying(before_ms: float, speech_ms: float, after_ms: float, rate_hz: int = 8_000) -> Audio:
    parts = [silence(before_ms, rate_hz), sound(speech_ms, rate_hz), silence(after_ms, rate_hz)]
    return Audio("test", "test", np.concatenate(parts), rate_hz, len(parts[0]), len(parts[0]) + len(parts[1]))


class Wire:
    """A leg in a virtual studio, and what it put on the wire when."""

    def __init__(self, clock: Clock, named: Codec = PCMU, jitter_buffer_ns: int = 0) -> None:
        self.clock = clock
        self.studio = Studio(clock)
        self.sent: list[tuple[int, bytes]] = []
        self.indices: list[int] = []
        self.failures: list[ProtocolError] = []
        self.leg = Leg(
            studio=self.studio,
            codec=named,
            send=self._send,
            jitter_buffer_ns=jitter_buffer_ns,
            failed=self.failures.append,
        )

    def _send(self, payload: bytes, index: int) -> None:
        self.sent.append((self.clock.now_ns(), payload))
        self.indices.append(index)

    def agent_says(self, *payloads: bytes) -> None:
        for chunk in payloads:
            self.leg.media(chunk, self.clock.now_ns())

    async def sleep(self, ms: float) -> None:
        await self.clock.sleep_until(self.clock.now_ns() + round(ms * MS))

    async def hear(self, within_ms: float = 2_000) -> Heard | None:
        return await self.leg.hear(self.clock.now_ns() + round(within_ms * MS))


def on_a_wire(play: Callable[[Wire], object], named: Codec = PCMU, jitter_buffer_ns: int = 0) -> Wire:
    """Play a scene on an open leg, in virtual time."""
    clock = VirtualClock()
    wire = Wire(clock, named, jitter_buffer_ns)

    async def main() -> None:
        async with wire.studio.turning():
            wire.leg.open(clock.now_ns())
            await play(wire)  # type: ignore[misc]

    clock.run(main())
    return wire


def scene(test: Callable[[Wire], object]) -> Callable[[], None]:
    """Make a test of what happens on a wire."""

    def played() -> None:
        on_a_wire(test)

    return played


@pytest.mark.parametrize("named", CODECS, ids=str)
def test_an_open_leg_sends_the_codecs_silence_every_20_ms(named: Codec) -> None:
    async def play(wire: Wire) -> None:
        await wire.sleep(1_000)
        wire.leg.close()
        sent = len(wire.sent)
        await wire.sleep(100)
        assert len(wire.sent) == sent

    wire = on_a_wire(play, named)
    stamps = [at_ns for at_ns, _ in wire.sent]
    assert len(stamps) == 50
    assert {b - a for a, b in pairwise(stamps)} == {20 * MS}
    assert {chunk for _, chunk in wire.sent} == {pybase64.b64encode(named.silence)}
    assert wire.indices == list(range(50))


@pytest.mark.parametrize("named", CODECS, ids=str)
@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_speech_began_and_ended_with_the_frames_that_hold_its_ends(named: Codec, rate_hz: int) -> None:
    spoken: list[Spoken] = []

    async def play(wire: Wire) -> None:
        spoken.append(await wire.leg.say(saying(45, 231, 100, rate_hz)))
        await wire.sleep(100)

    wire = on_a_wire(play, named)
    loud = [
        at_ns for at_ns, chunk in wire.sent if np.abs(named.decode(pybase64.b64decode(chunk)).astype(int)).max() > 1_000
    ]
    assert spoken == [Spoken(loud[0], loud[-1])]
    assert loud[-1] - loud[0] == (276 // 20 - 45 // 20) * 20 * MS


def test_say_returns_when_the_last_frame_was_sent_and_puts_out_every_octet() -> None:
    audio = utterance("hours.today")

    async def play(wire: Wire) -> None:
        await wire.leg.say(audio)
        assert b"".join(pybase64.b64decode(chunk) for _, chunk in wire.sent[-len(audio.samples) // 160 :])[
            : len(audio.samples)
        ] == PCMU.encode(audio.samples)

    on_a_wire(play)


@scene
async def test_a_cancelled_say_falls_silent_with_the_next_frame(wire: Wire) -> None:
    speaking = asyncio.create_task(wire.leg.say(saying(0, 1_000, 0)))
    await wire.sleep(205)
    speaking.cancel()
    sent = len(wire.sent)
    await wire.sleep(100)
    quiet = pybase64.b64encode(PCMU.silence)
    assert wire.sent[sent - 1][1] != quiet
    assert {chunk for _, chunk in wire.sent[sent:]} == {quiet}
    assert (await wire.leg.say(saying(0, 100, 0))).ended_ns  # and can speak again


def echo(wire: Wire, delay_ms: float, answer: list[bytes]) -> None:
    """An agent that answers exactly so long after it received the last frame with speech."""
    loop = asyncio.get_running_loop()
    heard = 0
    send = wire.leg._send

    def receive(chunk: bytes, index: int) -> None:
        nonlocal heard
        send(chunk, index)
        if np.abs(PCMU.decode(pybase64.b64decode(chunk)).astype(int)).max() > 500:
            heard += 1
            loop.call_later(delay_ms / 1_000, respond, heard)

    def respond(count: int) -> None:
        if count == heard:
            wire.agent_says(*answer)

    wire.leg._send = receive


@pytest.mark.parametrize("delay_ms", [25, 100, 712.5, 1_500])
def test_against_an_echo_the_latency_is_exactly_its_delay(delay_ms: float) -> None:
    async def play(wire: Wire) -> None:
        echo(wire, delay_ms, frames(sound(300)))
        for speech_ms in (200, 203, 217):
            spoken = await wire.leg.say(saying(20, speech_ms, 30))
            onset, offset = await wire.hear(), await wire.hear()
            assert onset is not None
            assert offset is not None
            assert (onset.kind, offset.kind) == (ONSET, OFFSET)
            assert abs(onset.at_ns - spoken.ended_ns - delay_ms * MS) < 10_000  # virtual timers step by a microsecond
            assert offset.at_ns - onset.at_ns == 300 * MS

    on_a_wire(play)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_against_an_echo_in_real_time_the_latency_is_its_delay(run: Callable[..., list[float]]) -> None:
    async def main() -> list[float]:
        wire = Wire(SystemClock())
        errors_ms = []
        async with wire.studio.turning():
            wire.leg.open(wire.clock.now_ns())
            echo(wire, 50, frames(sound(60)))
            for _ in range(3):
                spoken = await wire.leg.say(saying(0, 30, 0))
                onset = await wire.hear()
                assert onset is not None
                errors_ms.append((onset.at_ns - spoken.ended_ns) / MS - 50)
                assert await wire.hear() is not None
            wire.leg.close()
        return errors_ms

    # The loop's own timer, on a machine that may be busy, decides when the echo answers: never before.
    assert -1.5 < min(run(main())) < 40


@scene
async def test_what_is_told_is_certain_and_in_order(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(payload(np.concatenate([silence(107.5), sound(1_000), silence(29_000 - 107.5)])))
    assert await wire.hear(115) is None  # 7.5 ms of sound may still be a click
    onset = await wire.hear()
    assert onset == Heard(ONSET, began_ns + 107_500_000)
    assert wire.clock.now_ns() - onset.at_ns < 40 * MS
    assert await wire.hear(1_400) is None
    offset = await wire.hear()
    assert offset == Heard(OFFSET, began_ns + 1_107_500_000)
    assert 500 * MS <= wire.clock.now_ns() - offset.at_ns < 525 * MS


@scene
async def test_clear_ends_the_speech_where_it_was_cut(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    marks: list[str] = []
    wire.agent_says(payload(sound(30_000)))
    wire.leg.mark("never", wire.clock.now_ns(), marks.append)
    await wire.sleep(1_234)
    assert wire.leg.clear(began_ns + 1_234 * MS) == ["never"]
    assert await wire.hear() == Heard(ONSET, began_ns)
    assert await wire.hear() == Heard(OFFSET, began_ns + 1_234 * MS)
    assert await wire.hear(40_000) is None
    assert marks == []


@scene
async def test_silence_after_a_clear_is_no_gap(wire: Wire) -> None:
    wire.agent_says(*frames(sound(400)))
    await wire.sleep(200)
    wire.leg.clear(wire.clock.now_ns())
    await wire.sleep(100)
    wire.agent_says(*frames(sound(400)))
    heard = [await wire.hear(), await wire.hear(), await wire.hear(1_000)]
    assert [event and event.kind for event in heard] == [ONSET, OFFSET, None]


@scene
async def test_audio_cleared_before_it_played_is_never_heard(wire: Wire) -> None:
    wire.agent_says(payload(np.concatenate([silence(1_000), sound(1_000)])))
    await wire.sleep(900)
    wire.leg.clear(wire.clock.now_ns())
    assert await wire.hear(3_000) is None


@scene
async def test_a_frame_that_arrived_just_before_a_clear_is_cleared_too(wire: Wire) -> None:
    wire.agent_says(*frames(sound(400)))
    wire.leg.clear(wire.clock.now_ns())  # the batch has not been decoded yet
    assert await wire.hear(1_000) is None


@scene
async def test_a_chunk_of_another_size_plays_behind_frames_that_wait_to_be_decoded(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(*frames(silence(100)), payload(sound(50)))
    assert await wire.hear() == Heard(ONSET, began_ns + 100 * MS)


@scene
async def test_an_underrun_inside_speech_is_a_gap(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(*frames(sound(200)))
    await wire.sleep(260)
    resumed_ns = wire.clock.now_ns()
    wire.agent_says(*frames(sound(200)))
    assert await wire.hear() == Heard(ONSET, began_ns)
    assert await wire.hear() == Heard(GAP, began_ns + 200 * MS, resumed_ns)
    assert await wire.hear() == Heard(OFFSET, resumed_ns + 200 * MS)


def test_a_jitter_buffer_absorbs_late_frames() -> None:
    async def play(wire: Wire) -> None:
        began_ns = wire.clock.now_ns()
        for frame, chunk in enumerate(frames(sound(400))):
            await wire.clock.sleep_until(began_ns + frame * 20 * MS + frame % 3 * 15 * MS)
            wire.agent_says(chunk)
        onset, offset = await wire.hear(), await wire.hear()
        assert onset == Heard(ONSET, began_ns + 40 * MS)
        assert offset == Heard(OFFSET, onset.at_ns + 400 * MS)

    on_a_wire(play, jitter_buffer_ns=40 * MS)


@pytest.mark.parametrize(("named", "octets"), [(PCMU, b""), (codec("L16", 16_000), b"\0")], ids=str)
def test_a_message_without_a_sample_is_nothing_that_a_jitter_buffer_could_hold(named: Codec, octets: bytes) -> None:
    async def play(wire: Wire) -> None:
        wire.leg.octets(octets, wire.clock.now_ns())
        assert wire.leg.clear(wire.clock.now_ns()) == []
        wire.leg.octets(octets, wire.clock.now_ns())
        wire.leg.close()
        assert (await wire.leg.hear(wire.clock.now_ns())) == Heard(ENDED, wire.clock.now_ns(), detail="closed")

    on_a_wire(play, named, jitter_buffer_ns=40 * MS)


@pytest.mark.parametrize("named", CODECS, ids=str)
def test_comfort_noise_and_silence_are_not_heard(named: Codec) -> None:
    async def play(wire: Wire) -> None:
        random = np.random.default_rng(1)
        hiss = random.normal(0, 32_768 * 10 ** (-52 / 20), named.frame_samples * 100).astype(np.int16)
        for chunk in [*frames(hiss, named), *frames(silence(400, named.rate_hz), named)]:
            wire.agent_says(chunk)
            assert await wire.hear(20) is None

    on_a_wire(play, named)


@pytest.mark.parametrize("named", CODECS, ids=str)
@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 900), max_size=12), before_ms=st.sampled_from([0, 20, 42.5]))
def test_chunks_of_any_size_are_heard_like_frames(named: Codec, sizes: list[int], before_ms: float) -> None:
    parts = [silence(before_ms, named.rate_hz), sound(95, named.rate_hz), silence(30, named.rate_hz)]
    octets = named.encode(np.concatenate(parts))

    async def heard(wire: Wire) -> None:
        began_ns, begin = wire.clock.now_ns(), 0
        for size in [*(size * named.sample_bytes for size in sizes), len(octets)]:
            if octets[begin : begin + size]:
                wire.agent_says(pybase64.b64encode(octets[begin : begin + size]))
            begin += size
        onset, offset = await wire.hear(), await wire.hear()
        assert onset == Heard(ONSET, began_ns + round(before_ms * MS))
        assert offset is not None
        assert abs(offset.at_ns - onset.at_ns - 95 * MS) <= 2.5 * MS

    on_a_wire(heard, named)


@scene
async def test_the_carrier_can_speak_itself_behind_what_the_agent_sent(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(*frames(silence(100)))
    assert wire.leg.play(sound(500), began_ns) == began_ns + 600 * MS
    assert await wire.hear() == Heard(ONSET, began_ns + 100 * MS)
    assert await wire.hear() == Heard(OFFSET, began_ns + 600 * MS)


@scene
async def test_a_mark_comes_back_when_the_audio_before_it_was_played(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    back: list[tuple[str, int]] = []

    def on_played(name: str) -> None:
        back.append((name, wire.clock.now_ns() - began_ns))

    wire.leg.mark("at once", began_ns, on_played)
    wire.agent_says(*frames(sound(300)))
    wire.leg.mark("played", began_ns, on_played)
    await wire.sleep(1_000)
    assert [name for name, _ in back] == ["at once", "played"]
    assert back[0][1] <= 25 * MS
    assert 300 * MS <= back[1][1] <= 325 * MS


@scene
async def test_a_key_waits_its_turn(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(*frames(sound(200)))
    await wire.sleep(300)
    wire.leg.pressed("5", began_ns + 300 * MS)
    assert [event and event.kind for event in (await wire.hear(), await wire.hear(), await wire.hear())] == [
        ONSET,
        OFFSET,
        DTMF,
    ]


@scene
async def test_the_end_cuts_speech_and_is_told_for_ever(wire: Wire) -> None:
    began_ns = wire.clock.now_ns()
    wire.agent_says(payload(sound(5_000)))
    speaking = asyncio.create_task(wire.leg.say(saying(0, 5_000, 0)))
    await wire.sleep(400)
    wire.leg.end(began_ns + 400 * MS, "hung up", "by the agent")
    wire.leg.end(began_ns + 401 * MS, "lost")
    ended = Heard(ENDED, began_ns + 400 * MS, detail="hung up: by the agent")
    assert [await wire.hear() for _ in range(4)] == [
        Heard(ONSET, began_ns),
        Heard(OFFSET, began_ns + 400 * MS),
        ended,
        ended,
    ]
    for attempt in (speaking, wire.leg.say(saying(0, 20, 0))):
        with pytest.raises(CallFailed, match="by the agent") as failure:
            await attempt
        assert failure.value.reason == "hung up"
    wire.agent_says(payload(sound(20)))  # too late: ignored
    wire.leg.close()


@scene
async def test_the_end_wakes_who_listens(wire: Wire) -> None:
    listening = asyncio.create_task(wire.hear(60_000))
    await wire.sleep(33)
    wire.leg.end(wire.clock.now_ns(), "lost")
    heard = await listening
    assert heard == Heard(ENDED, wire.clock.now_ns(), detail="lost")


@scene
async def test_a_socket_that_fails_loses_the_call(wire: Wire) -> None:
    def send(_chunk: bytes, _index: int) -> None:
        raise ConnectionResetError("reset by peer")

    wire.leg._send = send
    heard = await wire.hear()
    assert heard is not None
    assert (heard.kind, heard.detail) == (ENDED, "lost: reset by peer")


@pytest.mark.parametrize(
    "bad", [b"!" * 216, payload(sound(20))[:-2] + b"AA", b"a", b"=" * 216, b"\xff" * 8, b"A" * 215 + b"="]
)
def test_what_is_not_base64_ends_only_its_own_leg(bad: bytes) -> None:
    async def play(wire: Wire) -> None:
        other = Leg(studio=wire.studio, codec=PCMU, send=lambda _chunk, _index: None)
        began_ns = wire.clock.now_ns()
        for chunk in frames(sound(60)):
            other.media(chunk, began_ns)
            try:
                wire.leg.media(bad, began_ns)
            except ProtocolError:
                break
        await wire.sleep(100)
        assert await other.hear(0) == Heard(ONSET, began_ns)
        if wire.failures:
            assert len(wire.failures) == 1
            heard = await wire.hear()
            assert heard is not None
            assert heard.detail.startswith("protocol error: a media payload of")
            with pytest.raises(ProtocolError, match="not base64"):
                wire.leg.media(bad, began_ns)
        else:
            assert len(pybase64.b64decode(bad, validate=True)) in {161, 162}  # odd, but audio

    on_a_wire(play)


@scene
async def test_a_queue_of_more_than_half_a_minute_is_refused(wire: Wire) -> None:
    wire.agent_says(payload(sound(20)), payload(sound(30_000)))
    await wire.sleep(5)
    with pytest.raises(ProtocolError, match="more than 30 s of audio"):
        wire.agent_says(payload(sound(1)))


@scene
async def test_a_chunk_of_more_than_half_a_minute_is_refused_without_decoding_it(wire: Wire) -> None:
    with pytest.raises(ProtocolError, match="a media chunk of more than 30 s"):
        wire.agent_says(b"A" * 320_008)


@scene
async def test_one_mouth_and_one_ear(wire: Wire) -> None:
    speaking = asyncio.create_task(wire.leg.say(saying(0, 100, 0)))
    listening = asyncio.create_task(wire.hear(200))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="two utterances"):
        await wire.leg.say(saying(0, 100, 0))
    with pytest.raises(RuntimeError, match="two listeners"):
        await wire.hear()
    assert await listening is None
    await speaking
