"""What the language-model twins share: the receptionist's reply cut into tokens, paced, refused or broken as fated; or,
with an upstream, the answer of the real model, passed on and witnessed all the same (see relay.py).

An API module brings what differs from vendor to vendor, and nothing else:

    class Generate:                          # an API: one object for each path, living as long as the process
        name = "generate"                    # detail["api"] of its rows
        def authenticate(self, request): ...           # raises Refused
        def read(self, request, raw) -> Asked: ...     # the request's bytes; raises Refused
        def fated(self, outcome) -> Refused: ...       # the vendor's words for "http_429", "quota", ...
        def error(self, refusal) -> JSON: ...          # the body a Refused is answered with
        def headers(self, number) -> dict: ...         # of every answer, by the request's number
        def outline(self, request, body) -> Outline: ...   # the same request, read without judging it
        def ear(self) -> Ear: ...                      # understands the upstream's answer to one request
    class Events:                            # a Shape: one object for each request, made by `Asked.shape`
        content_type = EVENT_STREAM
        def opening(self) -> bytes: ...                # before the first token; all that "no_token" ever sends
        def deltas(self) -> Iterator[bytes]: ...       # one for each token (b"" for none yet), then what is left over
        def closing(self) -> bytes: ...                # after the last token
        def whole(self) -> bytes: ...                  # the same reply unstreamed

    model = LanguageModel(twin, outcomes=OUTCOMES, gullible=settings.gullible)
    app.router.add_post("/v1/generate", model.serving(generate))
    app.router.add_get("/v1/models", beside(generate, list_models))    # nothing generated, and no fate

Order of things: the body is read (`began`), a fate is drawn, the key checked, a fated refusal sent, the request parsed.
The n-th token leaves at began + first_token + (n - 1) * between_tokens, whatever the writing of earlier ones cost.

Outcomes beside the common ones ("reset" and "hang" come before any answer):
    no_token    the answer is 200 and the stream opens, and no token ever comes
    stall       half of the tokens, then nothing; the stream stays open
    truncate    half of the tokens, then the stream ends in good order, without what closes it
    malformed   half of the tokens, then an event that is cut short, and the stream ends
    quota       refused for want of credit, in the vendor's own words
    blocked     (of vendors that do) the answer is in good order and has no text: a filter took it
Whole (not streamed) answers: no_token hangs, stall sends half of the body and waits, truncate and malformed are a
body cut in half.
"""

from __future__ import annotations

from busyhour.emulators.language_model.answering import LanguageModel, beside
from busyhour.emulators.language_model.hearing import Ear, Heard, Piece, count, objects, written
from busyhour.emulators.language_model.nouns import (
    API,
    EVENT_STREAM,
    OUTCOMES,
    Asked,
    Finish,
    Finished,
    Part,
    Refused,
    Settings,
    Shape,
)
from busyhour.emulators.language_model.outline import outline
from busyhour.emulators.language_model.relay import Relay
from busyhour.emulators.language_model.tokens import finish, prompt_tokens, tokens_of
from busyhour.emulators.language_model.vendor import ModelTwin

__all__ = [
    "API",
    "EVENT_STREAM",
    "OUTCOMES",
    "Asked",
    "Ear",
    "Finish",
    "Finished",
    "Heard",
    "LanguageModel",
    "ModelTwin",
    "Part",
    "Piece",
    "Refused",
    "Relay",
    "Settings",
    "Shape",
    "beside",
    "count",
    "finish",
    "objects",
    "outline",
    "prompt_tokens",
    "tokens_of",
    "written",
]
