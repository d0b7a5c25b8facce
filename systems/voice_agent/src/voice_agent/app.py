"""The front door: the carrier's webhooks and media streams, and what the operator reads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect

from voice_agent.defects import Defects
from voice_agent.equipment import Equipment, equipped
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings
from voice_agent.switchboard import Switchboard
from voice_agent.telnyx import Refused, Verifier
from voice_agent.vad import load_silero

_WEBHOOK_BYTES = 256 * 1024
_CLOSE_SECONDS = 0.5


def create_app(settings: Settings) -> FastAPI:
    """The whole application. `app.state.switchboard` is there while it runs. Raises SileroMissing."""
    metrics, log = Metrics(), Log()
    verifier = None if settings.telnyx_public_key is None else Verifier(settings.telnyx_public_key)
    defects = Defects(settings.defect, Random(settings.defect_seed), metrics.defect)
    silero = load_silero(settings.silero_model) if settings.vad == "silero" else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with equipped(settings, metrics=metrics, defects=defects, silero=silero) as equipment:
            app.state.equipment, app.state.switchboard = equipment, Switchboard(equipment, log=log)
            switchboard = _switchboard(app)
            log.info("ready", url=settings.public_url, defects=",".join(settings.defect.doses))
            yield
            await switchboard.drain(1.0)
            await switchboard.close()
            log.info("stopped")

    app = FastAPI(title="voice agent", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/api/telnyx/webhook")
    async def webhook(request: Request) -> Response:
        body = await request.body()
        try:
            if len(body) > _WEBHOOK_BYTES:
                raise Refused(413, "too large")
            if verifier is not None:
                verifier.check(body, request.headers)
            _switchboard(app).take(json.loads(body)["data"])
        except Refused as refused:
            log.warning("webhook refused", because=str(refused))
            metrics.vendor_failed("telnyx", f"webhook {refused}")
            return Response(status_code=refused.status)
        except (ValueError, LookupError, TypeError):
            log.warning("webhook malformed")
            metrics.vendor_failed("telnyx", "webhook malformed")
            return Response(status_code=400)
        return Response(status_code=200)

    @app.websocket("/ws/media-stream/{call_control_id}")
    async def media_stream(socket: WebSocket, call_control_id: str, token: str = "") -> None:
        switchboard = _switchboard(app)
        call = switchboard.admit(call_control_id, token)
        if call is None:
            log.warning("media stream refused", call=call_control_id)
            await socket.close(1008)  # before it is accepted: HTTP 403
            return
        stream = _Stream(socket)
        await switchboard.converse(call, stream)
        await stream.close()

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        switchboard = _switchboard(app)
        return {"status": "draining" if switchboard.draining else "ok", "open_calls": switchboard.open_calls}

    @app.get("/metrics")
    async def prometheus() -> Response:
        equipment: Equipment = app.state.equipment
        text = metrics.text(_switchboard(app).open_calls, equipment.connections())
        return Response(text, media_type="text/plain; version=0.0.4")

    return app


def _switchboard(app: FastAPI) -> Switchboard:
    switchboard: Switchboard = app.state.switchboard
    return switchboard


class _Stream:
    """The carrier's socket as the conversation wants it."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._closed = False

    async def open(self) -> None:
        await self._socket.accept()

    async def receive(self) -> str | None:
        while not self._closed:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._closed = True
            elif (text := message.get("text")) is not None:
                return str(text)
        return None

    async def send(self, text: str) -> None:
        if self._closed:
            return
        try:
            await self._socket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, OSError):
            self._closed = True

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._socket.close(1000)
            except (TimeoutError, WebSocketDisconnect, OSError, RuntimeError):
                return  # the carrier was quicker, or does not answer any more
