"""Why calls end, in our words and in Telnyx's and SIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Party: TypeAlias = Literal["agent", "caller", "carrier"]

# The `cause` of a reject command: the `hangup_cause` of the webhook, and the SIP response the caller receives.
REJECTED_WITH: Mapping[str, tuple[str, str]] = {
    "CALL_REJECTED": ("call_rejected", "603"),
    "USER_BUSY": ("user_busy", "486"),
    "NOT_FOUND": ("not_found", "404"),
    "TEMPORARILY_UNAVAILABLE": ("unspecified", "480"),
}
TRANSFER_FAILED_WITH: Mapping[str, tuple[str, str]] = {
    "busy": ("user_busy", "486"),
    "rejected": ("call_rejected", "603"),
    "no answer": ("timeout", "487"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Why a call is over. `why` is "hung up", "rejected", "transferred" or a reason of CallFailed."""

    why: str
    by: Party
    detail: str = ""
    cause: str = "normal_clearing"
    sip: str = "200"
