"""The OpenAI API, with the receptionist for a model: chat completions and responses.

Source: the API reference; judged by the official `openai` SDK. Served are POST /v1/chat/completions and POST
/v1/responses (streamed or whole; tools, usage, structured outputs, token limits; stop in the first, instructions and
previous_response_id in the second), GET and DELETE /v1/responses/{id}, and GET /v1/models. `n` is 1; sampling
parameters are checked and have no effect. What can go wrong is told in language_model.

With an `upstream`, the real model answers instead: requests are passed on to that URL with the client's own key, and
answers back, which is the only traffic that leaves the machine (see language_model/relay.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from busyhour.emulators.behaviour import Behaviour, Constant, Latency, LogNormal
from busyhour.emulators.language_model import OUTCOMES, Settings
from busyhour.emulators.twin import TwinProcess
from busyhour.model import JSON, Endpoint, Operation

__all__ = ["OUTCOMES", "OpenAI"]


@dataclass(kw_only=True, eq=False)
class OpenAI:
    """A twin of the OpenAI API as a Service; its URL is what `OPENAI_BASE_URL` wants.

    first_token: from the request to the first token; between_tokens: from token to token. outcomes: the share of
    requests that go wrong, by name (see OUTCOMES). models: those that exist, empty for any. api_key: the one that is
    accepted, "" for any. gullible: the model obeys the caller's injected instructions, a defect. upstream: the real
    API's base URL ("https://api.openai.com/v1"), which answers in the twin's place, without added latency. Raises
    PlanError for impossible settings.
    """

    name: str = "llm"
    first_token: Latency = field(default_factory=lambda: LogNormal(350, 0.4))
    between_tokens: Latency = field(default_factory=lambda: Constant(8))
    outcomes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    port: int = 0
    models: Sequence[str] = ()
    api_key: str = ""
    gullible: bool = False
    upstream: str = ""
    _settings: Settings = field(init=False, repr=False)
    _behaviour: Behaviour = field(init=False, repr=False)
    _process: TwinProcess = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._settings = Settings(
            models=self.models, api_key=self.api_key, gullible=self.gullible, upstream=self.upstream
        )
        latencies = {"first_token": self.first_token, "between_tokens": self.between_tokens}
        self._behaviour = Behaviour(possible=OUTCOMES, latencies=latencies, outcomes=self.outcomes, seed=self.seed)
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.openai")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        return self._process.running(port=self.port, behaviour=self._behaviour, more=self._settings.as_json())

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()
