"""How sound is paced: judged by the mouth's own clock at the moment of sending, so that no load can change it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from voice_agent.audio import SILENCE
from voice_agent.metrics import Metrics
from voice_agent.mouth import Mouth

_FRAME_SECONDS = 0.02
_SOUND = SILENCE * 160


async def _sent(frames: int, *, gap_seconds: float = 0.0) -> list[tuple[float, float]]:
    """For each frame when it was sent, and when all that was sent will have been played then."""
    loop = asyncio.get_running_loop()
    sent: list[tuple[float, float]] = []
    done = asyncio.Event()

    async def send(text: str) -> None:
        if json.loads(text)["event"] == "media":
            sent.append((loop.time(), mouth._ends_at))
        else:
            done.set()

    mouth: Any = Mouth(send, metrics=Metrics(), gap_seconds=lambda: gap_seconds)
    running = asyncio.create_task(mouth.run())
    mouth.begin(lambda: None)
    mouth.play(_SOUND * frames)
    mouth.end()
    await done.wait()
    running.cancel()
    await asyncio.wait({running})
    return sent


async def test_sound_is_sent_at_most_200_ms_ahead_of_the_ear_and_the_defect_leaves_one_gap() -> None:
    steady, gappy = await asyncio.gather(_sent(30), _sent(35, gap_seconds=0.1))
    assert (len(steady), len(gappy)) == (30, 35)
    assert max(ends_at - at for at, ends_at in (*steady, *gappy)) <= 0.2 + 1e-6
    assert steady[-1][0] - steady[0][0] >= 30 * _FRAME_SECONDS - 0.2 - _FRAME_SECONDS
    (_, ended), (at, _) = gappy[29:31]  # the 30th frame ends at 600 ms
    assert at - ended >= 0.1 - 1e-6
