"""Counters in the Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from voice_agent.vitals import vitals

_HELP = {
    "voice_agent_open_calls": ("gauge", "Calls in progress."),
    "process_asyncio_tasks": ("gauge", "Tasks of the event loop that are not done."),
    "process_python_blocks": ("gauge", "Blocks of memory that Python's allocator has given out."),
    "process_heap_bytes": ("gauge", "Bytes that malloc has given out and not got back, where it tells (glibc)."),
    "process_open_connections": ("gauge", "Connections to vendors that are open, in use or not, by pool."),
    "voice_agent_calls_total": ("counter", "Calls ended, by outcome."),
    "voice_agent_turns_total": ("counter", "Turns of the caller, by what came of them."),
    "voice_agent_interruptions_total": ("counter", "Replies that the caller interrupted."),
    "voice_agent_vendor_errors_total": ("counter", "Failures of vendors, by vendor and reason."),
    "voice_agent_breaker_state": ("gauge", "Circuit breaker of a vendor: 0 closed, 1 open, 2 half-open."),
    "voice_agent_breaker_transitions_total": ("counter", "Times that a circuit breaker came into a state."),
    "voice_agent_failovers_total": ("counter", "Times that the next vendor of a chain took over, by both."),
    "voice_agent_fallbacks_total": ("counter", "Times something else had to be said or used, by kind."),
    "voice_agent_tool_calls_total": ("counter", "Tools that the model has called, by tool and outcome."),
    "voice_agent_summaries_total": ("counter", "Summaries of calls that were asked for, by outcome."),
    "voice_agent_response_seconds": ("summary", "End of the caller's speech to our first frame, on our side."),
    "voice_agent_underruns_total": ("counter", "Times the sound ran out in the middle of a reply."),
    "voice_agent_llm_tokens_total": ("counter", "Tokens, as the vendor counted them, by provider and kind."),
    "voice_agent_stt_seconds_total": ("counter", "Seconds of sound sent to be recognised, by provider."),
    "voice_agent_tts_characters_total": ("counter", "Characters sent to be synthesised, by provider."),
    "voice_agent_defects_total": ("counter", "Occasions on which a switched-on defect struck, by defect."),
}


class Metrics:
    """What happened since the start. Cheap enough for the path of the sound."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._sockets: Counter[str] = Counter()

    def call_ended(self, outcome: str) -> None:
        self._add("voice_agent_calls_total", f'{{outcome="{outcome}"}}')

    def turn(self, outcome: str) -> None:
        self._add("voice_agent_turns_total", f'{{outcome="{outcome}"}}')

    def interrupted(self) -> None:
        self._add("voice_agent_interruptions_total", "")

    def vendor_failed(self, vendor: str, reason: str) -> None:
        self._add("voice_agent_vendor_errors_total", f'{{vendor="{vendor}",reason="{reason}"}}')

    def breaker(self, provider: str, state: int) -> None:
        self._counts["voice_agent_breaker_state"][f'{{provider="{provider}"}}'] = state

    def breaker_turned(self, provider: str, to: str) -> None:
        self._add("voice_agent_breaker_transitions_total", f'{{provider="{provider}",to="{to}"}}')

    def failed_over(self, failed: str, to: str) -> None:
        self._add("voice_agent_failovers_total", f'{{from="{failed}",to="{to}"}}')

    def fell_back(self, kind: str) -> None:
        self._add("voice_agent_fallbacks_total", f'{{kind="{kind}"}}')

    def tool_called(self, tool: str, outcome: str) -> None:
        self._add("voice_agent_tool_calls_total", f'{{tool="{tool}",outcome="{outcome}"}}')

    def summed_up(self, outcome: str) -> None:
        self._add("voice_agent_summaries_total", f'{{outcome="{outcome}"}}')

    def responded(self, seconds: float) -> None:
        self._add("voice_agent_response_seconds_sum", "", seconds)
        self._add("voice_agent_response_seconds_count", "")

    def underrun(self) -> None:
        self._add("voice_agent_underruns_total", "")

    def tokens(self, provider: str, prompt: int, completion: int) -> None:
        self._add("voice_agent_llm_tokens_total", f'{{provider="{provider}",kind="prompt"}}', prompt)
        self._add("voice_agent_llm_tokens_total", f'{{provider="{provider}",kind="completion"}}', completion)

    def heard(self, provider: str, seconds: float) -> None:
        self._add("voice_agent_stt_seconds_total", f'{{provider="{provider}"}}', seconds)

    def spoke(self, provider: str, characters: int) -> None:
        self._add("voice_agent_tts_characters_total", f'{{provider="{provider}"}}', characters)

    def defect(self, name: str) -> None:
        self._add("voice_agent_defects_total", f'{{defect="{name}"}}')

    @contextmanager
    def connected(self, vendor: str) -> Iterator[None]:
        """While a WebSocket to a vendor is open."""
        self._sockets[vendor] += 1
        try:
            yield
        finally:
            self._sockets[vendor] -= 1

    def text(self, open_calls: int, pools: Mapping[str, int]) -> str:
        """The exposition of everything counted so far, with the open connections of each pool.

        Must be called on the event loop.
        """
        connections = {**pools, **self._sockets}
        values = {name: dict(by_label) for name, by_label in self._counts.items()}
        values["voice_agent_open_calls"] = {"": open_calls}
        values |= {name: {"": value} for name, value in vitals().items()}
        values["process_open_connections"] = {f'{{pool="{pool}"}}': number for pool, number in connections.items()}
        lines: list[str] = []
        for name, (kind, about) in _HELP.items():
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
            for series in (name, f"{name}_sum", f"{name}_count") if kind == "summary" else (name,):
                lines += [f"{series}{labels} {value:.10g}" for labels, value in sorted(values.get(series, {}).items())]
        return "\n".join(lines) + "\n"

    def _add(self, name: str, labels: str, amount: float = 1) -> None:
        self._counts[name][labels] += amount
