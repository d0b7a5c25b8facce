"""Whether a carrier keeps its contract: ours are checked by it, and yours may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from busyhour.clock import SystemClock
from busyhour.errors import ServiceError
from busyhour.model import (
    MS,
    SECOND,
    Audio,
    CallFailed,
    CallSetup,
    Carrier,
    Clock,
    Endpoint,
    Heard,
    HeardKind,
    Line,
    Metered,
    Sample,
)

SLACK_NS = 100 * MS  # more than a frame and a busy machine take
SPEECH_MS = (100, 500)  # of an utterance of 600 ms
TRIES = 3  # to say something on time: a machine that stalls once does not stall each time
SETTLE_ROUNDS = 200  # turns of the loop in which closed connections are let go


async def check_carrier(
    carrier: Carrier,
    target: Endpoint,
    *,
    peers: Mapping[str, Endpoint] | None = None,
    nobody: Endpoint | None = None,
    setup: CallSetup | None = None,
    within_seconds: float = 10.0,
    clock: Clock | None = None,
) -> list[str]:
    """Place calls to `target` and list what is wrong with the carrier, a sentence each; empty if it keeps its contract.

    The target takes every call, speaks of its own accord within `within_seconds`, and stays on the line until the
    caller hangs up. nobody: an endpoint that answers no calls (none: that is not checked). clock: the carrier's.
    """
    check = _Check(carrier, target, setup or CallSetup(id="check/1"), within_seconds, clock or SystemClock())
    if not carrier.name:
        check.problems.append("name is empty: plans and marks speak of it by its name")
    await check.does_not_run_yet()
    tasks = asyncio.all_tasks()
    for turn in ("the first time", "the second time"):
        try:
            async with carrier.running(peers or {}) as endpoint:
                check.expect(isinstance(endpoint, Endpoint), f"running yields {endpoint!r}, not an Endpoint")
                if turn == "the first time":
                    await check.a_call()
                    await check.two_calls()
                    await check.ways_out()
                    if nobody is not None:
                        await check.refused_by(nobody)
                    check.metered()
                else:
                    await check.placed("a call after it was stopped and started again")
        except ServiceError as problem:
            check.problems.append(f"it does not run {turn}: {problem}")
    for _ in range(SETTLE_ROUNDS):
        if not asyncio.all_tasks() - tasks:
            break
        await asyncio.sleep(0)
    left = sorted(task.get_name() for task in asyncio.all_tasks() - tasks)
    check.expect(not left, f"tasks are left behind when it has stopped: {', '.join(left)}")
    return check.problems


class _Left(Exception):
    """The exception by which a call is left."""


@dataclass(eq=False)
class _Check:
    carrier: Carrier
    target: Endpoint
    setup: CallSetup
    within_seconds: float
    clock: Clock
    problems: list[str] = field(default_factory=list)

    def expect(self, kept: bool, problem: str) -> None:
        if not kept:
            self.problems.append(problem)

    # ------------------------------------------------------------ situations

    async def does_not_run_yet(self) -> None:
        try:
            async with asyncio.timeout(self.within_seconds), self.carrier.dial(self.target, self.setup):
                pass  # a carrier without a wire need not run
        except (ServiceError, CallFailed):
            pass
        except TimeoutError:
            self.problems.append("dial hangs on a carrier that does not run; raise ServiceError")

    async def a_call(self) -> None:
        """One call from the ringing to the end."""
        dialled_ns = self.clock.now_ns()
        async with self._line("a call") as line:
            if line is None:
                return
            opened_ns = self.clock.now_ns()
            in_order = dialled_ns <= line.answered_ns <= line.opened_ns <= opened_ns
            self.expect(in_order, "answered_ns and opened_ns do not lie in this order between dialling and the line")
            await self._hears(line)
            await self._says(line)
            await self._presses(line)
            self._describes(line)
            await line.hang_up()
            await line.hang_up()
            await self._is_over(line, "after hang_up")

    async def two_calls(self) -> None:
        async with self._line("the first of two calls") as one, self._line("the second of two calls") as other:
            if one is None or other is None:
                return
            self.expect(one is not other, "two calls at once have one line")
            await one.hang_up()
            heard = await self._next_onset(other)
            self.expect(heard is not None, "when one of two calls is hung up, nothing is heard on the other")

    async def ways_out(self) -> None:
        """A call is ended by whatever ends its context, and that comes out as it is."""
        lines: list[Line] = []
        try:
            async with self._line("a call left by an exception") as line:
                lines += [line] if line is not None else []
                raise _Left
            self.problems.append("an exception inside of a call does not come out of it")
        except _Left:
            pass
        for line in lines:
            await self._is_over(line, "after its context was left by an exception")

        placed = asyncio.Event()

        async def stay() -> None:
            async with self._line("a call left by cancellation"):
                placed.set()
                await asyncio.Event().wait()

        staying = asyncio.create_task(stay())
        await placed.wait()
        staying.cancel()
        done, _ = await asyncio.wait({staying}, timeout=self.within_seconds)
        self.expect(bool(done), f"a cancelled call is not ended within {self.within_seconds:g} s")
        if done and not staying.cancelled() and staying.exception() is not None:
            self.problems.append(f"a cancelled call raises {staying.exception()!r} instead of CancelledError")

    async def refused_by(self, nobody: Endpoint) -> None:
        try:
            async with asyncio.timeout(self.within_seconds), self.carrier.dial(nobody, self.setup):
                self.problems.append(f"dial gives a line to {nobody.url}, where nobody answers")
        except CallFailed as failure:
            short = bool(failure.reason) and ":" not in failure.reason
            self.expect(short, f"CallFailed.reason is {failure.reason!r}: it is a few words without a colon")
            self.expect(bool(failure.detail), f"CallFailed({failure.reason!r}) has no detail that says where and why")
        except TimeoutError:
            self.problems.append(f"dial does not give up within {self.within_seconds:g} s where nobody answers")

    async def placed(self, what: str) -> None:
        async with self._line(what):
            pass

    def metered(self) -> None:
        if isinstance(self.carrier, Metered):
            now_ns = self.clock.now_ns()
            samples = self.carrier.drain(now_ns)
            shaped = all(isinstance(sample, Sample) and sample.at_ns <= now_ns for sample in samples)
            self.expect(shaped, "drain gives what are no Samples of the past")

    # ------------------------------------------------------------ what a line can

    @asynccontextmanager
    async def _line(self, what: str) -> AsyncIterator[Line | None]:
        """The line; None, with the problem written down, where there is none to be had."""
        async with AsyncExitStack() as stack:
            line: Line | None = None
            try:
                async with asyncio.timeout(self.within_seconds):
                    line = await stack.enter_async_context(self.carrier.dial(self.target, self.setup))
            except CallFailed as failure:
                self.problems.append(f"{what} fails: {failure}")
            except TimeoutError:
                self.problems.append(f"{what} has no line within {self.within_seconds:g} s")
            yield line

    async def _hears(self, line: Line) -> None:
        before_ns = self.clock.now_ns()
        await line.hear(before_ns)
        took_ns = self.clock.now_ns() - before_ns
        self.expect(took_ns < SLACK_NS, f"hear(now) takes {took_ns / MS:.0f} ms; it must not wait")
        onset = await self._next_onset(line)
        if onset is None:
            self.problems.append(f"nothing is heard of the target within {self.within_seconds:g} s")
            return
        now_ns = self.clock.now_ns()
        self.expect(
            line.answered_ns <= onset.at_ns <= now_ns + SLACK_NS,
            "an onset is stamped before the call was answered, or in the future",
        )

    async def _next_onset(self, line: Line) -> Heard | None:
        """The next time the far end begins to sound. Events must come in order of time."""
        until_ns = self.clock.now_ns() + round(self.within_seconds * SECOND)
        last_ns = 0
        while (heard := await line.hear(until_ns)) is not None:
            self.expect(heard.at_ns >= last_ns, f"{heard.kind} is told after what came later")
            last_ns = heard.at_ns
            if heard.kind is HeardKind.ONSET:
                return heard
            if heard.kind is HeardKind.ENDED:
                self.problems.append(f"the call is ended by the far end: {heard.detail}")
                return None
        return None

    async def _says(self, line: Line) -> None:
        for left in reversed(range(TRIES)):
            problem = await self._said_wrong(line)
            if problem is None:
                return
            if not left:
                self.problems.append(problem)

    async def _said_wrong(self, line: Line) -> str | None:
        """What is wrong with the saying of one utterance; None if nothing is."""
        audio = _utterance()
        began_ns = self.clock.now_ns()
        try:
            spoken = await line.say(audio)
        except CallFailed as failure:
            return f"say fails on a call that lasts: {failure}"
        ended_ns = self.clock.now_ns()
        if not began_ns <= spoken.began_ns <= spoken.ended_ns <= ended_ns + SLACK_NS:
            return "say's Spoken does not lie between its call and its return"
        speech_ns, lasted_ns = spoken.ended_ns - spoken.began_ns, ended_ns - began_ns
        wanted_ns = (SPEECH_MS[1] - SPEECH_MS[0]) * MS
        if abs(speech_ns - wanted_ns) >= SLACK_NS:
            wrong = f"took {speech_ns / MS:.0f} ms on the wire instead of {wanted_ns / MS:.0f}"
            return f"the speech of an utterance {wrong}"
        length_ns = len(audio.samples) * SECOND // audio.rate_hz
        if lasted_ns <= length_ns - SLACK_NS:
            return f"say returns after {lasted_ns / MS:.0f} ms, before the audio is sent"
        return None

    async def _presses(self, line: Line) -> None:
        try:
            async with asyncio.timeout(self.within_seconds):
                await line.press("12#")
        except CallFailed as failure:
            self.problems.append(f"press fails on a call that lasts: {failure}")
        except TimeoutError:
            self.problems.append(f"press does not return within {self.within_seconds:g} s")

    def _describes(self, line: Line) -> None:
        trail = list(line.trail)
        shaped = all(isinstance(at_ns, int) and isinstance(text, str) for at_ns, text in trail)
        self.expect(shaped, "the trail is not of (at_ns, sentence)")
        self.expect(trail == sorted(trail, key=lambda each: each[0]), "the trail is not in order of time")
        self.expect(isinstance(line.detail, Mapping), "detail is no mapping")

    async def _is_over(self, line: Line, when: str) -> None:
        try:
            async with asyncio.timeout(self.within_seconds):
                await line.say(_utterance())
        except CallFailed:
            pass
        except TimeoutError:
            self.problems.append(f"say hangs {when}; it raises CallFailed")
        else:
            self.problems.append(f"say goes on {when}; it raises CallFailed")
        for _ in range(2):
            heard = await self._last(line)
            ended = heard is not None and heard.kind is HeardKind.ENDED
            self.expect(ended, f"hear gives {heard!r} {when}; at its end it is ENDED, as often as it is asked")

    async def _last(self, line: Line) -> Heard | None:
        """What hear gives when all that was heard before has been taken."""
        heard = await line.hear(self.clock.now_ns() + SECOND)
        while heard is not None and heard.kind is not HeardKind.ENDED:
            heard = await line.hear(self.clock.now_ns() + SECOND)
        return heard


def _utterance() -> Audio:
    samples = np.random.default_rng(1).integers(-9000, 9000, 4800).astype(np.int16)
    return Audio("check", "check", samples, 8000, SPEECH_MS[0] * 8, SPEECH_MS[1] * 8)
