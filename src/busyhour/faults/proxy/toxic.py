"""A toxic as a value: Toxiproxy's JSON form, checked, and what it has done so far.

Names, attributes and units are Toxiproxy's (github.com/Shopify/toxiproxy, README: "Toxics"); those below "ours" in
`KINDS` extend the same collection. An attribute that a kind does not have is refused: a harm that is silently not done
is the worst of all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, cast

from busyhour.model import JSON

Stream = Literal["upstream", "downstream"]
STREAMS: tuple[Stream, Stream] = ("upstream", "downstream")

_LARGEST = 2**53
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNSENDABLE_CODES = {1004, 1005, 1015}  # RFC 6455, 7.4.1; 1006 stands for a connection lost without a close frame


class Refusal(Exception):
    """A request to the admin API that cannot be granted: the status and the text of Toxiproxy's error JSON."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def bad_body(sentence: str) -> Refusal:
    """Toxiproxy's 400."""
    return Refusal(400, f"bad request body: {sentence}")


Check = Callable[[object], str]
"""What is wrong with a value, as a clause ("-1; it must be ..."), or "" if nothing is."""


@dataclass(frozen=True, slots=True)
class Attribute:
    default: JSON
    check: Check


def _number(low: float, high: float, *, whole: bool = False) -> Check:
    kind = "a whole number" if whole else "a number"
    span = f"from {low:g} to {high:g}" if high < _LARGEST else f"of {low:g} or more"

    def check(value: object) -> str:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if fits and low <= cast(float, value) <= high and (not whole or cast(float, value) == int(cast(float, value))):
            return ""
        return f"{value!r}; it must be {kind} {span}"

    return check


def _share(value: object) -> str:
    return _number(0, 1)(value) or ("0; a share of nothing does no harm" if value == 0 else "")


def _text(limit: int) -> Check:
    def check(value: object) -> str:
        fits = isinstance(value, str) and len(value.encode(errors="replace")) <= limit
        return "" if fits else f"of type {type(value).__name__}; it must be a string of at most {limit} bytes"

    return check


def _headers(value: object) -> str:
    if not isinstance(value, Mapping):
        return f"{value!r}; it must be an object of header names and values"
    for name, text in value.items():
        if not isinstance(text, str) or not _TOKEN.fullmatch(name) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text):
            return f"not right in {name!r}: {text!r}; a header is a name and one line of text"
    return ""


def _code(value: object) -> str:
    wrong = _number(1000, 4999, whole=True)(value)
    return wrong or (f"{value}, which cannot be sent (RFC 6455, 7.4.1)" if value in _UNSENDABLE_CODES else "")


def _optional(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


_AMOUNT = _number(0, _LARGEST)
_COUNT = _number(0, _LARGEST, whole=True)
_ORDINAL = _number(1, _LARGEST, whole=True)
_SHARE = Attribute(1.0, _share)


def _slices(attributes: Mapping[str, Any]) -> str:
    average, variation = attributes["average_size"], attributes["size_variation"]
    return (
        "" if variation < average else f"size_variation is {variation}; it must be less than average_size ({average})"
    )


def _bytes_or_events(attributes: Mapping[str, Any]) -> str:
    given = [name for name in ("bytes", "events") if attributes[name] is not None]
    return "" if len(given) == 1 else "give it either bytes or events, after which it stalls"


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of toxic: its attributes, the streams it can act on, and what `events` counts in words."""

    counts: str
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    streams: Sequence[Stream] = STREAMS
    together: Callable[[Mapping[str, Any]], str] = lambda attributes: ""


_ANSWERS: tuple[Stream] = ("downstream",)

KINDS: Mapping[str, Kind] = {
    # Toxiproxy's
    "latency": Kind("chunks delayed", {"latency": Attribute(0, _AMOUNT), "jitter": Attribute(0, _AMOUNT)}),
    "bandwidth": Kind("pieces paced", {"rate": Attribute(0, _AMOUNT)}),
    "slow_close": Kind("closings delayed", {"delay": Attribute(0, _AMOUNT)}),
    "timeout": Kind("chunks dropped or connections closed", {"timeout": Attribute(0, _AMOUNT)}),
    "reset_peer": Kind("connections reset", {"timeout": Attribute(0, _AMOUNT)}),
    "slicer": Kind(
        "slices cut",
        {
            "average_size": Attribute(0, _ORDINAL),
            "size_variation": Attribute(0, _COUNT),
            "delay": Attribute(0, _AMOUNT),
        },
        together=_slices,
    ),
    "limit_data": Kind("connections cut", {"bytes": Attribute(0, _COUNT)}),
    # ours
    "corrupt": Kind("chunks corrupted", {"share": Attribute(None, _share)}),
    "http_status": Kind(
        "requests answered",
        {
            "status": Attribute(None, _number(200, 599, whole=True)),
            "body": Attribute(None, _optional(_text(1 << 20))),
            "headers": Attribute({}, _headers),
            "share": _SHARE,
        },
        _ANSWERS,
    ),
    "http_stall": Kind(
        "answers stalled",
        {"bytes": Attribute(None, _optional(_COUNT)), "events": Attribute(None, _optional(_COUNT)), "share": _SHARE},
        _ANSWERS,
        _bytes_or_events,
    ),
    "sse_truncate": Kind("streams truncated", {"events": Attribute(None, _COUNT), "share": _SHARE}, _ANSWERS),
    "sse_malformed": Kind("events malformed", {"event": Attribute(None, _ORDINAL), "share": _SHARE}, _ANSWERS),
    "ws_stall": Kind("WebSockets stalled", {"messages": Attribute(None, _COUNT), "share": _SHARE}),
    "ws_truncate": Kind(
        "WebSockets closed",
        {
            "messages": Attribute(None, _COUNT),
            "code": Attribute(1011, _code),
            "reason": Attribute("", _text(123)),
            "share": _SHARE,
        },
    ),
    "ws_malformed": Kind("messages malformed", {"message": Attribute(None, _ORDINAL), "share": _SHARE}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A toxic's settings. toxicity: the share of connections that meet it, drawn for each by `seed`."""

    name: str
    type: str
    stream: Stream
    toxicity: float
    attributes: Mapping[str, Any]
    seed: int

    @staticmethod
    def parse(form: object, default_seed: int) -> Form:
        """Of a POST. Raises Refusal, with Toxiproxy's words where it has some."""
        given = _object(form)
        stream, kind_name = given.get("stream") or "downstream", given.get("type", "")
        if stream not in STREAMS:
            raise Refusal(400, "stream was invalid, can be either upstream or downstream")
        if not isinstance(kind_name, str) or kind_name not in KINDS:
            raise Refusal(400, f"invalid toxic type: {kind_name!r}; there are {', '.join(KINDS)}")
        kind = KINDS[kind_name]
        if stream not in kind.streams:
            raise bad_body(f"a toxic of type {kind_name} acts on the stream {' or '.join(kind.streams)} only")
        name = given.get("name") or f"{kind_name}_{stream}"
        if not isinstance(name, str) or len(name) > 200:
            raise bad_body("name must be a string of at most 200 characters")
        defaults = {key: attribute.default for key, attribute in kind.attributes.items()}
        return Form(
            name=name,
            type=kind_name,
            stream=stream,
            toxicity=_toxicity(given.get("toxicity", 1.0)),
            attributes=_attributes(kind_name, defaults, given.get("attributes")),
            seed=_seed(given.get("seed", default_seed)),
        )

    def changed(self, form: object) -> Form:
        """With the attributes and the toxicity of a PATCH; nothing else of a toxic can change. Raises Refusal."""
        given = _object(form)
        return replace(
            self,
            toxicity=_toxicity(given.get("toxicity", self.toxicity)),
            attributes=_attributes(self.type, self.attributes, given.get("attributes")),
        )

    def as_json(self) -> dict[str, JSON]:
        attributes = {name: value for name, value in self.attributes.items() if value is not None}
        form: dict[str, JSON] = {
            "attributes": attributes,
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
        }
        return {**form, "seed": self.seed} if self.seed else form


@dataclass(slots=True)
class Effect:
    """What a toxic has done: on how many connections, how many times (`Kind.counts`), to how many bytes."""

    connections: int = 0
    events: int = 0
    bytes: int = 0
    unreadable: int = 0  # connections on which a toxic that reads HTTP found something else

    def as_json(self) -> dict[str, JSON]:
        return {
            "connections": self.connections,
            "events": self.events,
            "bytes": self.bytes,
            "unreadable": self.unreadable,
        }


class Toxic:
    """A toxic of a running proxy. Whom it befalls is drawn from its seed, its name and the number of the connection."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.effect = Effect()
        self._requests = 0

    def befalls(self, connection: int) -> bool:
        draw = Random(f"{self.form.seed}/{self.form.name}/{connection}").random()  # the same after a PATCH
        return draw < self.form.toxicity

    def random(self, connection: int) -> Random:
        return Random(f"{self.form.seed}/{self.form.name}/{connection}/within")

    def befalls_next_request(self) -> bool:
        """Draw for the next request, in order of arrival; for toxics with a `share` of requests."""
        self._requests += 1
        draw = Random(f"{self.form.seed}/{self.form.name}/request/{self._requests}").random()
        return draw < cast(float, self.form.attributes["share"])


def _object(form: object) -> Mapping[str, Any]:
    if not isinstance(form, Mapping):
        raise bad_body(f"it must be a JSON object, not {type(form).__name__}")
    return form


def _toxicity(value: object) -> float:
    if wrong := _number(0, 1)(value):
        raise bad_body(f"toxicity is {wrong}")
    return float(cast(float, value))


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise bad_body(f"seed is {value!r}; it must be a whole number")
    return value


def _attributes(kind_name: str, before: Mapping[str, Any], change: object) -> Mapping[str, Any]:
    kind = KINDS[kind_name]
    given = {} if change is None else change
    if not isinstance(given, Mapping):
        raise bad_body(f"attributes must be an object, not {type(given).__name__}")
    if unknown := sorted(given.keys() - kind.attributes.keys()):
        known = ", ".join(kind.attributes)
        raise bad_body(f"a toxic of type {kind_name} has no attribute {', '.join(unknown)}; it has {known}")
    attributes = {**before, **given}
    for name, attribute in kind.attributes.items():
        if wrong := attribute.check(attributes[name]):
            raise bad_body(f"the attribute {name} of {kind_name} is {wrong}")
    if wrong := kind.together(attributes):
        raise bad_body(f"{kind_name}: {wrong}")
    return attributes
