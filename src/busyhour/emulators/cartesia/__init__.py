"""Cartesia's text to speech: the WebSocket with its contexts, and the bytes and SSE endpoints.

Source: Cartesia's API reference; judged by the official `cartesia` SDK. Text waits for the end of its sentence, at most
`max_buffer_delay_ms`; then it is spoken as `synthesis` says. Phoneme timestamps are not made.

Outcomes beside the common ones (the http_ ones befall connections and HTTP requests, all others contexts):
    zero_audio  success without a chunk: only "done"
    error       an error event instead of audio
    quota       the same, for want of credit: 402, "quota_exceeded"
    stall       half of the first sentence, then nothing, not even "done"
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
class Cartesia:
    """A twin of the Cartesia API as a Service, at http://127.0.0.1:PORT (ws:// for the socket).

    first_audio: from a sentence's text to its first chunk. realtime_factor: audio comes this many times faster than
    it plays. outcomes: the share of contexts and connections that go wrong, by name (see OUTCOMES). api_key: the one
    that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "tts"
    first_audio: Latency = field(default_factory=lambda: Constant(90))
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
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.cartesia")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        return self._process.running(port=self.port, behaviour=self._behaviour, more={"api_key": self.api_key})

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()
