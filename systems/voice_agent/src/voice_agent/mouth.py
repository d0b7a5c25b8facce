"""What the caller hears, and when: paces our sound into the carrier's stream.

The carrier plays what it gets in real time and queues the rest. Sending everything at once would be simple, and deaf to
interruption without `clear`; sending each frame just in time would stutter with every hiccup of the loop. So it stays
at most 200 ms ahead of the ear: a clock of our own says when the last frame sent will have been played.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Awaitable, Callable

from voice_agent.audio import BYTES_PER_MS, FRAME_BYTES, FRAME_MS, SILENCE
from voice_agent.metrics import Metrics

_LEAD_SECONDS = 0.2
_REFILL_SECONDS = 0.06  # frames sent at one waking: three
_FRAME_SECONDS = FRAME_MS / 1000
_MARK_GRACE_SECONDS = 1.0  # the carrier's word that all was played may come so late
_GAP_AFTER_SECONDS = 0.6  # into the reply, for the defect gappy_audio
_CLEAR = json.dumps({"event": "clear"})


class Mouth:
    """One a call. `begin` a reply, `play` its sound, `end` it, wait until it was `played`; or `clear` it."""

    def __init__(
        self, send: Callable[[str], Awaitable[None]], *, metrics: Metrics, gap_seconds: Callable[[], float]
    ) -> None:
        self._send = send
        self._metrics = metrics
        self._gap_seconds = gap_seconds
        self._queue: deque[bytes | str] = deque()  # frames, and messages that must keep their place among them
        self._partial = b""  # the beginning of a frame whose rest has not come yet
        self._ends_at = 0.0  # when all that was sent will have been played, on the loop's clock
        self._sent_seconds = 0.0  # of the reply in progress
        self._gap_due = 0.0
        self._ended = True
        self._on_first: Callable[[], None] | None = None
        self._wake = asyncio.Event()
        self._marks: dict[str, asyncio.Event] = {}
        self._replies = 0
        self._loop = asyncio.get_running_loop()

    @property
    def sounding(self) -> bool:
        """Whether the caller hears us now, or is about to."""
        return bool(self._queue) or self._loop.time() < self._ends_at

    @property
    def played_ms(self) -> float:
        """How much of the reply in progress the caller has heard."""
        return 1000 * max(0.0, self._sent_seconds - max(0.0, self._ends_at - self._loop.time()))

    def begin(self, on_first: Callable[[], None]) -> None:
        """A new reply begins; `on_first` is called when its first frame is sent."""
        self._replies += 1
        self._sent_seconds, self._partial, self._ended = 0.0, b"", False
        self._gap_due = self._gap_seconds()
        self._on_first = on_first

    def play(self, mulaw: bytes) -> None:
        """Sound of the reply, in pieces of any length."""
        sound = self._partial + mulaw
        whole = len(sound) - len(sound) % FRAME_BYTES
        self._queue.extend(sound[at : at + FRAME_BYTES] for at in range(0, whole, FRAME_BYTES))
        self._partial = sound[whole:]
        self._wake.set()

    def end(self) -> None:
        """The reply is complete; the carrier is asked to tell when it has been heard."""
        if self._partial:
            self._queue.append(self._partial.ljust(FRAME_BYTES, SILENCE))
            self._partial = b""
        name = f"reply-{self._replies}"
        self._marks[name] = asyncio.Event()
        self._queue.append(json.dumps({"event": "mark", "mark": {"name": name}}))
        self._ended = True
        self._wake.set()

    async def played(self) -> None:
        """Until the caller has heard the ended reply: by the carrier's word, or by our own clock if that is missing."""
        name = f"reply-{self._replies}"
        mark = self._marks[name]
        try:
            while not mark.is_set():
                queued = len(self._queue) * _FRAME_SECONDS + max(0.0, self._ends_at - self._loop.time())
                try:
                    async with asyncio.timeout(queued + _MARK_GRACE_SECONDS):
                        await mark.wait()
                except TimeoutError:
                    if not self.sounding:
                        return
        finally:
            self._marks.pop(name, None)

    def settle(self) -> bool:
        """Whether all of an ended reply has been played; if so its mark, on its way or lost, is not waited for."""
        done = self._ended and not self.sounding
        if done:
            self.marked(f"reply-{self._replies}")
        return done

    def marked(self, name: str) -> None:
        """The carrier tells that everything before the mark was played."""
        if mark := self._marks.get(name):
            mark.set()

    def clear(self) -> None:
        """Be silent now: drop what waits, here and at the carrier's."""
        sounding = self.sounding
        self._queue.clear()
        self._on_first = None
        self._partial, self._ended = b"", True
        self._sent_seconds = self.played_ms / 1000
        self._ends_at = 0.0
        self._marks.clear()  # the carrier returns the marks of what it drops: they tell of nothing heard
        if sounding:
            self._queue.append(_CLEAR)
            self._wake.set()

    async def run(self) -> None:
        """Send, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._queue:
                    ahead = self._ends_at - self._loop.time()
                    if ahead + _FRAME_SECONDS > _LEAD_SECONDS and isinstance(self._queue[0], bytes):
                        await self._pause(ahead - _LEAD_SECONDS + _REFILL_SECONDS)
                        continue
                    await self._send_next()
        finally:
            self._on_first = None  # it knows the reply, and that knows us

    async def _send_next(self) -> None:
        message = self._queue.popleft()
        if isinstance(message, str):
            await self._send(message)
            return
        if self._gap_due and self._sent_seconds >= _GAP_AFTER_SECONDS:
            gap_seconds, self._gap_due = self._gap_due, 0.0
            self._queue.appendleft(message)
            await self._pause(max(0.0, self._ends_at - self._loop.time()) + gap_seconds)
            return
        payload = base64.b64encode(message).decode()
        now = self._loop.time()
        if self._sent_seconds and now > self._ends_at:
            self._metrics.underrun()
        self._ends_at = max(self._ends_at, now) + len(message) / BYTES_PER_MS / 1000
        self._sent_seconds += len(message) / BYTES_PER_MS / 1000
        if (first := self._on_first) is not None:
            self._on_first = None
            first()
        await self._send(f'{{"event":"media","media":{{"payload":"{payload}"}}}}')

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not through a `clear`, which must go out at once."""
        until = self._loop.time() + seconds
        while (left := until - self._loop.time()) > 0 and self._queue and self._queue[0] != _CLEAR:
            self._wake.clear()
            timer = self._loop.call_later(left, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()
