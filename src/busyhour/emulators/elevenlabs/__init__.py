"""ElevenLabs' text to speech: the two WebSockets (stream-input, multi-stream-input) and the HTTP endpoints.

Source: ElevenLabs' API reference and its guides on WebSockets, errors as clients have met them on the wire; judged by
the official `elevenlabs` SDK. Text is spoken as `synthesis` says, in PCM, mu-law or A-law: MP3 and Opus, the vendor's
default among them, would need an encoder, and are refused with its "output_format_not_allowed". Any voice's ID will do.

Decided where the documentation leaves it open: text waits for `chunk_length_schedule` characters and is then spoken up
to the end of its last sentence, in auto mode at once; close_context and close_socket end what was set to be spoken,
and drop the rest; every chunk has its alignment, whose times begin at zero (over HTTP: at the request's first audio).

Outcomes beside the common ones (the http_ ones befall connections and HTTP requests, all others contexts):
    zero_audio  success without a chunk: only "isFinal", as over quota on a socket
    quota       quota_exceeded: 401 over HTTP, an error and close code 1008 on a socket
    error       something went wrong: 500 over HTTP, an error and close code 1008 on a socket
    stall       half of the first sentence, then nothing, not even "isFinal"
    hang        nothing, ever
    reset       the connection breaks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from busyhour.emulators.behaviour import COMMON_OUTCOMES, Behaviour, Constant, Latency
from busyhour.emulators.twin import TwinProcess
from busyhour.model import JSON, Endpoint, Operation

OUTCOMES = (*COMMON_OUTCOMES, "zero_audio", "error", "stall", "quota")


@dataclass(kw_only=True, eq=False)
class ElevenLabs:
    """A twin of the ElevenLabs API as a Service, at http://127.0.0.1:PORT (clients swap the scheme to ws).

    first_audio: from text that is to be spoken to its first chunk. realtime_factor: audio comes this many times faster
    than it plays. outcomes: the share of contexts and connections that go wrong, by name (see OUTCOMES). api_key: the
    one that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "tts"
    first_audio: Latency = field(default_factory=lambda: Constant(120))
    realtime_factor: float = 4.0
    outcomes: Mapping[str, float] = field(default_factory=dict)
    api_key: str = ""
    seed: int = 1
    port: int = 0
    _behaviour: Behaviour = field(init=False, repr=False)
    _process: TwinProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._behaviour = Behaviour(
            possible=OUTCOMES,
            latencies={"first_audio": self.first_audio},
            numbers={"realtime_factor": self.realtime_factor},
            outcomes=self.outcomes,
            seed=self.seed,
        )
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.elevenlabs")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        return self._process.running(port=self.port, behaviour=self._behaviour, more={"api_key": self.api_key})

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()
