"""TwiML and TeXML, read: a document becomes a list of verbs, or is refused with the reason. Pure.

Verbs, nouns and attributes: twilio.com/docs/voice/twiml and developers.telnyx.com/docs/voice/programmable-voice/
texml-verbs. Names are case-sensitive, as they are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.etree import ElementTree

from busyhour.carriers.places import is_url
from busyhour.carriers.sounds import ENDLESS

DOCUMENT_BYTES_MAX = 64 << 10  # of Twilio: error 11750
VERBS_MAX = 1000
SAY_CHARACTERS_MAX = 4096
PARAMETERS_CHARACTERS_MAX = 500  # of each <Parameter>: name and value together
SECONDS_MAX = 24 * 3600
DIGITS_MAX = 128  # that a <Gather> takes: of Telnyx; Twilio names none


class BadDocument(Exception):
    """A document that cannot be carried out; `code` is the carrier's for it, the message says why."""

    def __init__(self, detail: str, code: str = "12200") -> None:
        self.code = code
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Say:
    text: str
    loops: int


@dataclass(frozen=True, slots=True)
class Play:
    """A sound file, or keys."""

    url: str
    loops: int
    digits: str


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A media stream. `two_way`: below <Connect>, which lasts as long as the stream; below <Start> it goes on beside
    what follows, and the caller hears nothing of it. `attributes`: as they stand there."""

    url: str
    name: str
    track: str
    two_way: bool
    status_url: str
    status_method: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StopStream:
    name: str


@dataclass(frozen=True, slots=True)
class Dial:
    """Another party; `action` is asked what to do when they are gone."""

    number: str
    action: str
    method: str


@dataclass(frozen=True, slots=True)
class Reject:
    reason: str


@dataclass(frozen=True, slots=True)
class Hangup:
    pass


@dataclass(frozen=True, slots=True)
class Redirect:
    url: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """The keys that the caller presses while the prompts are heard and afterwards, until `timeout_seconds` pass without
    one. `action` is asked what to do with them ("": the URL of the document itself; None: nobody); if there are none,
    only if `empty_too`."""

    prompts: Sequence[Say | Play | Pause]
    timeout_seconds: float
    digits_max: int
    finish_on_keys: str
    action: str | None
    method: str
    empty_too: bool


@dataclass(frozen=True, slots=True)
class Beyond:
    """What the carrier can do and this twin cannot: no fault of the agent's."""

    what: str


Verb: TypeAlias = Say | Play | Pause | Stream | StopStream | Dial | Reject | Hangup | Redirect | Gather | Beyond


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What a carrier's documents may hold."""

    name: str  # "TwiML"
    elsewhere: frozenset[str]  # verbs of the carrier's that we do not carry out
    reasons: tuple[str, ...] = ("rejected", "busy")
    gather_elsewhere: frozenset[str] = frozenset()  # attributes of <Gather> that we do not heed
    gather_asks_itself: bool = True  # a <Gather> without an action asks the URL of its document


def read(document: str, grammar: Grammar) -> list[Verb]:
    """The verbs of a document, in order. Raises BadDocument for the first thing that is wrong with it."""
    if len(document.encode(errors="replace")) > DOCUMENT_BYTES_MAX:
        raise BadDocument(f"the document is longer than {DOCUMENT_BYTES_MAX >> 10} KB", "11750")
    if "<!DOCTYPE" in document or "<!ENTITY" in document:
        raise BadDocument("the document has a DTD; take it out", "12100")
    try:
        root = ElementTree.fromstring(document.strip())  # noqa: S314 (no entities, and at most 64 KB)
    except (ElementTree.ParseError, ValueError) as problem:
        raise BadDocument(f"the document is no XML: {problem}; it begins {_shown(document)}", "12100") from None
    if root.tag != "Response":
        raise BadDocument(f"the document's root is <{root.tag}>; it must be <Response>", "12100")
    if _text(root) or any(_tail(verb) for verb in root):
        raise BadDocument("there is text between the verbs of <Response>")
    if len(root) > VERBS_MAX:
        raise BadDocument(f"the document has more than {VERBS_MAX} verbs")
    return [verb for element in root for verb in _verbs(element, grammar)]


def _verbs(element: ElementTree.Element, grammar: Grammar) -> list[Verb]:
    reader = _READERS.get(element.tag)
    if reader is not None:
        return [reader(element, grammar)]
    if element.tag in ("Connect", "Start", "Stop"):
        return _streams(element, grammar)
    if element.tag in grammar.elsewhere:
        return [Beyond(f"<{element.tag}>")]
    known = ", ".join(sorted((*_READERS, "Connect", "Start", "Stop")))
    raise BadDocument(f"<{element.tag}> is no verb of {grammar.name}; there are {known} and more")


def _streams(element: ElementTree.Element, grammar: Grammar) -> list[Verb]:
    if not len(element):
        raise BadDocument(f"<{element.tag}> is empty: it needs a <Stream>")
    verbs: list[Verb] = []
    for noun in element:
        if noun.tag != "Stream":
            verbs.append(Beyond(f"<{element.tag}><{noun.tag}>"))
        elif element.tag == "Stop":
            verbs.append(StopStream(noun.get("name", "")))
        else:
            verbs.append(_stream(noun, two_way=element.tag == "Connect"))
    if element.tag == "Connect" and element.get("action"):
        verbs.append(Redirect(element.get("action", ""), _method(element)))
    return verbs


def _stream(noun: ElementTree.Element, *, two_way: bool) -> Stream:
    url = noun.get("url", "").strip()
    if not (re.match(r"wss?://[^\s/]+", url) and is_url(url)):
        raise BadDocument(f"<Stream> needs a url that begins with ws:// or wss://, not {url!r}")
    parameters: dict[str, str] = {}
    for child in noun:
        name, value = child.get("name", ""), child.get("value", "")
        if child.tag != "Parameter" or not name:
            raise BadDocument(f"<Stream> may hold nothing but <Parameter name= value=>; there is a <{child.tag}>")
        if len(name) + len(value) > PARAMETERS_CHARACTERS_MAX:
            raise BadDocument(f"<Parameter name={name[:40]!r}> has more than {PARAMETERS_CHARACTERS_MAX} characters")
        parameters[name] = value
    return Stream(
        url=url,
        name=noun.get("name", ""),
        track=_choice(noun, "track", ("inbound_track", "outbound_track", "both_tracks")),
        two_way=two_way,
        status_url=noun.get("statusCallback", ""),
        status_method=_method(noun, "statusCallbackMethod"),
        parameters=parameters,
        attributes=dict(noun.attrib),
    )


def _say(element: ElementTree.Element, _grammar: Grammar) -> Say:
    text = " ".join("".join(element.itertext()).split())
    if len(text) > SAY_CHARACTERS_MAX:
        raise BadDocument(f"<Say> has {len(text)} characters; the limit is {SAY_CHARACTERS_MAX}")
    return Say(text, _loops(element))


def _play(element: ElementTree.Element, _grammar: Grammar) -> Play:
    url, digits = _text(element), element.get("digits", "")
    if bool(url) == bool(digits):
        raise BadDocument("<Play> needs either the URL of a sound or digits")
    if digits and not re.fullmatch(r"[0-9*#wWA-D]{1,64}", digits):
        raise BadDocument(f"<Play digits={digits[:70]!r}>: digits are 0-9, A-D, *, #, w and W, at most 64")
    return Play(url, _loops(element), digits)


def _pause(element: ElementTree.Element, _grammar: Grammar) -> Pause:
    return Pause(_number(element, "length", 1, 0, SECONDS_MAX))


def _dial(element: ElementTree.Element, _grammar: Grammar) -> Verb:
    strange = [noun.tag for noun in element if noun.tag not in ("Number", "Sip")]
    if strange:
        return Beyond(f"<Dial><{strange[0]}>")
    number = _text(element) or (_text(element[0]) if len(element) else "")
    if not number:
        raise BadDocument("<Dial> needs a number", "13223")
    return Dial(number, element.get("action", ""), _method(element))


def _reject(element: ElementTree.Element, grammar: Grammar) -> Verb:
    return Reject(_choice(element, "reason", grammar.reasons))


def _hangup(_element: ElementTree.Element, _grammar: Grammar) -> Verb:
    return Hangup()


def _redirect(element: ElementTree.Element, _grammar: Grammar) -> Verb:
    return Redirect(_text(element), _method(element))


def _gather(element: ElementTree.Element, grammar: Grammar) -> Verb:
    wanted = element.get("input", "dtmf").split()
    if not wanted or not {"dtmf", "speech"}.issuperset(wanted):
        raise BadDocument(f"<Gather input={element.get('input', '')[:40]!r}>: it is dtmf, speech or both")
    if wanted != ["dtmf"]:
        return Beyond(f"<Gather input={element.get('input')!r}>, which needs a recogniser")
    if unheeded := sorted(grammar.gather_elsewhere & element.attrib.keys()):
        return Beyond(f"<Gather {unheeded[0]}=...>")
    strange = [noun.tag for noun in element if noun.tag not in _PROMPTS]
    if strange:
        raise BadDocument(f"<Gather> may hold <Say>, <Play> and <Pause>; there is a <{strange[0]}>")
    keys = element.get("finishOnKey", "#")
    if not re.fullmatch("[0-9*#]*", keys):
        raise BadDocument(f"<Gather finishOnKey={keys[:40]!r}>: it is 0-9, * and #, or nothing", "13310")
    most = "maxDigits" if "maxDigits" in element.attrib else "numDigits"
    return Gather(
        prompts=[_PROMPTS[noun.tag](noun, grammar) for noun in element],
        timeout_seconds=_number(element, "timeout", 5, 0, SECONDS_MAX),
        digits_max=int(_number(element, most, DIGITS_MAX, 1, DIGITS_MAX)),
        finish_on_keys=keys,
        action=element.get("action", "") or ("" if grammar.gather_asks_itself else None),
        method=_method(element),
        empty_too=_choice(element, "actionOnEmptyResult", ("false", "true")) == "true",
    )


_PROMPTS: Mapping[str, Callable[[ElementTree.Element, Grammar], Say | Play | Pause]] = {
    "Pause": _pause,
    "Play": _play,
    "Say": _say,
}
_READERS: Mapping[str, Callable[[ElementTree.Element, Grammar], Verb]] = {
    "Dial": _dial,
    "Gather": _gather,
    "Hangup": _hangup,
    "Pause": _pause,
    "Play": _play,
    "Redirect": _redirect,
    "Reject": _reject,
    "Say": _say,
}


def _text(element: ElementTree.Element) -> str:
    return (element.text or "").strip()


def _tail(element: ElementTree.Element) -> str:
    return (element.tail or "").strip()


def _choice(element: ElementTree.Element, name: str, choices: tuple[str, ...]) -> str:
    value = element.get(name, choices[0])
    if value not in choices:
        raise BadDocument(f"<{element.tag} {name}={value[:40]!r}>: it is one of {', '.join(choices)}")
    return value


def _method(element: ElementTree.Element, name: str = "method") -> str:
    return _choice(element, name, ("POST", "GET"))


def _loops(element: ElementTree.Element) -> int:
    return int(_number(element, "loop", 1, 0, 1000)) or ENDLESS


def _number(element: ElementTree.Element, name: str, default: float, low: float, high: float) -> float:
    value = element.get(name, str(default))
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value) or not low <= float(value) <= high:
        raise BadDocument(f"<{element.tag} {name}={value[:40]!r}>: it is a number from {low:g} to {high:g}")
    return float(value)


def _shown(document: str) -> str:
    return repr(document.strip()[:80])
