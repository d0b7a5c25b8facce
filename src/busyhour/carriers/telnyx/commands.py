"""The HTTP API that the agent commands its calls with: `POST /v2/calls/{call_control_id}/actions/{action}`.

`client_state_update` alone is a PUT; the twin takes it as a POST too.

Shapes and status codes: developers.telnyx.com/api-reference/call-commands, as the vendor's SDK reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from aiohttp import web

from busyhour.carriers.serving import ApiRefusal, answering
from busyhour.carriers.telnyx import params
from busyhour.carriers.telnyx.call import Call
from busyhour.carriers.telnyx.exchange import COMMAND_IDS_REMEMBERED, Exchange
from busyhour.carriers.telnyx.refusals import (
    Refusal,
    authenticate,
    ended,
    invalid_call,
    malformed,
    not_found,
    unexpected,
    unsupported,
)
from busyhour.model import SECOND

BODY_BYTES_MAX = 16 << 20
COMMAND_ID_SECONDS = 60
CALL_CONTROL_ID_CHARACTERS_MIN = 20

Command: TypeAlias = Callable[[Call, Mapping[str, Any]], None]


def _nothing(_call: Call, _body: Mapping[str, Any]) -> None:
    """Noise suppression: the twin's lines have no noise, so there is nothing to do and nothing to refuse."""


COMMANDS: Mapping[str, Command] = {
    "answer": Call.answer,
    "client_state_update": Call.update_client_state,
    "hangup": Call.hangup,
    "playback_start": Call.start_playback,
    "playback_stop": Call.stop_playback,
    "reject": Call.reject,
    "send_dtmf": Call.send_dtmf,
    "speak": Call.speak,
    "streaming_start": Call.start_stream,
    "streaming_stop": Call.stop_stream,
    "suppression_start": _nothing,
    "suppression_stop": _nothing,
    "transfer": Call.transfer,
}
# What Telnyx has and this twin has not, so that a misspelt path is told from one that is merely not here.
ELSEWHERE = frozenset(
    {
        "ai_assistant_add_messages",
        "ai_assistant_join",
        "ai_assistant_start",
        "ai_assistant_stop",
        "bridge",
        "conversation_relay_start",
        "conversation_relay_stop",
        "enqueue",
        "fork_start",
        "fork_stop",
        "gather",
        "gather_stop",
        "gather_using_ai",
        "gather_using_audio",
        "gather_using_speak",
        "leave_queue",
        "pay",
        "record_pause",
        "record_resume",
        "record_start",
        "record_stop",
        "refer",
        "send_sip_info",
        "siprec_start",
        "siprec_stop",
        "switch_supervisor_role",
        "transcription_start",
        "transcription_stop",
    }
)


def application(exchange: Exchange, api_key: str) -> web.Application:
    """The API of one carrier. `api_key`: the bearer to accept; "" accepts any."""
    api = _Api(exchange, api_key)
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[answering(api, exchange.background)])
    app.router.add_post("/v2/calls", api.dial)
    app.router.add_get("/v2/calls/{id}", api.status)
    app.router.add_post("/v2/calls/{id}/actions/{action}", api.command)
    app.router.add_put("/v2/calls/{id}/actions/{action:client_state_update}", api.command)
    return app


class _Api:
    def __init__(self, exchange: Exchange, api_key: str) -> None:
        self._exchange = exchange
        self._api_key = api_key

    def authenticate(self, request: web.Request) -> None:
        authenticate(request, self._api_key)

    def refused(self, request: web.Request, refusal: ApiRefusal) -> None:
        call = self._exchange.calls.get(request.match_info.get("id", ""))
        if call is not None and isinstance(refusal, Refusal):
            call.refused(request.match_info.get("action", "status"), refusal)

    def not_found(self, _path: str) -> Refusal:
        return not_found()

    def not_allowed(self) -> Refusal:
        return not_found()

    def malformed(self, detail: str) -> Refusal:
        return malformed(detail)

    def unexpected(self) -> Refusal:
        return unexpected()

    async def dial(self, request: web.Request) -> web.StreamResponse:
        params.dial(await _body(request))
        raise unsupported("outbound calls", "It places the calls itself: they arrive as call.initiated webhooks.")

    async def status(self, request: web.Request) -> web.StreamResponse:
        call_control_id = request.match_info["id"]
        call = self._exchange.calls.get(call_control_id)
        if call is not None:
            return web.json_response({"data": call.status()})
        if (remembered := self._exchange.ended.get(call_control_id)) is not None:
            return web.json_response({"data": remembered.status})
        raise invalid_call()

    async def command(self, request: web.Request) -> web.StreamResponse:
        action = request.match_info["action"]
        body = await _body(request)
        command_id = params.text(body, "command_id")
        call = self._call(request.match_info["id"], command_id)
        if call is None:  # a repetition of the command that ended the call
            return _ok()
        self._perform(call, action, command_id, body)
        return _ok()

    def _call(self, call_control_id: str, command_id: str) -> Call | None:
        """The call; None when it has ended but this very command was done before. Raises Refusal."""
        call = self._exchange.calls.get(call_control_id)
        if call is not None:
            return call
        remembered = self._exchange.ended.get(call_control_id)
        if remembered is not None and self._repeated(remembered.command_ids, command_id):
            return None
        # Calls are forgotten in time; an id of the right kind belonged to one of them.
        if call_control_id.startswith("v3:") and len(call_control_id) >= CALL_CONTROL_ID_CHARACTERS_MIN:
            raise ended()
        raise invalid_call()

    def _perform(self, call: Call, action: str, command_id: str, body: Mapping[str, Any]) -> None:
        if self._repeated(call.command_ids, command_id):
            call.note(f"command {action} ignored: the command_id {command_id} was seen before")
            return
        command = COMMANDS.get(action)
        if command is None:
            raise self._unknown(action)
        trouble = self._exchange.studio.disturbance
        if call.random.random() < self._exchange.manners.command_error_share or trouble.fails(
            f"{call.ids.control}/{action}"
        ):
            raise unexpected()
        if trouble.befalling("command.refused", f"{call.ids.control}/{action}/{call.commands}"):
            trouble.count("command.refused")
            raise ended()
        state = params.client_state(body)
        before = call.client_state
        call.commands += 1
        call.note(f"command {action}")
        # The webhooks of this very command carry the new state already.
        call.client_state = state or before
        try:
            command(call, body)
        except Refusal:
            call.client_state = before
            raise
        if command_id:
            call.command_ids[command_id] = self._exchange.clock.now_ns()
            if len(call.command_ids) > COMMAND_IDS_REMEMBERED:
                del call.command_ids[next(iter(call.command_ids))]

    def _unknown(self, action: str) -> Refusal:
        if action in ELSEWHERE:
            return unsupported(action, f"It supports {', '.join(sorted(COMMANDS))}.")
        return not_found()

    def _repeated(self, command_ids: Mapping[str, int], command_id: str) -> bool:
        at_ns = command_ids.get(command_id)
        return at_ns is not None and self._exchange.clock.now_ns() - at_ns < COMMAND_ID_SECONDS * SECOND


async def _body(request: web.Request) -> Mapping[str, Any]:
    raw = await request.read()
    if not raw.strip():
        return {}
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise malformed() from None
    if not isinstance(body, dict):
        raise malformed("The request's body must be a JSON object.")
    return body


def _ok() -> web.Response:
    return web.json_response({"data": {"result": "ok"}})
