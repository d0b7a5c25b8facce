"""The Gemini API (generativelanguage), with the receptionist for a model.

Source: the API reference of v1beta; judged by the official `google-genai` SDK. Served, below /v1beta, /v1 and
/v1alpha, are models/{model}:generateContent, :streamGenerateContent (server-sent events with alt=sse, else a JSON
array), :countTokens, and the list of models. Functions, toolConfig, system instructions, response schemas, stop
sequences and token limits are honoured; one candidate is made; sampling parameters are checked and have no effect;
parts that are not text cost nothing and are not understood.

Outcomes beside those of all language models (see language_model):
    blocked    200 and no text: the prompt is blocked (promptFeedback), or the answer ends with SAFETY

With an `upstream`, the real model answers instead: requests are passed on to that URL with the client's own key, and
answers back, which is the only traffic that leaves the machine (see language_model/relay.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from busyhour.emulators import language_model
from busyhour.emulators.behaviour import Behaviour, Constant, Latency, LogNormal
from busyhour.emulators.language_model import Settings
from busyhour.emulators.twin import TwinProcess
from busyhour.model import JSON, Endpoint, Operation

OUTCOMES = (*language_model.OUTCOMES, "blocked")
MODELS = ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro")
"""Listed when no models are configured; any name is accepted then."""


@dataclass(kw_only=True, eq=False)
class Gemini:
    """A twin of the Gemini API as a Service; its URL is the SDK's base_url (GOOGLE_GEMINI_BASE_URL).

    first_token: from the request to the first token; between_tokens: from token to token. outcomes: the share of
    requests that go wrong, by name (see OUTCOMES). models: those that exist, empty for any. api_key: the one that is
    accepted, "" for any. gullible: the model obeys instructions of the caller. upstream: the real API's base URL
    ("https://generativelanguage.googleapis.com"), which answers in the twin's place, without added latency. Raises
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
        self._process = TwinProcess(name=self.name, module="busyhour.emulators.gemini")

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]:
        return self._process.running(port=self.port, behaviour=self._behaviour, more=self._settings.as_json())

    async def witnessed(self, endpoint: Endpoint) -> Sequence[Operation]:
        return await self._process.witnessed(endpoint)

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]:
        return await self._process.behave(endpoint, change)

    def obituary(self) -> str | None:
        return self._process.obituary()
