"""Indicators: from a run to a number with its interval. They hide nothing: what never came is infinitely late.

An indicator over nothing gives n = 0 and no value; an indicator of turns in a phase without turns is one. Each names
the definition it follows. `phase` is a model.Phase or its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from busyhour.errors import PlanError
from busyhour.indicators import readings, vendors
from busyhour.indicators.cost import Cost, Prices, list_prices
from busyhour.indicators.growth import KeptPerCall
from busyhour.indicators.halves import SecondOverFirst
from busyhour.indicators.probing import CpuPerCall, SampleGrowth, SampleMean
from busyhour.indicators.requests import ErrorRate, RequestLatency, RequestRate
from busyhour.indicators.shapes import (
    CountOf,
    Dropped,
    EventsPer,
    MeanOf,
    QuantileOf,
    SampleQuantile,
    ShareOf,
    across,
    lowest,
)
from busyhour.model import JSON, Indicator, Phase, Service
from busyhour.statistics.leaks.cause import Sensor

__all__ = [
    "Cost",
    "CountOf",
    "CpuPerCall",
    "Dropped",
    "ErrorRate",
    "EventsPer",
    "KeptPerCall",
    "MeanOf",
    "Prices",
    "QuantileOf",
    "RequestLatency",
    "RequestRate",
    "SampleGrowth",
    "SampleMean",
    "SampleQuantile",
    "SecondOverFirst",
    "ShareOf",
    "across",
    "agent_interruptions",
    "agent_talk_share",
    "barge_in_stop",
    "call_setup",
    "call_success",
    "cost_per_call",
    "cost_per_minute",
    "cpu_per_call",
    "dead_air",
    "dropped",
    "error_rate",
    "failover_time",
    "first_audio_latency",
    "growth_per_call",
    "growth_per_hour",
    "kept_per_call",
    "log_per_call",
    "log_per_hour",
    "loop_lag",
    "lowest",
    "mean_probed",
    "mean_response_latency",
    "missed_turns",
    "probed",
    "recovery_time",
    "request_latency",
    "request_rate",
    "response_latency",
    "said",
    "second_half_over_first",
    "send_lateness",
    "sensible_speech",
    "service_latency",
    "structured_answers",
    "tool_calls",
    "transfers",
    "underruns",
    "word_error_rate",
    "yield_rate",
]


def _name(phase: Phase | str) -> str:
    return phase if isinstance(phase, str) else phase.name


# ---------------------------------------------------------------- latency


def response_latency(phase: Phase | str, q: float = 0.95) -> QuantileOf:
    """From the end of the caller's speech to the start of the agent's, per turn, the greeting excluded.

    "Response latency" in EVA (docs/metrics/turn_taking.md: first_asst_start - last_user_end) and L_R in tau-voice
    (docs/interaction-metrics.md). Ours ends at the caller's ear. An agent that cuts in has a latency of 0; an
    unanswered turn is infinitely late.
    """
    return QuantileOf("response latency", _name(phase), q, "ms", "turns", readings.response_ms)


def mean_response_latency(phase: Phase | str) -> MeanOf:
    """The mean of `response_latency`, for targets that say "average"; infinite if one turn was never answered."""
    return MeanOf("response latency", _name(phase), "ms", "turns", readings.response_ms)


def first_audio_latency(phase: Phase | str, q: float = 0.95) -> QuantileOf:
    """From the answered call to the agent's first sound, per call.

    Pipecat's `on_first_bot_speech_latency`, Coval's "Time to First Audio". A call that was never greeted is infinitely
    late.
    """
    return QuantileOf("first-audio latency", _name(phase), q, "ms", "greetings", readings.greeting_ms)


def call_setup(phase: Phase | str, q: float = 0.95) -> QuantileOf:
    """From the arrival to the agent's answer, per call (livekit-cli's dispatch -> joined; telephony's post-dial delay).

    A call that the agent did not take is infinitely late.
    """
    return QuantileOf("call setup time", _name(phase), q, "ms", "calls", readings.setup_ms)


def barge_in_stop(phase: Phase | str, q: float = 0.95) -> QuantileOf:
    """From the start of the caller's interruption to the agent's last sound.

    "Yield latency" L_Y in tau-voice and `yield_ms` in EVA (audio_end[t-1] - user_audio_start[t]). An agent that did not
    stop is infinitely late; one that was not speaking had nothing to stop and is not counted.
    """
    return QuantileOf("barge-in stop time", _name(phase), q, "ms", "interruptions", readings.yield_ms)


def dead_air(phase: Phase | str, q: float = 1.0) -> QuantileOf:
    """The longest silence that the agent owes in a turn, in seconds: until its answer, until the caller gave up on it,
    or within the answer.

    hotato's dead air (flagged from 5 s on). At q = 1 it is the worst of the run: an exact statement, of this run only.
    """
    return QuantileOf("dead air", _name(phase), q, "s", "turns", readings.dead_air_s)


# ---------------------------------------------------------------- rates


def missed_turns(phase: Phase | str) -> ShareOf:
    """The share of the caller's turns that were never answered: 100 % less tau-voice's response rate R_R; EVA's
    `missed_turn`."""
    return ShareOf("share of missed turns", _name(phase), "turns", readings.missed)


def yield_rate(phase: Phase | str, within_ms: float = 2000) -> ShareOf:
    """The share of interruptions that the agent yielded to in time: R_Y of tau-voice, within 2.0 s as there."""
    name = "yield rate" if within_ms == 2000 else f"yield rate within {within_ms:g} ms"
    return ShareOf(name, _name(phase), "interruptions", readings.YieldedWithin(within_ms))


def call_success(phase: Phase | str) -> ShareOf:
    """The share of calls that were set up and went through their scenario to the end (telephony's completion rate)."""
    return ShareOf("rate of successful calls", _name(phase), "calls", readings.succeeded, explain=readings.why_failed)


def agent_interruptions(phase: Phase | str) -> EventsPer:
    """The agent's stretches of speech that begin while the caller speaks, per turn of the caller, in percent.

    I_A in tau-voice, which may exceed 100 % there too; EVA counts the same segments.
    """
    return EventsPer("rate of agent interruptions", _name(phase), "%", "interruptions", "turns", readings.interruptions)


def underruns(phase: Phase | str) -> EventsPer:
    """Gaps inside the agent's speech, per minute of it.

    Per minute and not as a share of time: a listener counts stutters, and a count has an exact interval where a run has
    none or few of them. Pauses long enough to be silence are `dead_air`.
    """
    return EventsPer("underrun rate", _name(phase), "/min", "underruns", "minutes of agent speech", readings.gaps)


def word_error_rate(phase: Phase | str) -> EventsPer:
    """The word error rate at the agent's ear: (S + D + I) / N over normalised words, pooled over calls.

    EVA's `stt_wer`, there with the Whisper normaliser; ours removes case, punctuation and apostrophes, and writes no
    numbers out. The transcriber's connections are matched to calls by the timing of speech; words that no connection
    heard were deleted.
    """
    return EventsPer("word error rate", _name(phase), "%", "word errors", "words", readings.misheard)


def agent_talk_share(phase: Phase | str) -> MeanOf:
    """Agent talk time over the time of the conversation, per call, in percent (Amazon Connect Contact Lens).

    Not Cekura's ratio of the agent's time to the caller's, which bears the same name elsewhere.
    """
    return MeanOf("agent talk share", _name(phase), "%", "calls", readings.talk_share)


# ---------------------------------------------------------------- when a vendor fails


def failover_time(phase: Phase | str, services: Sequence[Service | str], q: float = 1.0) -> QuantileOf:
    """From a request that failed to the first token or sound of what was served instead by any of `services`, seconds.

    What the agent adds to the caller's wait by trying the failed vendor first. Infinite where nothing was served.
    """
    names = frozenset(service if isinstance(service, str) else service.name for service in services)
    return QuantileOf("failover time", _name(phase), q, "s", "failed requests", vendors.Failover(names))


def recovery_time(phase: Phase | str, service: Service | str) -> QuantileOf:
    """From the end of the phase's faults to the next request that `service` served, in seconds: until the breaker
    closes, and who was bypassed is trusted again. Needs calls after the fault; infinite if it was not asked again.
    """
    name = service if isinstance(service, str) else service.name
    return QuantileOf("recovery time", _name(phase), 1.0, "s", "faults", vendors.Recovery(name))


def transfers(phase: Phase | str) -> ShareOf:
    """The share of calls that the agent ended by a transfer, as the carrier carried it out."""
    return ShareOf("share of transferred calls", _name(phase), "calls", readings.transferred)


# ---------------------------------------------------------------- what was said and done


def sensible_speech(phase: Phase | str) -> ShareOf:
    """The share of what the agent had said, by its synthesiser or the carrier's voice, that could be said to a caller:
    whole sentences, at least two words, no error messages. Rules, not a judge: they catch a reply that was cut off."""
    return ShareOf("share of sensible speech", _name(phase), "utterances", vendors.sensible)


def said(phase: Phase | str, pattern: str, name: str = "") -> CountOf:
    """How many of the agent's utterances match the regular expression, in any case. Raises PlanError."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise PlanError(f"said({pattern!r}): it is no regular expression: {error}") from None
    return CountOf(name or f"count of utterances like {pattern!r}", _name(phase), vendors.Said(pattern))


def tool_calls(phase: Phase | str, *tools: str) -> CountOf:
    """How many of the language model's answers called one of `tools`; none named: any."""
    name = f"count of calls of {' or '.join(tools)}" if tools else "count of tool calls"
    return CountOf(name, _name(phase), vendors.Called(frozenset(tools)))


def structured_answers(phase: Phase | str, *keys: str, **values: JSON) -> CountOf:
    """How many of the language model's answers were to a schema, and are JSON objects that have these keys and, of
    those named with one, that value: `structured_answers(phase, "reason", hostile=True)`."""
    told = ", ".join([*keys, *(f"{key} = {value}" for key, value in values.items())])
    name = f"count of structured answers with {told}" if told else "count of structured answers"
    return CountOf(name, _name(phase), vendors.Structured(frozenset(keys), tuple(values.items())))


def cost_per_minute(phase: Phase | str = "", prices: Prices | None = None) -> Cost:
    """What the vendors and the carrier would have charged per minute of call, by a price list (yours, or the list
    prices that are shipped); without a phase, of the whole run."""
    return Cost("minute", _name(phase), prices or list_prices())


def cost_per_call(phase: Phase | str = "", prices: Prices | None = None) -> Cost:
    """The same, per answered call."""
    return Cost("call", _name(phase), prices or list_prices())


# ---------------------------------------------------------------- requests and functions


def request_latency(phase: Phase | str, q: float = 0.95) -> RequestLatency:
    """From when a request (or a function) was due to the last byte of its answer; one that failed is infinitely late.

    Response time from the schedule, so that no omission is coordinated with the target (wrk2's corrected latency, but
    measured). Requests are counted in buckets of at most 1 %, whose upper edges are what is told.
    """
    return RequestLatency(_name(phase), q)


def service_latency(phase: Phase | str, q: float = 0.95) -> RequestLatency:
    """From when a request was written to a connection, of those that were answered right: what closed-loop tools call
    latency. To be read beside `request_latency`; where they differ, requests had to wait for a connection."""
    return RequestLatency(_name(phase), q, "service latency", "service_ms")


def request_rate(phase: Phase | str) -> RequestRate:
    """Right answers a second, from the beginning of the phase to the last of them (throughput, goodput)."""
    return RequestRate(_name(phase))


def error_rate(phase: Phase | str) -> ErrorRate:
    """The share of requests (or functions) without a right answer: refused, late, broken off, or wrong."""
    return ErrorRate(_name(phase))


# ---------------------------------------------------------------- the harness and the probes


def send_lateness(q: float = 0.99) -> SampleQuantile:
    """How late the harness put frames on the wire (what RFC 3550 calls jitter, at its source), in the worst phase.

    Every frame counts. By phase, because a stall that spoils a short phase is nothing in a long run.
    """
    return SampleQuantile(
        "send lateness", "harness", "send_lateness_ms", q, "ms", needless=readings.no_frame_due, worst_phase=True
    )


def loop_lag(q: float = 0.99) -> SampleQuantile:
    """How late the harness's own event loop ran its timers, in the worst phase."""
    return SampleQuantile("loop lag of the harness", "harness", "loop_lag_ms", q, "ms", worst_phase=True)


def dropped(*phases: Phase | str) -> Dropped:
    """How many arrivals were due and found no place (open workload: load that was not offered); no phase: all."""
    return Dropped(tuple(_name(phase) for phase in phases))


_UNITS = {"ms": "ms", "s": "s", "mb": "MB", "kb": "KB", "bytes": "bytes", "pct": "%"}


def _reading(service: Service | str, name: str) -> tuple[str, str, str]:
    """The service's name, what the reading is called, and its unit."""
    watched = service if isinstance(service, str) else service.name
    per_second = name.endswith("_per_second")
    stem, _, end = name.removesuffix("_per_second").rpartition("_")
    has_unit = bool(stem) and end in _UNITS
    plain = (stem if has_unit else name.removesuffix("_per_second")).replace("_", " ")
    unit = _UNITS[end] if has_unit else ""
    return watched, f"{plain} of {watched}", f"{unit}/s" if per_second else unit


def probed(service: Service | str, name: str, q: float = 1.0, phase: Phase | str | None = None) -> SampleQuantile:
    """A quantile of a probe's samples, by default the highest: `probed("agent", "rss_mb")`.

    Its unit ends the name: "rss_mb" is in MB, "disk_written_mb_per_second" in MB/s, "threads" has none.
    """
    watched, what, unit = _reading(service, name)
    return SampleQuantile(what, watched, name, q, unit, None if phase is None else _name(phase))


def mean_probed(service: Service | str, name: str, phase: Phase | str) -> SampleMean:
    """The mean of a probe's samples over the time of the phase: `mean_probed(agent, "cpu_pct", steady)`.

    Each weighs as much as the time since the one before it. Exact, for this run.
    """
    watched, what, unit = _reading(service, name)
    return SampleMean(what, watched, name, unit, _name(phase))


def growth_per_hour(service: Service | str, total: str, phase: Phase | str) -> SampleGrowth:
    """By how much a total that a probe reads ("disk_written_mb") grew in the phase, by the hour. Exact, of this run."""
    watched, what, unit = _reading(service, total)
    return SampleGrowth(f"growth of {what}", watched, total, f"{unit}/h", _name(phase), per_call=False)


def growth_per_call(service: Service | str, total: str, phase: Phase | str) -> SampleGrowth:
    """The same by the call completed in the phase; of MB in KB."""
    watched, what, unit = _reading(service, total)
    named = f"growth of {what}"
    if unit == "MB":
        return SampleGrowth(named, watched, total, "KB", _name(phase), per_call=True, factor=1000)
    return SampleGrowth(named, watched, total, unit, _name(phase), per_call=True)


def log_per_hour(service: Service | str, phase: Phase | str, total: str = "output_mb") -> SampleGrowth:
    """What a service logs, in MB an hour: to its stdout and stderr, as `Process` reads it of what the plan has started;
    or as another probe reads it (`Files`)."""
    watched = service if isinstance(service, str) else service.name
    return SampleGrowth(f"log of {watched}", watched, total, "MB/h", _name(phase), per_call=False)


def log_per_call(service: Service | str, phase: Phase | str, total: str = "output_mb") -> SampleGrowth:
    """The same by the call completed in the phase, in KB."""
    watched = service if isinstance(service, str) else service.name
    return SampleGrowth(f"log of {watched}", watched, total, "KB", _name(phase), per_call=True, factor=1000)


def cpu_per_call(service: Service | str, phase: Phase | str) -> CpuPerCall:
    """Processor time of a service for each call completed in the phase, in ms, what it takes at rest included."""
    return CpuPerCall(service if isinstance(service, str) else service.name, _name(phase))


def second_half_over_first(indicator: Indicator) -> SecondOverFirst:
    """Any indicator of one phase, in the second half of its time over that in the first: 1.1 is 10 % more.

    `AtMost(second_half_over_first(response_latency(soak, q=0.5)), 1.1)` allows a latency to grow by a tenth, and
    `AtLeast(second_half_over_first(call_success(soak)), 0.95)` one call in twenty to be lost more. Raises PlanError for
    an indicator of several phases, or of the whole run.
    """
    return SecondOverFirst(indicator)


# ---------------------------------------------------------------- leaks


def kept_per_call(
    service: Service | str, batches: Sequence[Phase | str], sensor: Sensor = Sensor.PRIVATE_DIRTY
) -> KeptPerCall:
    """By how much a call makes the memory of a service grow that it does not give back, in KB (10^3 bytes).

    batches: phases, each of which is a batch of calls. It is read when all calls of one are over, so that what a call
    in progress takes is not in it. The first is the warm-up: only what the others add counts.
    """
    name = service if isinstance(service, str) else service.name
    return KeptPerCall(name, tuple(_name(phase) for phase in batches), sensor)
