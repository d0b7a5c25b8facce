"""The utterances that a Deepgram twin knows, on their way from the plan into its process: a file of JSON lines."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from busyhour.errors import PlanError
from busyhour.model import Audio, Word


def write(utterances: Sequence[Audio], path: Path) -> None:
    """One JSON object a line: an array of arrays of samples would be Python's to run (pickle), a WAV knows no words."""
    with path.open("w") as file:
        for audio in utterances:
            samples = b64encode(audio.samples.astype("<i2").tobytes()).decode()
            words = [(word.text, word.began, word.ended) for word in audio.words]
            speech = (audio.speech_began, audio.speech_ended)
            file.write(json.dumps([audio.name, audio.text, audio.rate_hz, speech, words, samples]) + "\n")


def read(path: Path) -> list[Audio]:
    """What `write` wrote. Raises PlanError."""
    found = []
    try:
        for line in path.read_text().splitlines():
            name, text, rate_hz, (began, ended), words, octets = json.loads(line)
            samples = np.frombuffer(b64decode(octets), "<i2").astype(np.int16)
            known = tuple(Word(*word) for word in words)
            found.append(Audio(name, text, samples, rate_hz, began, ended, known))
    except (OSError, ValueError, TypeError) as problem:
        raise PlanError(f"utterances: {path} cannot be read: {problem}.") from None
    return found
