"""What is witnessed of one request: the row, while it comes about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from busyhour.emulators.behaviour import OK
from busyhour.emulators.language_model.nouns import API, Asked
from busyhour.emulators.twin import Twin
from busyhour.model import JSON

_KEPT_PROMPT = 500
"""Characters, in a witnessed row."""
_KEPT_REPLY = 4000
"""The same: a structured answer that is cut off is no JSON."""
_KEPT_ARGUMENTS = 4000
_KEPT_CALLS = 100


@dataclass(slots=True)
class Record:
    """What is witnessed of one request, as far as it has come; its memory is bounded, however long the reply.

    tokens: those that were sent; told_tokens, told_prompt_tokens: what an upstream says it bills. upstream: its origin,
    once the request has been forwarded. counted: the twin has counted the outcome as served.
    """

    began_ns: int
    number: int
    outcome: str
    asked: Asked | None = None
    tokens: int = 0
    told_tokens: int | None = None
    told_prompt_tokens: int | None = None
    first_token_ns: int | None = None
    client_closed: bool = False
    counted: bool = False
    upstream: str = ""
    _texts: list[str] = field(default_factory=list)
    _calls: dict[str, list[str]] = field(default_factory=dict)  # a call's key -> the function, then its pieces
    _text_room: int = _KEPT_REPLY
    _call_room: int = _KEPT_ARGUMENTS

    def sent(self, text: str, *, key: str = "", tool: str = "", tokens: int = 1) -> None:
        """A piece of the reply's text, or of the arguments of the call `key` of function `tool`, has left."""
        self.tokens += tokens
        if not tool:
            if self._text_room > 0:
                self._texts.append(text)
                self._text_room -= len(text)
            return
        if key not in self._calls and len(self._calls) < _KEPT_CALLS:
            self._calls[key] = [tool]
        if key in self._calls and self._call_room > 0:
            self._calls[key].append(text)
            self._call_room -= len(text)

    def count(self, twin: Twin) -> None:
        """Its outcome has been met: to be called when it takes effect, and once is counted."""
        if not self.counted:
            self.counted = True
            twin.count(self.outcome)

    def witness(self, twin: Twin, api: API) -> None:
        """Write the row, and count the outcome if it is not counted yet."""
        self.count(twin)
        # What was done to the client outranks what the client did: of a hang the leaving is only the end.
        left = self.client_closed and self.outcome == OK
        outcome = "client closed" if left else self.outcome
        twin.witness_ended(self.number, kind="llm", began_ns=self.began_ns, outcome=outcome, detail=self._detail(api))

    def _detail(self, api: API) -> Mapping[str, JSON]:
        """What cost and assertions need; several calls are told as "a, b" and a list of their arguments."""
        asked = self.asked
        prompt = next((said.text for said in reversed(asked.conversation) if said.role == "user"), "") if asked else ""
        arguments = ["".join(call[1:]) for call in self._calls.values()]
        estimated = asked.prompt_tokens if asked else 0
        return {
            "api": api.name,
            "model": asked.model if asked else "",
            "first_token_ns": self.first_token_ns,
            "tokens": self.tokens if self.told_tokens is None else self.told_tokens,
            "prompt_tokens": estimated if self.told_prompt_tokens is None else self.told_prompt_tokens,
            "prompt": prompt[:_KEPT_PROMPT],
            "reply": "".join(self._texts)[:_KEPT_REPLY],
            "tool": ", ".join(call[0] for call in self._calls.values()),
            "arguments": (arguments[0] if len(arguments) == 1 else json.dumps(arguments) if arguments else "")[
                :_KEPT_ARGUMENTS
            ],
            "structured": asked is not None and asked.schema is not None,
            "client_closed": self.client_closed,
            **({"upstream": self.upstream} if self.upstream else {}),
        }
