"""What a part of the page is: its body, and what its charts draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from markupsafe import Markup

from busyhour.model import JSON


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page; a section without anything to show is not made (its maker returns None)."""

    id: str  # of the element, and of its data in the page; lower-case letters, digits and dashes
    title: str
    html: Markup  # its body, made by a Jinja2 template with autoescape
    data: Mapping[str, JSON] = field(default_factory=dict)  # embedded once as JSON: `busyhour.data["<id>"]` in a script
