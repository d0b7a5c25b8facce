"""One Flux stream of the Deepgram twin: octets in, turns out. Time is the audio's; nothing waits here.

A turn begins with the first words that are understood, and ends when it is confident enough that no more will come.
The vendor's model judges by sense and by silence; this one knows whether the words it heard end a sentence, and then
trusts a silence as below. So with the default threshold of 0.7 a turn ends after 240 ms if the sentence was complete,
else after 1.4 s, and at the latest after eot_timeout_ms. A threshold of 1.0 is never reached. Sound that is not
understood begins no turn: a StartOfTurn always has words (documented).

Decided where the documentation leaves it open: TurnResumed comes when the caller is heard again; CloseStream is
answered with a last Update, and ends no turn; KeepAlive is not among Flux's messages, and not understood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import WSCloseCode

from busyhour.emulators.deepgram.flux_request import (
    FluxOptions,
    NotConfigured,
    NotUnderstood,
    configured,
    read_message,
)
from busyhour.emulators.deepgram.messages import Ear, Ending, Fatal, Piece, Said
from busyhour.emulators.listening import (
    Event,
    Final,
    Listener,
    Partial,
    Transcript,
    Vocabulary,
    WordHeard,
    hear_together,
)
from busyhour.model import JSON, Samples

UPDATE_MS = 240
"""Between two Updates; the vendor says about 0.25 s, and hears in pieces of 80 ms."""
READ_AFTER_MS = 100
"""Of silence: then it is looked at what was said, which costs too much to do all the time."""
FORGOTTEN_AFTER_MS = 1_000
"""Of silence: then sound that was not understood is let go."""
SPEAKING = 0.05
"""The confidence that a turn is over while its speaker is heard."""
COMPLETE_MS, INCOMPLETE_MS = 200.0, 1_200.0
"""Time constants of the growth of that confidence in silence, after a whole sentence and in the middle of one."""
_ENDS = (".", "!", "?")


def confidence(quiet_ms: float, *, complete: bool) -> float:
    """That no more is coming, after so much silence: from SPEAKING towards (never to) 0.99."""
    return SPEAKING + (0.99 - SPEAKING) * (1 - math.exp(-quiet_ms / (COMPLETE_MS if complete else INCOMPLETE_MS)))


def needed_ms(sure: float, *, complete: bool) -> float:
    """The silence after which `confidence` is so high; infinite if it never is."""
    share = (sure - SPEAKING) / (0.99 - SPEAKING)
    return -math.log(1 - share) * (COMPLETE_MS if complete else INCOMPLETE_MS) if share < 1 else math.inf


class Turns:
    """The stream of one connection. `request_id` goes into its messages."""

    def __init__(self, options: FluxOptions, vocabulary: Vocabulary, *, request_id: str) -> None:
        self._options = options
        self._id = request_id
        self._sequence = -1
        self._ear = Ear(options.encoding, options.rate_hz)
        # No pause ends a segment of the listener: what ends a turn is decided here.
        self._listener = Listener(vocabulary, options.rate_hz, endpoint_ms=60_000)
        self._heard = 0  # samples
        self._index = 0
        self._began = 0  # sample: of the turn's audio, which begins where the last turn's ended
        self._told_at = 0  # sample: of the last message
        self._segments: list[Transcript] = []  # those of the turn that are over
        self._words: Sequence[WordHeard] = ()  # of the segment so far
        self._ongoing = False
        self._eager = False
        self._was_read = False

    # -- as its connection sees it

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
        return [Said({"type": "Connected", "request_id": self._id})]

    def take(self, octets: bytes) -> int:
        return self._ear.take(octets)

    def piece(self) -> list[Piece]:
        return self._for_listener(self._ear.piece())

    def heard(self, events: Sequence[Sequence[Event]]) -> list[Said]:
        said: list[Said] = []
        self._heard = self._listener.heard
        for event in events[0]:
            if isinstance(event, Partial):
                self._words = event.transcript.words
            elif isinstance(event, Final):  # it had become long: the turn goes on
                self._segments.append(event.transcript)
                self._words = ()
        self._judge(said)
        if self._ms(self._heard - self._told_at) >= UPDATE_MS:
            said.append(self._told("Update"))
        return said

    def listen(self) -> list[Said]:
        said: list[Said] = []
        while pieces := self.piece():
            said += self.heard(hear_together(pieces))
        return said

    def _listen_to_all(self) -> list[Said]:
        """To the rest too, which is not a whole piece yet."""
        said = self.listen()
        pieces = self._for_listener(self._ear.rest())
        return [*said, *self.heard(hear_together(pieces))] if pieces else said

    def _for_listener(self, samples: Samples | None) -> list[Piece]:
        return [] if samples is None else [(self._listener, samples[:, 0])]

    def heed(self, text: str) -> list[Said] | None:
        try:
            form = read_message(text)
        except NotUnderstood:
            description = "Text message received from client did not match any of the formats we expect."
            ending = _fatal("UNPARSABLE_CLIENT_MESSAGE", description, WSCloseCode.POLICY_VIOLATION)
            raise Fatal(ending) from None
        if form["type"] == "CloseStream":
            return None
        said = self._listen_to_all()  # what came before the message
        return [*said, *(self._force() if form["type"] == "ForceEndTurn" else [self._configure(form)])]

    def close(self) -> list[Said]:
        return [*self._listen_to_all(), self._told("Update")]

    def farewell(self) -> Ending:
        return Ending(WSCloseCode.OK, b"")

    def silence(self) -> Ending:
        description = "Client has not sent audio within the timeout window."
        return _fatal("INACTIVE_CLIENT", description, WSCloseCode.INTERNAL_ERROR)

    def nonsense(self) -> Ending:
        description = "The payload cannot be decoded as audio."
        return _fatal("UNPARSABLE_CLIENT_MESSAGE", description, WSCloseCode.POLICY_VIOLATION)

    def failure(self) -> Ending:
        return _fatal("INTERNAL_SERVER_ERROR", "An internal server error occurred.", WSCloseCode.INTERNAL_ERROR)

    def numbered(self, message: Mapping[str, JSON]) -> Mapping[str, JSON]:
        self._sequence += 1
        return {**message, "sequence_id": self._sequence}

    # -- what is heard

    def _judge(self, said: list[Said]) -> None:
        """What silence, and words, make of the turn."""
        quiet_ms = self._quiet_ms()
        if quiet_ms < READ_AFTER_MS:
            if self._eager:
                self._eager = False
                said.append(self._told("TurnResumed"))
            self._was_read = False
        elif not self._was_read:
            self._was_read = True
            self._words = self._listener.so_far().words or self._words
        if not self._ongoing and self._words:
            self._ongoing = True
            said.append(self._told("StartOfTurn"))
        if self._ongoing and self._was_read:
            self._judge_silence(quiet_ms, said)
        elif not self._ongoing and quiet_ms >= FORGOTTEN_AFTER_MS and self._listener.quiet is not None:
            self._forget()

    def _judge_silence(self, quiet_ms: float, said: list[Said]) -> None:
        """Whether it is the end of the turn; what it has brought is dated by when it was long enough."""
        options = self._options
        complete = self._is_complete()
        if options.eager_eot_threshold is not None and not self._eager:
            needs_ms = max(needed_ms(options.eager_eot_threshold, complete=complete), READ_AFTER_MS)
            if quiet_ms >= needs_ms:
                self._eager = True
                said.append(self._told("EagerEndOfTurn", ago_ms=quiet_ms - needs_ms))
        sure_ms = max(needed_ms(options.eot_threshold, complete=complete), READ_AFTER_MS)
        needs_ms = min(sure_ms, options.eot_timeout_ms)
        if quiet_ms >= needs_ms:
            said.append(self._end("model" if sure_ms <= needs_ms else "timeout", ago_ms=quiet_ms - needs_ms))

    def _quiet_ms(self) -> float:
        quiet = self._listener.quiet
        if quiet is not None:
            return self._ms(quiet)
        # Between two segments of a long turn: since the last of them sounded.
        return self._ms(self._heard - self._segments[-1].speech_ended) if self._segments else 0.0

    def _is_complete(self) -> bool:
        words = self._all_words()
        return bool(words) and words[-1].text.endswith(_ENDS)

    def _all_words(self) -> list[WordHeard]:
        return [*(word for segment in self._segments for word in segment.words), *self._words]

    def _force(self) -> list[Said]:
        if self._ongoing:
            return [self._end("manual")]
        description = "ForceEndTurn was received while no turn was active."
        return [
            Said(
                {
                    "type": "Warning",
                    "request_id": self._id,
                    "code": "FORCE_END_TURN_NO_ACTIVE_TURN",
                    "description": description,
                }
            )
        ]

    def _configure(self, form: Mapping[str, Any]) -> Said:
        try:
            self._options = configured(self._options, form)
        except NotConfigured as problem:
            return Said(
                {
                    "type": "ConfigureFailure",
                    "request_id": self._id,
                    "code": problem.code,
                    "description": str(problem),
                }
            )
        hints = {"language_hints": self._options.language_hints} if self._options.language_hints else {}
        return Said(
            {
                "type": "ConfigureSuccess",
                "request_id": self._id,
                "thresholds": self._options.thresholds(),
                "keyterms": self._options.keyterms,
                **hints,
            }
        )

    # -- what is said

    def _end(self, trigger: str, *, ago_ms: float = 0) -> Said:
        said = self._told("EndOfTurn", trigger, ago_ms=ago_ms)
        self._index += 1
        assert said.transcript is not None
        self._forget(said.transcript.ended)
        return said

    def _forget(self, at: int | None = None) -> None:
        """What comes after that sample (now) has nothing to do with what came before."""
        self._listener.flush()
        self._began = self._heard if at is None else at
        self._segments.clear()
        self._words = ()
        self._ongoing = self._eager = self._was_read = False

    def _told(self, event: str, trigger: str = "", *, ago_ms: float = 0) -> Said:
        """A message of the state that was reached so long ago."""
        self._told_at = self._heard
        at = self._heard - round(ago_ms * self._options.rate_hz / 1000)
        sure = confidence(self._quiet_ms() - ago_ms, complete=self._is_complete()) if self._ongoing else SPEAKING
        rate = self._options.rate_hz
        words = self._all_words()
        message: dict[str, JSON] = {
            "type": "TurnInfo",
            "request_id": self._id,
            "event": event,
            "turn_index": self._index,
            "audio_window_start": round(self._began / rate, 3),
            "audio_window_end": round(at / rate, 3),
            "transcript": " ".join(word.text for word in words),
            "words": [
                {
                    "word": word.text,
                    "confidence": word.confidence,
                    "start": round(word.began / rate, 3),
                    "end": round(word.ended / rate, 3),
                }
                for word in words
            ],
            "end_of_turn_confidence": round(sure, 4),
        }
        if trigger:
            message["trigger"] = trigger
        if self._options.model == "flux-general-multi":
            message["languages"] = ["en"] if words else []
            if self._options.language_hints:
                message["languages_hinted"] = self._options.language_hints
        return Said(
            message,
            transcript=self._transcript(words, at),
            final=event == "EndOfTurn",
            prompt=event == "EagerEndOfTurn",
            began=event == "StartOfTurn",
            at=None if trigger == "manual" else at,
        )

    def _transcript(self, words: Sequence[WordHeard], at: int) -> Transcript:
        speech = (words[0].began, words[-1].ended) if words else (at, at)
        return Transcript(self._began, at, *speech, tuple(words))

    def _ms(self, samples: int) -> float:
        return samples * 1000 / self._options.rate_hz


def _fatal(code: str, description: str, close: int) -> Ending:
    return Ending(close, description.encode()[:120], {"type": "Error", "code": code, "description": description})
