"""What all voice twins share: text cut into sentences, sentences made into audio, and audio sent at its pace.

The voice is that of `media.utterances.spoken`: the recorded sentences are the agent's own, all other text is babble as
long as it would take to say it. Each sentence takes `first_audio` from its text to its first chunk, unless the sentence
before is still being made, and then comes `realtime_factor` times faster than it plays. The vendors' modules translate:
requests into text and a Sound, chunks into their messages.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

import numpy as np

from busyhour.emulators.behaviour import COMMON_OUTCOMES, HTTP_OUTCOMES, OK, Behaviour, Fate, Latency
from busyhour.emulators.twin import Twin, hang
from busyhour.emulators.vendor import VendorTwin
from busyhour.media.codec import codec
from busyhour.media.utterances import PAUSE_MS, sentences, spoken
from busyhour.model import JSON, MS, Samples

OUTCOMES = (*COMMON_OUTCOMES, "zero_audio", "error", "stall", "quota")
CONTEXT_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome not in HTTP_OUTCOMES)
"""Those that befall what is spoken; the others befall connections and HTTP requests."""
CHUNK_MS = 100
_PIECE_CHARACTERS = 300
"""Text without an end is spoken in stretches of this length, which bounds the audio made at once."""
_KEPT_CHARACTERS = 4000
"""Of a text, in a witnessed row: four minutes of speech. What is cut off is hidden from whoever judges what was said,
and a text without its end is no whole sentence."""
_SENTENCE = re.compile(r".*?[.!?\u2026]+[\"')\]]*(?:\s+|$)", re.DOTALL)

Span = tuple[float, float]
Message = TypeVar("Message")


# ---------------------------------------------------------------- text


def cut(text: str, *, whole: bool) -> tuple[list[str], str]:
    """The pieces of a text that are spoken now, each a sentence, and what waits for more of it.

    Nothing waits when `whole`. The pieces and the rest, joined, are the text.
    """
    pieces = []
    at = 0
    while match := _SENTENCE.match(text, at):
        pieces += _stretches(match.group())
        at = match.end()
    pieces += _stretches(text[at:])
    waits = not whole and at < len(text)
    return (pieces[:-1], pieces[-1]) if waits else (pieces, "")


def _stretches(text: str) -> list[str]:
    """The text in parts of bounded length, cut behind a space where there is one."""
    parts = []
    while len(text) > _PIECE_CHARACTERS:
        end = text.rfind(" ", 0, _PIECE_CHARACTERS) + 1 or _PIECE_CHARACTERS
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text] if text else parts


def ends_sentence(piece: str) -> bool:
    return _SENTENCE.fullmatch(piece) is not None


# ---------------------------------------------------------------- sound


@dataclass(frozen=True, slots=True)
class Sound:
    """How audio is put into octets: "pcm_s16le", "pcm_f32le", "pcm_mulaw" or "pcm_alaw", mono."""

    encoding: str
    rate_hz: int

    @property
    def sample_bytes(self) -> int:
        return {"pcm_f32le": 4, "pcm_s16le": 2}.get(self.encoding, 1)

    def octets(self, ms: float) -> int:
        """How many bytes `ms` of audio take, in whole samples."""
        return int(self.rate_hz * ms / 1000) * self.sample_bytes

    def ms(self, octets: int) -> float:
        return octets / self.sample_bytes / self.rate_hz * 1000


@lru_cache(maxsize=128)
def audio_of(text: str, sound: Sound, *, pause: bool = False) -> bytes:
    """The twin's voice saying the text, behind a pause if it goes on after another sentence; b"" for nothing to say.

    Always the same bytes for the same text.
    """
    speech = spoken(text, sound.rate_hz)
    if not len(speech):
        return b""
    before = PAUSE_MS * sound.rate_hz // 1000 if pause else 0
    return _encoded(np.concatenate((np.zeros(before, np.int16), speech)), sound)


def _encoded(samples: Samples, sound: Sound) -> bytes:
    if sound.encoding == "pcm_f32le":
        return (samples / 32768).astype("<f4").tobytes()
    if sound.encoding == "pcm_s16le":
        return samples.astype("<i2").tobytes()
    # G.711 maps sample to octet; the rate that the codec is named for in telephony does not enter.
    return codec("PCMU" if sound.encoding == "pcm_mulaw" else "PCMA").encode(samples)


def word_spans(text: str, lasts_ms: float) -> Sequence[Span]:
    """When each word of a piece is spoken: (began, ended) in ms since its first sound.

    Exact for recorded sentences; else the time is shared out by the length of the words, which is near.
    """
    words = text.split()
    return _recorded_ms(" ".join(words)) or _shared_ms(words, lasts_ms)


@lru_cache(maxsize=256)
def character_spans(text: str, lasts_ms: float) -> Sequence[Span]:
    """When each character of a piece is spoken; those between words last as long as the silence there."""
    spans: list[Span] = []
    end = 0.0
    for (start, stop), word in zip(word_spans(text, lasts_ms), re.finditer(r"\S+", text), strict=True):
        gap = word.start() - len(spans)
        spans += [(end + (start - end) * i / gap, end + (start - end) * (i + 1) / gap) for i in range(gap)]
        step = (stop - start) / len(word.group())
        spans += [(start + step * i, start + step * (i + 1)) for i in range(len(word.group()))]
        end = stop
    return [*spans, *[(end, end)] * (len(text) - len(spans))]


def _recorded_ms(text: str) -> Sequence[Span]:
    return next((spans for sentence, spans in _recordings() if sentence == text), ())


@lru_cache(maxsize=1)
def _recordings() -> Sequence[tuple[str, Sequence[Span]]]:
    """Each recorded sentence with the beginning and end of its words, in ms since the first."""
    recorded = []
    for audio in sentences(8000).values():
        per_ms = audio.rate_hz / 1000
        spans = [
            ((word.began - audio.speech_began) / per_ms, (word.ended - audio.speech_began) / per_ms)
            for word in audio.words
        ]
        if len(spans) == len(audio.text.split()):
            recorded.append((audio.text, spans))
    return recorded


def _shared_ms(words: Sequence[str], lasts_ms: float) -> Sequence[Span]:
    total = sum(len(word) + 1 for word in words)
    ends = list(accumulate(len(word) + 1 for word in words))
    return [
        (lasts_ms * (end - len(word) - 1) / total, lasts_ms * (end - 1) / total)
        for word, end in zip(words, ends, strict=True)
    ]


def warm_up() -> None:
    """Load the recordings, which takes a moment: before the first caller waits for it."""
    audio_of("One moment please.", Sound("pcm_mulaw", 8000))
    _recordings()


# ---------------------------------------------------------------- pace


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of the audio of a piece of text.

    at_ms: where it begins in the audio of its piece; piece_began_ms: where that begins in the whole speech. The piece
    is silent for its first pause_ms, and lasts piece_ms with them. step_ms: until the next chunk is sent.
    """

    piece: str
    octets: bytes
    at_ms: float
    piece_began_ms: float
    piece_ms: float
    pause_ms: float
    step_ms: float


class Speech:
    """One stretch of speech: text in, chunks out at the pace of the twin's behaviour, witnessed once.

    The outcomes that befall its audio are met here: "zero_audio" (none, as if all were well), "reset"
    (ConnectionAbortedError instead of the first chunk), "stall" (half of the first piece, then nothing, for ever).
    """

    def __init__(self, twin: Twin, fate: Fate, sound: Sound, *, model: str) -> None:
        self.fate = fate
        self.sound = sound
        self.began_ns = twin.clock.now_ns()
        self.made_until_ns = self.began_ns  # the pipeline is busy with earlier sentences until then
        self.first_audio_ns: int | None = None
        self.busy = False  # something was asked for that has not been said
        self.over = False  # it came to its end in good order
        self.cancelled = False  # the client wanted no more of it
        self._twin = twin
        self._model = model
        self._octets = 0  # sent
        self._planned_ms = 0.0
        self._after_sentence = False
        self._text = ""
        self._characters = 0
        twin.count(fate.outcome)

    def note(self, text: str) -> None:
        """Text that was asked for: it is billed, whatever comes of it."""
        self._characters += len(text)
        self._text = (self._text + text)[:_KEPT_CHARACTERS]

    async def say(
        self,
        pieces: Sequence[str],
        *,
        arrived_ns: int,
        shape: Callable[[Chunk], Message],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Make the audio of text that arrived then, behind what is being made, and send it chunk by chunk.

        A chunk is put into its `shape` before it is due, and sent when it is.
        """
        for piece in pieces:
            audio = audio_of(piece, self.sound, pause=self._after_sentence)
            if not audio:
                continue
            ready_ns = arrived_ns + self._twin.behaviour.delay_ns("first_audio", self.fate.random)
            due_ns = max(ready_ns, self.made_until_ns)
            if self.fate.outcome in {"zero_audio", "reset"}:
                await self._twin.clock.sleep_until(due_ns)
                if self.fate.outcome == "reset":
                    raise ConnectionAbortedError
                continue
            stalls = self.fate.outcome == "stall"
            chunks = self._chunks(piece, audio[: len(audio) // 2] if stalls else audio)
            self.made_until_ns = due_ns
            for chunk in chunks:
                message = shape(chunk)
                await self._twin.clock.sleep_until(self.made_until_ns)
                sent_ns = self._twin.clock.now_ns()  # before: once it is sent, others may be given the processor
                await send(message)
                self._octets += len(chunk.octets)
                self.first_audio_ns = self.first_audio_ns or sent_ns
                self.made_until_ns += round(chunk.step_ms * MS)
            if stalls:
                await hang()

    def _chunks(self, piece: str, audio: bytes) -> Iterator[Chunk]:
        """The audio of a piece, in order."""
        pause_ms = PAUSE_MS if self._after_sentence else 0
        lasts_ms = self.sound.ms(len(audio))
        self._after_sentence = ends_sentence(piece)
        step_octets = self.sound.octets(CHUNK_MS)
        step_ms = CHUNK_MS / self._twin.behaviour.numbers["realtime_factor"]
        for at in range(0, len(audio), step_octets):
            part = audio[at : at + step_octets]
            yield Chunk(piece, part, self.sound.ms(at), self._planned_ms, lasts_ms, pause_ms, step_ms)
        self._planned_ms += lasts_ms

    def witness(self, outcome: str = "") -> None:
        """Tell the harness what came of it; to be called once, when it is over. `outcome`: if not its fate."""
        outcome = outcome or self.fate.outcome
        if outcome == OK and not self.over and not self.cancelled and self.busy:
            outcome = "client closed"
        detail: dict[str, JSON] = {
            "text": self._text,
            "characters": self._characters,
            "model": self._model,
            "first_audio_ns": self.first_audio_ns,
            "audio_ms": round(self.sound.ms(self._octets), 3),
            "cancelled": self.cancelled,
        }
        self._twin.witness_ended(self.fate.number, kind="tts", began_ns=self.began_ns, outcome=outcome, detail=detail)


# ---------------------------------------------------------------- from the harness


@dataclass(kw_only=True, eq=False)
class VoiceTwin(VendorTwin):
    """A twin of a voice's API as a Service.

    first_audio: from a text that is to be spoken to its first chunk; each vendor says from when it is. realtime_factor:
    audio comes this many times faster than it plays. outcomes: the share of contexts and connections that go wrong, by
    name. api_key: the one that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "tts"
    first_audio: Latency
    realtime_factor: float = 4.0
    outcomes: Mapping[str, float] = field(default_factory=dict)
    api_key: str = ""
    seed: int = 1
    port: int = 0

    def _behaves(self) -> Behaviour:
        return Behaviour(
            possible=OUTCOMES,
            latencies={"first_audio": self.first_audio},
            numbers={"realtime_factor": self.realtime_factor},
            outcomes=self.outcomes,
            seed=self.seed,
        )
