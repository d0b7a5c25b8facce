"""One WebSocket of the Cartesia twin, and its contexts."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from aiohttp import WSMsgType, web

from busyhour.emulators.cartesia.context import Context, Event, event
from busyhour.emulators.cartesia.request import (
    Asked,
    Cancel,
    Refused,
    context_of,
    error_event,
    read_event,
)
from busyhour.emulators.synthesis import CONTEXT_OUTCOMES
from busyhour.emulators.twin import Twin, reset

_IDLE_SECONDS = 300.0
"""A connection without a message from the client is closed after this long (documented)."""
_CONTEXTS_AT_MOST = 256


class Connection:
    """One WebSocket and its contexts, which are spoken side by side."""

    def __init__(self, twin: Twin, request: web.Request, socket: web.WebSocketResponse, identity: str) -> None:
        self._twin = twin
        self._request = request
        self._socket = socket
        self._identity = identity
        self._contexts: dict[str, tuple[Context, asyncio.Task[None]]] = {}

    async def serve(self) -> None:
        """Until the client closes or falls silent; all contexts end with it."""
        async with asyncio.TaskGroup() as group:
            try:
                while await self._turn(group):
                    pass
            finally:
                for _, task in self._contexts.values():
                    task.cancel()

    async def _turn(self, group: asyncio.TaskGroup) -> bool:
        """Read one message and do what it asks; False at the end."""
        try:
            message = await self._socket.receive(timeout=_IDLE_SECONDS)
        except TimeoutError:
            if not self._contexts:
                await self._socket.close(message=b"idle for five minutes")
            return bool(self._contexts)
        if message.type is WSMsgType.BINARY:
            await self._refuse(Refused("Messages are JSON text, not binary.", title="Invalid JSON"), None)
        elif message.type is WSMsgType.TEXT:
            try:
                await self._heed(read_event(message.data), group)
            except Refused as refusal:
                await self._refuse(refusal, context_of(message.data))
        else:
            return False
        return True

    async def _heed(self, asking: Asked | Cancel, group: asyncio.TaskGroup) -> None:
        known = self._contexts.get(asking.context_id)
        if isinstance(asking, Cancel):
            if known and not known[0].cancel():
                known[1].cancel()
                del self._contexts[asking.context_id]
            return
        if known:
            known[0].give(asking)
            return
        if not asking.goes_on and not asking.transcript.strip():
            # The last, empty input of a context that has expired meanwhile: there is nothing left to say.
            await self._tell(event("done", asking.context_id, done=True))
            return
        if len(self._contexts) >= _CONTEXTS_AT_MOST:
            message = f"More than {_CONTEXTS_AT_MOST} contexts are open on this connection."
            raise Refused(message, status=429, title="Too many concurrent requests", code="concurrency_limited")
        fate = self._twin.draw("context", CONTEXT_OUTCOMES)
        context = Context(self._twin, fate, asking, self._send)
        context.give(asking)
        task = group.create_task(self._speak(asking.context_id, context))
        # Not a `finally` in the task: one that is cancelled before its first step never runs at all.
        task.add_done_callback(lambda _: context.speech.witness())
        self._contexts[asking.context_id] = (context, task)

    async def _speak(self, context_id: str, context: Context) -> None:
        try:
            await context.speak()
        except Refused as refusal:
            await self._refuse(refusal, context_id)
        except ConnectionAbortedError:
            reset(self._request)
        finally:
            if context_id in self._contexts and self._contexts[context_id][0] is context:
                del self._contexts[context_id]

    async def _send(self, message: Event) -> None:
        await self._socket.send_str(json.dumps(message))

    async def _refuse(self, refusal: Refused, context_id: str | None) -> None:
        request_id = f"{self._identity}:{context_id}" if context_id else self._identity
        await self._tell(error_event(refusal, request_id, context_id, version(self._request)))

    async def _tell(self, message: Event) -> None:
        with suppress(ConnectionResetError):  # the client went away; the next receive says so
            await self._send(message)


def version(request: web.Request) -> str:
    """The API version that a client asks for."""
    return request.headers.get("Cartesia-Version") or request.query.get("cartesia_version", "")
