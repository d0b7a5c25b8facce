"""What `speak` and `playback_start` play to the caller, one after the other, with Telnyx's webhooks about it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from busyhour.carriers.sounds import Player, Unplayable
from busyhour.carriers.telnyx.params import Sound
from busyhour.carriers.telnyx.refusals import invalid
from busyhour.model import Samples

QUEUE_MAX = 100


class Telling(Protocol):
    """The call: it knows when the caller hears, and sends the webhooks."""

    async def until_open(self) -> int:
        """Wait until the caller hears: the rate of the caller's ear in Hz."""
        ...

    def event(self, type_: str, **payload: Any) -> object: ...


class Sounds:
    """The queue of one call, played by a task that `spawn` runs until the call ends, and only while there is something
    to play: most calls have nothing."""

    def __init__(self, call: Telling, player: Player, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._call = call
        self._player = player
        self._spawn = spawn
        self._queue: list[Sound] = []
        self._plays = False
        self._playing: Sound | None = None

    @property
    def playing(self) -> bool:
        return self._playing is not None or bool(self._queue)

    def add(self, sound: Sound) -> None:
        """Play it when its turn comes. Raises Refusal if too much is queued."""
        if len(self._queue) >= QUEUE_MAX:
            raise invalid("payload" if sound.text else "audio_url", f"{QUEUE_MAX} sounds are queued already.")
        if sound.stop:
            self.stop(everything=sound.stop == "all")
        self._queue.append(sound)
        if not self._plays:
            self._plays = True
            self._spawn(self._play_all())

    def stop(self, *, everything: bool) -> None:
        """Stop the current sound, and with `everything` those that wait for their turn."""
        if everything:
            self._queue.clear()
        if self._playing is not None:
            self._player.cut()

    def end(self) -> None:
        """The call is over: say so of the sound that was playing, whose task the call then cancels."""
        if self._playing is not None:
            self._tell_end(self._playing, "call_hangup", "")
            self._playing = None
        self._queue.clear()

    async def _play_all(self) -> None:
        while self._queue:
            await self._play(self._queue.pop(0))
        self._plays = False

    async def _play(self, sound: Sound) -> None:
        self._playing = sound
        self._player.begin()
        self._call.event(f"call.{_kind(sound)}.started", **_fields(sound))
        rate_hz = await self._call.until_open()
        status, detail = "completed", ""
        try:
            samples = await self._samples(sound, rate_hz)
            if await self._player.play(samples, rate_hz, sound.loops):
                # The SDK knows no "cancelled" for speech.
                status = "completed" if sound.text else "cancelled"
        except Unplayable as problem:
            status, detail = "file_not_found" if problem.missing else "failed", str(problem)
        self._playing = None
        self._tell_end(sound, status, detail)

    def _tell_end(self, sound: Sound, status: str, detail: str) -> None:
        fields = _fields(sound) | {"status": status}
        if not sound.text and detail:
            fields["status_detail"] = detail
        self._call.event(f"call.{_kind(sound)}.ended", **fields)

    async def _samples(self, sound: Sound, rate_hz: int) -> Samples:
        if sound.text:
            return await self._player.speech(sound.text, rate_hz)
        if sound.media_name:
            raise Unplayable(f"nothing was uploaded as {sound.media_name}", missing=True)
        if sound.content:
            return await self._player.decoded(sound.content, rate_hz)
        if sound.url.startswith("data:"):
            return await self._player.decoded(sound.url.partition(",")[2], rate_hz)
        return await self._player.fetched(sound.url, rate_hz)


def _kind(sound: Sound) -> str:
    return "speak" if sound.text else "playback"


def _fields(sound: Sound) -> dict[str, Any]:
    """What the webhooks of a playback say of it; of `playback_content` they say nothing."""
    if sound.text:
        return {}
    named: dict[str, Any] = {"overlay": sound.overlay}
    if sound.url:
        named["media_url"] = sound.url
    if sound.media_name:
        named["media_name"] = sound.media_name
    return named
