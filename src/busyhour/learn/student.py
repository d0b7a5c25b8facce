"""Whom the proxy tells what passes through it. Students take in, and keep nothing that was said."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from busyhour.emulators.language_model.hearing import Event, SentEvents, Unreadable


class End(Enum):
    WHOLE = "whole"
    BROKEN = "broken"  # the vendor broke it off: a reset, or a body that is cut
    LEFT = "left"  # the client went away


class Exchange(Protocol):
    """One HTTP request and its answer."""

    def sent(self, at_ns: int) -> None:
        """The whole request has gone to the vendor."""
        ...

    def answered(self, status: int, headers: Mapping[str, str], at_ns: int) -> None: ...

    def chunk(self, data: bytes, at_ns: int) -> None:
        """A piece of the body, as it came."""
        ...

    def ended(self, how: End, at_ns: int) -> None: ...


class Conversation(Protocol):
    """One WebSocket."""

    def answered(self, status: int) -> None:
        """To the handshake: 101, or a refusal, after which comes nothing."""
        ...

    def asked(self, message: str | bytes, at_ns: int) -> None: ...

    def told(self, message: str | bytes, at_ns: int) -> None: ...

    def ended(self, how: End, at_ns: int) -> None: ...


class Student(Protocol):
    """One vendor's; `None` for what there is nothing to learn from."""

    def exchange(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> Exchange | None: ...

    def conversation(self, path: str, query: Mapping[str, str]) -> Conversation | None: ...


class Events:
    """Server-sent events out of the chunks of a body, gzipped or deflated too."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        coding = headers.get("Content-Encoding", "").lower()
        # 32 + 15: zlib reads the header and knows gzip from deflate.
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS) if coding in ("gzip", "deflate") else None
        self._events = SentEvents()

    def of(self, chunk: bytes) -> Sequence[Event]:
        """Every event that this chunk completes. What cannot be read is passed over."""
        try:
            return self._events.feed(chunk if self._inflate is None else self._inflate.decompress(chunk))
        except zlib.error:
            return ()
        except Unreadable:
            self._events = SentEvents()
            return ()


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object; empty for anything else."""
    try:
        form = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return form if isinstance(form, dict) else {}


def is_stream(headers: Mapping[str, str]) -> bool:
    return headers.get("Content-Type", "").lower().startswith("text/event-stream")
