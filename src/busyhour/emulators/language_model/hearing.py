"""Listening in on an answer that is passed on: its bytes cut into events, and the events understood by the API's ear.

A stream is server-sent events (WHATWG HTML, 9.2), or a JSON array whose elements are the events; a body that is neither
is one JSON object. What is held back in memory is one event, or one body, up to a limit; what is longer is not read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

EVENT_BYTES_AT_MOST = 4 * 1024 * 1024
_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_LINE = re.compile(rb"\r\n|\n|\r")
_STRUCTURE = re.compile(rb'[][{}"\\]')
_DONE = b"[DONE]"


class Piece(NamedTuple):
    """A part of the reply: some of its text, or of the arguments (JSON) of the call of function `tool`; `key` tells
    the calls of one reply apart."""

    text: str
    key: str = ""
    tool: str = ""


class Heard(NamedTuple):
    """What an event, or a whole body, says. tokens: of the completion, prompt_tokens: both as the vendor bills them,
    None where it does not tell; ended: the reply is complete; failed: it is an error instead."""

    pieces: Sequence[Piece] = ()
    tokens: int | None = None
    prompt_tokens: int | None = None
    ended: bool = False
    failed: bool = False


class Ear(Protocol):
    """Understands the answer to one request, in the form of one API; passes over what it does not know."""

    def event(self, form: Mapping[str, Any]) -> Heard:
        """The next event of a stream. Raises nothing."""
        ...

    def whole(self, form: Mapping[str, Any]) -> Heard:
        """A body that is not streamed. Raises nothing."""
        ...


class Event(NamedTuple):
    """`raw`: the bytes with all that delimits them; `form`: the JSON in them, {} for none, None if it is broken."""

    raw: bytes
    form: Mapping[str, Any] | None
    done: bool = False


class Unreadable(Exception):
    """An event is too long to be read."""


class SentEvents:
    """Server-sent events out of the chunks of a body."""

    def __init__(self) -> None:
        self._rest = b""
        self._seen = 0  # of the rest: what holds no end

    def feed(self, chunk: bytes) -> Sequence[Event]:
        """The events that this chunk completes. Raises Unreadable."""
        body = self._rest + chunk if self._rest else chunk
        raws: list[bytes] = []
        at = 0
        for end in _END_OF_EVENT.finditer(body, self._seen):
            raws.append(body[at : end.end()])
            at = end.end()
        self._rest = body[at:]
        self._seen = max(0, len(self._rest) - 3)
        if len(self._rest) > EVENT_BYTES_AT_MOST:
            raise Unreadable
        data = [_data(raw) for raw in raws]
        forms = _forms([one for one in data if one and one != _DONE])
        return [
            Event(raw, next(forms)) if one and one != _DONE else Event(raw, {}, done=one == _DONE)
            for raw, one in zip(raws, data, strict=True)
        ]


def _data(raw: bytes) -> bytes:
    if raw.startswith(b"data: ") and raw.find(b"\n") >= len(raw) - 3:  # one line, as nearly all have
        return raw[6:].strip()
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(raw) if line.startswith(b"data:")]
    return b"\n".join(lines).strip()


def _forms(data: Sequence[bytes]) -> Iterator[Mapping[str, Any] | None]:
    """Each read on its own; but all at once if that can be, in a third of the time."""
    if len(data) > 1 and all(one.startswith(b"{") and one.endswith(b"}") for one in data):
        together = _loads(b"[" + b",".join(data) + b"]")
        if isinstance(together, list) and len(together) == len(data):
            return iter(together)
    return (read(one) for one in data)


class ArrayElements:
    """The elements of a JSON array out of the chunks of a body, each with what stands before it."""

    def __init__(self) -> None:
        self._rest = b""
        self._seen = 0
        self._depth = 0
        self._quoted = False

    def feed(self, chunk: bytes) -> Sequence[Event]:
        """The elements that this chunk completes. Raises Unreadable."""
        data = self._rest + chunk
        found: list[Event] = []
        at = 0
        look = self._seen
        while sign := _STRUCTURE.search(data, look):
            look = sign.end()
            match sign.group():
                case b"\\":
                    look += 1  # what it escapes, which may still be to come
                case b'"':
                    self._quoted = not self._quoted
                case b"{" | b"[" if not self._quoted:
                    self._depth += 1
                case b"}" | b"]" if not self._quoted:
                    self._depth -= 1
                    if self._depth == 1:
                        found.append(Event(data[at:look], read(data[at:look].lstrip(b" \t\r\n,["))))
                        at = look
        self._rest = data[at:]
        self._seen = max(look, len(data)) - at
        if len(self._rest) > EVENT_BYTES_AT_MOST:
            raise Unreadable
        return found


def read(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object, None for anything else."""
    form = _loads(data)
    return form if isinstance(form, dict) else None


def _loads(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# ---------------------------------------------------------------- for the ears


def objects(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects in a list; none if it is no list."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def count(form: object, *names: str) -> int | None:
    """The sum of the numbers of these names, None if there is none of them."""
    if not isinstance(form, dict):
        return None
    found = [form[name] for name in names if isinstance(form.get(name), int) and form[name] >= 0]
    return sum(found) if found else None


def written(value: object) -> str:
    """A string, "" for anything else."""
    return value if isinstance(value, str) else ""
