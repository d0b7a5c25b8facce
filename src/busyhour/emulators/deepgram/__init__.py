"""Deepgram's live transcription by a twin that listens: nova on /v1/listen, and Flux, which knows turns, on /v2/listen.

It knows some utterances, and them by ear. Source: Deepgram's documentation and captures of its wire; judged by the
official `deepgram` SDK. Interim results leave `interim` after the audio that brought them, finals (and the ends of
turns) `final` after the pause, the Finalize or the confidence that ended them. Audio in containers and pre-recorded
audio are not transcribed.

Decided where the documentation leaves it open, of nova: an empty binary message closes the stream like CloseStream (it
once was the way to do so); KeepAlive keeps a stream open only once audio has come; Finalize is not answered when less
than 100 ms of audio is left over; its answer has speech_final. Of Flux: see `turns`.

Outcomes beside the http_ ones, which befall connections, as does quota (402, ASR_PAYMENT_REQUIRED); these befall
utterances, when their speech begins (in Flux: turns, when they do):
    no_final    interim results, but never a final (an EndOfTurn)
    late_final  the final is `late` later than it would be
    error       an error message, and the connection is closed with code 1011
    hang        the connection stays open, and nothing is ever sent on it again
    reset       the connection breaks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from busyhour.emulators.behaviour import COMMON_OUTCOMES, Behaviour, Constant, Latency
from busyhour.emulators.deepgram.knowledge import write
from busyhour.emulators.vendor import VendorTwin
from busyhour.model import JSON, Audio

UNKNOWN_SPEECH = "unknown speech"
"""What a segment with sound in which nova has understood no word is counted as, where it would else be "ok"."""
OUTCOMES = (*COMMON_OUTCOMES, "no_final", "late_final", "error", "quota")


@dataclass(kw_only=True, eq=False)
class Deepgram(VendorTwin):
    """A twin of the Deepgram API as a Service, at http://127.0.0.1:PORT (clients swap the scheme to ws).

    final: from the end of an utterance (its pause heard, or Finalize) to its final result; interim: from the sound of
    a word to the interim result with it, both at least 80 ms where a sound decides: it is heard in pieces of that
    length; late: what late_final adds. idle_seconds: without a message for so long the
    twin closes the stream (NET-0001). outcomes: shares, by name (see OUTCOMES). utterances: what it knows; None is all
    that are shipped. api_key: the one that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "stt"
    final: Latency = field(default_factory=lambda: Constant(80))
    interim: Latency = field(default_factory=lambda: Constant(150))
    late: Latency = field(default_factory=lambda: Constant(3000))
    idle_seconds: float = 10.0
    outcomes: Mapping[str, float] = field(default_factory=dict)
    utterances: Sequence[Audio] | None = None
    api_key: str = ""
    seed: int = 1
    port: int = 0
    _module = "busyhour.emulators.deepgram"

    def _behaves(self) -> Behaviour:
        return Behaviour(
            possible=OUTCOMES,
            latencies={"final": self.final, "interim": self.interim, "late": self.late},
            numbers={"idle_seconds": self.idle_seconds},
            outcomes=self.outcomes,
            seed=self.seed,
        )

    def _more(self, folder: Path) -> Mapping[str, JSON]:
        if self.utterances is None:
            return super()._more(folder)
        path = folder / "utterances.jsonl"
        write(self.utterances, path)
        return {**super()._more(folder), "utterances": str(path)}
