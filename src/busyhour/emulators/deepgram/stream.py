"""One nova stream of the Deepgram twin: octets in, the vendor's messages out. Time is the audio's; nothing waits here.

As captured on the vendor's wire: interim results about once a second also in silence, `start` and `duration` of the
window since the last final, word times from the beginning of the stream, empty finals when silence has lasted. Numbers
stay the words they were spoken as, whatever smart_format says.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np
from aiohttp import WSCloseCode

from busyhour.clock import wall_time
from busyhour.emulators.deepgram.messages import Ear, Ending, Piece, Said
from busyhour.emulators.deepgram.request import Command, Options, Unreadable, command
from busyhour.emulators.listening import (
    Event,
    Final,
    Listener,
    Partial,
    SpeechBegan,
    Transcript,
    Vocabulary,
    WordHeard,
    hear_together,
)
from busyhour.model import JSON, Samples

INTERIM_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""A window without speech is closed after this long, with an empty final."""
FINALIZABLE_SECONDS = 0.1
"""Finalize is answered if so much was not in a final yet: with less, the vendor does not promise an answer."""
_NO_AUDIO = (
    b"Deepgram did not receive audio data or a text message within the timeout window. See https://dpgr.am/net0001"
)
_NOT_AUDIO = b"The payload cannot be decoded as audio. See https://dpgr.am/data0000"
_FAILED = (
    b"The service has not transmitted a Text frame to the client within the timeout window. See https://dpgr.am/net0000"
)


class Stream:
    """The channels of one connection. `request_id` and `model_uuid` go into each of its messages."""

    def __init__(self, options: Options, vocabulary: Vocabulary, *, request_id: str, model_uuid: str) -> None:
        self._options = options
        self._created = wall_time()
        self._id = request_id
        self._metadata: dict[str, JSON] = {
            "request_id": request_id,
            "model_info": options.model_info(),
            "model_uuid": model_uuid,
        }
        self._ear = Ear(options.encoding, options.rate_hz, options.channels)
        self._channels = [
            _Channel(self, index, Listener(vocabulary, options.rate_hz, endpoint_ms=options.endpoint_ms))
            for index in range(options.heard_channels)
        ]

    @property
    def options(self) -> Options:
        return self._options

    @property
    def model(self) -> str:
        return self._options.model

    @property
    def takes_audio(self) -> bool:
        return bool(self._options.encoding)

    @property
    def received(self) -> int:
        return self._ear.samples

    @property
    def seconds(self) -> float:
        return self._ear.samples / self._options.rate_hz

    def greeting(self) -> list[Said]:
        return []

    def take(self, octets: bytes) -> int:
        return self._ear.take(octets)

    def piece(self) -> list[Piece]:
        return self._for_each(self._ear.piece())

    def heard(self, events: Sequence[Sequence[Event]]) -> list[Said]:
        said: list[Said] = []
        for channel, found in zip(self._channels, events, strict=True):
            channel.heard(found, said)
        return said

    def listen(self) -> list[Said]:
        said: list[Said] = []
        while pieces := self.piece():
            said += self.heard(hear_together(pieces))
        return said

    def _listen_to_all(self) -> list[Said]:
        """To the rest too, which is not a whole piece yet."""
        said = self.listen()
        pieces = self._for_each(self._ear.rest())
        return [*said, *self.heard(hear_together(pieces))] if pieces else said

    def _for_each(self, samples: Samples | None) -> list[Piece]:
        if samples is None:
            return []
        if self._options.channels > 1 and not self._options.multichannel:
            samples = np.asarray(samples.mean(axis=1, keepdims=True), np.int16)
        return [
            (channel.listener, np.ascontiguousarray(heard))
            for channel, heard in zip(self._channels, samples.T, strict=True)
        ]

    def heed(self, text: str) -> list[Said] | None:
        try:
            asked = command(text)
        except Unreadable as problem:
            return [Said(problem.as_json(text))]
        if asked.kind == "Finalize":
            return [*self._listen_to_all(), *self.finalize(asked.channel)]
        if asked.kind == "Configure":
            return [Said(self._configured(asked))]
        return None if asked.kind == "CloseStream" else []

    def _configured(self, asked: Command) -> dict[str, JSON]:
        if asked.keyterms is not None and self._options.architecture != "nova-3":
            return {
                "type": "ConfigureFailure",
                "request_id": self._id,
                "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
                "description": "The stream's model does not support mid-stream keyterm updates.",
            }
        message: dict[str, JSON] = {"type": "ConfigureSuccess", "request_id": self._id}
        return message if asked.keyterms is None else {**message, "keyterms": asked.keyterms}

    def finalize(self, channel: int | None = None) -> list[Said]:
        """Answer a Finalize: all that has come is in finals now; nothing if hardly any audio was left over."""
        chosen = self._channels if channel is None else self._channels[channel : channel + 1] if channel >= 0 else []
        return [said for one in chosen if one.untold >= FINALIZABLE_SECONDS for said in one.flush(from_finalize=True)]

    def close(self) -> list[Said]:
        said = self._listen_to_all()
        return [*said, *(final for one in self._channels if one.untold > 0 for final in one.flush(from_finalize=False))]

    def farewell(self) -> Ending:
        return Ending(WSCloseCode.OK, b"", self._summary())

    def silence(self) -> Ending:
        return Ending(WSCloseCode.INTERNAL_ERROR, _NO_AUDIO, self._summary())

    def nonsense(self) -> Ending:
        return Ending(WSCloseCode.POLICY_VIOLATION, _NOT_AUDIO, self._summary())

    def failure(self) -> Ending:
        description = _FAILED.decode()
        message = {"type": "Error", "variant": "InternalError", "description": description, "message": description}
        return Ending(WSCloseCode.INTERNAL_ERROR, _FAILED, message)

    def numbered(self, message: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return message

    def _summary(self) -> dict[str, JSON]:
        """The Metadata message that ends a stream."""
        message: dict[str, JSON] = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._metadata["request_id"],
            "sha256": "incomplete",
            "created": self._created,
            "duration": round(self.seconds, 6),
            "channels": self._options.channels,
        }
        if self.received:
            uuid = str(self._metadata["model_uuid"])
            message |= {"models": [uuid], "model_info": {uuid: self._metadata["model_info"]}}
        return message

    def results(self, channel: int, transcript: Transcript, *, final: bool, ended: bool, asked: bool) -> Said:
        """A Results message. `ended`: the speaker has; `asked`: by Finalize."""
        rate = self._options.rate_hz
        words = [_word(word, rate, formatted=self._options.formatted) for word in transcript.words]
        confidences = [word.confidence for word in transcript.words]
        alternative: dict[str, JSON] = {
            "transcript": _text(transcript.words, formatted=self._options.formatted),
            "confidence": round(sum(confidences) / len(confidences), 7) if confidences else 0.0,
            "words": words,
        }
        message: dict[str, JSON] = {
            "type": "Results",
            "channel_index": self.place(channel),
            "duration": round((transcript.ended - transcript.began) / rate, 6),
            "start": round(transcript.began / rate, 6),
            "is_final": final,
            "speech_final": ended,
            "channel": {"alternatives": [alternative]},
            "metadata": self._metadata,
            "from_finalize": asked,
        }
        # A final that was asked for, or is the last, is due when it was asked for.
        return Said(message, channel, transcript, final, at=None if asked else transcript.ended)

    def place(self, channel: int) -> Sequence[int]:
        """A channel as the messages name it: its index, and how many there are."""
        return [channel, self._options.heard_channels]


class _Channel:
    """What one listener hears, and what is told of it when."""

    def __init__(self, stream: Stream, index: int, listener: Listener) -> None:
        self._stream = stream
        self._index = index
        self.listener = listener
        self._rate = stream.options.rate_hz
        self._samples = 0
        self._told_until = 0  # sample of the last results message
        self._partial: Transcript | None = None
        self._speaking = False
        self._last_word: int | None = None  # where the last final word ended, until its UtteranceEnd

    @property
    def untold(self) -> float:
        """Seconds of audio that came after the last final."""
        return self.listener.untold / self._rate

    def heard(self, events: Sequence[Event], said: list[Said]) -> None:
        self._samples = self.listener.heard
        for event in events:
            if isinstance(event, SpeechBegan):
                self._speaking = True
                said.append(self._speech_started(event))
            elif isinstance(event, Partial):
                self._partial = event.transcript
                self._interim(event.transcript, said)
            else:
                self._final(event, said)
        if not self._speaking and self.untold >= SILENCE_SECONDS:
            said += self.flush(from_finalize=False)
        elif self._samples - self._told_until >= INTERIM_SECONDS * self._rate:
            words = self._partial.words if self._partial else ()
            began = self._samples - self.listener.untold
            self._interim(Transcript(began, self._samples, self._samples, self._samples, words), said)
        self._end_utterance(said)

    def flush(self, *, from_finalize: bool) -> list[Said]:
        transcript = self.listener.flush()
        ended = from_finalize or self._stream.options.endpoint_ms is not None
        return [self._told(transcript, ended=ended, asked=from_finalize)]

    def _final(self, event: Final, said: list[Said]) -> None:
        said.append(self._told(event.transcript, ended=event.paused, asked=False))

    def _told(self, transcript: Transcript, *, ended: bool, asked: bool) -> Said:
        self._told_until = self._samples
        self._partial = None
        self._speaking = False
        if transcript.words:
            self._last_word = transcript.words[-1].ended
        return self._stream.results(self._index, transcript, final=True, ended=ended, asked=asked)

    def _interim(self, transcript: Transcript, said: list[Said]) -> None:
        self._told_until = self._samples
        if self._stream.options.interim_results:
            said.append(self._stream.results(self._index, transcript, final=False, ended=False, asked=False))

    def _speech_started(self, event: SpeechBegan) -> Said:
        timestamp = round(event.at / self._rate, 3)
        message: dict[str, JSON] = {
            "type": "SpeechStarted",
            "channel": self._stream.place(self._index),
            "timestamp": timestamp,
        }
        return Said(message if self._stream.options.vad_events else {}, self._index, began=True)

    def _end_utterance(self, said: list[Said]) -> None:
        """Words, then none for utterance_end_ms of audio: independent of what the voice activity says."""
        gap_ms = self._stream.options.utterance_end_ms
        if gap_ms is None or self._last_word is None or (self._partial and self._partial.words):
            return
        if (self._samples - self._last_word) * 1000 >= gap_ms * self._rate:
            message: dict[str, JSON] = {
                "type": "UtteranceEnd",
                "channel": self._stream.place(self._index),
                "last_word_end": round(self._last_word / self._rate, 3),
            }
            said.append(Said(message, self._index))
            self._last_word = None


def _text(words: Sequence[WordHeard], *, formatted: bool) -> str:
    if not formatted:
        return " ".join(filter(None, (_plain(word.text) for word in words)))
    text = " ".join(word.text for word in words)
    return text[:1].upper() + text[1:]


def _word(word: WordHeard, rate_hz: int, *, formatted: bool) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        "word": _plain(word.text),
        "start": round(word.began / rate_hz, 3),
        "end": round(word.ended / rate_hz, 3),
        "confidence": word.confidence,
    }
    return {**told, "punctuated_word": word.text} if formatted else told


def _plain(text: str) -> str:
    """Lower case and without punctuation, except within: "o'clock"."""
    return text.lower().strip(string.punctuation)
