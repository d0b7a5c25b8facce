"""A page as a program reads it: its elements, its texts, and the JSON that is in it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

from busyhour.gates import Judgement
from busyhour.model import Run
from busyhour.reports import json as json_report

VOID = {"meta", "br", "input", "link", "img", "hr"}


class Tree(HTMLParser):
    """Checks that elements are closed in order, and keeps texts by what they are in."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, Mapping[str, str | None]]] = []
        self.texts: list[tuple[str, str, str]] = []  # the classes it is in, the gate it is of, the text
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[tag for tag, _ in self.open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened, _ = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        classes = " ".join(str(attrs.get("class") or "") for _, attrs in self.open)
        gate = next((str(attrs["data-gate"]) for _, attrs in self.open if attrs.get("data-gate")), "")
        if data.strip():
            self.texts.append((classes, gate, data.strip()))

    def said(self, kind: str) -> list[str]:
        return [text for classes, _, text in self.texts if kind in classes.split()]


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def told(run: Run, judgement: Judgement) -> Any:
    out = io.StringIO()
    json_report.report(run, judgement, out)
    return json.loads(out.getvalue())


def charts(text: str) -> Iterator[Mapping[str, Any]]:
    data = embedded(text, "data")
    return (chart for section in data.values() for chart in section.get("charts", ()))
