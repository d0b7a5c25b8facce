"""The vectors and the search among them: exact, in memory, bounded, with writes that may be seen late. No I/O.

A write is acknowledged when it is applied to the log of its namespace; readers see it when its time has come. The log
is kept in order: what is written behind a late write becomes visible with it, never before.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest

import numpy as np
import numpy.typing as npt

from busyhour.emulators.pinecone.filters import METADATA_BYTES_AT_MOST, Holds
from busyhour.emulators.pinecone.refusal import Refused
from busyhour.model import JSON

Floats = npt.NDArray[np.float32]
METRICS = ("cosine", "dotproduct", "euclidean")
BYTES_AT_MOST = 1 << 29
"""Of values and metadata together, in one twin."""
NAMESPACES_AT_MOST = 10_000
WAITING_AT_MOST = 1_000
"""Writes of a namespace that were acknowledged and are not seen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One vector. sparse: index -> value."""

    id: str
    values: Floats
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    sparse: Mapping[int, float] = field(default_factory=dict)
    cost_bytes: int = 0

    def as_json(self) -> dict[str, JSON]:
        form: dict[str, JSON] = {"id": self.id, "values": self.values.tolist()}
        if self.metadata:
            form["metadata"] = self.metadata
        if self.sparse:
            form["sparseValues"] = {"indices": list(self.sparse), "values": list(self.sparse.values())}
        return form


def measured(record: Record) -> Record:
    """The record with its cost in bytes. Raises Refused when its metadata is too long."""
    metadata_bytes = len(json.dumps(record.metadata)) if record.metadata else 0
    if metadata_bytes > METADATA_BYTES_AT_MOST:
        raise Refused(
            f"Metadata size is {metadata_bytes} bytes, which exceeds the limit of {METADATA_BYTES_AT_MOST} bytes per "
            f"vector; record '{record.id[:80]}'"
        )
    cost = record.values.nbytes + metadata_bytes + 12 * len(record.sparse) + len(record.id) + 200
    return replace(record, cost_bytes=cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A change of a namespace, and what it may add to it."""

    apply: Callable[[Namespace], None]
    visible_ns: int
    records: int = 0
    cost_bytes: int = 0


class Namespace:
    """Records in rows of a matrix, and the writes that readers do not see yet."""

    def __init__(self, dimension: int, *, declared: bool = False) -> None:
        self.declared = declared  # made on request: it stays when it is empty
        self.rows: dict[str, int] = {}
        self.cost_bytes = 0
        self._records: list[Record] = []
        self._matrix: Floats = np.zeros((0, dimension), dtype=np.float32)
        self._norms: Floats = np.zeros(0, dtype=np.float32)
        self._late: deque[Write] = deque()

    # -- writing

    def write(self, write: Write) -> None:
        """Append to the log; it is seen in its time, or with the writes before it if those are seen later."""
        last_ns = self._late[-1].visible_ns if self._late else 0
        self._late.append(replace(write, visible_ns=max(write.visible_ns, last_ns)))

    def catch_up(self, now_ns: int) -> None:
        """Apply what readers may see by now."""
        while self._late and self._late[0].visible_ns <= now_ns:
            self._late.popleft().apply(self)

    def waiting(self) -> tuple[int, int, int]:
        """Writes that are not seen yet, and the records and bytes in them."""
        late = self._late
        return len(late), sum(write.records for write in late), sum(write.cost_bytes for write in late)

    def put(self, record: Record) -> None:
        row = self.rows.get(record.id)
        if row is None:
            row = self.rows[record.id] = len(self._records)
            self._records.append(record)
            if row == len(self._matrix):
                self._resize(max(1, 2 * row))
        else:
            self.cost_bytes -= self._records[row].cost_bytes
            self._records[row] = record
        self._matrix[row] = record.values
        self._norms[row] = np.linalg.norm(record.values)
        self.cost_bytes += record.cost_bytes

    def remove(self, key: str) -> None:
        """The last row takes the place of the removed one, so a removal costs no more than a write."""
        row = self.rows.pop(key, None)
        if row is None:
            return
        self.cost_bytes -= self._records[row].cost_bytes
        last = self._records.pop()
        if last.id != key:
            end = len(self._records)
            self.rows[last.id], self._records[row] = row, last
            self._matrix[row], self._norms[row] = self._matrix[end], self._norms[end]

        if 4 * len(self._records) < len(self._matrix):
            self._resize(2 * len(self._records))

    def _resize(self, rows: int) -> None:
        kept = min(rows, len(self._matrix))
        matrix = np.zeros((rows, self._matrix.shape[1]), dtype=np.float32)
        norms = np.zeros(rows, dtype=np.float32)
        matrix[:kept], norms[:kept] = self._matrix[:kept], self._norms[:kept]
        self._matrix, self._norms = matrix, norms

    # -- reading

    def get(self, key: str) -> Record | None:
        row = self.rows.get(key)
        return None if row is None else self._records[row]

    def matching(self, holds: Holds) -> list[str]:
        """Ids of the records whose metadata passes, sorted."""
        return sorted(record.id for record in self._records if holds(record.metadata))

    def page(self, ids: Sequence[str], *, after: str, size: int) -> tuple[list[str], str]:
        """The next `size` of sorted ids behind `after`, and the last of them if more follow, else ""."""
        start = bisect_right(ids, after) if after else 0
        page = list(ids[start : start + size])
        return page, page[-1] if page and start + size < len(ids) else ""

    def nearest(
        self, values: Floats, *, metric: str, top_k: int, holds: Holds | None, sparse: Mapping[int, float]
    ) -> list[tuple[Record, float]]:
        """The best `top_k` records with their scores, best first, equals in the order of their ids.

        cosine and dotproduct: more is better; euclidean: the square of the distance, less is better.
        """
        rows = np.arange(len(self._records))
        if holds is not None:
            rows = np.array([row for row, record in enumerate(self._records) if holds(record.metadata)], dtype=np.intp)
        if not len(rows):
            return []
        scores = self._scores(values, rows, metric)
        if sparse:
            scores = scores + np.array([_sparse_product(self._records[row].sparse, sparse) for row in rows])
        ranks = scores if metric == "euclidean" else -scores
        if top_k < len(rows):
            # All that are as good as the k-th stay, so that equals are told apart by id and not by their row.
            limit = np.partition(ranks, top_k - 1)[top_k - 1]
            kept = np.flatnonzero(ranks <= limit)
            rows, scores, ranks = rows[kept], scores[kept], ranks[kept]
        found = zip(ranks.tolist(), rows.tolist(), scores.tolist(), strict=True)
        best = nsmallest(top_k, found, key=lambda item: (item[0], self._records[item[1]].id))
        return [(self._records[row], score) for _, row, score in best]

    def _scores(self, values: Floats, rows: npt.NDArray[np.intp], metric: str) -> npt.NDArray[np.float64]:
        matrix = self._matrix[: len(self._records)] if len(rows) == len(self._records) else self._matrix[rows]
        # Not `matrix @ values`: the threads of the BLAS behind it go on spinning for milliseconds after each product.
        products: npt.NDArray[np.float64] = np.einsum("ij,j->i", matrix, values).astype(np.float64)
        if metric == "dotproduct":
            return products
        norms = self._norms[rows].astype(np.float64)
        norm = float(np.linalg.norm(values))
        if metric == "cosine":
            both = norms * norm
            return np.divide(products, both, out=np.zeros_like(products), where=both > 0)
        # |a - b|^2 by its parts loses digits where a and b are nearly equal; the difference itself does not.
        difference = matrix - values
        squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", difference, difference).astype(np.float64)
        return squares


def _sparse_product(stored: Mapping[int, float], asked: Mapping[int, float]) -> float:
    return sum(value * stored[index] for index, value in asked.items() if index in stored)


@dataclass(kw_only=True)
class Index:
    """One index: its shape, and its namespaces; "" is the default one."""

    name: str
    dimension: int
    metric: str
    cloud: str = "aws"
    region: str = "us-east-1"
    deletion_protection: str = "disabled"
    tags: Mapping[str, str] = field(default_factory=dict)
    written: int = 0  # position in the log of the last write
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    _unseen: set[str] = field(default_factory=set, repr=False)  # namespaces with writes that wait

    def see(self, now_ns: int) -> None:
        """Let readers see what they may by now; namespaces that have become empty are gone."""
        for name in list(self._unseen):
            space = self.namespaces[name]
            space.catch_up(now_ns)
            if not space.waiting()[0]:
                self._unseen.discard(name)
                if not (space.rows or space.declared):
                    del self.namespaces[name]

    def opened(self, name: str) -> Namespace:
        """The namespace, made when it is new."""
        if name not in self.namespaces:
            if len(self.namespaces) >= NAMESPACES_AT_MOST:
                raise Refused(
                    f"Request failed. You've reached the max namespaces allowed per index ({NAMESPACES_AT_MOST}).",
                    status=403,
                )
            self.namespaces[name] = Namespace(self.dimension)
        return self.namespaces[name]

    def write(self, name: str, write: Write) -> None:
        """One write into a namespace. Raises Refused when too many are waiting to be seen."""
        space = self.opened(name)
        if space.waiting()[0] >= WAITING_AT_MOST:
            raise Refused(f"More than {WAITING_AT_MOST} writes wait to become visible.", status=429)
        space.write(write)
        self._unseen.add(name)
        self.written += 1

    def indexed(self) -> int:
        """Position in the log up to which readers see everything."""
        return self.written - sum(self.namespaces[name].waiting()[0] for name in self._unseen)

    def count(self) -> int:
        return sum(len(space.rows) for space in self.namespaces.values())

    def held(self) -> tuple[int, int]:
        """Records and bytes, those that are not seen yet among them."""
        records = cost_bytes = 0
        for space in self.namespaces.values():
            _, waiting_records, waiting_bytes = space.waiting()
            records += len(space.rows) + waiting_records
            cost_bytes += space.cost_bytes + waiting_bytes
        return records, cost_bytes
