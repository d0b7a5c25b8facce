"""What is drawn of a call, as the JSON of its page: the loudness of both channels, and what happened when.

Seconds count from the beginning of what is shown (`Frame`); what lies outside of it is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from busyhour.model import JSON, MS, SECOND, Samples
from busyhour.reports.html.calls_story import Span, Story

_BIN_MS = 20
_BINS_MOST = 7_500
_FULL_SCALE = 32_768
_SPANS_MOST = 400  # of a kind: hundreds of holes in a minute's speech are a stripe anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What is shown of a call: so much, from an instant on; `zero_ns` is the call's own beginning."""

    zero_ns: int
    since_ns: int
    until_ns: int

    def at_s(self, at_ns: int) -> float:
        return round((at_ns - self.since_ns) / SECOND, 4)

    @property
    def seconds(self) -> float:
        return self.at_s(self.until_ns)

    def shows(self, at_ns: int) -> bool:
        return self.since_ns <= at_ns <= self.until_ns


def peaks(samples: Samples, rate_hz: int, bin_ms: int) -> bytes:
    """The loudest sample of each bin, an octet each: the square root of its share of full scale, for the eye, as the
    ear does, makes more of what is quiet. The last bin may be short."""
    size = rate_hz * bin_ms // 1_000
    if not len(samples):
        return b""
    loud = np.abs(samples.astype(np.int32))
    most = np.maximum.reduceat(loud, np.arange(0, len(loud), size))
    return bytes(np.rint(255 * np.sqrt(most / _FULL_SCALE)).astype(np.uint8))


def bin_ms(seconds: float) -> int:
    """20 ms, or as many times that as it takes for a long call to have at most 7,500."""
    return _BIN_MS * max(1, -(-round(seconds * 1_000) // (_BIN_MS * _BINS_MOST)))


def waves(caller: Samples, agent: Samples, rate_hz: int) -> JSON:
    each_ms = bin_ms(len(caller) / rate_hz)
    return {
        "bin_s": each_ms / 1_000,
        "caller": as_text(peaks(caller, rate_hz, each_ms)),
        "agent": as_text(peaks(agent, rate_hz, each_ms)),
    }


def waves_bytes(seconds: float) -> int:
    """What the waves of so long a sound take in a page, at the most."""
    bins = round(seconds * 1_000) // bin_ms(seconds) + 1
    return 100 + 2 * 4 * (bins // 3 + 1)


def as_text(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def drawn(story: Story, frame: Frame) -> dict[str, JSON]:
    """Spans as [kind, who, from, to, label, 0, 1 if bad, or 2 if the worst of the call], ticks as [kind, at, label]."""
    shown: list[JSON] = []
    counts: dict[str, int] = {}
    for span in sorted(story.spans, key=lambda span: span != story.worst):
        inside = span.since_ns <= frame.until_ns and span.until_ns >= frame.since_ns
        if inside and counts.setdefault(span.kind, 0) < _SPANS_MOST:
            counts[span.kind] += 1
            shown.append(_span(span, frame, worst=span is story.worst or span == story.worst))
    ticks: list[JSON] = [
        [tick.kind, frame.at_s(tick.at_ns), tick.label] for tick in story.ticks if frame.shows(tick.at_ns)
    ]
    return {
        "seconds": frame.seconds,
        "from": round((frame.since_ns - frame.zero_ns) / SECOND, 4),
        "worst": _worst(story, frame),
        "spans": shown,
        "ticks": ticks[:_SPANS_MOST],
    }


def _span(span: Span, frame: Frame, *, worst: bool) -> list[JSON]:
    since = max(0.0, frame.at_s(span.since_ns))
    until = min(frame.seconds, frame.at_s(span.until_ns))
    return [span.kind, span.who, since, until, span.label, 2 if worst else int(span.bad)]


def _worst(story: Story, frame: Frame) -> Sequence[JSON] | None:
    """The stretch to zoom in on, and to begin to play before."""
    if story.worst is None or not frame.shows(story.worst.since_ns):
        return None
    since = max(0.0, frame.at_s(story.worst.since_ns))
    return [since, max(since, min(frame.seconds, frame.at_s(story.worst.until_ns)))]


def clock(ns: int) -> str:
    """An instant of a call for people: "0:12.3"."""
    tenths = round(max(0, ns) / (100 * MS))
    return f"{tenths // 600}:{tenths // 10 % 60:02}.{tenths % 10}"
