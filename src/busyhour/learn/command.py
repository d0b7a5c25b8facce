"""`busyhour learn`: the proxy in the foreground, until enough was seen; what it learned, in a profile."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from busyhour.clock import SystemClock, wall_time
from busyhour.emulate.grammar import time_about
from busyhour.emulate.serve import within
from busyhour.emulate.vendors import Vendor, vendor
from busyhour.errors import PlanError
from busyhour.learn.lessons import Lessons
from busyhour.learn.llm import ANTHROPIC, GEMINI, OPENAI, LanguageModel
from busyhour.learn.proxy import Upstream, check_reachable, passing
from busyhour.learn.stt import DeepgramStudent
from busyhour.learn.student import Student
from busyhour.learn.tts import CartesiaStudent, ElevenLabsStudent
from busyhour.learn.vectors import Vectors
from busyhour.learn.waits import Waits
from busyhour.model import SECOND

EXAMPLE = "busyhour learn openai --upstream https://api.openai.com/v1 --port 8002 --profile openai.json --requests 200"
NOTHING_LEARNED = 2  # as for a run in which nothing was measured
_WRITE_EVERY_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_STUDENTS: Mapping[str, Callable[[Lessons], Student]] = {
    "openai": lambda lessons: LanguageModel(lessons, OPENAI),
    "anthropic": lambda lessons: LanguageModel(lessons, ANTHROPIC),
    "gemini": lambda lessons: LanguageModel(lessons, GEMINI),
    "deepgram": DeepgramStudent,
    "cartesia": CartesiaStudent,
    "elevenlabs": ElevenLabsStudent,
    "pinecone": Vectors,
}


@dataclass(frozen=True, kw_only=True)
class _Task:
    vendor: Vendor
    upstream: Upstream
    path: Path
    port: int
    requests: int | None
    seconds: float | None


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vendor", help=f"one of {', '.join(_STUDENTS)}")
    parser.add_argument("--upstream", required=True, metavar="URL", help="the vendor, like https://api.openai.com/v1")
    parser.add_argument("--profile", required=True, metavar="FILE", help="where to write what was learned")
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1 (default 0: any free one)")
    parser.add_argument("--requests", type=int, metavar="N", help="end after so many (default: at Ctrl-C)")
    parser.add_argument("--seconds", type=float, metavar="N", help="end after so long (default: at Ctrl-C)")


def learn(asked: argparse.Namespace, out: TextIO) -> int:
    """Serve until enough was seen, Ctrl-C or SIGTERM; 0 if something was learned, else 2.

    Raises PlanError for what cannot be, ServiceError when the upstream or the port cannot be had.
    """
    task = _Task(
        vendor=vendor(asked.vendor),
        upstream=Upstream.parse(asked.upstream, vendor(asked.vendor).api),
        path=Path(asked.profile),
        port=asked.port,
        requests=asked.requests,
        seconds=asked.seconds,
    )
    if not 0 <= task.port <= 65535:
        raise PlanError(f"--port {task.port}: a port is from 0 (any free one) to 65535")
    for name, value in (("--requests", task.requests), ("--seconds", task.seconds)):
        if value is not None and not 0 < value < float("inf"):
            raise PlanError(f"{name} {value:g}: give a number above 0, or leave it out to end at Ctrl-C")
    if task.path.is_dir() or not task.path.absolute().parent.is_dir():
        raise PlanError(f"--profile {task.path}: no file can be made there; give a file in a folder that exists")
    return asyncio.run(_learn(task, out))


async def _learn(task: _Task, out: TextIO) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, ended.set)
    await check_reachable(task.upstream)
    lessons = Lessons()
    async with passing(task.upstream, _STUDENTS[task.vendor.name](lessons), task.port) as port:
        origin = f"http://127.0.0.1:{port}"
        out.write(f"learning from {task.upstream.origin} at {origin}{task.vendor.api} (Ctrl-C ends it)\n")
        out.write("point your agent at it, and let it work as ever; its key passes, and is not kept:\n")
        out.writelines(f"  {line}\n" for line in task.vendor.pointed_at(origin))
        out.flush()
        await _watch(task, lessons, ended, out)
    if not _write(task, lessons):
        abandoned = "".join(f"; {_timed(name, waits)}" for name, waits in sorted(lessons.waits.items()))
        out.write(f"\nnothing was learned: no request came that {task.vendor.name}'s profile is made of{abandoned}\n")
        return NOTHING_LEARNED
    out.write(f"\n{task.path}: {seen(lessons)}\nreplay it: busyhour emulate {task.vendor.name} --profile {task.path}\n")
    return 0


async def _watch(task: _Task, lessons: Lessons, ended: asyncio.Event, out: TextIO) -> None:
    clock = SystemClock()
    began_ns = written_ns = clock.now_ns()
    written = 0
    while not await within(ended, _LOOK_SECONDS):
        now_ns = clock.now_ns()
        if task.requests is not None and lessons.finished >= task.requests:
            return
        if task.seconds is not None and now_ns - began_ns >= task.seconds * SECOND:
            return
        if now_ns - written_ns >= _WRITE_EVERY_SECONDS * SECOND:
            written_ns = now_ns
            if lessons.finished > written:
                written = lessons.finished
                _write(task, lessons)
                out.write(f"{(now_ns - began_ns) / SECOND:8.1f} s  {seen(lessons)}\n")
                out.flush()


def _write(task: _Task, lessons: Lessons) -> bool:
    profile = lessons.profile(vendor=task.vendor.name, upstream=task.upstream.origin, learned=wall_time())
    if profile is not None:
        profile.write(task.path)
    return profile is not None


def seen(lessons: Lessons) -> str:
    """ "30 seen: first_token p50 341 ms, p95 690 ms (n=30); 1 http_429"; of what was abandoned: how often, and by how
    much the tail may be longer than it looks."""
    parts = [_timed(name, waits) for name, waits in sorted(lessons.waits.items())]
    parts += [f"{count} {outcome}" for outcome, count in sorted(lessons.outcomes.items())]
    return f"{lessons.finished} seen: {'; '.join(parts) or 'nothing to time'}"


def _timed(name: str, waits: Waits) -> str:
    curve = waits.curve()
    longest = time_about(curve.longest_ms)
    if not waits.came:
        return f"{name} never came: {waits.abandoned} abandoned before it, after at most {longest}"
    p50, p95 = (f"{'' if curve.knows(q) else 'more than '}{time_about(curve.quantile(q))}" for q in (0.5, 0.95))
    if not waits.abandoned:
        return f"{name} p50 {p50}, p95 {p95} (n={waits.came})"
    told = f"{name} p50 {p50}, p95 {p95} (n={waits.came}, and {waits.abandoned} abandoned before it: longer waits)"
    if curve.unseen:
        told += f", the slowest {100 * curve.unseen:.2g}% more than {longest}, nobody knows how much"
    return told
