import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from busyhour.media.codec import Codec, codec, resample

ALL_SAMPLES = np.arange(-32_768, 32_768).astype(np.int16)
G711 = pytest.mark.parametrize("name", ["PCMU", "PCMA"])


def mu_law_of_g191(sample: int) -> int:
    """ulaw_compress of the ITU-T G.191 reference code, one sample at a time."""
    magnitude = min(((~sample if sample < 0 else sample) >> 2) + 33, 0x1FFF)
    segment, rest = 1, magnitude >> 6
    while rest:
        segment, rest = segment + 1, rest >> 1
    octet = ((8 - segment) << 4) | (0x0F - ((magnitude >> segment) & 0x0F))
    return octet | 0x80 if sample >= 0 else octet


def a_law_of_g191(sample: int) -> int:
    """alaw_compress of the ITU-T G.191 reference code, one sample at a time."""
    magnitude = (~sample if sample < 0 else sample) >> 4
    if magnitude > 15:
        exponent = 1
        while magnitude > 31:
            magnitude, exponent = magnitude >> 1, exponent + 1
        magnitude = magnitude - 16 + (exponent << 4)
    return (magnitude | (0x80 if sample >= 0 else 0)) ^ 0x55


def test_g711_encodes_every_sample_like_the_reference_code() -> None:
    assert codec("PCMU").encode(ALL_SAMPLES) == bytes(mu_law_of_g191(int(sample)) for sample in ALL_SAMPLES)
    assert codec("PCMA").encode(ALL_SAMPLES) == bytes(a_law_of_g191(int(sample)) for sample in ALL_SAMPLES)


@pytest.mark.parametrize(
    ("name", "octet", "sample"),
    [
        # G.711 table 2a/2b: decoder outputs 8031, 4191, 33*2^n - 33, 2, 0 of 14 bits
        *[("PCMU", *pair) for pair in [(0x80, 32_124), (0x8F, 16_764), (0x90, 15_996), (0xFE, 8), (0xFF, 0)]],
        *[("PCMU", *pair) for pair in [(0x00, -32_124), (0x0F, -16_764), (0x7E, -8), (0x7F, 0)]],
        # G.711 table 1a/1b: decoder outputs 4032, 2112, 1 of 13 bits; even bits inverted
        *[("PCMA", *pair) for pair in [(0xAA, 32_256), (0xA5, 16_896), (0xD5, 8), (0xD4, 24)]],
        *[("PCMA", *pair) for pair in [(0x2A, -32_256), (0x25, -16_896), (0x55, -8)]],
    ],
)
def test_g711_decodes_the_values_of_the_recommendation(name: str, octet: int, sample: int) -> None:
    assert codec(name).decode(bytes([octet])).tolist() == [sample]


@G711
def test_g711_is_idempotent_and_monotone(name: str) -> None:
    g711 = codec(name)
    once = g711.decode(g711.encode(ALL_SAMPLES))
    assert np.array_equal(g711.decode(g711.encode(once)), once)
    assert (np.diff(once.astype(int)) >= 0).all()
    assert len(set(once.tolist())) == (255 if name == "PCMU" else 256)


@pytest.mark.parametrize(
    ("named", "octets"),
    [(codec("PCMU"), b"\xff" * 160), (codec("PCMA"), b"\xd5" * 160), (codec("L16", 16_000), bytes(640))],
)
def test_silence_is_a_frame_of_the_codecs_own_silence(named: Codec, octets: bytes) -> None:
    assert named.silence == octets
    assert len(named.silence) == named.frame_bytes


def test_l16_is_in_network_byte_order_unless_told_otherwise() -> None:
    samples = np.array([1, -2, 0x1234], np.int16)
    assert codec("L16", 8_000).encode(samples) == b"\x00\x01\xff\xfe\x12\x34"
    assert codec("L16", 8_000, little_endian=True).encode(samples) == b"\x01\x00\xfe\xff\x34\x12"


@given(hnp.arrays(np.int16, st.integers(0, 400)), st.booleans())
def test_l16_loses_nothing(samples: np.ndarray, little_endian: bool) -> None:
    linear = codec("L16", 24_000, little_endian=little_endian)
    assert np.array_equal(linear.decode(linear.encode(samples)), samples)
    assert np.array_equal(linear.decode(linear.encode(samples) + b"\x01"), samples)  # half a sample is dropped


def test_many_frames_decode_as_one() -> None:
    for named in (codec("PCMU"), codec("PCMA"), codec("L16", 16_000), codec("L16", 24_000)):
        frames = np.random.default_rng(1).integers(0, 256, (5, named.frame_bytes + 2), np.uint8)[:, : named.frame_bytes]
        one_by_one = [named.decode(frame.tobytes()) for frame in frames]
        assert np.array_equal(named.decode(frames), np.stack(one_by_one))


@pytest.mark.parametrize(("name", "rate_hz"), [("PCMU", 16_000), ("OPUS", None), ("L16", 11_025), ("pcmu", 8_000)])
def test_an_unknown_codec_is_refused_by_name(name: str, rate_hz: int | None) -> None:
    with pytest.raises(ValueError, match=rf"no codec '{name}'.*PCMU and PCMA at 8000 Hz, L16 at 8000"):
        codec(name, rate_hz)


@pytest.mark.parametrize(
    ("from_hz", "to_hz"), [(16_000, 8_000), (8_000, 16_000), (16_000, 24_000), (22_050, 16_000), (44_100, 8_000)]
)
def test_resampling_keeps_a_tone_in_place_and_removes_what_does_not_fit(from_hz: int, to_hz: int) -> None:
    def tone(hz: float, rate_hz: int, count: int) -> np.ndarray:
        return 8_000 * np.sin(2 * np.pi * hz * np.arange(count) / rate_hz)

    inside = slice(300, -300)
    resampled = resample(tone(1_000, from_hz, from_hz // 2).astype(np.int16), from_hz, to_hz)
    assert len(resampled) == -(-(from_hz // 2) * to_hz // from_hz)
    assert np.abs(resampled - tone(1_000, to_hz, len(resampled)))[inside].max() < 2
    if to_hz < from_hz:
        too_high = resample(tone(to_hz * 0.58, from_hz, from_hz // 2).astype(np.int16), from_hz, to_hz)
        assert np.abs(too_high[inside]).max() <= 3  # -68 dB


def test_resampling_clips_and_takes_the_shortest_audio() -> None:
    square = np.where(np.arange(1_600) // 40 % 2, 32_767, -32_768).astype(np.int16)
    assert resample(square, 8_000, 16_000).max() == 32_767
    assert resample(square[:1], 16_000, 8_000).shape == (1,)
    assert resample(square[:0], 16_000, 8_000).shape == (0,)
    assert resample(square, 8_000, 8_000) is square
