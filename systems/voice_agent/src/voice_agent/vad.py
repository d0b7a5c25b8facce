"""Voice activity: is this frame of 20 ms speech?

`EnergyVad` needs nothing but the sound; `SileroVad` asks a neural network and needs the extra `silero`.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from voice_agent.audio import decode, level_dbfs


class Vad(Protocol):
    def is_speech(self, frame: bytes) -> bool:
        """Whether the newest sound of the stream is speech. `frame` is 20 ms of mu-law, in order."""
        ...


class EnergyVad:
    """Speech is what stands out of the noise floor by `margin_db` and is above `quietest_dbfs`.

    The floor is the least level of the last 1.5 s (minimum statistics, Martin 2001): speech has a gap in every 1.5 s,
    steady noise has none, so that noise that sets in is learned in 1.5 s and a long sentence never is. Noise that is
    there from the first frame is the floor at once.
    """

    def __init__(self, *, margin_db: float = 9.0, quietest_dbfs: float = -48.0) -> None:
        self._margin_db = margin_db
        self._quietest_dbfs = quietest_dbfs
        self._minima: deque[float] = deque(maxlen=15)  # of 100 ms each
        self._minimum = 0.0
        self._frames = 0

    def is_speech(self, frame: bytes) -> bool:
        level = level_dbfs(frame)
        self._minimum = min(self._minimum, level)
        floor = min((self._minimum, *self._minima))
        speech = level > max(floor + self._margin_db, self._quietest_dbfs)
        self._frames += 1
        if self._frames == 5:
            self._minima.append(self._minimum)
            self._minimum, self._frames = 0.0, 0
        return speech


class Session(Protocol):
    """What is used of onnxruntime.InferenceSession."""

    def run(self, output_names: None, input_feed: dict[str, Any]) -> list[Any]: ...


class SileroVad:
    """Silero VAD v5 and v6 at 8 kHz: windows of 256 samples (32 ms) with 32 samples of context.

    The session is shared by all calls (11 MB each otherwise); the state is this call's own.
    """

    _WINDOW = 256
    _CONTEXT = 32

    def __init__(self, session: Session, *, threshold: float = 0.5) -> None:
        self._session = session
        self._threshold = threshold
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._rate_hz = np.array(8000, dtype=np.int64)
        self._samples = np.zeros(self._CONTEXT, dtype=np.float32)
        self._speech = False

    def is_speech(self, frame: bytes) -> bool:
        self._samples = np.concatenate((self._samples, decode(frame)))
        while len(self._samples) >= self._CONTEXT + self._WINDOW:
            window = self._samples[None, : self._CONTEXT + self._WINDOW]
            feed = {"input": window, "state": self._state, "sr": self._rate_hz}
            probability, self._state = self._session.run(None, feed)
            self._speech = float(probability[0][0]) >= self._threshold
            self._samples = self._samples[self._WINDOW :]
        return self._speech


class SileroMissing(Exception):
    """VAD=silero was asked for, and something it needs is not there or of no use; the message says what to do."""


def load_silero(model: str = "") -> Session:
    """One session to be shared by all calls, on one thread. Raises SileroMissing.

    model: the path of the ONNX file; "" looks into the installed packages that are known to carry it.
    """
    path = Path(model) if model else _installed_model()
    if path is None or not path.is_file():
        where = f"there is no file {model}" if model else "no installed package carries silero_vad.onnx"
        raise SileroMissing(f"VAD=silero: {where}; set SILERO_MODEL to the ONNX file, or use VAD=energy")
    try:
        import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415
        from onnxruntime.capi import (  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: PLC0415
            onnxruntime_pybind11_state as states,
        )
    except ModuleNotFoundError:
        raise SileroMissing(
            "VAD=silero needs onnxruntime: pip install 'voice-agent[silero]', or use VAD=energy"
        ) from None
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # a window takes 0.1 ms: threads would only wait
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"], sess_options=options)
    except (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented) as error:
        raise SileroMissing(f"VAD=silero: {path} cannot be read as a model: {error}") from None
    inputs = {given.name for given in session.get_inputs()}
    if inputs != {"input", "state", "sr"}:
        raise SileroMissing(f"VAD=silero: {path} is not Silero VAD v5 or v6: it wants {', '.join(sorted(inputs))}")
    usable: Session = session
    return usable


def _installed_model() -> Path | None:
    for package, inside in (("silero_vad", "data"), ("pipecat", "audio/vad/data")):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            path = Path(folder) / inside / "silero_vad.onnx"
            if path.is_file():
                return path
    return None
