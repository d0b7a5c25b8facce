"""Why calls end, in our words; `cause` and `sip` in those of the carrier and of SIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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
