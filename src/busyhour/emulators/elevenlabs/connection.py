"""One WebSocket of the ElevenLabs twin: multi-stream-input with its contexts, or stream-input, which is one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress

from aiohttp import WSCloseCode, WSMsgType, web

from busyhour.emulators.behaviour import OK
from busyhour.emulators.elevenlabs.context import Context
from busyhour.emulators.elevenlabs.request import (
    Message,
    Options,
    Refused,
    read_message,
    unauthenticated,
    unauthorized,
    unparsed,
)
from busyhour.emulators.synthesis import CONTEXT_OUTCOMES
from busyhour.emulators.twin import Twin, reset
from busyhour.model import JSON, SECOND

_CONTEXTS_AT_MOST = 5
"""Of a connection (documented); one that is closed counts until it has been spoken."""
_DEFAULT = "default"
"""The context of messages that name none."""
_REASON_BYTES = 123
"""Of a close frame (RFC 6455, 5.5)."""


class _Gone(Exception):
    """The client closed, or went away."""


class Connection:
    """One socket. `key`: what the handshake bore, "" for nothing; `wanted`: the key that is accepted, "" for any."""

    def __init__(
        self,
        twin: Twin,
        request: web.Request,
        socket: web.WebSocketResponse,
        *,
        options: Options,
        multi: bool,
        key: str,
        wanted: str,
        bill: Callable[[int], None],
    ) -> None:
        self._twin = twin
        self._request = request
        self._socket = socket
        self._options = options
        self._multi = multi
        self._key = key
        self._wanted = wanted
        self._bill = bill
        self._admitted = False
        self._heard_ns = twin.clock.now_ns()
        self._open: dict[str, Context] = {}
        self._speaking: dict[asyncio.Task[None], Context] = {}
        self._closing = False
        self._cut_off = False
        self._ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Until the client closes, falls silent or is refused; all contexts end with the socket."""
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(self._told)
        try:
            ending = await self._ended
            self._cut_off = not isinstance(ending, _Gone)
        finally:
            tasks = {reading, *self._speaking}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if isinstance(ending, ConnectionAbortedError):
            reset(self._request)
        elif isinstance(ending, Refused):
            await self._refuse(ending)
        elif ending is None:
            await self._socket.close()

    async def _refuse(self, refusal: Refused) -> None:
        with suppress(ConnectionResetError):  # the client went away, and is not told
            await self._send(refusal.frame())
            reason = str(refusal).encode()[:_REASON_BYTES]
            await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)

    def _told(self, task: asyncio.Task[None]) -> None:
        """A task is over: if it failed, or there is nothing more to do, so is the connection."""
        context = self._speaking.pop(task, None)
        if context is not None:
            cut_off = self._cut_off and context.speech.busy and context.fate.outcome == OK
            context.speech.witness("cut off" if cut_off else "")
            self._open = {name: one for name, one in self._open.items() if one is not context}
        if self._ended.done() or task.cancelled():
            return
        problem = task.exception()
        if problem is not None and not isinstance(problem, Refused | ConnectionAbortedError | _Gone):
            self._ended.set_exception(problem)
        elif problem is not None:
            self._ended.set_result(problem)
        elif context is not None and not self._speaking and (self._closing or not self._multi):
            self._ended.set_result(None)

    # -- what the client says

    async def _read(self) -> None:
        """Raises Refused, _Gone."""
        while True:
            try:
                message = await self._socket.receive(timeout=self._seconds_left())
            except TimeoutError:
                self._expire()
                continue
            if message.type is WSMsgType.BINARY:
                raise unparsed()
            if message.type is not WSMsgType.TEXT:
                raise _Gone
            if not self._closing:
                self._heed(read_message(message.data))

    def _seconds_left(self) -> float | None:
        """Until the connection, or one of its contexts, has been silent for too long."""
        if self._closing:
            return None
        until_ns = min([self._idle_at_ns, *(context.idle_at_ns for context in self._open.values())])
        return max(until_ns - self._twin.clock.now_ns(), 0) / SECOND + 0.001

    @property
    def _idle_at_ns(self) -> int:
        return self._heard_ns + self._options.inactivity_seconds * SECOND

    def _expire(self) -> None:
        now_ns = self._twin.clock.now_ns()
        if now_ns >= self._idle_at_ns:
            message = (
                f"Have not received a new text input within the timeout of {self._options.inactivity_seconds:.1f} "
                "seconds. Streaming input terminated. Please make sure to either feed the input in the timely manner, "
                'or to send the end of input text (empty string "") when done.'
            )
            raise Refused(message, code="input_timeout_exceeded")
        for name, context in list(self._open.items()):
            if now_ns >= context.idle_at_ns:
                del self._open[name]
                context.close(flush=False)

    def _heed(self, message: Message) -> None:
        self._heard_ns = self._twin.clock.now_ns()
        if not self._admitted:
            self._admit(self._key or message.key)
        if self._multi:
            self._heed_of_many(message)
        elif message.text is None:
            raise unparsed()
        elif message.text:
            self._context("", message).give(message)
        else:
            self._context("", message).close(flush=True)
            self._closing = True

    def _admit(self, key: str) -> None:
        """The key may come with the first message: only then is it looked at. Raises Refused."""
        if not key:
            raise unauthenticated()
        if self._wanted and key != self._wanted:
            raise unauthorized(key)
        self._admitted = True

    def _heed_of_many(self, message: Message) -> None:
        name = message.context_id or _DEFAULT
        if message.close_socket:
            self._closing = True
            for context in self._open.values():
                context.close(flush=False)
            self._open.clear()
            if not self._speaking:
                self._ended.set_result(None)
        elif message.close_context:
            if name in self._open:
                self._open.pop(name).close(flush=False)
        elif message.text is None and not message.flush:
            raise unparsed()
        elif message.text == "" and message.context_id is None and not message.flush:
            pass  # keeps the connection open, and opens no context
        elif message.text is not None or name in self._open:
            self._context(name, message).give(message)

    def _context(self, name: str, message: Message) -> Context:
        """The open context of that name, or a new one. Raises Refused."""
        context = self._open.get(name)
        if context is not None:
            if message.settings is not None and message.settings != context.settings:
                text = "voice_settings can only be provided in the first message of a context, and must not change."
                raise Refused(text, code="invalid_voice_settings")
            return context
        if len(self._speaking) >= _CONTEXTS_AT_MOST:
            text = (
                f"Maximum simultaneous contexts per WebSocket connection exceeded ({_CONTEXTS_AT_MOST}). "
                "Please close an existing context before opening a new one."
            )
            raise Refused(text, code="max_active_conversations")
        fate = self._twin.draw("context", CONTEXT_OUTCOMES)
        told = name if self._multi else None
        context = Context(self._twin, fate, self._options, name=told, first=message, send=self._send, bill=self._bill)
        task = asyncio.create_task(context.speak())
        self._open[name] = self._speaking[task] = context
        task.add_done_callback(self._told)
        return context

    async def _send(self, message: Mapping[str, JSON]) -> None:
        await self._socket.send_str(json.dumps(message))
