"""What clients ask of Flux: the query of /v2/listen, and the text messages on the socket.

Source: Deepgram's pages on Flux (end-of-turn parameters, Configure, ForceEndTurn) and the types of the deepgram SDK.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from multidict import MultiMapping

from busyhour.emulators.deepgram.request import Refused, encoding_of, invalid, number, rate_hz_of
from busyhour.model import JSON

MODELS = ("flux-general-en", "flux-general-multi")
EOT_THRESHOLD, EOT_TIMEOUT_MS = 0.7, 5_000
"""Unless told otherwise (documented)."""
EOT_LIMITS, EAGER_LIMITS, TIMEOUT_LIMITS_MS = (0.5, 1.0), (0.3, 0.9), (500, 60_000)
KEYTERMS_AT_MOST = 100
MESSAGES = ("CloseStream", "Configure", "ForceEndTurn")


@dataclass(frozen=True, slots=True, kw_only=True)
class FluxOptions:
    """How a stream is cut into turns. `encoding` is "" when the query does not say: then no raw audio is taken."""

    model: str
    encoding: str
    rate_hz: int
    eot_threshold: float = EOT_THRESHOLD
    eager_eot_threshold: float | None = None
    eot_timeout_ms: int = EOT_TIMEOUT_MS
    keyterms: tuple[str, ...] = ()
    language_hints: tuple[str, ...] = ()

    def thresholds(self) -> dict[str, JSON]:
        """As the vendor tells them."""
        told: dict[str, JSON] = {"eot_threshold": self.eot_threshold, "eot_timeout_ms": self.eot_timeout_ms}
        eager = self.eager_eot_threshold
        return told if eager is None else {**told, "eager_eot_threshold": eager}


def flux_options(query: MultiMapping[str]) -> FluxOptions:
    """Read the query of /v2/listen; what is not modelled (tag, numerals, ...) is passed over. Raises Refused."""
    model = query.get("model", "")
    if model not in MODELS:
        raise Refused("Bad Request: No such model/language/tier combination found.")
    eager = query.get("eager_eot_threshold")
    chosen = FluxOptions(
        model=model,
        encoding=encoding_of(query),
        rate_hz=rate_hz_of(query),
        eot_threshold=_fraction(query, "eot_threshold", EOT_LIMITS) or EOT_THRESHOLD,
        eager_eot_threshold=None if eager is None else _fraction(query, "eager_eot_threshold", EAGER_LIMITS),
        eot_timeout_ms=number(
            query, "eot_timeout_ms", EOT_TIMEOUT_MS, low=TIMEOUT_LIMITS_MS[0], high=TIMEOUT_LIMITS_MS[1]
        )
        or EOT_TIMEOUT_MS,
        keyterms=tuple(query.getall("keyterm", [])),
        language_hints=tuple(query.getall("language_hint", [])),
    )
    if len(chosen.keyterms) > KEYTERMS_AT_MOST:
        raise Refused(f"Bad Request: More than {KEYTERMS_AT_MOST} keyterms.")
    if chosen.eager_eot_threshold is not None and chosen.eager_eot_threshold > chosen.eot_threshold:
        raise Refused("Bad Request: eager_eot_threshold must not be greater than eot_threshold.")
    return chosen


def _fraction(query: Mapping[str, str], name: str, limits: tuple[float, float]) -> float | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise invalid(name, text) from None
    if not limits[0] <= value <= limits[1]:
        raise invalid(name, text)
    return value


class NotUnderstood(Exception):
    """A text message that is none of the vendor's."""


class NotConfigured(Exception):
    """A Configure that asks for what cannot be; `code` is the vendor's word for it."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(description)
        self.code = code


def read_message(text: str) -> Mapping[str, Any]:
    """A text message, by its "type". Raises NotUnderstood."""
    try:
        form = json.loads(text)
    except (ValueError, RecursionError):
        raise NotUnderstood from None
    if not isinstance(form, dict) or form.get("type") not in MESSAGES:
        raise NotUnderstood
    return form


def configured(before: FluxOptions, form: Mapping[str, Any]) -> FluxOptions:
    """The options after a Configure: what it does not name stays. Raises NotConfigured."""
    thresholds = form.get("thresholds")
    if thresholds is not None and not isinstance(thresholds, dict):
        raise NotConfigured("INVALID_THRESHOLDS", "thresholds must be an object.")
    changed: dict[str, Any] = {}
    limits = {"eot_threshold": EOT_LIMITS, "eager_eot_threshold": EAGER_LIMITS, "eot_timeout_ms": TIMEOUT_LIMITS_MS}
    for name, (low, high) in limits.items():
        value = (thresholds or {}).get(name)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not low <= value <= high:
            raise NotConfigured("INVALID_THRESHOLDS", f"{name} must be a number from {low} to {high}.")
        changed[name] = round(value) if name == "eot_timeout_ms" else float(value)
    for name in ("keyterms", "language_hints"):
        if form.get(name) is not None:
            changed[name] = _terms(name, form[name])
    if "language_hints" in changed and before.model != "flux-general-multi":
        raise NotConfigured("INVALID_LANGUAGE_HINTS", "language_hints are for flux-general-multi only.")
    after = replace(before, **changed)
    if after.eager_eot_threshold is not None and after.eager_eot_threshold > after.eot_threshold:
        raise NotConfigured("INVALID_THRESHOLDS", "eager_eot_threshold must not be greater than eot_threshold.")
    return after


def _terms(name: str, terms: object) -> tuple[str, ...]:
    listed = [terms] if isinstance(terms, str) else terms
    if not isinstance(listed, list) or not all(isinstance(term, str) for term in listed):
        raise NotConfigured(f"INVALID_{name.upper()}", f"{name} must be a list of strings.")
    if len(listed) > KEYTERMS_AT_MOST:
        raise NotConfigured(f"INVALID_{name.upper()}", f"{name} must be at most {KEYTERMS_AT_MOST}.")
    return tuple(listed)
