"""The page as one file: styles, scripts and data inline, and a policy that lets nothing else in.

Its scripts and styles are allowed by their hash, so a `<script>` in a transcript could not run even if it were not
escaped; the policy has no source but that, so no request can leave.
"""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import TextIO

from markupsafe import Markup

from busyhour.gates import Judgement
from busyhour.model import JSON, Outcome, Run, Verdict
from busyhour.reports import json as json_report
from busyhour.reports.html import calls, happened, latency, machine, memory, percentiles, tabled, traffic
from busyhour.reports.html.body import TEMPLATES
from busyhour.reports.html.first import first
from busyhour.reports.html.scene import Scene
from busyhour.reports.html.section import Section

FONT = "Inter-latin.woff2"  # of Latin letters; all others are the system's
STYLES = ("uPlot.min.css", "report.css", "calls.css")
SCRIPTS = ("uPlot.iife.min.js", "theme.js", "axes.js", "charts.js", "calls_picture.js", "calls.js")
BYTES_OF_CALLS_MOST = 2_200_000
_ASSETS = files("busyhour.reports.html").joinpath("assets")
_KINDS = {
    "response latency": "response",
    "dead air": "dead air",
    "barge-in stop time": "barge-in",
    "yield rate": "barge-in",
    "missed turns": "unanswered",
    "successful calls": "failed",
    "agent interruptions": "early",
    "underrun rate": "underrun",
}
# What would end the element, or begin a comment in it; and the two that were no JavaScript before 2019.
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write(run: Run, judgement: Judgement, out: TextIO) -> None:
    """Write the page of a run to `out`."""
    scene = Scene.of(run, judgement)
    worst = calls.worst_calls(run, bytes_max=BYTES_OF_CALLS_MOST, phases=_missed(judgement))
    made = [
        latency.over_time(scene),
        worst,
        percentiles.plots(scene),
        happened.timeline(scene),
        happened.recovery(scene),
        tabled.tables(judgement),
        traffic.over_time(scene),
        memory.over_time(scene),
        machine.counters(scene),
        machine.processor(scene),
        machine.readings(scene),
    ]
    sections = [section for section in made if section is not None]
    top = first(scene, _hrefs(judgement, worst))
    out.writelines(
        TEMPLATES.get_template("page.html.j2").generate(
            first=top,
            sections=sections,
            styles=_styles(),
            scripts=_scripts(),
            policy=_policy(),
            data=_embedded(_data(sections, scene.bands)),
            judgement=_escaped(_told(run, judgement)),
            licenses=_licenses(),
        )
    )


def write_sections(title: str, sections: Sequence[Section], out: TextIO) -> None:
    """A page of sections that are of no single run, such as `tabled.capacity` makes."""
    bands: dict[str, JSON] = {"axis": {"label": "", "unit": "s", "factor": 1}, "ends": [0, 1]}
    out.writelines(
        TEMPLATES.get_template("sections.html.j2").generate(
            title=title,
            sections=sections,
            styles=_styles(),
            scripts=_scripts(),
            policy=_policy(),
            data=_embedded(_data(sections, {**bands, "phases": [], "faults": [], "gaps": []})),
            licenses=_licenses(),
        )
    )


def _data(sections: Sequence[Section], bands: Mapping[str, JSON]) -> Mapping[str, JSON]:
    return {"bands": bands, **{section.id: section.data for section in sections if section.data}}


def _missed(judgement: Judgement) -> list[str]:
    """The phases that what did not pass speaks of: whose worst calls are to come first."""
    return [phase for verdict in judgement.verdicts if (phase := _broken_in(verdict))]


def _broken_in(verdict: Verdict) -> str:
    """The phase of an estimate that did not pass: of "p95 response latency in steady" it is "steady"; else ""."""
    if verdict.estimate is None or verdict.outcome not in {Outcome.FAIL, Outcome.INCONCLUSIVE}:
        return ""
    return verdict.estimate.what.partition(" in ")[2]


def _hrefs(judgement: Judgement, worst: Section | None) -> Mapping[str, str]:
    """By gate that did not pass, the call in its phase that is worst by what the gate demands, if it is shown."""
    if worst is None:
        return {}
    broken = {verdict.gate: verdict for verdict in judgement.verdicts if _broken_in(verdict)}
    found = {
        gate: calls.anchor(worst, phases=[_broken_in(verdict)], kind=_heard_as(verdict))
        for gate, verdict in broken.items()
    }
    return {gate: f"#{anchor}" for gate, anchor in found.items() if anchor is not None}


def _heard_as(verdict: Verdict) -> str:
    """What to listen for: a kind of badness for which calls are taken, or of a stretch of a call's picture."""
    what = "" if verdict.estimate is None else verdict.estimate.what.partition(" in ")[0]
    return next((kind for words, kind in _KINDS.items() if what.endswith(words)), "")


# ---------------------------------------------------------------- what is put into it


def _told(run: Run, judgement: Judgement) -> str:
    """The judgement as `busyhour report --json` writes it."""
    out = io.StringIO()
    json_report.report(run, judgement, out)
    return out.getvalue()


def _escaped(text: str) -> Markup:
    return Markup(text.translate(_ESCAPES))  # noqa: S704  (nothing is left that ends a script element)


def _embedded(data: Mapping[str, JSON]) -> Markup:
    return _escaped(json.dumps(data, separators=(",", ":"), allow_nan=False))


def _font() -> str:
    octets = b64encode(_ASSETS.joinpath(FONT).read_bytes()).decode()
    source = f"url(data:font/woff2;base64,{octets}) format('woff2')"
    return f"@font-face{{font-family:'Inter Page';font-weight:100 900;font-display:block;src:{source}}}"


def _asset(name: str) -> str:
    return _ASSETS.joinpath(name).read_text(encoding="utf-8")


def _styles() -> list[Markup]:
    return [Markup(style) for style in (_font(), *map(_asset, STYLES))]  # noqa: S704  (files of ours)


def _scripts() -> list[Markup]:
    return [Markup(_asset(name)) for name in SCRIPTS]  # noqa: S704  (files of ours)


def _licenses() -> list[tuple[str, str]]:
    return [("Charts by uPlot", _asset("uPlot.LICENSE.txt")), ("Letters: Inter", _asset("Inter.LICENSE.txt"))]


def _policy() -> str:
    styles, scripts = (" ".join(map(_hash, texts)) for texts in (_styles(), _scripts()))
    return (
        f"default-src 'none'; style-src {styles}; script-src {scripts}; img-src data:; font-src data:; "
        "media-src blob: data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
