"""What the vendors' twins cost, and how true their first byte is: CPU with 50 streams, and the error of the setting.

    python benchmarks/twins.py [--only NAME ...] [--streams 50] [--seconds 3]

Each twin runs as its own process, as in a run; the load comes from this one, over raw sockets. The rates are those of
telephone calls: a language model answers each stream every 3 s, a voice speaks without a pause, an ear hears 20 ms
frames in real time (an utterance, 2 s of silence, and so on), a vector database is asked once a second.

CPU is that of the twin's process in percent of one core, while the streams run. The error is measured here: from a
request sent (or the end of speech) to the first token, audio or result, minus the setting, a constant. It contains
this process's own lateness. The exchanges without load are spread over settings that differ by parts of a millisecond,
so that a twin whose timers rounded would not look exact. Exit code 1 if a twin takes 25 % of a core or more, is late by
more than 1 ms at the median, or does not run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table
from twins_load import Ear, Http, Load, Voice

from busyhour import proc
from busyhour.emulators import Anthropic, Cartesia, Deepgram, ElevenLabs, Gemini, OpenAI, Pinecone
from busyhour.errors import ServiceError
from busyhour.model import JSON, SECOND, Endpoint

SETTINGS_MS = (50.0, 50.25, 50.5, 50.75)
CPU_AT_MOST_PERCENT = 25
P50_AT_MOST_MS = 1.0
ALONE = 8
"""Exchanges one after another for each setting, before the load; a third of it where each takes a sentence."""
WARM_SECONDS = 1.0


# ---------------------------------------------------------------- the twins


class Twin(Protocol):
    """A service whose behaviour can be changed."""

    def running(self, peers: Mapping[str, Endpoint]) -> AbstractAsyncContextManager[Endpoint]: ...

    async def behave(self, endpoint: Endpoint, change: Mapping[str, JSON]) -> Mapping[str, JSON]: ...


@dataclass(frozen=True)
class Subject:
    """latency: the setting that the first byte is held against. alone, loaded: other settings, for those exchanges."""

    name: str
    latency: str
    service: Callable[[], Twin]
    client: Http | Voice | Ear
    alone: Mapping[str, JSON] = field(default_factory=dict)
    loaded: Mapping[str, JSON] = field(default_factory=dict)


_SAYS = "What time are you open today?"
_SENTENCE = "We are open from eight in the morning until six in the evening."
_END = b"\r\n0\r\n\r\n"
_USER = [{"role": "user", "content": _SAYS}]
_BEARER = "Authorization: Bearer key\r\n"
_REPLY_NS = 3 * SECOND
_TOKENS: tuple[Mapping[str, JSON], ...] = ({"between_tokens": 1}, {"between_tokens": 8})
_INTERIM: Mapping[str, JSON] = {"interim": 10}  # a final leaves behind the interim results before it


def _pinecone() -> Twin:
    random = np.random.default_rng(1)
    values = random.normal(size=(1000, 1536)).round(4)
    records = [{"id": f"v{number}", "values": row.tolist()} for number, row in enumerate(values)]
    return Pinecone(records=records)


def _cartesia(context: str) -> list[Mapping[str, object]]:
    form = {"container": "raw", "encoding": "pcm_mulaw", "sample_rate": 8000}
    voice = {"mode": "id", "id": "v"}
    asked = {"model_id": "sonic-3", "voice": voice, "transcript": _SENTENCE, "output_format": form}
    return [{**asked, "context_id": context, "continue": False}]


def _elevenlabs(context: str) -> list[Mapping[str, object]]:
    begun = {"text": " ", "context_id": context}
    said = {"text": _SENTENCE + " ", "context_id": context, "flush": True}
    return [begun, said, {"context_id": context, "close_context": True}]


def _vector() -> list[float]:
    random = Random(2)
    return [round(random.gauss(0, 1), 4) for _ in range(1536)]


SUBJECTS = (
    Subject(
        "openai chat",
        "first_token",
        OpenAI,
        Http(
            path="/v1/chat/completions",
            headers=_BEARER,
            body={"model": "gpt-4o-mini", "messages": _USER, "stream": True},
            first=b'"delta": {"content": "',
            end=_END,
            period_ns=_REPLY_NS,
        ),
        *_TOKENS,
    ),
    Subject(
        "openai responses",
        "first_token",
        OpenAI,
        Http(
            path="/v1/responses",
            headers=_BEARER,
            body={"model": "gpt-4o-mini", "input": _SAYS, "stream": True},
            first=b"response.output_text.delta",
            end=_END,
            period_ns=_REPLY_NS,
        ),
        *_TOKENS,
    ),
    Subject(
        "anthropic",
        "first_token",
        Anthropic,
        Http(
            path="/v1/messages",
            headers="x-api-key: key\r\nanthropic-version: 2023-06-01\r\n",
            body={"model": "claude-sonnet-4-5", "max_tokens": 200, "messages": _USER, "stream": True},
            first=b"text_delta",
            end=_END,
            period_ns=_REPLY_NS,
        ),
        *_TOKENS,
    ),
    Subject(
        "gemini",
        "first_token",
        Gemini,
        Http(
            path="/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            headers="x-goog-api-key: key\r\n",
            body={"contents": [{"role": "user", "parts": [{"text": _SAYS}]}]},
            first=b'"text": "',
            end=_END,
            period_ns=_REPLY_NS,
        ),
        *_TOKENS,
    ),
    Subject(
        "deepgram",
        "final",
        Deepgram,
        Ear(
            path="/v1/listen?model=nova-3&encoding=mulaw&sample_rate=8000&interim_results=true&endpointing=false",
            headers="Authorization: Token key\r\n",
            ask={"type": "Finalize"},
            first=b'"from_finalize": true',
        ),
        _INTERIM,
    ),
    Subject(
        "deepgram flux",
        "final",
        Deepgram,
        Ear(
            path="/v2/listen?model=flux-general-en&encoding=mulaw&sample_rate=8000",
            headers="Authorization: Token key\r\n",
            ask={"type": "ForceEndTurn"},
            first=b'"EndOfTurn"',
        ),
        _INTERIM,
    ),
    Subject(
        "cartesia",
        "first_audio",
        Cartesia,
        Voice(
            path="/tts/websocket?cartesia_version=2025-04-16&api_key=key",
            headers="",
            messages=_cartesia,
            first=b'"type": "chunk"',
            end=b'"type": "done"',
        ),
    ),
    Subject(
        "elevenlabs",
        "first_audio",
        ElevenLabs,
        Voice(
            path="/v1/text-to-speech/voice/multi-stream-input?model_id=eleven_flash_v2_5&output_format=ulaw_8000",
            headers="xi-api-key: key\r\n",
            messages=_elevenlabs,
            first=b'"audio": "',
            end=b'"isFinal": true',
        ),
    ),
    Subject(
        "pinecone",
        "query",
        _pinecone,
        Http(
            path="/query",
            headers="Api-Key: key\r\n",
            body={"vector": _vector(), "topK": 5, "includeMetadata": True},
            first=b"HTTP/1.1 200",
            end=b'"readUnits": 1}}',
            period_ns=SECOND,
        ),
    ),
)


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, kw_only=True)
class Figures:
    cpu_percent: float
    alone_ms: Sequence[float]
    loaded_ms: Sequence[float]

    def verdict(self) -> str:
        if self.cpu_percent >= CPU_AT_MOST_PERCENT:
            return "too much CPU"
        late_ms = max(float(np.median(self.alone_ms)), float(np.median(self.loaded_ms)))
        return "late" if late_ms > P50_AT_MOST_MS else ""


async def measured(subject: Subject, *, streams: int, seconds: float) -> Figures:
    twin = subject.service()
    async with twin.running({}) as endpoint, asyncio.timeout(seconds + 30):
        alone_ms: list[float] = []
        for setting_ms in SETTINGS_MS:
            await twin.behave(endpoint, {**subject.alone, subject.latency: setting_ms})
            alone = Load(endpoint.url, setting_ms)
            await subject.client.one_by_one(alone, ALONE if isinstance(subject.client, Http) else ALONE // 3)
            alone_ms += alone.errors_ms
        await twin.behave(endpoint, subject.loaded)
        load = Load(endpoint.url, SETTINGS_MS[-1], streams=streams)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(subject.client.stream(load, number)) for number in range(streams)]
            await asyncio.sleep(WARM_SECONDS)
            began, before = time.monotonic(), _cpu_seconds(endpoint.pids)
            await asyncio.sleep(seconds)
            cpu_percent = 100 * (_cpu_seconds(endpoint.pids) - before) / (time.monotonic() - began)
            for task in tasks:
                task.cancel()
    return Figures(cpu_percent=cpu_percent, alone_ms=alone_ms, loaded_ms=load.errors_ms)


def _cpu_seconds(pids: Sequence[int]) -> float:
    return sum(one.cpu_seconds for one in proc.tree(pids))


def _late(errors_ms: Sequence[float]) -> str:
    return f"{np.median(errors_ms):.2f} / {np.percentile(errors_ms, 99):.2f} (n={len(errors_ms)})"


def _row(subject: Subject, *, streams: int, seconds: float) -> tuple[str, str, str, str, str]:
    """What the table says of it."""
    figures, problem = None, ""
    try:
        figures = uvloop.run(measured(subject, streams=streams, seconds=seconds))
    except* (ServiceError, OSError) as problems:
        problem = f"did not run: {problems.exceptions[0]!r:.300}"
    if figures is None:
        return subject.name, "", "", "", problem
    alone, loaded = _late(figures.alone_ms), _late(figures.loaded_ms)
    return subject.name, f"{figures.cpu_percent:.1f}", alone, loaded, figures.verdict()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [subject.name for subject in SUBJECTS]
    parser.add_argument("--only", nargs="+", metavar="NAME", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--streams", type=int, default=50, help="at the same time (default 50)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring each twin under load (default 3)")
    chosen = parser.parse_args(argv)
    if unknown := set(chosen.only) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    if not 1 <= chosen.streams <= 1000 or not 1 <= chosen.seconds <= 60:
        parser.error("--streams is from 1 to 1000, --seconds from 1 to 60")
    gc.freeze()
    subjects = [subject for subject in SUBJECTS if subject.name in chosen.only]
    rows = [_row(subject, streams=chosen.streams, seconds=chosen.seconds) for subject in subjects]
    table = Table("twin", "CPU, % of a core", "alone", "loaded", "", title=f"{chosen.streams} streams a twin")
    table.caption = "late by ms, P50 / P99: alone, one after another; loaded, with all streams"
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return 1 if any(row[-1] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
