"""The voices of one call, in the order in which they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

from voice_agent.breaker import usable
from voice_agent.defects import Defects
from voice_agent.tts.voice import Voice

_SUSPECT_SECONDS = 15.0  # a voice that has failed in a call is not asked again in it for so long


class Voices:
    def __init__(self, chain: Sequence[Voice], *, defects: Defects) -> None:
        self._chain = chain
        self._defects = defects
        self._loop = asyncio.get_running_loop()
        for voice in usable(chain)[:1]:  # the others are connected when they are needed
            voice.want()

    def __iter__(self) -> Iterator[Voice]:
        return iter(self._chain)

    def best(self, but: Collection[Voice] = ()) -> Voice | None:
        """The first of them that may be asked now, leaving out those of `but`; None: only the carrier is left."""
        chain = self._chain[:1] if self._defects.strikes("no_failover") else self._chain
        now = self._loop.time()
        for voice in usable(chain):
            if voice not in but and now >= voice.suspect_until and (len(chain) == 1 or voice.reachable):
                return voice
        return None

    def suspect(self, voice: Voice) -> None:
        voice.suspect_until = self._loop.time() + _SUSPECT_SECONDS
