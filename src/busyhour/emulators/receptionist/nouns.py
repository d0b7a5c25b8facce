"""What goes into the receptionist and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from busyhour.model import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message. role: "system" ("developer"), "user", "assistant" or "tool"; tool: the function whose result a
    "tool" text is."""

    role: str
    text: str = ""
    tool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the agent offers; parameters is its JSON schema."""

    name: str
    parameters: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer: the text, or a function to call with its arguments."""

    text: str = ""
    tool: str = ""
    arguments: Mapping[str, JSON] = field(default_factory=dict)
