"""Sound to features: log band energies relative to the loudest of the last 600 ms, and where speech is.

Gain, codec and sample rate drop out: every rate is cut into windows of the same length in time and spectra of the same
bins in Hz, so nothing is resampled; only 300-3400 Hz, which the telephone lets through, is looked at.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Flags: TypeAlias = npt.NDArray[np.bool_]

FRAMES_PER_SECOND = 100
BANDS = 16
WINDOW_MS = 25
LOWEST_HZ, HIGHEST_HZ = 300.0, 3400.0
BIN_HZ = 31.25

SILENT = 3.0
"""Band energy below which a frame is empty: samples of +-1 and mu-law's idle code stay below it."""
ENVELOPE_BACK, ENVELOPE_AHEAD = 60, 4
"""Frames whose loudest band is the level that the bands of a frame are measured against."""
RANGE = 0.01
"""What is 20 dB below that level is as good as nothing: most of the noise at 20 dB SNR hides there."""
FLOOR_BLOCKS, FLOOR_BLOCK = 60, 5
"""The noise floor is the quietest 50 ms of the last 3 s: longer than anyone speaks without such a pause."""
ABOVE_FLOOR, STILL_ABOVE_FLOOR = 6.0, 2.5
"""Speech begins 8 dB above it, and lasts until it is less than 4 dB above."""

ONE_THREAD_VECTOR, ONE_THREAD = 36_000, 200_000
"""Multiplications in a product with a vector, or a matrix, that OpenBLAS still does in one thread."""


class Spectra:
    """The band energies of a stream, 100 frames a second, of 25 ms each."""

    def __init__(self, rate_hz: int) -> None:
        if not 8000 <= rate_hz <= 192_000:
            raise ValueError(f"A sample rate is from 8000 to 192000 Hz, not {rate_hz}.")
        self._rate = rate_hz
        self._length = rate_hz * WINDOW_MS // 1000
        window = np.hanning(self._length).astype(np.float32)
        self._window = window / window.sum()
        self._fft = round(rate_hz / BIN_HZ)
        self._bank = _bank(rate_hz, self._fft)
        self._within = np.arange(self._length)
        self._pending: Floats = np.zeros(0, np.float32)
        self._before = 0  # samples that came before `_pending`
        self._frames = 0

    def first_sample(self, frame: int) -> int:
        return (frame * self._rate + FRAMES_PER_SECOND // 2) // FRAMES_PER_SECOND

    def middle(self, frame: int) -> int:
        """The sample in the middle of a frame."""
        return self.first_sample(frame) + self._length // 2

    def feed(self, samples: npt.NDArray[np.int16]) -> Floats:
        """The energies of the frames that are complete now (frames x BANDS); any number of samples at a time."""
        self._pending = np.concatenate([self._pending, samples], dtype=np.float32)
        have = self._before + len(self._pending)
        last = max((have - self._length) * FRAMES_PER_SECOND // self._rate + 2, self._frames)
        starts = (np.arange(self._frames, last) * self._rate + FRAMES_PER_SECOND // 2) // FRAMES_PER_SECOND
        starts = starts[starts + self._length <= have]
        if not len(starts):
            return np.zeros((0, BANDS), np.float32)
        windows = self._pending[(starts - self._before)[:, None] + self._within] * self._window
        spectrum = np.fft.rfft(windows, self._fft)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        self._frames += len(starts)
        spent = self.first_sample(self._frames) - self._before
        self._pending = self._pending[spent:]
        self._before += spent
        return product(power, self._bank)


def _bank(rate_hz: int, fft: int) -> Floats:
    """Triangles evenly spaced in mel, each of unit weight: bins x BANDS."""
    mels = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(fft // 2 + 1)[:, None] * (rate_hz / fft)
    bank = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    return np.asarray(bank / bank.sum(axis=0), np.float32)


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


class Activity:
    """Which frames are louder than the noise: than an absolute floor at first, then than the quietest of 3 s."""

    def __init__(self) -> None:
        self._minima: deque[float] = deque(maxlen=FLOOR_BLOCKS)
        self._block: list[float] = []
        self._floor = SILENT
        self._active = False

    def feed(self, energies: Floats) -> Flags:
        """Of frames of band energies: whether each is speech (or any other sound)."""
        active = np.empty(len(energies), np.bool_)
        for index, energy in enumerate(energies.mean(axis=1).tolist()):
            self._block.append(energy)
            if len(self._block) == FLOOR_BLOCK:
                self._close_block()
            # Sound that has begun goes on down to a lower level: words end softly.
            self._active = energy > (STILL_ABOVE_FLOOR if self._active else ABOVE_FLOOR) * self._floor
            active[index] = self._active
        return active

    def _close_block(self) -> None:
        # A block is longer than two frames of 20 ms: such a gap in the noise is not taken for the end of the noise.
        self._minima.append(sum(self._block) / FLOOR_BLOCK)
        self._block.clear()
        if len(self._minima) == FLOOR_BLOCKS:
            self._floor = max(SILENT, min(self._minima))


def relative(energies: Floats) -> Floats:
    """The features of frames of band energies: their logarithms relative to the level around them.

    The first ENVELOPE_BACK and the last ENVELOPE_AHEAD frames are only the surroundings of those between.
    """
    level = np.lib.stride_tricks.sliding_window_view(energies.max(axis=1), ENVELOPE_BACK + 1 + ENVELOPE_AHEAD)
    # The floor keeps rounding from being blown up to look like sound.
    above = np.maximum(level.max(axis=1), SILENT / RANGE)[:, None]
    return np.asarray(np.log(energies[ENVELOPE_BACK:-ENVELOPE_AHEAD] / above + np.float32(RANGE)), np.float32)


def product(left: Floats, right: Floats) -> Floats:
    """The matrix product, in this thread: BLAS gives larger ones to several, which cost three times more."""
    rows, inner = left.shape
    columns = max(64, (ONE_THREAD_VECTOR if rows == 1 else ONE_THREAD) // max(rows * inner, 1))
    whole: Floats = np.empty((rows, right.shape[1]), np.float32)
    for at in range(0, right.shape[1], columns):
        np.matmul(left, right[:, at : at + columns], out=whole[:, at : at + columns])
    return whole


def nothing(frames: int) -> Floats:
    """Band energies of digital silence."""
    return np.zeros((frames, BANDS), np.float32)
