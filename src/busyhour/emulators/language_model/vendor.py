"""The harness's side of a language model's twin: the settings that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from busyhour.emulators.behaviour import Behaviour, Constant, Latency, LogNormal
from busyhour.emulators.language_model.nouns import OUTCOMES, Settings
from busyhour.emulators.vendor import VendorTwin
from busyhour.model import JSON


@dataclass(kw_only=True, eq=False)
class ModelTwin(VendorTwin):
    """A twin of a language model's API as a Service.

    first_token: from the request to the first token; between_tokens: from token to token. outcomes: the share of
    requests that go wrong, by name (see OUTCOMES of the vendor's module). models: those that exist, empty for any.
    api_key: the one that is accepted, "" for any. gullible: the model obeys the caller's injected instructions, a
    defect. upstream: the real API's base URL, which answers in the twin's place, without added latency. Raises
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
    _possible: ClassVar[Sequence[str]] = OUTCOMES

    def __post_init__(self) -> None:
        self._settings = Settings(
            models=self.models, api_key=self.api_key, gullible=self.gullible, upstream=self.upstream
        )
        super().__post_init__()

    def _behaves(self) -> Behaviour:
        latencies = {"first_token": self.first_token, "between_tokens": self.between_tokens}
        return Behaviour(possible=self._possible, latencies=latencies, outcomes=self.outcomes, seed=self.seed)

    def _more(self, folder: Path) -> Mapping[str, JSON]:
        return self._settings.as_json()
