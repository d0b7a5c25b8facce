"""Which headers pass, where a request is passed on to the real vendor and its answer back.

All do, but for those that concern one connection only (RFC 9110, 7.6.1), those of a WebSocket's handshake, and what is
no longer true of a request that was received whole: its host, its length, and a coding that the server has undone.
"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict

_OF_ONE_CONNECTION = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    ]
)
_OF_A_HANDSHAKE = "sec-websocket-"
_OURS = frozenset(["host", "content-length", "expect"])
_DECODED = ("gzip", "deflate", "br", "zstd")
"""Codings of a request's body that aiohttp's server undoes."""


def forth(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Those of a request. What codings its answer may have (Accept-Encoding) is for whoever reads the answer to say."""
    passed = _passed(headers, _OF_ONE_CONNECTION | _OURS)
    if passed.get("Content-Encoding", "").strip().lower() in _DECODED:
        del passed["Content-Encoding"]
    return passed


def back(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Those of an answer, whose body is passed on as it came."""
    return _passed(headers, _OF_ONE_CONNECTION)


def _passed(headers: Mapping[str, str], without: frozenset[str]) -> CIMultiDict[str]:
    left_out = without | {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in left_out and not name.lower().startswith(_OF_A_HANDSHAKE)
    )
