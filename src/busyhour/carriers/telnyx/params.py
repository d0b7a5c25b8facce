"""What the agent asks for, read from a command's JSON and checked as Telnyx's API checks it. Pure; raises Refusal.

Names, choices and limits: the command parameters of the vendor's SDK (`telnyx/types/calls/action_*_params.py`).
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from busyhour.carriers.sounds import ENDLESS
from busyhour.carriers.telnyx.refusals import Refusal, invalid, missing, unsupported

SPEAK_CHARACTERS_MAX = 3000
AUTH_TOKEN_CHARACTERS_MAX = 4000
RETRIES_MAX = 5
RETRIES_MS_MAX = 60_000
URL_CHARACTERS_MAX = 2000

CODECS = ("PCMU", "PCMA", "G722", "OPUS", "AMR-WB", "L16")
CODECS_OF_TWIN = ("PCMU", "PCMA", "L16")
RATES_HZ = (8000, 16000, 22050, 24000, 48000)
TRACKS = ("inbound_track", "outbound_track", "both_tracks")
LEGS = ("both", "self", "opposite")
CAUSES = ("CALL_REJECTED", "NOT_FOUND", "TEMPORARILY_UNAVAILABLE", "USER_BUSY")

DIGITS = re.compile(r"[0-9A-D*#wW]{1,64}")
E164 = re.compile(r"\+[1-9]\d{1,14}")
SIP_URI = re.compile(r"sips?:[^\s@]+@[^\s@]+")
TAG = re.compile(r"<[^>]*>")

Body = Mapping[str, Any]


class Format(NamedTuple):
    """How audio is carried on the media socket."""

    name: str
    rate_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A media stream as requested. `back` is None when audio of the agent is not taken: Telnyx drops it silently."""

    url: str
    track: str
    forth: Format
    back: Format | None
    mode: str
    auth_token: str
    custom_parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Where this call's webhooks go from now on, and how often they are tried, by event type."""

    url: str = ""
    retries_ms: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """Something the carrier plays to the caller: `text` is spoken, else `url`, `content` or `media_name` is played."""

    text: str = ""
    url: str = ""
    content: str = ""
    media_name: str = ""
    overlay: bool = False
    loops: int = 1
    stop: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    to: str
    from_number: str
    client_state: str | None


def text(body: Body, name: str, *, required: bool = False, choices: Collection[str] = (), at_most: int = 0) -> str:
    """The string, or "" where it is absent. Choices are case-sensitive, as at Telnyx."""
    value = body.get(name)
    if value is None or value == "":
        if required:
            raise missing(name)
        return ""
    if not isinstance(value, str):
        raise invalid(name, "must be a string.")
    if choices and value not in choices:
        raise invalid(name, f"{value!r} is not one of {', '.join(choices)}.")
    if at_most and len(value) > at_most:
        raise invalid(name, f"is {len(value)} characters long; the limit is {at_most}.")
    return value


def flag(body: Body, name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise invalid(name, "must be true or false.")
    return value


def client_state(body: Body, name: str = "client_state") -> str | None:
    """The state to echo in later webhooks; it must be base64."""
    value = text(body, name)
    if not value:
        return None
    try:
        b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(name, "must be a valid Base64-encoded string.") from None
    return value


def stream(body: Body, *, call_codec: str, required: bool) -> Stream | None:
    """The stream that `answer` or `streaming_start` asks for; None if it asks for none."""
    url = text(body, "stream_url", required=required, at_most=URL_CHARACTERS_MAX)
    track = text(body, "stream_track", choices=TRACKS) or "inbound_track"
    forth_name = text(body, "stream_codec", choices=(*CODECS, "default")) or "default"
    mode = text(body, "stream_bidirectional_mode", choices=("mp3", "rtp"))
    back_name = text(body, "stream_bidirectional_codec", choices=CODECS) or "PCMU"
    rate_hz = body.get("stream_bidirectional_sampling_rate")
    if rate_hz is not None and rate_hz not in RATES_HZ:
        raise invalid("stream_bidirectional_sampling_rate", f"must be one of {', '.join(map(str, RATES_HZ))}.")
    text(body, "stream_bidirectional_target_legs", choices=LEGS)
    auth_token = text(body, "stream_auth_token", at_most=AUTH_TOKEN_CHARACTERS_MAX)
    if not (auth_token.isascii() and auth_token.isprintable()):
        raise invalid("stream_auth_token", "must be printable ASCII: it is sent as a header.")
    parameters = _custom_parameters(body)
    if not url:
        return None
    if not re.match(r"wss?://[^\s/]+", url):
        raise Refusal(422, "10003", "Invalid URL", f"stream_url must begin with ws:// or wss://: {url}", "/stream_url")
    return Stream(
        url=url,
        track=track,
        forth=_format(call_codec if forth_name == "default" else forth_name, rate_hz),
        back=_format(back_name, rate_hz) if mode == "rtp" else None,
        mode=mode,
        auth_token=auth_token,
        custom_parameters=parameters,
    )


def _format(name: str, rate_hz: int | None) -> Format:
    if name not in CODECS_OF_TWIN:
        raise unsupported(f"the codec {name}", f"Use one of {', '.join(CODECS_OF_TWIN)}.")
    # G.711 is 8 kHz by definition; L16 is wide-band unless the agent says otherwise.
    return Format(name, (rate_hz or 16000) if name == "L16" else 8000)


def _custom_parameters(body: Body) -> dict[str, str]:
    value = body.get("custom_parameters") or []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise invalid("custom_parameters", "must be a list of objects with name and value.")
    return {text(each, "name", required=True): text(each, "value") for each in value}


def hooks(body: Body) -> Hooks:
    url = text(body, "webhook_url", at_most=URL_CHARACTERS_MAX)
    policies = body.get("webhook_retries_policies") or {}
    if not isinstance(policies, dict):
        raise invalid("webhook_retries_policies", "must be an object of event types.")
    return Hooks(url=url, retries_ms={event: _retries(event, policy) for event, policy in policies.items()})


def _retries(event: str, policy: object) -> Sequence[int]:
    name = f"webhook_retries_policies/{event}/retries_ms"
    waits = policy.get("retries_ms", []) if isinstance(policy, dict) else None
    if not isinstance(waits, list) or not all(type(wait) is int and wait >= 0 for wait in waits):
        raise invalid(name, "must be a list of milliseconds.")
    if len(waits) > RETRIES_MAX or sum(waits) > RETRIES_MS_MAX:
        raise invalid(name, f"at most {RETRIES_MAX} retries and {RETRIES_MS_MAX} ms in all.")
    return waits


def speech(body: Body) -> Sound:
    payload = text(body, "payload", required=True, at_most=SPEAK_CHARACTERS_MAX)
    voice = text(body, "voice", required=True)
    kind = text(body, "payload_type", choices=("text", "ssml"))
    language = text(body, "language")
    level = text(body, "service_level", choices=("basic", "premium"))
    if level == "basic" and (kind == "ssml" or language not in ("", "en-US")):
        raise invalid("service_level", "basic allows only the en-US language and payload type text.")
    if level == "premium" and voice in ("male", "female"):
        raise invalid("voice", f"{voice} is only available at service_level basic.")
    spoken = TAG.sub(" ", payload) if kind == "ssml" else payload
    return Sound(text=spoken, loops=_loops(body), stop=_stop(body))


def playback(body: Body) -> Sound:
    sound = Sound(
        url=text(body, "audio_url"),
        content=text(body, "playback_content"),
        media_name=text(body, "media_name"),
        overlay=flag(body, "overlay"),
        loops=_loops(body),
        stop=_stop(body),
    )
    text(body, "audio_type", choices=("mp3", "wav"))
    text(body, "target_legs", choices=LEGS)
    if sound.url and sound.media_name:
        raise invalid("media_name", "media_name and audio_url cannot be used together in one request.")
    if not (sound.url or sound.content or sound.media_name):
        raise missing("audio_url")
    # A data: URL is this twin's own: Telnyx fetches from the network only.
    if sound.url and not re.match(r"(https?://\S{1,1990}$|data:)", sound.url):
        raise Refusal(422, "10003", "Invalid URL", f"audio_url is no URL: {sound.url[:100]}", "/audio_url")
    return sound


def _loops(body: Body) -> int:
    value = body.get("loop", 1)
    if value == "infinity":
        return ENDLESS
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is not int or not 1 <= value <= 100:
        raise invalid("loop", "must be an integer between 1 and 100, or infinity.")
    return value


def _stop(body: Body) -> str:
    return text(body, "stop", choices=("current", "all"))


def digits(body: Body) -> str:
    value = text(body, "digits", required=True)
    if not DIGITS.fullmatch(value):
        raise invalid("digits", "valid digits are 0-9, A-D, * and #, with w and W for pauses, at most 64.")
    duration = body.get("duration_millis", 250)
    if type(duration) is not int or not 100 <= duration <= 500:
        raise invalid("duration_millis", "ranges from 100 to 500.")
    return value


def transfer(body: Body) -> Transfer:
    to = text(body, "to", required=True).partition(",")[0]
    if not (E164.fullmatch(to) or SIP_URI.match(to)):
        detail = "The specified phone number parameter must be in +E.164 format."
        raise Refusal(422, "10016", "Phone number must be in +E.164 format", detail, "/to")
    timeout = body.get("timeout_secs", 30)
    if type(timeout) is not int or not 5 <= timeout <= 600:
        raise invalid("timeout_secs", "ranges from 5 to 600.")
    return Transfer(to=to, from_number=text(body, "from"), client_state=client_state(body, "target_leg_client_state"))


def cause(body: Body) -> str:
    return text(body, "cause", required=True, choices=CAUSES)


def dial(body: Body) -> None:
    """Check what `POST /v2/calls` requires."""
    for name in ("connection_id", "from"):
        text(body, name, required=True)
    if not body.get("to"):
        raise missing("to")
