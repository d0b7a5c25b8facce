"""The parts of the compiled lane, each against the same in Python; and when it is not used."""

import os
import shutil
import subprocess
import sys
from array import array

import numpy as np
import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fastlane.rig import LANE, PLAIN, compiled

from busyhour import fastlane
from busyhour.fastlane import plain
from busyhour.media.codec import Codec, codec
from busyhour.media.speech import WINDOWS_PER_SECOND, loud_windows
from busyhour.media.studio import Batch

CODECS = [
    codec("PCMU"),
    codec("PCMA"),
    codec("L16", 8_000),
    codec("L16", 16_000, little_endian=True),
    codec("L16", 48_000),
]


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


@compiled
@given(st.lists(st.integers(-5, 300) | st.integers(0, 1 << 40) | st.integers(0, (1 << 63) - 1)))
def test_durations_are_counted_in_decimal_buckets_as_in_python(durations_ns: list[int]) -> None:
    edges = [leading * 10**power + off for leading in (1, 2, 5) for power in range(18) for off in (-1, 0, 1)]
    durations = array("q", [*durations_ns, *edges])
    assert fastlane.decimal_edges(durations) == plain.decimal_edges(durations)
