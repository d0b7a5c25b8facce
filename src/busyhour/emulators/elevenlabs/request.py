"""What clients ask of the ElevenLabs twin: queries, bodies, messages on the sockets; and the vendor's refusals."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from busyhour.emulators.synthesis import Sound
from busyhour.model import JSON

PCM_RATES_HZ = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
FORMATS: Mapping[str, Sound] = {
    **{f"pcm_{rate_hz}": Sound("pcm_s16le", rate_hz) for rate_hz in PCM_RATES_HZ},
    "ulaw_8000": Sound("pcm_mulaw", 8000),
    "alaw_8000": Sound("pcm_alaw", 8000),
}
_ENCODED = re.compile(r"(mp3|opus)_(\d{4,5})_\d{2,3}")
DEFAULT_FORMAT = "mp3_44100_128"
DEFAULT_MODEL = "eleven_multilingual_v2"
SCHEDULE = (120, 160, 250, 290)
"""Characters that must wait before the first, second, ... chunk of text is spoken (documented default)."""
TRIGGER_CHARACTERS = 50
"""What try_trigger_generation wants at least: the smallest value that a schedule may have."""
INACTIVITY_SECONDS, INACTIVITY_SECONDS_AT_MOST = 20, 180
TEXT_CHARACTERS_AT_MOST = 40_000
"""Of a request, and of what waits in a context; of the vendor's models the one with the highest limit."""
CONTEXT_ID_CHARACTERS_AT_MOST = 200
QUOTA = 10_000
"""Credits of a month, of the smallest plan: what an exhausted account is told."""

_UNPARSED = "Could not parse input message, make sure it is a json and follows the schema outlined in protocol."


class Refused(Exception):
    """A request is refused: over HTTP as a body with a status, on a socket as a message and a close with code 1008."""

    def __init__(self, message: str, *, code: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    def body(self) -> dict[str, JSON]:
        return {"detail": {"status": self.code, "message": str(self)}}

    def frame(self) -> dict[str, JSON]:
        return {"message": str(self), "error": self.code, "code": 1008}


class Invalid(Refused):
    """A part of a request is missing or of the wrong kind: 422, in the words of the vendor's web framework."""

    def __init__(self, where: Sequence[str], message: str, *, kind: str) -> None:
        super().__init__(message, code="invalid_parameters", status=422)
        self._detail: dict[str, JSON] = {"type": kind, "loc": list(where), "msg": message}

    def body(self) -> dict[str, JSON]:
        return {"detail": [self._detail]}


def unauthorized(given: str) -> Refused:
    """Of a request without a key, or with a wrong one."""
    if given:
        return Refused("Invalid API key", code="invalid_api_key", status=401)
    message = "Neither authorization header nor xi-api-key received, please provide one."
    return Refused(message, code="needs_authorization", status=401)


def unauthenticated() -> Refused:
    """Of a socket whose first message has no key either."""
    message = "None of the authentication methods (xi-api-key, authorization header, single-use token) were found."
    return Refused(message, code="authentication_required", status=401)


def quota_exceeded(characters: int) -> Refused:
    message = (
        f"This request exceeds your quota of {QUOTA}. You have 0 credits remaining, "
        f"while {characters} credits are required for this request."
    )
    return Refused(message, code="quota_exceeded", status=401)


def went_wrong() -> Refused:
    message = "We are sorry, something went wrong. You are not charged for this request."
    return Refused(message, code="something_went_wrong", status=500)


def unparsed() -> Refused:
    return Refused(_UNPARSED, code="invalid_input_message")


def too_long(characters: int) -> Refused:
    message = f"This request has {characters} characters, more than the {TEXT_CHARACTERS_AT_MOST} allowed."
    return Refused(message, code="max_character_limit_exceeded")


FATED: Mapping[str, Refused] = {
    "http_401": unauthorized("wrong"),
    "http_429": Refused(
        "Too many concurrent requests for your subscription.", code="too_many_concurrent_requests", status=429
    ),
    "http_500": went_wrong(),
    "http_503": Refused("Our services are temporarily unavailable.", code="service_unavailable", status=503),
}


def sound_of(name: str) -> Sound:
    """An output format by the vendor's name. Raises Refused for one that is not made here, Invalid for none."""
    if name in FORMATS:
        return FORMATS[name]
    if encoded := _ENCODED.fullmatch(name):
        what = f"{encoded[1].upper()} at {encoded[2]}hz"
        message = f"Requested output format {name} ({what}) is not made here, only {', '.join(FORMATS)}."
        raise Refused(message, code="output_format_not_allowed", status=403)
    raise Invalid(("query", "output_format"), f"Input should be {' or '.join(map(repr, FORMATS))}", kind="enum")


def key_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key of a request, from any of the places where clients put it; "" if there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    bearer = token if scheme.lower() == "bearer" else ""
    from_query = (query.get(name, "") for name in ("xi-api-key", "authorization", "single_use_token"))
    found = (key.strip() for key in (headers.get("xi-api-key", ""), bearer, *from_query))
    return next((key.removeprefix("Bearer ") for key in found if key), "")


# ---------------------------------------------------------------- HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The body of a text-to-speech request."""

    text: str
    model: str


def read_body(raw: bytes) -> Asked:
    """Raises Refused."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise Invalid(("body",), "JSON decode error", kind="json_invalid") from None
    if not isinstance(body, dict):
        raise Invalid(("body",), "Input should be a valid dictionary", kind="model_attributes_type")
    if "text" not in body:
        raise Invalid(("body", "text"), "Field required", kind="missing")
    for name in ("text", "model_id"):
        if not isinstance(body.get(name, ""), str):
            raise Invalid(("body", name), "Input should be a valid string", kind="string_type")
    settings = body.get("voice_settings")
    if settings is not None and not isinstance(settings, dict):
        raise Invalid(("body", "voice_settings"), "Input should be a valid dictionary", kind="model_attributes_type")
    if not body["text"].strip():
        raise Refused("Text must not be empty.", code="input_text_empty")
    if len(body["text"]) > TEXT_CHARACTERS_AT_MOST:
        raise too_long(len(body["text"]))
    return Asked(text=body["text"], model=body.get("model_id") or DEFAULT_MODEL)


# ---------------------------------------------------------------- sockets


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a socket is to speak."""

    model: str
    sound: Sound
    auto_mode: bool
    inactivity_seconds: int


def options(query: Mapping[str, str]) -> Options:
    """Read the query of a socket; what the twin does not model (language_code, seed, ...) is passed over.

    Raises Refused.
    """
    auto_mode = query.get("auto_mode", "false").lower()
    if auto_mode not in {"true", "false", "1", "0"}:
        raise Invalid(("query", "auto_mode"), "Input should be a valid boolean", kind="bool_parsing")
    seconds = query.get("inactivity_timeout", str(INACTIVITY_SECONDS))
    if not seconds.isascii() or not seconds.isdigit() or not 1 <= int(seconds[:9]) <= INACTIVITY_SECONDS_AT_MOST:
        limits = f"Input should be from 1 to {INACTIVITY_SECONDS_AT_MOST}"
        raise Invalid(("query", "inactivity_timeout"), limits, kind="less_than_equal")
    return Options(
        model=query.get("model_id") or DEFAULT_MODEL,
        sound=sound_of(query.get("output_format", DEFAULT_FORMAT)),
        auto_mode=auto_mode in {"true", "1"},
        inactivity_seconds=int(seconds),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message on a socket. `text` is None if there is none; `schedule` if it names none; `settings` as JSON text."""

    context_id: str | None
    text: str | None
    flush: bool
    trigger: bool
    close_context: bool
    close_socket: bool
    key: str
    settings: str | None
    schedule: tuple[float, ...] | None


def read_message(text: str) -> Message:
    """Raises Refused."""
    try:
        form = json.loads(text)
    except (ValueError, RecursionError):
        raise unparsed() from None
    if not isinstance(form, dict):
        raise unparsed()
    context_id = _text(form, "context_id", "contextId")
    if context_id is not None and len(context_id) > CONTEXT_ID_CHARACTERS_AT_MOST:
        raise unparsed()
    settings = form.get("voice_settings")
    if settings is not None and not isinstance(settings, dict):
        raise unparsed()
    key = _text(form, "xi_api_key", "xi-api-key") or (_text(form, "authorization") or "").removeprefix("Bearer ")
    return Message(
        context_id=context_id,
        text=_text(form, "text"),
        flush=_flag(form, "flush"),
        trigger=_flag(form, "try_trigger_generation"),
        close_context=_flag(form, "close_context"),
        close_socket=_flag(form, "close_socket"),
        key=key.strip(),
        settings=None if settings is None else json.dumps(settings, sort_keys=True),
        schedule=_schedule(form),
    )


def _text(form: Mapping[str, Any], *names: str) -> str | None:
    """The first of these fields that is there. Raises Refused if it is no string."""
    for name in names:
        value = form.get(name)
        if value is not None:
            if not isinstance(value, str):
                raise unparsed()
            return value
    return None


def _flag(form: Mapping[str, Any], name: str) -> bool:
    value = form.get(name)
    if value is not None and not isinstance(value, bool):
        raise unparsed()
    return bool(value)


def _schedule(form: Mapping[str, Any]) -> tuple[float, ...] | None:
    config = form.get("generation_config", form.get("generator_config"))
    if config is None:
        return None
    schedule = config.get("chunk_length_schedule") if isinstance(config, dict) else config
    if schedule is None:
        return None
    if not isinstance(schedule, list) or not schedule:
        raise unparsed()
    for length in schedule:
        if isinstance(length, bool) or not isinstance(length, int | float) or not math.isfinite(length):
            raise unparsed()
        if not TRIGGER_CHARACTERS <= length <= 500:
            message = f"chunk_length_schedule: each item should be from {TRIGGER_CHARACTERS} to 500."
            raise Refused(message, code="invalid_generation_config")
    return tuple(schedule)
