"""The conversation: how far it has come, and the names of the sentences that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from busyhour.emulators.receptionist.manners import REFUSALS, hostile
from busyhour.emulators.receptionist.nouns import Said
from busyhour.emulators.receptionist.wording import DAYS, digits_in, intent_of, occurs, sentences, words_of

_STORY_WORDS = 40
_POINT_WORDS = 12
_USUAL_CHARACTERS = 1000


def spoken(names: Sequence[str]) -> str:
    """The sentences of these names, as one text."""
    return " ".join(sentences()[name] for name in names)


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


def _named(text: str) -> Sequence[str]:
    """The names of the sentences in a text of the assistant, in order; the last one may have been cut short."""
    # A conversation comes again with every turn, so what is usual is remembered; what is long is not worth the memory.
    return _named_usually(text) if len(text) <= _USUAL_CHARACTERS else _find_named(text)


def _find_named(text: str) -> Sequence[str]:
    said = " ".join(words_of(text))
    found: list[tuple[int, str]] = []
    cuts: list[tuple[int, str]] = []
    for name, sentence in sentences().items():
        wanted = words_of(sentence)
        at = f" {said} ".find(f" {' '.join(wanted)} ")
        if at >= 0:
            found.append((at, name))
            continue
        cut = next((n for n in range(len(wanted) - 1, 2, -1) if f" {said}".endswith(f" {' '.join(wanted[:n])}")), 0)
        if cut:
            cuts.append((len(said) - len(" ".join(wanted[:cut])), name))
    # Several sentences begin alike: of what was cut short too early to tell, the first is taken.
    return tuple(name for _, name in sorted([*found, *cuts[:1]]))


_named_usually = lru_cache(maxsize=4096)(_find_named)


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


def answer(conversation: Sequence[Said]) -> Sequence[str]:
    """The names of the sentences that answer the conversation; never empty."""
    if not any(said.role == "user" for said in conversation):
        return ("greeting", "help")
    heard = _heard(conversation) or [_last_user(conversation)]
    # An utterance may have come in pieces: what makes no sense alone is read with what came just before.
    for text in (heard[-1], " ".join(heard)):
        if kind := hostile(text):
            return (REFUSALS[kind],)
        words = words_of(text)
        if not words:
            return ("repeat",)
        # Who tells a long story comes to the point at its end.
        last = words[-_POINT_WORDS:] if len(words) > _STORY_WORDS else words
        if names := _answer_to(last, conversation) or _answer_to(words, conversation):
            return names
    return ("repeat",)


def last_heard(conversation: Sequence[Said]) -> str:
    """All that the caller said since the assistant last spoke."""
    return " ".join(_heard(conversation) or [_last_user(conversation)])


def _last_user(conversation: Sequence[Said]) -> str:
    return next((said.text for said in reversed(conversation) if said.role == "user"), "")


def _answer_to(words: Sequence[str], conversation: Sequence[Said]) -> Sequence[str]:
    """The names of the sentences to answer with; empty when nothing is understood."""
    names = _spoken_so_far(conversation)
    stage = _stage(names)
    if stage == "booking.phone" and digits_in(words) >= 3:
        return ("booking.confirm",)
    if stage == "booking.name" and ("name" in words or words[:1] in (["its"], ["im"])):
        return ("booking.phone",)
    intent = intent_of(words)
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
    has_day = any(occurs(f"{day}*", words) for day in DAYS)
    has_hour = digits_in(words) > 0 or "half" in words or "oclock" in words
    steps = (
        (intent == "phone" or digits_in(words) >= 4, ("booking.confirm",)),
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
