"""How the body of a section is put together: a lead, charts, tables and notes, in one template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from busyhour.model import JSON
from busyhour.reports.html.section import Section

TEMPLATES = Environment(
    loader=PackageLoader("busyhour.reports.html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture that charts.js draws of `drawn`; `caption` says how it is to be read. `small`: several in a row."""

    id: str
    title: str
    drawn: Mapping[str, JSON]
    caption: str = ""
    small: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """Words, and a `mark` beside them ("fault", an outcome) where they say more than a figure."""

    text: str
    mark: str = ""
    href: str = ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: the first column to the left, of the others those that are `words`, too; figures to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    words: Sequence[int] = ()
    note: str = ""
    folded: bool = False  # until somebody asks, or it is printed


@dataclass(frozen=True, kw_only=True)
class Body:
    lead: str = ""
    charts: Sequence[Chart] = ()
    grids: Sequence[Grid] = ()
    notes: Sequence[str] = ()
    strip: Mapping[str, JSON] | None = field(default=None)


def section(id: str, title: str, body: Body) -> Section:  # noqa: A002  (as in `Section`)
    """The section with its template rendered; what its charts draw is embedded with the page's data."""
    html = Markup(TEMPLATES.get_template("body.html.j2").render(body=body))  # noqa: S704  (rendered with autoescape)
    data: dict[str, JSON] = (
        {"charts": [{"id": chart.id, **chart.drawn} for chart in body.charts]} if body.charts else {}
    )
    return Section(id, title, html, data)
