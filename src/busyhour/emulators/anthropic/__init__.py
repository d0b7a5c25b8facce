"""The Anthropic API, with the receptionist for a model.

Source: the API reference of messages; judged by the official `anthropic` SDK. Served are POST /v1/messages (streamed or
whole; system, tools, tool_choice, stop_sequences, max_tokens, usage, output_config with a JSON schema), POST
/v1/messages/count_tokens and GET /v1/models. Sampling and thinking parameters are checked and have no effect. What can
go wrong is told in language_model; here there is also "overloaded", the vendor's 529.

With an `upstream`, the real model answers instead: requests are passed on to that URL with the client's own key, and
answers back, which is the only traffic that leaves the machine (see language_model/relay.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from busyhour.emulators import language_model
from busyhour.emulators.language_model import ModelTwin

OUTCOMES = (*language_model.OUTCOMES, "overloaded")


@dataclass(kw_only=True, eq=False)
class Anthropic(ModelTwin):
    """A twin of the Anthropic API as a Service; its URL is what `ANTHROPIC_BASE_URL` wants.

    The settings are those of every ModelTwin, the outcomes OUTCOMES; upstream: "https://api.anthropic.com" is the real
    one. Raises PlanError for impossible settings.
    """

    _module = "busyhour.emulators.anthropic"
    _possible = OUTCOMES
