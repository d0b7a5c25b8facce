"""What callers and agents say: text to audio, shipped with the product, with the exact place of the speech in it.

Shipped audio is 16 kHz, 16 bits, at -20 dBFS. Speech begins and ends where the caller's ear finds it (`speech.py`), and
all outside is digital silence. Words lie inside the speech, in order, and are good to about 30 ms: they were found by
aligning the sounds of the synthesiser (tools/render_utterances.py). Files are read when they are first asked for, and
resampled once for each rate.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from busyhour.errors import PlanError
from busyhour.media.babble import babble
from busyhour.media.codec import resample
from busyhour.media.rendering import even_words, read_wav, render, speech_bounds, write_wav
from busyhour.model import JSON, Audio, Samples, Word

DATA = Path(__file__).parent / "data"
PAUSE_MS = 200
"""Between two sentences that are spoken one after the other."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the manifest: what is in a WAV file, in samples of it."""

    party: str
    text: str
    speech: tuple[int, int]
    words: tuple[tuple[str, int, int], ...]


def utterance(name: str, rate_hz: int = 8_000) -> Audio:
    """A shipped caller's utterance ("hours.today"). Raises PlanError, naming what is near, for another name."""
    if name not in _manifest("caller"):
        known = list(_manifest("caller"))
        near = get_close_matches(name, known, n=3, cutoff=0.4)
        some = f"there are {len(known)}, like {', '.join(known[:5])}: {DATA / 'caller.tsv'} has them all"
        meant = f"did you mean {' or '.join(near)}?" if near else some
        raise PlanError(f"no utterance {name!r}: {meant}")
    return _shipped("caller", name, rate_hz)


@lru_cache(maxsize=8)
def utterances(rate_hz: int = 8_000) -> Mapping[str, Audio]:
    """All shipped caller's utterances by name."""
    return MappingProxyType({name: _shipped("caller", name, rate_hz) for name in _manifest("caller")})


@lru_cache(maxsize=8)
def sentences(rate_hz: int = 8_000) -> Mapping[str, Audio]:
    """All shipped agent's sentences by name ("greeting")."""
    return MappingProxyType({name: _shipped("agent", name, rate_hz) for name in _manifest("agent")})


def spoken(text: str, rate_hz: int) -> Samples:
    """The text in the agent's voice, from the first sample of speech to the last, without silence around it.

    Sentences that are shipped are taken from there, whatever their case and punctuation; any other is babble, as long
    as it would take to say it. Sentences are 200 ms apart. The same text always gives the same samples; no samples if
    there is nothing to say.
    """
    whole = _agent_voice(text, rate_hz)
    if whole is not None:
        return whole
    parts = [part for part in re.split(r"(?<=[.!?])\s+", text) if _normal(part)]
    pause = np.zeros(PAUSE_MS * rate_hz // 1_000, np.int16)
    pieces: list[Samples] = []
    for part in parts:
        shipped = _agent_voice(part, rate_hz)
        pieces += [pause, babble(part, rate_hz) if shipped is None else shipped]
    return np.concatenate(pieces[1:]) if pieces else np.zeros(0, np.int16)


def rendered(text: str, *, voice: str = "", rate_hz: int = 8_000, cache: Path | None = None) -> Audio:
    """Any text as a caller's utterance: the shipped one if there is, else spoken by flite or espeak-ng, and kept.

    voice: of the synthesiser; "" takes a shipped one, then the synthesiser's own. cache: a folder, by default
    `busyhour/utterances` in $XDG_CACHE_HOME or ~/.cache. Raises ServiceError when there is no synthesiser.
    """
    if not voice:
        for name, row in _manifest("caller").items():
            if _normal(row.text) == _normal(text):
                return _shipped("caller", name, rate_hz)
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "busyhour" / "utterances"
    key = hashlib.sha256(f"{voice}\n{text}".encode()).hexdigest()[:24]
    wav, about = folder / f"{key}.wav", folder / f"{key}.json"
    if not about.exists():
        audio = render(key, text, voice=voice)
        folder.mkdir(parents=True, exist_ok=True)
        write_wav(wav, audio.samples, audio.rate_hz)
        # Last, and in one step: where there is a description, there is audio.
        draft = folder / f"{key}.{os.getpid()}.draft"
        draft.write_text(json.dumps(_described(audio)), encoding="utf-8")
        draft.replace(about)
    samples, wav_hz = read_wav(wav)
    return _audio(text, _row("caller", json.loads(about.read_text(encoding="utf-8"))), samples, wav_hz, rate_hz)


def louder(audio: Audio, decibels: float) -> Audio:
    """The same words at another level (negative: softer); what would be beyond full scale is clipped, as a microphone
    does."""
    gain = 10 ** (decibels / 20)
    samples = np.clip(audio.samples.astype(np.float64) * gain, -32768, 32767).astype(np.int16)
    return replace(audio, name=f"{audio.name} {decibels:+g} dB", samples=samples)


def repeated(audio: Audio, times: int) -> Audio:
    """The same words over and over, without a pause in between: nobody gets a word in. Raises PlanError."""
    if times < 1:
        raise PlanError(f"{audio.name} said {times} times: say it once or more often")
    began, ended = audio.speech_began, audio.speech_ended
    long = ended - began
    samples = np.concatenate([audio.samples[:began], *[audio.samples[began:ended]] * times, audio.samples[ended:]])
    words = tuple(
        replace(word, began=word.began + n * long, ended=word.ended + n * long)
        for n in range(times)
        for word in audio.words
    )
    text, last = " ".join([audio.text] * times), ended + (times - 1) * long
    return Audio(f"{audio.name} x {times}", text, samples, audio.rate_hz, began, last, words)


def from_wav(path: Path | str, text: str) -> Audio:
    """A recording (mono, 16 bits, any rate) as an utterance, at its own rate and level, untrimmed.

    Speech is found as the caller's ear would; the words are laid over it by their letters, right to about a syllable.
    Raises PlanError when it cannot be read or nothing in it is as loud as speech.
    """
    samples, rate_hz = read_wav(Path(path))
    began, ended = speech_bounds(samples, rate_hz)
    if began == ended:
        raise PlanError(f"{path}: nothing in it is as loud as speech (-42 dBFS): record it louder")
    return Audio(Path(path).stem, text, samples, rate_hz, began, ended, even_words(text, began, ended))


@lru_cache(maxsize=2)
def _manifest(party: str) -> Mapping[str, _Row]:
    rows = json.loads((DATA / "manifest.json").read_text(encoding="utf-8"))[party]
    return {name: _row(party, row) for name, row in rows.items()}


def _row(party: str, row: dict[str, JSON]) -> _Row:
    text, speech, words = row["text"], row["speech"], row["words"]
    assert isinstance(text, str)
    assert isinstance(speech, list)
    assert isinstance(words, list)
    return _Row(party, text, (speech[0], speech[1]), tuple((word, began, ended) for word, began, ended in words))


def _described(audio: Audio) -> dict[str, JSON]:
    words: list[JSON] = [[word.text, word.began, word.ended] for word in audio.words]
    return {"text": audio.text, "speech": [audio.speech_began, audio.speech_ended], "words": words}


@lru_cache(maxsize=512)
def _shipped(party: str, name: str, rate_hz: int) -> Audio:
    samples, wav_hz = read_wav(DATA / party / f"{name}.wav")
    return _audio(name, _manifest(party)[name], samples, wav_hz, rate_hz)


def _audio(name: str, row: _Row, samples: Samples, wav_hz: int, rate_hz: int) -> Audio:
    resampled = resample(samples, wav_hz, rate_hz).copy()
    began, ended = row.speech
    if rate_hz != wav_hz:
        # Narrower, the weakest sounds at the ends may be below the threshold of speech, and the filter rings around
        # them: find the ends again and silence what is outside, so that the indices stay exact.
        began, ended = speech_bounds(resampled, rate_hz)
        resampled[:began] = 0
        resampled[ended:] = 0
    resampled.flags.writeable = False  # shared by all who asked for it

    def at(index: int) -> int:
        return min(max(index * rate_hz // wav_hz, began), ended)

    words = tuple(Word(word, at(first), at(last)) for word, first, last in row.words)
    return Audio(name, row.text, resampled, rate_hz, began, ended, words)


@lru_cache(maxsize=512)
def _agent_voice(text: str, rate_hz: int) -> Samples | None:
    name = _by_text().get(_normal(text))
    if name is None:
        return None
    audio = _shipped("agent", name, rate_hz)
    return audio.samples[audio.speech_began : audio.speech_ended]


@lru_cache(maxsize=1)
def _by_text() -> Mapping[str, str]:
    return {_normal(row.text): name for name, row in _manifest("agent").items()}


def _normal(text: str) -> str:
    """Words only, in lower case: how two renderings of one sentence are known to be the same."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("'", "")))
