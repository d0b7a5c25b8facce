"""The caller's end of a call: what a workload holds."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from busyhour.carriers.endings import End
from busyhour.media.leg import Leg
from busyhour.model import JSON, MS, Audio, CallFailed, Clock, Heard, Spoken
from busyhour.recording import Sound

DIGIT_NS = 100 * MS
PAUSE_NS = 100 * MS


class OpenCall(Protocol):
    """The carrier's side of a call whose media are open."""

    @property
    def clock(self) -> Clock: ...

    @property
    def leg(self) -> Leg: ...

    @property
    def answered_ns(self) -> int: ...

    @property
    def trail(self) -> deque[tuple[int, str]]: ...

    @property
    def end(self) -> End | None: ...

    def detail(self) -> Mapping[str, JSON]: ...

    def press(self, digit: str) -> None: ...

    def hang_up(self) -> None: ...


class CallerLine:
    """A `model.Line` on a call of any carrier."""

    def __init__(self, call: OpenCall) -> None:
        self._call = call
        self._leg = call.leg
        self._leg.disturbance.lines.add(call)

    @property
    def answered_ns(self) -> int:
        return self._call.answered_ns

    @property
    def opened_ns(self) -> int:
        return self._leg.opened_ns

    @property
    def trail(self) -> Sequence[tuple[int, str]]:
        """What happened so far, as (at_ns, sentence), at most the last 1,000."""
        return tuple(self._call.trail)

    @property
    def detail(self) -> Mapping[str, JSON]:
        """What a person should know beside the outcome: frames dropped and why, malformed, unread. Mostly empty."""
        return self._call.detail()

    def recorded(self) -> Sound | None:
        """What was said and heard, once the call is over, if its setup asked for it; only once."""
        return self._leg.recorded()

    async def say(self, audio: Audio) -> Spoken:
        return await self._leg.say(audio)

    async def hear(self, until_ns: int) -> Heard | None:
        return await self._leg.hear(until_ns)

    async def press(self, digits: str) -> None:
        """Press the keys, each for 100 ms with 100 ms between. Raises CallFailed, ValueError for what is no key."""
        if not re.fullmatch(r"[0-9A-D*#]+", digits):
            raise ValueError(f"{digits!r}: keys are 0-9, A-D, * and #")
        clock = self._call.clock
        for digit in digits:
            if self._call.end is not None:
                raise CallFailed(self._call.end.why, self._call.end.detail)
            # A receiver reports a key when it is released.
            await clock.sleep_until(clock.now_ns() + DIGIT_NS)
            self._call.press(digit)
            await clock.sleep_until(clock.now_ns() + PAUSE_NS)

    async def hang_up(self) -> None:
        self._call.hang_up()
