"""Sound to features: log band energies relative to the loudest of the last 600 ms, and where speech is.

Gain, codec and sample rate drop out: every rate is cut into windows of the same length in time and spectra of the same
bins in Hz, so nothing is resampled; only 300-3400 Hz, which the telephone lets through, is looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Some frames of a stream: their band energies (frames x BANDS), the loudest and the mean of the bands of each."""

    energies: Floats
    peaks: Floats
    means: Floats

    @staticmethod
    def of(energies: Floats) -> Frames:
        return Frames(energies, peaks(energies), np.add.reduce(energies, axis=1) / np.float32(BANDS))

    def __len__(self) -> int:
        return len(self.energies)

    def __getitem__(self, places: slice) -> Frames:
        return Frames(self.energies[places], self.peaks[places], self.means[places])


class Spectra:
    """The frames of a stream, 100 a second, of 25 ms each."""

    def __init__(self, rate_hz: int) -> None:
        if not 8000 <= rate_hz <= 192_000:
            raise ValueError(f"A sample rate is from 8000 to 192000 Hz, not {rate_hz}.")
        self.rate_hz = rate_hz
        self._length = rate_hz * WINDOW_MS // 1000
        window = np.hanning(self._length).astype(np.float32)
        self._window = window / window.sum()
        self._fft = round(rate_hz / BIN_HZ)
        self._bins, self._bank = _bank(rate_hz, self._fft)
        self._within = np.arange(self._length)
        self._pending: Floats = np.zeros(0, np.float32)
        self._before = 0  # samples that came before `_pending`
        self._frames = 0

    def first_sample(self, frame: int) -> int:
        return (frame * self.rate_hz + FRAMES_PER_SECOND // 2) // FRAMES_PER_SECOND

    def middle(self, frame: int) -> int:
        """The sample in the middle of a frame."""
        return self.first_sample(frame) + self._length // 2

    def feed(self, samples: npt.NDArray[np.int16]) -> Frames:
        """The frames that are complete now; any number of samples at a time."""
        return feed_together([(self, samples)])[0]

    def cut(self, samples: npt.NDArray[np.int16]) -> Floats:
        """The samples of those frames, before the window: frames x samples."""
        pending = self._pending = np.concatenate([self._pending, samples], dtype=np.float32)
        have, before = self._before + len(pending), self._before
        first, last = self._frames, max((have - self._length) * FRAMES_PER_SECOND // self.rate_hz + 2, self._frames)
        while last > first and self.first_sample(last - 1) + self._length > have:
            last -= 1
        self._frames, self._before = last, min(self.first_sample(last), have)
        self._pending = pending[self._before - before :]
        if last == first:
            return np.zeros((0, self._length), np.float32)
        hop, rest = divmod(self.rate_hz, FRAMES_PER_SECOND)
        if not rest:
            return strided(pending[first * hop - before :], (last - first, self._length), (hop, 1))
        starts = (np.arange(first, last) * self.rate_hz + FRAMES_PER_SECOND // 2) // FRAMES_PER_SECOND - before
        return np.asarray(pending[starts[:, None] + self._within])

    def frames(self, cut: Floats) -> Frames:
        """What sounds in frames that were `cut`, of any streams of this rate."""
        spectrum = np.fft.rfft(cut * self._window, self._fft)
        # The real and the imaginary part each count with the weight of their bin.
        return Frames.of(product(np.square(spectrum.view(np.float32)[:, self._bins]), self._bank))


def feed_together(streams: Sequence[tuple[Spectra, npt.NDArray[np.int16]]]) -> list[Frames]:
    """What `feed` gives of each: a call costs as much as the sound of three streams, so it is done once for all.

    Digital silence, which is what a telephone line carries while its caller listens, is known without it.
    """
    cuts = [spectra.cut(samples) for spectra, samples in streams]
    found = [_SILENCE[: len(cut)] if len(cut) <= len(_SILENCE) else Frames.of(nothing(len(cut))) for cut in cuts]
    for rate in {spectra.rate_hz for spectra, _ in streams}:
        chosen = [index for index, (spectra, _) in enumerate(streams) if spectra.rate_hz == rate and cuts[index].any()]
        if not chosen:
            continue
        frames = streams[chosen[0]][0].frames(np.concatenate([cuts[index] for index in chosen]))
        end = 0
        for index in chosen:
            begin, end = end, end + len(cuts[index])
            found[index] = frames[begin:end]
    return found


def _bank(rate_hz: int, fft: int) -> tuple[slice, Floats]:
    """Triangles evenly spaced in mel, each of unit weight: those columns of a spectrum, two a bin, x BANDS."""
    mels = np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.arange(fft // 2 + 1)[:, None] * (rate_hz / fft)
    bank = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, None)
    bank = np.asarray(bank / bank.sum(axis=0), np.float32)
    used = np.flatnonzero(bank.any(axis=1))
    first, last = int(used[0]), int(used[-1]) + 1
    return slice(2 * first, 2 * last), np.ascontiguousarray(bank[first:last].repeat(2, axis=0))


def _mel(hz: float) -> float:
    return float(2595 * np.log10(1 + hz / 700))


class Activity:
    """Which frames are louder than the noise: than an absolute floor at first, then than the quietest of 3 s."""

    def __init__(self) -> None:
        self._minima: deque[float] = deque(maxlen=FLOOR_BLOCKS)
        self._block: list[float] = []
        self._floor = SILENT
        self._active = False

    def feed(self, means: Floats) -> list[bool]:
        """Of frames with these energies: whether each is speech (or any other sound)."""
        flags = []
        active, block = self._active, self._block
        for energy in means.tolist():
            block.append(energy)
            if len(block) == FLOOR_BLOCK:
                self._close_block()
            # Sound that has begun goes on down to a lower level: words end softly.
            active = energy > (STILL_ABOVE_FLOOR if active else ABOVE_FLOOR) * self._floor
            flags.append(active)
        self._active = active
        return flags

    def _close_block(self) -> None:
        # A block is longer than two frames of 20 ms: such a gap in the noise is not taken for the end of the noise.
        self._minima.append(sum(self._block) / FLOOR_BLOCK)
        self._block.clear()
        if len(self._minima) == FLOOR_BLOCKS:
            self._floor = max(SILENT, min(self._minima))


def peaks(energies: Floats) -> Floats:
    """The loudest band of each frame."""
    return np.asarray(np.maximum.reduce(energies, axis=1), np.float32)


def relative(energies: Floats, tops: Floats) -> Floats:
    """The features of frames of band energies: their logarithms relative to the level around them.

    The first ENVELOPE_BACK and the last ENVELOPE_AHEAD frames are only the surroundings of those between. `tops` are
    the `peaks` of the energies.
    """
    # The maximum of the frames around each: twice as many at every step, and then the rest.
    wide, width = tops, 1
    while 2 * width <= ENVELOPE_BACK + 1 + ENVELOPE_AHEAD:
        wide, width = np.maximum(wide[:-width], wide[width:]), 2 * width
    rest = ENVELOPE_BACK + 1 + ENVELOPE_AHEAD - width
    level = np.maximum(wide[: len(wide) - rest], wide[rest:])
    # The floor keeps rounding from being blown up to look like sound.
    above = np.maximum(level, np.float32(SILENT / RANGE))[:, None]
    return np.asarray(np.log(energies[ENVELOPE_BACK:-ENVELOPE_AHEAD] / above + np.float32(RANGE)), np.float32)


def product(left: Floats, right: Floats) -> Floats:
    """The matrix product, in this thread: BLAS gives larger ones to several, which cost three times more."""
    limit = ONE_THREAD_VECTOR if len(left) == 1 else ONE_THREAD
    whole: Floats = np.empty((len(left), right.shape[1]), np.float32)
    if len(left) > right.shape[1]:
        rows = max(64, limit // right.size)
        for at in range(0, len(left), rows):
            np.matmul(left[at : at + rows], right, out=whole[at : at + rows])
        return whole
    columns = max(64, limit // max(left.size, 1))
    for at in range(0, right.shape[1], columns):
        np.matmul(left, right[:, at : at + columns], out=whole[:, at : at + columns])
    return whole


def with_squares(rows: Floats) -> Floats:
    """Each row with a 1 and the sum of its squares behind it: then one product gives squared distances."""
    count, width = rows.shape
    wide: Floats = np.ones((count, width + 2), np.float32)
    wide[:, :width] = rows
    np.add.reduce(np.square(rows), axis=1, out=wide[:, width + 1])
    return wide


def strided(values: Floats, shape: tuple[int, ...], steps: tuple[int, ...]) -> Floats:
    """A view of contiguous values: `steps` are how many values it is from one to the next along each axis.

    A tenth of the time that numpy's own takes, which is called often, for a few frames each time.
    """
    return np.ndarray(shape, np.float32, values, strides=tuple(4 * step for step in steps))


def nothing(frames: int) -> Floats:
    """Band energies of digital silence."""
    return np.zeros((frames, BANDS), np.float32)


_SILENCE = Frames.of(nothing(FRAMES_PER_SECOND))
