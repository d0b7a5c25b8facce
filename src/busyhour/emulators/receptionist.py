"""The brain of the language-model twins: a rule-based receptionist of Riverside Dental. Pure.

It answers from the conversation alone, as a model does: what the caller said last, and how far the booking had come
by what the assistant has said so far (whole sentences, or the part of one that was spoken before an interruption).
Replies are made of the sentences of media/data/agent.tsv, which the voice twins have recorded. Rules look for
keywords and not for sentences, so that a transcript with missing words is mostly still understood; a scripted caller
does not adapt, so an answer out of turn moves the booking on too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from busyhour.model import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message. role: "system", "user", "assistant" or "tool"; tool: the function whose result a "tool" text is."""

    role: str
    text: str = ""
    tool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the agent offers; parameters is its JSON schema."""

    name: str
    parameters: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What to answer: the text, or a function to call with its arguments."""

    text: str = ""
    tool: str = ""
    arguments: Mapping[str, JSON] = field(default_factory=dict)


def reply(conversation: Sequence[Said], tools: Sequence[Tool] = (), *, force_tool: str | None = None) -> Reply:
    """The next thing to say or to call. `force_tool`: a name ("" for any of `tools`) that must be called now."""
    if force_tool is not None:
        return _forced(conversation, tools, force_tool)
    if conversation and conversation[-1].role == "tool":
        return Reply(text=_spoken(_after_tool(conversation[-1])))
    names = _answer(conversation)
    wanted = {name: kind for kind, name in _TOOL_SENTENCES.items()}.get(names[0])
    tool = next((tool for tool in tools if wanted and _is_for(tool, wanted)), None)
    if tool is not None:
        return Reply(tool=tool.name, arguments=_arguments(tool, conversation))
    return Reply(text=_spoken(names))


@cache
def sentences() -> Mapping[str, str]:
    """All that the receptionist can say: name -> text."""
    text = files("busyhour").joinpath("media/data/agent.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line.strip())
    return {row[0]: row[-1] for row in rows}


def _spoken(names: Sequence[str]) -> str:
    return " ".join(sentences()[name] for name in names)


# ---------------------------------------------------------------- understanding

_WORD = re.compile(r"[a-z0-9]+")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))


_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "tomorrow")
_DIGITS = frozenset(["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])

# What a caller may want, most specific first. Each alternative is a set of words that must all occur; a word that
# ends in "*" is a beginning. What ends or steers the call outranks questions, and questions outrank the booking.
_INTENTS: Sequence[tuple[str, Sequence[str]]] = (
    ("goodbye", ("goodbye", "bye", "nothing else", "thats all", "that is all")),
    (
        "transfer",
        ("person", "human", "operator", "transfer*", "through", "speak doctor", "talk doctor", "doctor please"),
    ),
    ("again", ("repeat", "pardon", "say again", "say that", "come again")),
    ("cancel", ("cancel*",)),
    ("move", ("move", "resched*", "another day", "different day", "change appointment", "postpone")),
    ("earliest", ("earliest", "soonest", "first available", "next available")),
    ("hours.parking", ("park*",)),
    ("price.insurance", ("insur*",)),
    ("price.consultation", ("consult*",)),
    ("price.whitening", ("whiten*",)),
    ("price.card", ("card", "pay", "credit", "visa", "mastercard")),
    ("price.cleaning", ("cost*", "price*", "much clean*", "how much", "charge*", "expensive")),
    ("hours.address", ("address", "where", "located", "location", "street", "directions")),
    ("hours.sunday", ("sunday*", "holiday*")),
    ("hours.saturday", ("open saturday*", "hours saturday*", "time saturday*", "close* saturday*", "until saturday*")),
    (
        "hours.week",
        ("open", "opening", "hours", "closed", "close", "how late", "late come", "come evening", "what time"),
    ),
    ("phone", ("my number", "number is", "my phone")),
    ("name", ("my name", "name is")),
    ("book", ("book*", "appointment*", "schedule", "tooth*", "pain", "hurts", "check up", "checkup", "see dentist")),
    ("day", (*_DAYS, *(f"{day}s" for day in _DAYS))),
    ("time", ("oclock", "half past", "quarter past", "quarter to", "first one", "second one", "morning", "afternoon")),
    ("interrupted", ("something else", "another question", "one question", "excuse me", "ask you", "have question")),
    ("listening", ("wait", "stop", "hold on", "one second", "one moment", "moment please")),
    ("anything_else", ("never mind", "nevermind", "forget it")),
    ("yes", ("yes", "yeah", "yep", "correct", "right", "sure", "okay", "ok", "fine", "perfect", "works", "great")),
    ("thanks", ("thank", "thanks")),
    ("no", ("no", "nope", "not", "wrong")),
    ("name", ("its",)),
    ("hello", ("hello", "hi", "good morning", "good afternoon", "hey")),
)


def _intent(words: Sequence[str]) -> str:
    """The first intent one of whose alternatives occurs; "" for none."""
    for intent, alternatives in _INTENTS:
        if any(all(_occurs(wanted, words) for wanted in alternative.split()) for alternative in alternatives):
            return intent
    return ""


def _occurs(wanted: str, words: Sequence[str]) -> bool:
    if wanted.endswith("*"):
        return any(word.startswith(wanted[:-1]) for word in words)
    return wanted in words


def _digits(words: Sequence[str]) -> int:
    return sum(len(word) if word.isdigit() else word in _DIGITS for word in words)


# ---------------------------------------------------------------- the conversation so far


def _heard(conversation: Sequence[Said]) -> list[str]:
    """The user's texts since the assistant last spoke, the newest last."""
    texts: list[str] = []
    for said in reversed(conversation):
        if said.role == "user":
            texts.append(said.text)
        elif said.role == "assistant" and said.text.strip():
            break
    return texts[::-1]


def _named(text: str) -> list[str]:
    """The names of the sentences in a text of the assistant, in order; the last one may have been cut short."""
    said = " ".join(_words(text))
    found: list[tuple[int, str]] = []
    for name, sentence in sentences().items():
        wanted = _words(sentence)
        at = f" {said} ".find(f" {' '.join(wanted)} ")
        if at < 0:
            cut = next((n for n in range(len(wanted) - 1, 2, -1) if f" {said}".endswith(f" {' '.join(wanted[:n])}")), 0)
            at = len(said) - len(" ".join(wanted[:cut])) if cut else -1
        if at >= 0:
            found.append((at, name))
    return [name for _, name in sorted(found)]


def _spoken_so_far(conversation: Sequence[Said]) -> list[str]:
    return [name for said in conversation if said.role == "assistant" for name in _named(said.text)]


def _stage(names: Sequence[str]) -> str:
    """How far the booking has come: the last booking question asked; "" before the first and after the last."""
    asked = [name for name in names if name.startswith("booking.")]
    return "" if not asked or asked[-1] in ("booking.done", "booking.cancelled") else asked[-1]


def _is_move(names: Sequence[str]) -> bool:
    """Whether the booking in progress moves an appointment: name and number are known then."""
    opened = [name for name in names if name in ("booking.day", "booking.move", "booking.done", "booking.cancelled")]
    return bool(opened) and opened[-1] == "booking.move"


# ---------------------------------------------------------------- answering


def _answer(conversation: Sequence[Said]) -> Sequence[str]:
    """The names of the sentences that answer the conversation; never empty."""
    if not any(said.role == "user" for said in conversation):
        return ("greeting", "help")
    heard = _heard(conversation) or [_last_user(conversation)]
    last, all_of_it = _words(heard[-1]), _words(" ".join(heard))
    if not last:
        return ("repeat",)
    # An utterance may have come in pieces: what makes no sense alone is read with what came just before.
    return _answer_to(last, conversation) or _answer_to(all_of_it, conversation) or ("repeat",)


def _last_user(conversation: Sequence[Said]) -> str:
    return next((said.text for said in reversed(conversation) if said.role == "user"), "")


def _answer_to(words: Sequence[str], conversation: Sequence[Said]) -> Sequence[str]:
    """The names of the sentences to answer with; empty when nothing is understood."""
    names = _spoken_so_far(conversation)
    stage = _stage(names)
    if stage == "booking.phone" and _digits(words) >= 3:
        return ("booking.confirm",)
    if stage == "booking.name" and ("name" in words or words[:1] in (["its"], ["im"])):
        return ("booking.phone",)
    intent = _intent(words)
    if names[-1:] == ["anything_else"] and words[0] == "no" and intent in ("thanks", "no"):
        return ("goodbye",)
    if intent == "again":
        return _last_reply(conversation)
    if intent in sentences():
        return (intent,)
    return _FIXED.get(intent) or _booking(intent, words, names)


_FIXED: Mapping[str, Sequence[str]] = {
    "cancel": ("booking.cancelled", "anything_else"),
    "move": ("booking.move",),
    "earliest": ("booking.offer",),
    "name": ("booking.phone",),
    "thanks": ("welcome", "anything_else"),
    "hello": ("help",),
}


def _booking(intent: str, words: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """One step of the booking: day -> offer -> name -> phone -> confirm -> done; a move knows name and number."""
    stage = _stage(names)
    offered = stage == "booking.offer"
    picked = "booking.confirm" if _is_move(names) else "booking.name"
    has_day = any(_occurs(f"{day}*", words) for day in _DAYS)
    has_hour = _digits(words) > 0 or "half" in words or "oclock" in words
    steps = (
        (intent == "phone" or _digits(words) >= 4, ("booking.confirm",)),
        (offered and (has_hour or intent == "yes"), (picked,)),
        (intent == "day" or (intent == "book" and has_day), ("booking.offer",)),
        (intent == "time" and stage in ("booking.day", "booking.move"), ("booking.offer",)),
        (intent == "book", ("booking.day",)),
        (intent == "time", (picked,)),
        (stage == "booking.name" and intent in ("", "yes") and len(words) <= 6, ("booking.phone",)),
        (stage == "booking.confirm" and intent == "yes", ("booking.done", "anything_else")),
        (intent == "no" and stage in ("booking.offer", "booking.confirm"), ("booking.day",)),
        (intent == "no", ("goodbye",)),
        (intent == "yes" and names[-1:] == ["anything_else"], ("listening",)),
        (intent == "yes", ("anything_else",)),
    )
    return next((answer for holds, answer in steps if holds), ())


def _last_reply(conversation: Sequence[Said]) -> Sequence[str]:
    """What the assistant said last, to be said again."""
    spoken = (_named(said.text) for said in reversed(conversation) if said.role == "assistant")
    return next((names for names in spoken if names), ["help"])


# ---------------------------------------------------------------- tools

_TOOL_SENTENCES = {
    "availab": "booking.offer",
    "book": "booking.confirm",
    "transfer": "transfer",
    "cancel": "booking.cancelled",
}
"""What is in a function's name -> the sentence it must be called for, and that its success is answered with."""


def _is_for(tool: Tool, kind: str) -> bool:
    name = tool.name.lower()
    return kind in name and not (kind == "book" and "cancel" in name)


def _after_tool(said: Said) -> Sequence[str]:
    """What to say to a function's result."""
    kind = next((kind for kind in _TOOL_SENTENCES if _is_for(Tool(name=said.tool), kind)), "")
    if _failed(said.text):
        return ("trouble",)
    if not kind:
        return ("anything_else",)
    if kind == "availab" and _none_free(said.text):
        return ("booking.move",)
    more = ("anything_else",) if kind == "cancel" else ()
    return (_TOOL_SENTENCES[kind], *more)


def _failed(result: str) -> bool:
    value = _json(result)
    if isinstance(value, dict):
        return bool(value.get("error")) or any(value.get(key) is False for key in ("ok", "success"))
    return result.strip().lower().startswith(("error", "failed", "traceback"))


def _none_free(result: str) -> bool:
    value = _json(result)
    if isinstance(value, dict):
        return any(value[key] in (False, [], None, 0) for key in ("available", "availability", "slots") if key in value)
    return value == []


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _forced(conversation: Sequence[Said], tools: Sequence[Tool], name: str) -> Reply:
    wished = reply(conversation, tools)
    if wished.tool and name in ("", wished.tool):
        return wished
    tool = next((tool for tool in tools if name in ("", tool.name)), Tool(name=name))
    return Reply(tool=tool.name, arguments=_arguments(tool, conversation))


def _arguments(tool: Tool, conversation: Sequence[Said]) -> dict[str, JSON]:
    """Values for the properties of the tool's schema, from what the caller said; optional unknown ones are left out."""
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    if not isinstance(properties, Mapping):
        return {}
    texts = [said.text for said in conversation if said.role == "user"]
    needed = set(required) if isinstance(required, Sequence) and not isinstance(required, str) else set()
    arguments: dict[str, JSON] = {}
    for name, schema in properties.items():
        kind = schema.get("type") if isinstance(schema, Mapping) else None
        choices = schema.get("enum") if isinstance(schema, Mapping) else None
        if isinstance(choices, Sequence) and choices:
            arguments[name] = _choice(choices, texts)
        elif kind == "string" or kind is None:
            value = _fact(name.lower(), texts)
            if value or name in needed:
                arguments[name] = value or (texts[-1] if texts else "")
        elif name in needed:
            arguments[name] = _EMPTY.get(str(kind), "")
    return arguments


_EMPTY: Mapping[str, JSON] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}


def _choice(choices: Sequence[JSON], texts: Sequence[str]) -> JSON:
    said = _words(" ".join(texts))
    return next((choice for choice in choices if str(choice).lower() in said), choices[0])


def _fact(name: str, texts: Sequence[str]) -> str:
    """What the caller said last that fits a property of this name."""
    for text in reversed(texts):
        words = _words(text)
        if ("day" in name or "date" in name) and (day := next((w for w in words if w.rstrip("s") in _DAYS), "")):
            return day
        if "time" in name and _occurs("half", words):
            return "14:30"
        if "time" in name and "nine" in words and _digits(words) == 1:
            return "09:00"
        if ("phone" in name or "number" in name) and _digits(words) >= 3:
            return " ".join(word for word in words if word.isdigit() or word in _DIGITS)
        if "name" in name and (match := re.search(r"(?i)(?:name is|it'?s|this is|i am|i'm)\s+([\w' -]+)", text)):
            return match.group(1).strip()
    return ""
