"""A voice that needs nothing installed: it sounds like speech, and says nothing.

Every letter is a grain of 60 ms, vowels voiced with two formants, consonants a murmur or a hiss, and the pauses are
those of the punctuation: so a text is as long, as loud and as broken up as if somebody had spoken it. The same text
always gives the same samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from busyhour.model import Samples

GRAIN_MS = 60
LEVEL_DBFS = -20.0

_PAUSES_MS = {" ": 30, "-": 30, ",": 200, ";": 250, ":": 250, ".": 300, "!": 300, "?": 300}
_FORMANTS_HZ = {"a": (750, 1_250), "e": (480, 1_900), "i": (300, 2_200), "o": (480, 850), "u": (320, 750)}
_VOICED = frozenset("bdgjlmnrvwyz")
_PITCH_HZ = 125
_RAMP_MS = 4


def babble(text: str, rate_hz: int) -> Samples:
    """The text in that voice, from its first letter to its last; no samples if there is no letter in it."""
    spoken = text.lower()
    letters = [i for i, character in enumerate(spoken) if character.isalnum()]
    if not letters:
        return np.zeros(0, np.int16)
    return np.concatenate([_sound(character, rate_hz) for character in spoken[letters[0] : letters[-1] + 1]])


def _sound(character: str, rate_hz: int) -> Samples:
    if character.isalnum():
        return _grain(character, rate_hz)
    return np.zeros(_PAUSES_MS.get(character, 0) * rate_hz // 1_000, np.int16)


@lru_cache(maxsize=4_096)
def _grain(character: str, rate_hz: int) -> Samples:
    t = np.arange(GRAIN_MS * rate_hz // 1_000) / rate_hz
    if character in _VOICED:
        sound, weight = _voice(t, (250, 1_100), rate_hz), 0.6
    elif character.isascii() and character.isalpha() and character not in _FORMANTS_HZ:
        sound, weight = _hiss(character, len(t)), 0.4
    else:  # a vowel; digits, and letters of other scripts, sound like one of the five
        vowel = character if character in _FORMANTS_HZ else "aeiou"[ord(character) % 5]
        sound, weight = _voice(t, _FORMANTS_HZ[vowel], rate_hz), 1.25
    edge = np.minimum(1.0, np.minimum(t, t[-1] - t) * 1_000 / _RAMP_MS + 0.1)
    level = 32_768 * 10 ** (LEVEL_DBFS / 20) * weight / np.sqrt(np.mean(sound**2))
    grain: Samples = np.rint(sound * edge * level).astype(np.int16)
    return grain


def _voice(t: npt.NDArray[np.float64], formants_hz: tuple[int, int], rate_hz: int) -> npt.NDArray[np.float64]:
    """Harmonics of the pitch, strongest at the formants."""
    sound = np.zeros_like(t)
    for harmonic in range(_PITCH_HZ, min(4_000, rate_hz // 2), _PITCH_HZ):
        near = sum(np.exp(-(((harmonic - formant) / 220) ** 2)) for formant in formants_hz)
        # The phases are spread: in step, the harmonics would add up to one loud click in each period.
        sound += (near + 0.02) * np.cos(2 * np.pi * harmonic * t + harmonic**2 / 70_000)
    return sound


def _hiss(character: str, samples: int) -> npt.NDArray[np.float64]:
    return np.random.default_rng(ord(character)).normal(size=samples)
