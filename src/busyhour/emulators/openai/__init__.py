"""The OpenAI API, with the receptionist for a model: chat completions and responses.

Source: the API reference; judged by the official `openai` SDK. Served are POST /v1/chat/completions and POST
/v1/responses (streamed or whole; tools, usage, structured outputs, token limits; stop in the first, instructions and
previous_response_id in the second), GET and DELETE /v1/responses/{id}, and GET /v1/models. `n` is 1; sampling
parameters are checked and have no effect. What can go wrong is told in language_model.

With an `upstream`, the real model answers instead: requests are passed on to that URL with the client's own key, and
answers back, which is the only traffic that leaves the machine (see language_model/relay.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from busyhour.emulators.language_model import OUTCOMES, ModelTwin

__all__ = ["OUTCOMES", "OpenAI"]


@dataclass(kw_only=True, eq=False)
class OpenAI(ModelTwin):
    """A twin of the OpenAI API as a Service; its URL is what `OPENAI_BASE_URL` wants.

    The settings are those of every ModelTwin, the outcomes OUTCOMES; upstream: "https://api.openai.com/v1" is the real
    one. Raises PlanError for impossible settings.
    """

    _module = "busyhour.emulators.openai"
