"""The sound of one leg: what was said and what was heard, each sample in its place, on a clock of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pybase64
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busyhour.clock import VirtualClock
from busyhour.disturbance import Vice
from busyhour.errors import ProtocolError
from busyhour.listen import channels
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.studio import Studio
from busyhour.media.tape import COMPACT_FRAMES
from busyhour.model import MS, SECOND, Audio, Samples, Spoken
from busyhour.recording import Sound

PCMU = codec("PCMU")
CODECS = [PCMU, codec("PCMA"), codec("L16", 16_000), codec("L16", 24_000, little_endian=True)]
MINUTES_NS = 600 * SECOND


def tone(ms: float, rate_hz: int = 8_000) -> Samples:
    return (8_000 * np.sin(2 * np.pi * 440 * np.arange(round(ms * rate_hz / 1_000)) / rate_hz)).astype(np.int16)


def saying(before_ms: float, speech_ms: float, after_ms: float, rate_hz: int = 8_000) -> Audio:
    parts = [np.zeros(round(ms * rate_hz / 1_000), np.int16) for ms in (before_ms, after_ms)]
    speech = tone(speech_ms, rate_hz)
    samples = np.concatenate((parts[0], speech, parts[1]))
    return Audio("test", "test", samples, rate_hz, len(parts[0]), len(parts[0]) + len(speech))


class Call:
    """A leg in a virtual studio whose sound is kept."""

    def __init__(self, clock: VirtualClock, named: Codec, *, jitter_buffer_ns: int, record_ns: int) -> None:
        self.clock, self.codec = clock, named
        self.studio = Studio(clock)
        self.leg = Leg(
            studio=self.studio,
            codec=named,
            send=lambda _payload, _index: None,
            jitter_buffer_ns=jitter_buffer_ns,
            record_ns=record_ns,
        )

    def agent_says(self, samples: Samples) -> None:
        self.leg.media(pybase64.b64encode(self.codec.encode(samples)), self.clock.now_ns())

    async def sleep(self, ms: float) -> None:
        await self.clock.sleep_until(self.clock.now_ns() + round(ms * MS))


def recorded(
    play: Callable[[Call], Awaitable[None]],
    named: Codec = PCMU,
    *,
    jitter_buffer_ns: int = 0,
    record_ns: int = MINUTES_NS,
) -> tuple[Sound, Samples, Samples]:
    """The sound of a call in which that happens, and its two channels."""
    clock = VirtualClock()
    call = Call(clock, named, jitter_buffer_ns=jitter_buffer_ns, record_ns=record_ns)

    async def main() -> None:
        async with call.studio.turning():
            await call.sleep(1_000)  # an instant of 0 would say that it was never open
            call.leg.open(clock.now_ns())
            await play(call)
            call.leg.close()

    clock.run(main())
    sound = call.leg.recorded()
    assert sound is not None
    assert call.leg.recorded() is None  # it is given away once
    caller, agent = channels(sound)
    assert len(caller) == len(agent) == sound.samples
    return sound, caller, agent


def coded(samples: Samples, named: Codec = PCMU) -> Samples:
    """As it comes out at the other end."""
    return named.decode(named.encode(samples))


def quiet(samples: Samples) -> bool:
    return bool((np.abs(samples.astype(int)) <= 8).all())  # A-law has no zero


@pytest.mark.parametrize("named", CODECS, ids=str)
def test_what_the_agent_says_stands_where_it_was_heard(named: Codec) -> None:
    said = tone(500, named.rate_hz)

    async def play(call: Call) -> None:
        await call.sleep(300)
        call.agent_says(said)
        await call.sleep(1_000)

    sound, caller, agent = recorded(play, named)
    at, rate_hz = 300 * named.rate_hz // 1_000, named.rate_hz
    assert sound.ended_ns - sound.began_ns == 1_300 * MS
    assert (agent[at : at + len(said)] == coded(said, named)).all()
    assert quiet(agent[:at])
    assert quiet(agent[at + len(said) :])
    assert quiet(caller)
    assert (sound.rate_hz, sound.cut) == (rate_hz, False)


def test_a_clear_cuts_it_there_and_what_comes_later_is_heard() -> None:
    async def play(call: Call) -> None:
        call.agent_says(tone(2_000))
        call.leg.mark("unreached", call.clock.now_ns(), lambda _name: None)
        await call.sleep(200.125)
        call.leg.clear(call.clock.now_ns())
        await call.sleep(300)
        call.agent_says(tone(100))
        call.leg.mark("reached", call.clock.now_ns(), lambda _name: None)
        await call.sleep(500)

    sound, _, agent = recorded(play)
    assert (agent[:1_601] == coded(tone(2_000))[:1_601]).all()
    assert quiet(agent[1_601 : 1_601 + 2_400])
    assert (agent[4_001:4_801] == coded(tone(100))).all()
    assert quiet(agent[4_801:])
    assert sound.clears_ns == (sound.began_ns + round(200.125 * MS),)
    assert sound.marks == ((sound.began_ns + round(600.125 * MS), "reached"),)


def test_the_callers_utterance_ends_when_its_last_frame_was_handed_over() -> None:
    audio, spoken = saying(45, 231, 100), list[Spoken]()

    async def play(call: Call) -> None:
        await call.sleep(333)
        spoken.append(await call.leg.say(audio))
        await call.sleep(200)

    sound, caller, agent = recorded(play)
    # its first sample of speech is in the third frame, 40 to 60 ms; the last, at 276 ms, in the fourteenth
    begin = (spoken[0].began_ns - 60 * MS - sound.began_ns) // 125_000
    assert (caller[begin : begin + len(audio.samples)] == coded(audio.samples)).all()
    assert quiet(caller[:begin])
    assert quiet(caller[begin + len(audio.samples) :])
    assert quiet(agent)
    loud = np.flatnonzero(np.abs(caller.astype(int)) > 1_000)
    last_ns = sound.began_ns + (int(loud[-1]) + 1) * 125_000
    assert 0 <= spoken[0].ended_ns - last_ns < 20 * MS


def test_a_jitter_buffer_is_heard_as_a_delay() -> None:
    async def play(call: Call) -> None:
        await call.sleep(100)
        call.agent_says(tone(200))
        await call.sleep(400)

    _, _, agent = recorded(play, jitter_buffer_ns=60 * MS)
    assert quiet(agent[: 160 * 8])
    assert (agent[160 * 8 : 360 * 8] == coded(tone(200))).all()


def test_frames_that_come_too_slowly_leave_holes_where_they_were_heard() -> None:
    async def play(call: Call) -> None:
        for _ in range(10):
            call.agent_says(tone(20))
            await call.sleep(21)

    _, _, agent = recorded(play)
    for frame in range(10):
        at = frame * 168
        assert (agent[at : at + 160] == coded(tone(20))).all()
        assert quiet(agent[at + 160 : at + 168])


def test_what_the_carrier_itself_plays_is_heard_behind_the_agent() -> None:
    async def play(call: Call) -> None:
        call.agent_says(tone(20))
        call.leg.play(tone(50), call.clock.now_ns())
        await call.sleep(200)

    _, _, agent = recorded(play)
    assert (agent[:560] == np.concatenate((coded(tone(20)), coded(tone(50))))).all()


def test_what_the_caller_did_not_live_to_hear_is_not_there() -> None:
    async def play(call: Call) -> None:
        call.agent_says(tone(5_000))
        await call.sleep(700)

    sound, _, agent = recorded(play)
    assert len(agent) == 5_600
    assert sound.agent.runs.tolist() == [[0, 5_600]]
    assert len(sound.agent.octets) == 5_600


def test_what_the_network_lost_was_not_heard() -> None:
    async def play(call: Call) -> None:
        call.leg.disturbance.add(Vice(kind="media.lost", towards=frozenset({"to caller"})))
        call.agent_says(tone(100))
        await call.sleep(50)
        call.leg.disturbance.remove("media.lost")
        call.agent_says(tone(100))
        await call.sleep(200)

    _, _, agent = recorded(play)
    assert quiet(agent[:400])
    assert (agent[400:1_200] == coded(tone(100))).all()


def test_what_is_no_audio_ends_the_call_and_leaves_the_sound_before_it() -> None:
    async def play(call: Call) -> None:
        call.agent_says(tone(200))
        await call.sleep(20)
        with pytest.raises(ProtocolError):
            call.leg.media(b"!" * 216, call.clock.now_ns())
        await call.sleep(500)

    sound, _, agent = recorded(play)
    assert 20 * MS <= sound.ended_ns - sound.began_ns <= 45 * MS
    assert (agent == coded(tone(200))[: len(agent)]).all()


def test_a_call_that_never_had_media_has_no_sound() -> None:
    leg = Leg(studio=Studio(VirtualClock()), codec=PCMU, send=lambda _payload, _index: None, record_ns=MINUTES_NS)
    leg.close()
    assert leg.recorded() is None


def test_a_leg_keeps_nothing_unasked() -> None:
    async def main() -> None:
        leg.open(clock.now_ns())
        leg.media(pybase64.b64encode(PCMU.encode(tone(500))), clock.now_ns())
        leg.close()

    clock = VirtualClock()
    leg = Leg(studio=Studio(clock), codec=PCMU, send=lambda _payload, _index: None)
    clock.run(main())
    assert leg.recorded() is None


# ---------------------------------------------------------------- bounds


def test_of_a_long_call_the_beginning_is_kept_and_it_is_said() -> None:
    audio = saying(0, 6_000, 0)

    async def play(call: Call) -> None:
        call.agent_says(tone(40))
        await call.sleep(40)
        speaking = asyncio.ensure_future(call.leg.say(audio))
        for _ in range(300):
            call.agent_says(tone(20))
            await call.sleep(20)
        assert call.leg._tape is None  # nothing more is taken up
        await speaking

    sound, caller, agent = recorded(play, record_ns=SECOND)
    assert sound.cut
    assert sound.ended_ns - sound.began_ns == SECOND
    assert len(caller) == len(agent) == 8_000
    assert len(sound.agent.octets) == 8_000
    assert not quiet(agent[-160:])
    assert not quiet(caller[-160:])


def test_what_a_carrier_plays_without_a_stream_is_bounded_too() -> None:
    clock = VirtualClock()
    leg = Leg(studio=Studio(clock), codec=PCMU, send=lambda _payload, _index: None, record_ns=2 * SECOND)

    async def main() -> None:
        for _ in range(10):
            await clock.sleep_until(leg.play(tone(1_000), clock.now_ns()))
        leg.close()

    clock.run(main())
    sound = leg.recorded()
    assert sound is not None
    assert sound.cut
    assert (channels(sound)[1] == np.tile(coded(tone(1_000)), 2)).all()


def test_what_waits_to_be_made_octets_is_a_few_seconds() -> None:
    waiting: list[int] = []

    async def play(call: Call) -> None:
        for _ in range(1_000):
            call.agent_says(tone(20))
            await call.sleep(20)
            assert call.leg._tape is not None
            waiting.append(len(call.leg._tape.heard))

    sound, _, agent = recorded(play)
    assert COMPACT_FRAMES <= max(waiting) <= COMPACT_FRAMES + 2
    assert len(sound.agent.octets) == 160_000
    assert (agent.reshape(-1, 160) == coded(tone(20))).all()


def test_an_agent_that_sends_and_clears_for_ever_takes_no_memory() -> None:
    async def play(call: Call) -> None:
        for _ in range(50):
            call.agent_says(tone(20_000))
            await call.sleep(10)
            call.leg.clear(call.clock.now_ns())
            assert call.leg._tape is not None
            assert len(call.leg._tape._octets) <= 10 * 8 * 50

    sound, _, _ = recorded(play)
    assert len(sound.agent.octets) == 10 * 8 * 50


# ---------------------------------------------------------------- against a model of the telephone


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 800)),  # samples
        st.tuples(st.just("say"), st.integers(1, 900)),
        st.tuples(st.just("frame"), st.just(160)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, buffered=st.sampled_from([0, 160, 333]), seed=st.integers(0, 9))
def test_every_sample_is_where_a_telephone_would_play_it(
    steps: list[tuple[str, int]], buffered: int, seed: int
) -> None:
    noise = np.random.default_rng(seed)
    line: dict[int, int] = {}  # by sample, what sounds there

    async def play(call: Call) -> None:
        now, end = 0, -1
        for what, count in steps:
            if what == "wait":
                now += count
                await call.sleep(count / 8)
            elif what == "clear":
                call.leg.clear(call.clock.now_ns())
                if now < end:
                    for at in [at for at in line if at >= now]:
                        del line[at]
                    end = -1
            else:
                said = noise.integers(-9_000, 9_000, count).astype(np.int16)
                call.agent_says(said)
                begin = end if 0 <= now <= end else now + buffered
                line.update(zip(range(begin, begin + count), coded(said).tolist(), strict=True))
                end = begin + count
        await call.sleep(1_000)

    _, _, agent = recorded(play, jitter_buffer_ns=buffered * 125_000)
    expected = np.zeros(len(agent), np.int16)
    for at, value in line.items():
        if at < len(expected):
            expected[at] = value
    assert (agent == expected).all()
