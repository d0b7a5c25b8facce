"""What a service says of itself: gauges and counters from its `/metrics`.

The text format of Prometheus, and of OpenMetrics: lines of `name{label="value",...} number [timestamp] [# exemplar]`
(https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import aiohttp
import yarl

from busyhour.errors import PlanError
from busyhour.model import Endpoint, Service

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LINE = re.compile(
    r"([a-zA-Z_:][\w:]*)(?:\{((?:[^\"{}]|" + _QUOTED + r")*)\})?"  # name and labels
    r"\s+(\S+)(?:\s+[^\s#]\S*)?(?:\s+#\s.*)?$"  # value, timestamp, and an exemplar, which has labels and a value too
)
_LABEL = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_WITHIN_SECONDS = 2.0
_BYTES_AT_MOST = 4 * 1024 * 1024


@dataclass(frozen=True)
class Metrics:
    """Watches the named metrics of a service; each becomes a sample of its own name.

    A name alone stands for the sum over all labels; 'breaker_state{provider="openai"}' for those with that label. A
    service that does not answer within 2 s, or has none of them, gives no reading then.
    """

    watched: Service
    names: Sequence[str]
    path: str = field(default="/metrics", kw_only=True)

    def __post_init__(self) -> None:
        wrong = [name for name in self.names if _parsed(name + " 0") is None]
        if wrong or not self.names:
            raise PlanError(f"Metrics: {', '.join(map(repr, wrong)) or 'no name'} is no name of a metric")

    @property
    def service(self) -> str:
        return self.watched.name

    async def read(self, endpoint: Endpoint) -> Mapping[str, float]:
        url = yarl.URL(endpoint.url).origin().with_path(self.path)
        timeout = aiohttp.ClientTimeout(total=_WITHIN_SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
                if answer.status != 200:
                    return {}
                body = b""
                async for chunk in answer.content.iter_chunked(65_536):
                    body += chunk
                    if len(body) > _BYTES_AT_MOST:
                        return {}
        except (aiohttp.ClientError, OSError, TimeoutError):
            return {}
        return dict(_sums(body.decode("utf-8", "replace"), self.names))


def _sums(text: str, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    found = [parsed for line in text.splitlines() if (parsed := _parsed(line)) is not None]
    for wanted in names:
        asked = _parsed(wanted + " 0")
        assert asked is not None
        values = [value for name, labels, value in found if name == asked[0] and asked[1].items() <= labels.items()]
        if values:
            yield wanted, sum(values)


def _parsed(line: str) -> tuple[str, dict[str, str], float] | None:
    """Name, labels and value; None for a comment, or what is no such line."""
    match = _LINE.match(line.strip())
    if match is None:
        return None
    try:
        value = float(match[3])
    except ValueError:
        return None
    return None if isnan(value) else (match[1], dict(_LABEL.findall(match[2] or "")), value)
