"""How Telnyx words the ends of calls."""

from __future__ import annotations

from collections.abc import Mapping

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
