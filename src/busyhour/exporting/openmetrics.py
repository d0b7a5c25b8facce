"""The live figures as a page of OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/).

Written here and not by a library: the figures exist already, and a page that is written piece by piece never holds up
the loop that paces the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import isinf

from busyhour.exporting.counting import Distribution, Labels, Series
from busyhour.exporting.families import Family, Kind

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
END = "# EOF\n"

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_PIECE = 50  # lines or so; a thousand take a millisecond or two


def pieces(families: Iterable[tuple[Family, Sequence[Series]]]) -> Iterator[str]:
    """The page, in pieces of well under a millisecond's work each."""
    for family, series in families:
        if not series:
            continue
        lines = [f"# HELP {family.name} {_text(family.help)}\n", f"# TYPE {family.name} {family.kind.value}\n"]
        if family.unit:
            lines.append(f"# UNIT {family.name} {family.unit}\n")
        for labels, value in series:
            lines += _lines(family, labels, value)
            if len(lines) >= _PIECE:
                yield "".join(lines)
                lines = []
        yield "".join(lines)
    yield END


def _lines(family: Family, labels: Labels, value: float | Distribution) -> Iterator[str]:
    told = _labels(family.labels, labels)
    if isinstance(value, Distribution):
        below = 0
        for edge, count in zip((*family.edges, float("inf")), value.counts, strict=True):
            below += count
            yield f'{family.name}_bucket{{{told}{"," if told else ""}le="{_number(edge)}"}} {below}\n'
        yield f"{family.name}_sum{_braced(told)} {_number(value.total)}\n"
        yield f"{family.name}_count{_braced(told)} {below}\n"
    else:
        ending = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(family.kind, "")
        yield f"{family.name}{ending}{_braced(told)} {_number(value)}\n"


def _labels(names: Sequence[str], values: Labels) -> str:
    return ",".join(f'{name}="{_text(value)}"' for name, value in zip(names, values, strict=True))


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _text(said: str) -> str:
    """What the far end has said may hold half a surrogate pair, which no UTF-8 can."""
    return said.translate(_ESCAPED).encode("utf-8", "backslashreplace").decode("utf-8")


def _number(value: float) -> str:
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if isinstance(value, int) else repr(float(value))
