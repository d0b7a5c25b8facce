"""Why calls end, in our words; `cause` and `sip` in those of the carrier and of SIP."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

from busyhour.model import SECOND

T = TypeVar("T")

Party: TypeAlias = Literal["agent", "caller", "carrier"]
TransferEnd: TypeAlias = Literal["answered", "busy", "rejected", "no answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a call is over. `why` is "hung up", "rejected", "transferred" or a reason of CallFailed."""

    why: str
    by: Party
    detail: str = ""
    cause: str = "normal_clearing"
    sip: str = "200"


REMEMBERED_NS = 60 * SECOND
REMEMBERED_MAX = 1_000


class Ended(Generic[T]):
    """What is still known of calls that have ended, by their ids: for a minute, and of at most the last 1,000.

    Late commands come within seconds; what is kept longer is memory that grows with the calls.
    """

    def __init__(self) -> None:
        self._known: dict[str, T] = {}
        self._order: deque[tuple[int, str]] = deque()

    def add(self, call: str, known: T, at_ns: int) -> None:
        self._known[call] = known
        self._order.append((at_ns, call))
        while len(self._order) > REMEMBERED_MAX or self._order[0][0] < at_ns - REMEMBERED_NS:
            self._known.pop(self._order.popleft()[1])

    def get(self, call: str) -> T | None:
        return self._known.get(call)

    def __getitem__(self, call: str) -> T:
        return self._known[call]

    def __contains__(self, call: str) -> bool:
        return call in self._known
