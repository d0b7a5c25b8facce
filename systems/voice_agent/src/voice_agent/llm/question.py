"""What a language model is asked, and what it answers with, whoever the vendor is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]  # "role" (system, user, assistant) and "content"


def _nothing() -> dict[str, Any]:
    return {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that the model may ask for. `parameters`: the JSON schema of its arguments, as `schema.py` knows it."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model wants a tool used. `arguments`: JSON, or what the model takes for it; `key`: tells it from others."""

    name: str
    arguments: str = ""
    key: str = ""
    signature: str = ""  # the vendor's own, wanted back with it

    def as_object(self) -> dict[str, Any]:
        """The arguments; none if they are no object, as vendors want one back whatever the model has called with."""
        try:
            arguments = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            return {}
        return arguments if isinstance(arguments, dict) else {}


@dataclass(frozen=True, slots=True)
class CallPiece:
    """Of a call, what one event tells. `index`: which call of the reply; None: one that is whole."""

    index: int | None
    name: str = ""
    arguments: str = ""
    key: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Errand:
    """Between two messages: what the model said, the tools it then called, and what each brought as it comes (JSON)."""

    said: str
    calls: Sequence[ToolCall]
    results: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked. `barred`: it may not call tools any more, though it did; `form`: it is not to speak, but
    to fill in the arguments of this tool."""

    messages: Sequence[Message | Errand]
    tools: Sequence[Tool] = ()
    barred: bool = False
    form: Tool | None = None

    @property
    def system(self) -> str:
        """What the system messages say."""
        return "\n".join(
            said["content"] for said in self.messages if isinstance(said, dict) and said["role"] == "system"
        )

    @property
    def conversation(self) -> Sequence[Message | Errand]:
        """All but the system messages, for vendors whose conversations begin with the user: ours do with a greeting."""
        spoken = [said for said in self.messages if isinstance(said, Errand) or said["role"] != "system"]
        if spoken and (isinstance(spoken[0], Errand) or spoken[0]["role"] == "assistant"):
            spoken.insert(0, {"role": "user", "content": "(The telephone is answered.)"})
        return spoken
