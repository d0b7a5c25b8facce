"""What the tests of the Cartesia twin share: the twin, the SDK's client and a raw one on it, and what they say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import cartesia
from cartesia.types.websocket_response import Chunk

from busyhour.emulators import Constant
from busyhour.emulators.cartesia import Cartesia
from busyhour.emulators.cartesia.api import application
from busyhour.media.utterances import spoken

from .stages import PARKING, Stage, served

VOICE = "a0e99841-438c-4a64-b679-ae501e7d6091"
S16: dict[str, Any] = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000}
REQUEST: Any = {"model_id": "sonic-3", "output_format": S16, "transcript": PARKING, "voice": VOICE}
MOMENT = "One moment please."


@dataclass
class Speaking(Stage[cartesia.AsyncCartesia]):
    session: aiohttp.ClientSession

    def raw(self) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        return self.session.ws_connect(f"{self.url}/tts/websocket?api_key=x")


@asynccontextmanager
async def playing(**settings: Any) -> AsyncIterator[Speaking]:
    """By default audio comes at once, a thousand times faster than it plays."""
    service = Cartesia(**{"first_audio": Constant(0), "realtime_factor": 1000.0, **settings})
    async with (
        served(service, application) as (twin, url),
        aiohttp.ClientSession() as session,
        cartesia.AsyncCartesia(
            api_key="sk_car_x",
            base_url=url,
            websocket_base_url=url.replace("http", "ws"),
            max_retries=0,
            timeout=60,
        ) as client,
    ):
        yield Speaking(twin, url, client, session)


def context(socket: Any, *, timeout: float = 60, **more: Any) -> Any:
    return socket.context(**{"model_id": "sonic-3", "voice": VOICE, "output_format": S16, "timeout": timeout, **more})


async def heard(speech: Any) -> list[Any]:
    return [event async for event in speech.receive()]


def audio(events: list[Any]) -> bytes:
    return b"".join(event.audio or b"" for event in events if isinstance(event, Chunk))


def s16(text: str) -> bytes:
    return spoken(text, 8000).astype("<i2").tobytes()


def message(**more: Any) -> str:
    return json.dumps(
        {"model_id": "sonic-3", "voice": {"id": VOICE}, "output_format": S16, "context_id": "c", "transcript": PARKING}
        | more
    )
