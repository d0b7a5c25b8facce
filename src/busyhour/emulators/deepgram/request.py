"""What clients ask of the Deepgram twin: the query of /v1/listen, the key, and the text messages on the socket.

Sources: Deepgram's API reference and its pages on errors (https://developers.deepgram.com/docs/errors,
.../docs/stt-troubleshooting-websocket-data-and-net-errors); the wording of refusals as clients have met it on the wire.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from busyhour.emulators.deepgram.messages import ENCODINGS
from busyhour.model import JSON

ARCHITECTURES = ("nova-3", "nova-2", "nova", "enhanced", "base", "whisper")
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 8_000, 48_000
CHANNELS_AT_MOST = 20
LEAST_UTTERANCE_END_MS = 1_000
ENDPOINTING_MS = 10
"""Unless told otherwise (documented)."""
MESSAGES = ("CloseStream", "Configure", "Sync", "KeepAlive", "Finalize")


class Refused(Exception):
    """A request that is refused, with its status and the vendor's code for it."""

    def __init__(self, message: str, *, status: int = 400, code: str = "Bad Request") -> None:
        self.status = status
        self.code = code
        super().__init__(message)

    def body(self, request_id: str) -> dict[str, JSON]:
        return {"err_code": self.code, "err_msg": str(self), "request_id": request_id}


def unauthorized() -> Refused:
    return Refused("Invalid credentials.", status=401, code="INVALID_AUTH")


REFUSALS: Mapping[str, Refused] = {
    "http_401": unauthorized(),
    "http_429": Refused("Too many requests. Please try again later", status=429, code="TOO_MANY_REQUESTS"),
    "http_500": Refused("Internal server error.", status=500, code="INTERNAL_SERVER_ERROR"),
    "http_503": Refused("Please try again later", status=503, code="Service Unavailable"),
    "quota": Refused(
        "Project does not have enough credits for an ASR request and does not have an overage agreement.",
        status=402,
        code="ASR_PAYMENT_REQUIRED",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a stream is to be transcribed. `encoding` is "" when the query does not say: then no raw audio is taken."""

    encoding: str
    rate_hz: int
    channels: int
    multichannel: bool
    interim_results: bool
    endpoint_ms: int | None
    utterance_end_ms: int | None
    vad_events: bool
    formatted: bool
    model: str

    @property
    def heard_channels(self) -> int:
        """How many are transcribed: all of them one by one, or their mean as one."""
        return self.channels if self.multichannel else 1

    @property
    def architecture(self) -> str:
        return _architecture(self.model)

    def model_info(self) -> dict[str, JSON]:
        """As the vendor names them: "nova-2-phonecall" is "2-phonecall-nova" of architecture "nova-2"."""
        family, _, generation = self.architecture.partition("-")
        use = self.model[len(self.architecture) :].strip("-") or "general"
        name = f"{generation}-{use}-{family}" if generation == "2" else f"{use}-{self.architecture}"
        return {"name": name, "version": "2025-07-31.0", "arch": self.architecture}


def options(query: Mapping[str, str]) -> Options:
    """Read the query of /v1/listen; what the twin does not model (keyterm, diarize, ...) is passed over.

    Raises Refused.
    """
    model = query.get("model", "base")
    if not _architecture(model):
        raise Refused("Bad Request: No such model/language/tier combination found.")
    utterance_end_ms = number(query, "utterance_end_ms", None, low=LEAST_UTTERANCE_END_MS, high=60_000)
    interim_results = flag(query, "interim_results")
    return Options(
        encoding=encoding_of(query),
        rate_hz=rate_hz_of(query),
        channels=number(query, "channels", 1, low=1, high=CHANNELS_AT_MOST) or 1,
        multichannel=flag(query, "multichannel"),
        interim_results=interim_results,
        endpoint_ms=_endpointing(query),
        # It is read off the interim results (documented): without those there is none.
        utterance_end_ms=utterance_end_ms if interim_results else None,
        vad_events=flag(query, "vad_events"),
        formatted=flag(query, "punctuate") or flag(query, "smart_format"),
        model=model,
    )


def encoding_of(query: Mapping[str, str]) -> str:
    """ "" if the query does not say. Raises Refused."""
    encoding = query.get("encoding", "")
    if encoding and encoding not in ENCODINGS:
        raise Refused(f"Bad Request: Unsupported encoding '{encoding}'.")
    if encoding and "sample_rate" not in query:
        raise Refused("Bad Request: sample_rate is required when encoding is set.")
    return encoding


def rate_hz_of(query: Mapping[str, str]) -> int:
    return number(query, "sample_rate", LOWEST_RATE_HZ, low=LOWEST_RATE_HZ, high=HIGHEST_RATE_HZ) or 0


def _architecture(model: str) -> str:
    """The architecture of a model's name, which may say a use after it ("nova-2-phonecall"); "" for no such model."""
    found = re.fullmatch(rf"({'|'.join(ARCHITECTURES)})(-[a-z]+)?", model)
    return found[1] if found else ""


def flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in {"true", "false"}:
        raise invalid(name, query[name])
    return value == "true"


def number(query: Mapping[str, str], name: str, default: int | None, *, low: int, high: int) -> int | None:
    value = query.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not low <= int(value) <= high:
        raise invalid(name, value)
    return int(value)


def _endpointing(query: Mapping[str, str]) -> int | None:
    value = query.get("endpointing", "true").lower()
    if value in {"true", "false"}:
        return ENDPOINTING_MS if value == "true" else None
    return number(query, "endpointing", ENDPOINTING_MS, low=0, high=60_000)


def invalid(name: str, value: str) -> Refused:
    return Refused(f"Bad Request: Invalid '{name}' value of '{value}'.")


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key of a request, from any of the places where clients put it; "" if there is none."""
    scheme, _, credentials = headers.get("Authorization", "").partition(" ")
    if scheme.lower() in {"token", "bearer"}:
        return credentials.strip()
    # Browsers cannot set headers: theirs is the second of two subprotocols.
    scheme, _, credentials = headers.get("Sec-WebSocket-Protocol", "").partition(",")
    if scheme.strip().lower() in {"token", "bearer"}:
        return credentials.strip()
    return query.get("token", "")


@dataclass(frozen=True, slots=True)
class Command:
    """A text message of the client. `keyterms`: of a Configure that has them; `channel`: of a Finalize that has one."""

    kind: str
    keyterms: tuple[str, ...] | None = None
    channel: int | None = None


class Unreadable(Exception):
    """A text message that is no command, with the vendor's description of why."""

    def as_json(self, text: str) -> dict[str, JSON]:
        description = f"Could not deserialize last text message: {self}"
        return {"type": "Error", "variant": "SchemaError", "description": description, "message": text}


def command(text: str) -> Command:
    """Read a text message. Raises Unreadable."""
    try:
        form = json.loads(text)
    except json.JSONDecodeError as problem:
        raise Unreadable(f"{problem.msg} at line {problem.lineno} column {problem.colno}") from None
    except RecursionError:
        raise Unreadable("recursion limit exceeded") from None
    if not isinstance(form, dict):
        raise Unreadable("invalid type, expected an internally tagged enum")
    kind = form.get("type")
    if kind is None:
        raise Unreadable("missing field `type`")
    if kind not in MESSAGES:
        known = ", ".join(f"`{name}`" for name in MESSAGES)
        raise Unreadable(f"unknown variant `{kind}`, expected one of {known}")
    keyterms, channel = form.get("keyterms"), form.get("channel")
    if keyterms is not None and not (isinstance(keyterms, list) and all(isinstance(term, str) for term in keyterms)):
        raise Unreadable("invalid type for `keyterms`, expected a sequence of strings")
    if channel is not None and (not isinstance(channel, int) or isinstance(channel, bool)):
        raise Unreadable("invalid type for `channel`, expected usize")
    return Command(kind, None if keyterms is None else tuple(keyterms), channel)
