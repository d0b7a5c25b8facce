"""Telephone sound: G.711 mu-law at 8 kHz, in frames of 20 ms (160 bytes)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE_HZ = 8000
FRAME_MS = 20
FRAME_BYTES = RATE_HZ * FRAME_MS // 1000
BYTES_PER_MS = RATE_HZ // 1000
SILENCE = b"\xff"  # the mu-law code of a zero sample
QUIETEST_DBFS = -90.0


def _decoding_table() -> npt.NDArray[np.float32]:
    """ITU-T G.711, mu-law: code -> sample in [-1, 1]."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768).astype(np.float32)


_DECODED = _decoding_table()
_DECODED_SQUARED = _DECODED**2


def decode(mulaw: bytes) -> npt.NDArray[np.float32]:
    """The samples of mu-law sound, in [-1, 1]."""
    return _DECODED[np.frombuffer(mulaw, dtype=np.uint8)]


def level_dbfs(mulaw: bytes) -> float:
    """The mean level in dB below full scale, not less than -90; no sound at all is -90."""
    if not mulaw:
        return QUIETEST_DBFS
    power = float(_DECODED_SQUARED[np.frombuffer(mulaw, dtype=np.uint8)].mean())
    return max(QUIETEST_DBFS, 10 * float(np.log10(power + 1e-12)))


class Reorder:
    """Puts frames back in order of their chunk numbers.

    The carrier does not promise order. A frame ahead of its turn is held until the missing one comes or `depth` frames
    wait; a frame behind its turn (late, or sent twice) is dropped. In order, nothing is ever held.
    """

    def __init__(self, depth: int = 3) -> None:
        self._depth = depth
        self._due: int | None = None
        self._held: dict[int, bytes] = {}

    def push(self, chunk: int, frame: bytes) -> list[bytes]:
        """The frames that may now be heard, in order."""
        due = chunk if self._due is None else self._due
        if chunk < due:
            return []
        self._held[chunk] = frame
        ready: list[bytes] = []
        while self._held:
            if due not in self._held:
                if len(self._held) <= self._depth:
                    break
                due = min(self._held)  # the missing one is given up
            ready.append(self._held.pop(due))
            due += 1
        self._due = due
        return ready
