"""How an agent's own WebSocket protocol looks: what each message of a call is on the wire, as a value.

What we send is a template: any JSON value in which a text that is nothing but "$audio" becomes the value of that name,
and "${timestamp_ms}" inside a longer text its characters. What the agent sends is recognised by rules: the message in
which each path has its value, and where its content lies. Paths have dots: "media.payload".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

from busyhour.errors import PlanError
from busyhour.media.codec import Codec, codec
from busyhour.model import JSON

Encoding: TypeAlias = Literal["pcm16le", "pcm16be", "mulaw", "alaw"]

_CODECS = {"pcm16le": "L16", "pcm16be": "L16", "mulaw": "PCMU", "alaw": "PCMA"}
_GENERAL = ("call", "stream", "sequence", "from_number", "to_number")
_VARIABLE = re.compile(r'"\$([a-z_]+)"|\$\{([a-z_]+)\}')
_NOWHERE = object()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A message of the agent: that in which every path of `where` has its value; its content lies at `take`."""

    where: Mapping[str, JSON]
    take: str = ""

    def fits(self, message: object) -> bool:
        return all(_at(message, path) == value for path, value in self.where.items())

    def content(self, message: object) -> Any:
        """None when there is none."""
        found = _at(message, self.take)
        return None if found is _NOWHERE else found


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One protocol. Audio is of one channel, in frames of 20 ms to the agent, in chunks of any length from it.

    To the agent: `audio_out` (None: binary frames; names: audio, chunk, timestamp_ms), `hello` when the socket is open,
    `goodbye` before we close it, `digit` for a key that the caller pressed (digit; None: there is no such message),
    `played` when a mark was reached (mark), `cleared` after a clear. Each also knows call, stream, sequence,
    from_number, to_number. From it: `audio_in` (None: binary frames; takes base64), `clear`, `mark` (takes its name,
    any JSON), `digit_in`, `transcript` (a text for the trail), `end` (the agent hangs up). Other messages are noted,
    and passed over. Raises PlanError.
    """

    encoding: Encoding = "pcm16le"
    rate_hz: int = 16_000
    audio_out: JSON = None
    hello: Sequence[JSON] = ()
    goodbye: Sequence[JSON] = ()
    digit: JSON = None
    played: JSON = None
    cleared: JSON = None
    audio_in: Rule | None = None
    clear: Rule | None = None
    mark: Rule | None = None
    digit_in: Rule | None = None
    transcript: Rule | None = None
    end: Rule | None = None
    codec: Codec = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = _CODECS.get(self.encoding)
        if known is None:
            raise PlanError(f"wire: the encoding {self.encoding!r} is unknown; known are {', '.join(_CODECS)}")
        try:
            found = codec(known, self.rate_hz, little_endian=self.encoding == "pcm16le")
        except ValueError as problem:
            raise PlanError(f"wire: {self.encoding} at {self.rate_hz} Hz: {problem}") from None
        object.__setattr__(self, "codec", found)
        problems = [*self._wrong_templates(), *self._wrong_rules()]
        if problems:
            raise PlanError(problems)

    def _wrong_templates(self) -> list[str]:
        more = {"audio_out": ("audio", "chunk", "timestamp_ms"), "digit": ("digit",), "played": ("mark",)}
        problems = []
        for name in ("audio_out", "hello", "goodbye", "digit", "played", "cleared"):
            known = {*_GENERAL, *more.get(name, ())}
            used = Template(getattr(self, name)).names
            problems += [
                f"wire: {name} has ${strange}; known there are {', '.join(sorted(known))}"
                for strange in sorted(used - known)
            ]
            if name == "audio_out" and self.audio_out is not None and "audio" not in used:
                problems.append('wire: audio_out has no "$audio": the agent would hear nothing')
        return problems

    def _wrong_rules(self) -> list[str]:
        problems = []
        for item in fields(self):
            rule = getattr(self, item.name) if item.init else None
            if not isinstance(rule, Rule):
                continue
            if not rule.where and item.name != "audio_in":
                problems.append(f"wire: the rule for {item.name} has no `where`: every message would be one")
            if not rule.take and item.name in ("audio_in", "mark", "digit_in", "transcript"):
                problems.append(f"wire: the rule for {item.name} has no `take`: where its content lies in the message")
        return problems


class Template:
    """A JSON value with names in it, ready to be filled in 50 times a second."""

    def __init__(self, value: JSON) -> None:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        # The parts between names, and what each name is: whole ("$x") or within a text ("${x}").
        self._parts: list[bytes] = []
        self._names: list[tuple[str, bool]] = []
        end = 0
        for found in _VARIABLE.finditer(text):
            self._parts.append(text[end : found.start()].encode())
            self._names.append((found[1] or found[2], found[1] is not None))
            end = found.end()
        self._parts.append(text[end:].encode())

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self._names}

    def filled(self, values: Mapping[str, JSON | bytes]) -> bytes:
        """Bytes are put as they are (base64 needs no escapes), all else as JSON."""
        pieces = [self._parts[0]]
        for (name, whole), part in zip(self._names, self._parts[1:], strict=True):
            value = values[name]
            if isinstance(value, bytes):
                pieces.append(b'"%b"' % value if whole else value)
            elif whole:
                pieces.append(json.dumps(value).encode())
            else:
                pieces.append(json.dumps(str(value))[1:-1].encode())
            pieces.append(part)
        return b"".join(pieces)


def _at(message: object, path: str) -> object:
    for name in path.split("."):
        if not isinstance(message, dict) or name not in message:
            return _NOWHERE
        message = message[name]
    return message


# ---------------------------------------------------------------- shapes one step away

PLAIN = Wire()
"""Binary frames of 16-bit little-endian PCM at 16 kHz both ways, and no messages: who closes the socket hangs up."""


def vonage(rate_hz: int = 16_000, headers: Mapping[str, JSON] | None = None) -> Wire:
    """Vonage's Voice API WebSocket: binary PCM and JSON events. `headers`: the NCCO's, told in the first event.

    Source: developer.vonage.com/en/voice/voice-api/guides/websockets. Rates are 8, 16 and 24 kHz.
    """
    content_type = f"audio/l16;rate={rate_hz}"
    return Wire(
        encoding="pcm16le",
        rate_hz=rate_hz,
        hello=[{"event": "websocket:connected", "content-type": content_type, **(headers or {})}],
        digit={"event": "websocket:dtmf", "digit": "$digit", "duration": 260},
        played={"event": "websocket:notify", "payload": "$mark"},
        cleared={"event": "websocket:cleared"},
        clear=Rule(where={"action": "clear"}),
        mark=Rule(where={"action": "notify"}, take="payload"),
    )


def plivo(encoding: Encoding = "mulaw", rate_hz: int = 8_000, extra_headers: str = "") -> Wire:
    """Plivo's bidirectional audio stream: JSON with base64 both ways; L16 (little-endian) at 8 or 16 kHz, or mu-law.

    Source: plivo.com/docs/voice/audio-streaming. The agent hangs up by closing the socket.
    """
    content_type = "audio/x-mulaw" if encoding == "mulaw" else "audio/x-l16"
    numbered: dict[str, JSON] = {"sequenceNumber": "$sequence", "streamId": "$stream"}
    start: dict[str, JSON] = {
        "callId": "$call",
        "streamId": "$stream",
        "accountId": "MA000000000000000000",
        "tracks": ["inbound"],
        "mediaFormat": {"encoding": content_type, "sampleRate": rate_hz},
    }
    media: dict[str, JSON] = {
        "track": "inbound",
        "chunk": "$chunk",
        "timestamp": "${timestamp_ms}",
        "payload": "$audio",
    }
    dtmf: dict[str, JSON] = {"track": "inbound", "digit": "$digit"}
    return Wire(
        encoding=encoding,
        rate_hz=rate_hz,
        audio_out={"event": "media", **numbered, "media": media, "extra_headers": extra_headers},
        hello=[{"event": "start", "sequenceNumber": "$sequence", "start": start, "extra_headers": extra_headers}],
        digit={"event": "dtmf", **numbered, "dtmf": dtmf},
        played={"event": "playedStream", **numbered, "name": "$mark"},
        cleared={"event": "clearedAudio", **numbered},
        audio_in=Rule(where={"event": "playAudio"}, take="media.payload"),
        clear=Rule(where={"event": "clearAudio"}),
        mark=Rule(where={"event": "checkpoint"}, take="name"),
    )
