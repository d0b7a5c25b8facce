"""What is asked over HTTP, and what makes an answer right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from http import HTTPMethod
from typing import Protocol

from busyhour.model import JSON

# RFC 9110, 9.2.2: what may be sent again when the server closed a connection that had been idle.
_IDEMPOTENT = {"DELETE", "GET", "OPTIONS", "PUT", "TRACE"}
_OURS = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}
_BODILESS = {"GET", "DELETE", "OPTIONS"}


class Check(Protocol):
    """Something demanded of the body of an answer whose status was right."""

    def wrong(self, body: bytes) -> str:
        """ "" if it holds; else what does, in words that are the same for all such answers: reasons are counted."""
        ...


@dataclass(frozen=True)
class Contains:
    """The body has this text in it."""

    text: str

    def wrong(self, body: bytes) -> str:
        return "" if self.text.encode() in body else f"no {self.text!r} in it"


@dataclass(frozen=True)
class JSONEquals:
    """The body is JSON, and what is found along `path` equals `value`: "slots.0.day"; "" is all of it."""

    path: str
    value: JSON

    def wrong(self, body: bytes) -> str:
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return "not JSON"
        for step in filter(None, self.path.split(".")):
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                return f"no {self.path}"
        # In JSON true is not 1, though in Python it is.
        same = found == self.value and isinstance(found, bool) == isinstance(self.value, bool)
        return "" if same else f"{self.path or 'the body'} is not {json.dumps(self.value)}"


@dataclass(frozen=True)
class Request:
    """One request. `json` or `body` is sent with its length; `headers` are added to Host and Content-Length.

    The answer is right if its status is `status` (0: any from 200 to 399) and every check holds.
    """

    method: str
    path: str
    json: JSON = field(default=None, kw_only=True)
    body: bytes = field(default=b"", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    status: int = field(default=0, kw_only=True)
    checks: Sequence[Check] = field(default=(), kw_only=True)

    @cached_property
    def repeatable(self) -> bool:
        return self.method in _IDEMPOTENT

    def judge(self, status: int, body: bytes) -> str:
        """The outcome: "ok", "http_503", "wrong answer: slots.0 is not 3"."""
        if status != self.status and (self.status or not 200 <= status < 400):
            return f"http_{status}"
        for check in self.checks:
            if why := check.wrong(body):
                return f"wrong answer: {why}"
        return "ok"

    def encoded(self, host: str) -> bytes:
        """The bytes on the wire, for the server at `host` (with its port where that is not the scheme's own)."""
        body = self.body if self.json is None else json.dumps(self.json, separators=(",", ":")).encode()
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        if body or self.method not in _BODILESS:
            lines.append(f"Content-Length: {len(body)}")
        if self.json is not None and not any(name.lower() == "content-type" for name in self.headers):
            lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def problems(self) -> Iterator[str]:
        """What is wrong with it, each in a clause."""
        name = f"{self.method} {self.path!r}"
        if self.method not in set(HTTPMethod) - {"HEAD", "CONNECT"}:
            yield f"{name}: the method must be one of {', '.join(sorted(set(HTTPMethod) - {'HEAD', 'CONNECT'}))}"
        if not self.path.startswith("/") or not self.path.isascii() or not self.path.isprintable() or " " in self.path:
            yield f"{name}: a path begins with / and is percent-encoded, without spaces"
        if self.json is not None and self.body:
            yield f"{name}: give json or body, not both"
        for header, value in self.headers.items():
            token = header.isascii() and header.replace("-", "").replace("_", "").isalnum()
            if not token or not (value.isascii() and value.isprintable()):
                yield f"{name}: the header {header!r}: {value!r} cannot be sent; both must be plain ASCII"
            elif header.lower() in _OURS:
                yield f"{name}: the header {header!r} is set by the connection; leave it out"
        try:
            json.dumps(self.json)
        except (TypeError, ValueError) as error:
            yield f"{name}: its json is none: {error}"


Get = partial(Request, "GET")
Post = partial(Request, "POST")
Put = partial(Request, "PUT")
Patch = partial(Request, "PATCH")
Delete = partial(Request, "DELETE")
