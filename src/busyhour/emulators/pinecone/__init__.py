"""The vector database Pinecone: a real search, exact and in memory, behind the vendor's API.

Source: the API reference; judged by the official `pinecone` SDK, its clients of both kinds. Served are the vectors
API (upsert, query, fetch, update, delete, list, stats, namespaces; metadata filters; sparse values in dotproduct
indexes) and of the control plane what finds, makes and deletes an index. The URL of the twin is the control plane and
also the host of its first index; the hosts of others are told by describe_index. Integrated embedding, documents,
imports and backups are not here.

Outcomes beside the common ones:
    stale    a write is acknowledged, and queries see it only `staleness` later (what is written behind it waits too)
    empty    a query finds nothing, in good order
    quota    429: the units of the month are used up
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from busyhour.emulators.behaviour import COMMON_OUTCOMES, Behaviour, Constant, Latency, LogNormal
from busyhour.emulators.vendor import VendorTwin
from busyhour.errors import PlanError
from busyhour.model import JSON

OUTCOMES = (*COMMON_OUTCOMES, "stale", "empty", "quota")
DEFAULT_DIMENSION = 1536
VECTORS_AT_MOST = 20_000


@dataclass(kw_only=True, eq=False)
class Pinecone(VendorTwin):
    """A twin of Pinecone as a Service; its URL is the control plane's and the first index's.

    query: until the answer to a read; upsert: to a write; staleness: how long a "stale" write is not seen. outcomes:
    the share of requests that go wrong, by name (see OUTCOMES). index, dimension, metric: the index that is there from
    the start; dimension None is that of the first record. records: what it holds from the start, as records
    ({"id", "values", "metadata", "namespace"}) or the path of a JSON or JSON Lines file of them. vectors_at_most: the
    bound of its memory. api_key: the one that is accepted, "" for any. Raises PlanError for impossible settings.
    """

    name: str = "vectors"
    query: Latency = field(default_factory=lambda: LogNormal(40, 0.4))
    upsert: Latency = field(default_factory=lambda: LogNormal(80, 0.4))
    staleness: Latency = field(default_factory=lambda: Constant(2000))
    outcomes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 1
    port: int = 0
    index: str = "busyhour"
    dimension: int | None = None
    metric: str = "cosine"
    records: Sequence[Mapping[str, Any]] | str | Path = ()
    vectors_at_most: int = VECTORS_AT_MOST
    api_key: str = ""
    _module = "busyhour.emulators.pinecone"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.records, str | Path):
            self._written()

    def _behaves(self) -> Behaviour:
        latencies = {"query": self.query, "upsert": self.upsert, "staleness": self.staleness}
        return Behaviour(possible=OUTCOMES, latencies=latencies, outcomes=self.outcomes, seed=self.seed)

    def _more(self, folder: Path) -> Mapping[str, JSON]:
        return {
            **super()._more(folder),
            "index": self.index,
            "dimension": self.dimension or 0,
            "metric": self.metric,
            "vectors_at_most": self.vectors_at_most,
            "records": self._file(folder),
        }

    def _file(self, folder: Path) -> str:
        """Where the records are: the path of a file, "" for none."""
        if isinstance(self.records, str | Path):
            return str(Path(self.records).absolute())
        if not self.records:
            return ""
        # They may be more than an argument of a process holds; they go through a file, as the user's own do.
        path = folder / "records.json"
        path.write_text(self._written(), encoding="utf-8")
        return str(path)

    def _written(self) -> str:
        assert not isinstance(self.records, str | Path)
        try:
            return json.dumps(list(self.records), allow_nan=False)
        except (TypeError, ValueError) as problem:
            raise PlanError(f"records: they cannot be written as JSON: {problem}.") from None
