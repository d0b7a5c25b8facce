"""Making utterances from text with a speech synthesiser of the machine, and from recordings; and finding the speech."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import wave
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busyhour.errors import PlanError, ServiceError
from busyhour.media.codec import resample
from busyhour.media.speech import HANGOVER_NS, WINDOW_NS, WINDOWS_PER_SECOND, Speech, loud_windows
from busyhour.model import SECOND, Audio, HeardKind, Samples, Word

RATE_HZ = 16_000
LEVEL_DBFS = -20.0  # root mean square of the windows in which there is speech
PROGRAM_SECONDS = 30

_FRAME_SAMPLES = RATE_HZ // 50
_PAUSE = "pau"

Timed = tuple[str, float, float]  # a word, or a sound, and when it begins and ends, in seconds


def render(name: str, text: str, *, voice: str = "", speed: float = 1.0) -> Audio:
    """Speak the text with flite or, where there is none, espeak-ng: 16 kHz, -20 dBFS, trimmed to the speech.

    voice: one the program knows ("slt" for flite). Raises ServiceError when neither is installed or it fails.
    """
    if program := shutil.which("flite"):
        samples, words = _flite(program, text, voice or "slt", speed)
    elif program := shutil.which("espeak-ng"):
        samples, words = _espeak(program, text, voice or "en-us", speed), None
    else:
        raise ServiceError(f"cannot speak {text!r}: install flite or espeak-ng (apt install flite), or record it")
    return trimmed(name, text, samples, words)


def trimmed(name: str, text: str, samples: Samples, words: Sequence[Timed] | None = None) -> Audio:
    """Bring audio of 16 kHz to -20 dBFS and cut it to its speech: a frame of silence, the speech, at least another.

    The speech begins and ends where the caller's ear would find its onset and offset; all outside is digital silence,
    so that the indices are exact by construction. Raises PlanError when there is no speech.
    """
    if words:
        samples = _only(samples, words[0][1] - 0.02, words[-1][2] + 0.02)
    levelled = _lifted(_clipped(samples.astype(np.float64) * _gain(samples)))
    began, ended = speech_bounds(levelled, RATE_HZ)
    if began == ended:
        raise PlanError(f"there is no speech in the audio of {name!r}")
    first, last = _FRAME_SAMPLES, _FRAME_SAMPLES + ended - began
    cut = np.zeros((1 - -last // _FRAME_SAMPLES) * _FRAME_SAMPLES, np.int16)
    cut[first:last] = levelled[began:ended]
    if words is None:
        placed = even_words(text, first, last)
    else:
        shift = first - began
        at = [(word, round(b * RATE_HZ) + shift, round(e * RATE_HZ) + shift) for word, b, e in words]
        placed = _ordered(at, first, last)
    return Audio(name, text, cut, RATE_HZ, first, last, placed)


def speech_bounds(samples: Samples, rate_hz: int) -> tuple[int, int]:
    """Where speech begins and ends, as `speech.Speech` hears it; to 2.5 ms. (0, 0) when there is none."""
    window = rate_hz // WINDOWS_PER_SECOND
    if rate_hz % WINDOWS_PER_SECOND:
        began, ended = speech_bounds(resample(samples, rate_hz, RATE_HZ), RATE_HZ)
        return began * rate_hz // RATE_HZ, min(len(samples), -(-ended * rate_hz // RATE_HZ))
    windows = len(samples) // window
    loud = loud_windows(samples[: windows * window], window).tobytes()
    speech = Speech()
    played_ns = windows * WINDOW_NS
    events = [*speech.played(0, played_ns, loud), *speech.passed(played_ns + HANGOVER_NS)]
    at = [heard.at_ns * rate_hz // SECOND for heard in events if heard.kind in {HeardKind.ONSET, HeardKind.OFFSET}]
    return (at[0], at[-1]) if at else (0, 0)


def even_words(text: str, began: int, ended: int) -> tuple[Word, ...]:
    """Words laid over the speech in proportion to their letters: right to about a syllable."""
    words = text.split()
    edges = np.cumsum([0, *(len(word) + 1 for word in words)])
    at = [began + int(edge * (ended - began) // max(1, edges[-1])) for edge in edges]
    return tuple(Word(plain(word), at[i], at[i + 1]) for i, word in enumerate(words))


def plain(word: str) -> str:
    """The word without the punctuation around it."""
    return word.strip('.,;:!?"()')


def read_wav(path: Path) -> tuple[Samples, int]:
    """Samples and rate of a mono 16-bit WAV file. Raises PlanError for another."""
    try:
        with wave.open(str(path)) as file:
            if file.getnchannels() != 1 or file.getsampwidth() != 2:
                raise PlanError(
                    f"{path}: {file.getnchannels()} channels of {file.getsampwidth() * 8} bits; make it mono, 16 bits"
                )
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16), file.getframerate()
    except (OSError, wave.Error, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) else error or "it ends too soon"
        raise PlanError(f"{path}: cannot be read as a WAV file: {why}; give one that is mono, of 16 bits") from error


def write_wav(path: Path, samples: Samples, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.astype("<i2").tobytes())


def _gain(samples: Samples) -> float:
    """What brings the loud windows to the level wanted. Loud means within 30 dB of the loudest: whatever the level."""
    window = RATE_HZ // WINDOWS_PER_SECOND
    x = samples[: len(samples) // window * window].astype(np.float64).reshape(-1, window)
    power = x.var(axis=1)
    active = power[power > power.max(initial=0.0) / 1_000]
    if not len(active):
        return 1.0
    return float(32_768 * 10 ** (LEVEL_DBFS / 20) / np.sqrt(active.mean()))


def _only(samples: Samples, began_s: float, ended_s: float) -> Samples:
    """Silence outside: some voices breathe before they speak."""
    kept = np.zeros_like(samples)
    part = slice(max(0, round(began_s * RATE_HZ)), round(ended_s * RATE_HZ))
    kept[part] = samples[part]
    return kept


def _lifted(samples: Samples) -> Samples:
    """Raise weak sounds towards -34 dBFS, by at most 18 dB, as the gain control of a telephone does.

    A final "s" has its power above 4 kHz: on a telephone line it would be below the threshold of speech, and the end
    of the utterance would depend on the rate. What is below -64 dBFS is the synthesiser's floor and stays.
    """
    telephone = resample(resample(samples, RATE_HZ, 8_000), 8_000, RATE_HZ)[: len(samples)]
    smooth = np.hanning(RATE_HZ // 50 + 2)[1:-1]
    power = np.convolve((telephone / 32_768.0) ** 2, smooth / smooth.sum(), "same")
    level_dbfs = 10 * np.log10(power + 1e-12)
    gain_db = np.clip(-34 - level_dbfs, 0, 18) * np.clip((level_dbfs + 64) / 6, 0, 1)
    return _clipped(samples * 10 ** (gain_db / 20))


def _clipped(sound: npt.NDArray[np.float64]) -> Samples:
    samples: Samples = np.clip(np.rint(sound), -32_767, 32_767).astype(np.int16)
    return samples


def _ordered(words: Sequence[tuple[str, int, int]], began: int, ended: int) -> tuple[Word, ...]:
    """Words inside the speech, none beginning before the one before it ended."""
    placed: list[Word] = []
    at = began
    for word, first, last in words:
        first_inside = min(max(first, at), ended)
        at = min(max(last, first_inside), ended)
        placed.append(Word(word, first_inside, at))
    return tuple(placed)


def _flite(program: str, text: str, voice: str, speed: float) -> tuple[Samples, list[Timed]]:
    speaking = [program, "-voice", voice, "--setf", f"duration_stretch={1 / speed:.4f}", "-psdur"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        printed = _run([*speaking, "-t", text, "-o", str(path)])
        samples = _written(program, path)
    sounds = _sounds(printed)
    alone = [[sound for sound, _, _ in _sounds(_run([*speaking, "-t", word, "-o", "none"]))] for word in text.split()]
    return samples, _words(text.split(), alone, sounds)


def _sounds(printed: str) -> list[Timed]:
    """flite's -psdur prints every sound with the time of its end: "pau:0.224 w:0.296 ah:0.346"; pauses are left out."""
    sounds: list[Timed] = []
    began = 0.0
    for item in printed.split():
        sound, _, ended = item.rpartition(":")
        if sound != _PAUSE:
            sounds.append((sound, began, float(ended)))
        began = float(ended)
    return sounds


def _words(words: list[str], alone: list[list[str]], sounds: list[Timed]) -> list[Timed]:
    """Find each word among the sounds of the whole by the sounds that the word has when spoken alone.

    A few sounds differ inside a sentence ("a", "the"): those in between are shared out in order.
    """
    owner = [i for i, own in enumerate(alone) for _ in own]
    wanted = [sound for own in alone for sound in own]
    matcher = SequenceMatcher(None, wanted, [sound for sound, _, _ in sounds], autojunk=False)
    timed: dict[int, tuple[float, float]] = {}
    for _, i, i_end, j, j_end in matcher.get_opcodes():
        for n in range(j, j_end):
            # An inserted sound (i == i_end) goes to the word before it.
            index = i + (n - j) * (i_end - i) // (j_end - j) if i_end > i else max(0, i - 1)
            word, (_, began, ended) = owner[index], sounds[n]
            timed[word] = (min(began, timed[word][0]), ended) if word in timed else (began, ended)
    return [(plain(word), *timed[i]) for i, word in enumerate(words) if i in timed]


def _espeak(program: str, text: str, voice: str, speed: float) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        _run([program, "-v", voice, "-s", str(round(165 * speed)), "-w", str(path), "--", text])
        return _written(program, path)


def _written(program: str, path: Path) -> Samples:
    try:
        return resample(*read_wav(path), RATE_HZ)
    except PlanError as problem:
        raise ServiceError(f"{program} wrote no audio: {problem}") from problem


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_SECONDS, check=True)  # noqa: S603  (fixed programs; the text is one argument)
    except subprocess.TimeoutExpired as late:
        raise ServiceError(f"{command[0]} did not finish in {PROGRAM_SECONDS} s") from late
    except subprocess.CalledProcessError as failed:
        raise ServiceError(f"{command[0]} failed with {failed.returncode}: {failed.stderr.strip()[-300:]}") from failed
    return done.stdout
