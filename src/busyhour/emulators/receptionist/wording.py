"""The words of callers and of the receptionist: her sentences, and what a caller may want by the words that occur."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files


@cache
def sentences() -> Mapping[str, str]:
    """All that the receptionist can say: name -> text."""
    text = files("busyhour").joinpath("media/data/agent.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line.strip())
    return {row[0]: row[-1] for row in rows}


_WORD = re.compile(r"[a-z0-9]+")


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("'", "").replace("\N{RIGHT SINGLE QUOTATION MARK}", ""))


DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "tomorrow")
DIGITS = frozenset(["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])

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
    ("day", (*DAYS, *(f"{day}s" for day in DAYS))),
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


def intent_of(words: Sequence[str]) -> str:
    """The first intent one of whose alternatives occurs; "" for none."""
    for intent, alternatives in _INTENTS:
        if any(all(occurs(wanted, words) for wanted in alternative.split()) for alternative in alternatives):
            return intent
    return ""


def occurs(wanted: str, words: Sequence[str]) -> bool:
    if wanted.endswith("*"):
        return any(word.startswith(wanted[:-1]) for word in words)
    return wanted in words


def digits_in(words: Sequence[str]) -> int:
    return sum(len(word) if word.isdigit() else word in DIGITS for word in words)


def days_in(words: Sequence[str]) -> list[str]:
    """The days that are named, each once, in order: "tuesdays" is "tuesday"."""
    named = (word.rstrip("s") if word not in DAYS else word for word in words)
    return list(dict.fromkeys(day for day in named if day in DAYS))
