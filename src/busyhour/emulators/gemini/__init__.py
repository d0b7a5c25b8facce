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

from dataclasses import dataclass

from busyhour.emulators import language_model
from busyhour.emulators.language_model import ModelTwin

OUTCOMES = (*language_model.OUTCOMES, "blocked")
MODELS = ("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro")
"""Listed when no models are configured; any name is accepted then."""


@dataclass(kw_only=True, eq=False)
class Gemini(ModelTwin):
    """A twin of the Gemini API as a Service; its URL is the SDK's base_url (GOOGLE_GEMINI_BASE_URL).

    The settings are those of every ModelTwin, the outcomes OUTCOMES; upstream:
    "https://generativelanguage.googleapis.com" is the real one. Raises PlanError for impossible settings.
    """

    _module = "busyhour.emulators.gemini"
    _possible = OUTCOMES
