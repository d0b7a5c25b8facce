"""The way to the real API that a twin stands before, if the user has named one.

This is the only traffic of busyhour that leaves the machine, and it goes to the named host and no other: redirections
are handed to the client, not followed. The client's own key goes with its request; it is kept nowhere. Certificates
are verified. Which headers pass is told in `headers`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import yarl
from multidict import CIMultiDict

from busyhour.emulators.headers import forth
from busyhour.errors import PlanError

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 120.0
"""From the forwarding of a request to the end of its answer."""
_IDLE_SECONDS = 4.0
"""A connection is not used again after so long: the far end might just be closing it, which would look like a reset.
uvicorn keeps idle connections for 5 s, most others longer; the vendors' SDKs keep theirs as long."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where the real API is: `origin` is http(s)://HOST[:PORT]; `path` takes the place of `own`, with which the paths
    of the twin begin."""

    origin: str
    path: str
    own: str

    @staticmethod
    def parse(text: str, *, own: str = "") -> Upstream:
        """`text`: the base URL as the vendor's SDK wants it; if it has no path, it has `own`. Raises PlanError."""
        try:
            url = yarl.URL(text)
            fine = url.scheme in ("http", "https") and bool(url.host) and bool(url.port)
        except ValueError:
            fine = False
        if not fine:
            said = "not such a one" if "@" in text or "?" in text else f"{text[:200]!r}"  # no secret is repeated
            raise PlanError(
                f"upstream is {said}; it must be the http or https URL of the vendor's API, like "
                "https://api.openai.com/v1."
            )
        if url.user or url.password or url.query_string or url.fragment:
            raise PlanError(
                f"upstream, at {url.host}, has a name, a key, a query or a fragment in it; give the URL alone, for it "
                "is the client's own key that is passed on."
            )
        return Upstream(str(url.origin()), url.raw_path.rstrip("/") or own, own)

    def url(self, target: str) -> yarl.URL:
        """`target`: the path and query as they came, beginning with a slash."""
        if target.startswith(self.own) and target[len(self.own) :][:1] in ("", "/", "?"):
            target = self.path + target[len(self.own) :]
        return yarl.URL(self.origin + target, encoded=True)


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that adds, follows, decodes and remembers nothing; as many connections as there are requests."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
    ) as client:
        yield client


def there(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """The headers of a request as they are passed on; the answer is asked for without a coding, to be read beside."""
    passed = forth(headers)
    passed["Accept-Encoding"] = "identity"
    return passed


def why(problem: aiohttp.ClientError | TimeoutError) -> str:
    """Why a connection failed, without what was said on it."""
    if isinstance(problem, aiohttp.ClientConnectorError):
        cause = problem.os_error
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {getattr(cause, 'verify_message', '') or cause.reason or cause}"
        return os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror or str(cause)
    return f"no connection within {CONNECT_SECONDS:g} s" if isinstance(problem, TimeoutError) else "it speaks no HTTP"
