"""Counters in the Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

import asyncio
from collections import defaultdict

_HELP = {
    "voice_agent_open_calls": ("gauge", "Calls in progress."),
    "voice_agent_asyncio_tasks": ("gauge", "Tasks of the event loop that are not done."),
    "voice_agent_calls_total": ("counter", "Calls ended, by outcome."),
    "voice_agent_turns_total": ("counter", "Turns of the caller, by what came of them."),
    "voice_agent_interruptions_total": ("counter", "Replies that the caller interrupted."),
    "voice_agent_vendor_errors_total": ("counter", "Failures of vendors, by vendor and reason."),
    "voice_agent_fallbacks_total": ("counter", "Times something else had to be said or used, by kind."),
    "voice_agent_response_seconds": ("summary", "End of the caller's speech to our first frame, on our side."),
    "voice_agent_underruns_total": ("counter", "Times the sound ran out in the middle of a reply."),
    "voice_agent_defects_total": ("counter", "Occasions on which a switched-on defect struck, by defect."),
}


class Metrics:
    """What happened since the start. Cheap enough for the path of the sound."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    def call_ended(self, outcome: str) -> None:
        self._add("voice_agent_calls_total", f'{{outcome="{outcome}"}}')

    def turn(self, outcome: str) -> None:
        self._add("voice_agent_turns_total", f'{{outcome="{outcome}"}}')

    def interrupted(self) -> None:
        self._add("voice_agent_interruptions_total", "")

    def vendor_failed(self, vendor: str, reason: str) -> None:
        self._add("voice_agent_vendor_errors_total", f'{{vendor="{vendor}",reason="{reason}"}}')

    def fell_back(self, kind: str) -> None:
        self._add("voice_agent_fallbacks_total", f'{{kind="{kind}"}}')

    def responded(self, seconds: float) -> None:
        self._add("voice_agent_response_seconds_sum", "", seconds)
        self._add("voice_agent_response_seconds_count", "")

    def underrun(self) -> None:
        self._add("voice_agent_underruns_total", "")

    def defect(self, name: str) -> None:
        self._add("voice_agent_defects_total", f'{{defect="{name}"}}')

    def text(self, open_calls: int) -> str:
        """The exposition of everything counted so far; must be called on the event loop."""
        values = {name: dict(by_label) for name, by_label in self._counts.items()}
        values["voice_agent_open_calls"] = {"": open_calls}
        values["voice_agent_asyncio_tasks"] = {"": len(asyncio.all_tasks())}
        lines: list[str] = []
        for name, (kind, about) in _HELP.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            for series in (name, f"{name}_sum", f"{name}_count") if kind == "summary" else (name,):
                lines += [f"{series}{labels} {value:.10g}" for labels, value in sorted(values.get(series, {}).items())]
        return "\n".join(lines) + "\n"

    def _add(self, name: str, labels: str, amount: float = 1) -> None:
        self._counts[name][labels] += amount
