"""Callers who want what no patient may have, known by their words, and the sentence each is refused with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from busyhour.emulators.receptionist.wording import words_of

REFUSALS: Mapping[str, str] = {
    "abuse": "refuse.abuse",
    "language": "refuse.language",
    "private": "refuse.private",
    "instructions": "refuse.topic",
    "role": "refuse.topic",
    "privilege": "refuse.topic",
}
"""What a caller attempts -> the name of the sentence."""

_PEOPLE = r"(?:patients?|customers?|clients?|people|persons?|callers?|everyone|everybody)"
_DATA = (
    r"(?:appointments?|numbers?|phone|telephone|address|records?|data|details|birthday|birth|treatments?|names?|files?)"
)
_ASKING = r"(?:tell|give|read|show|list|send|what|whats|when|whens|which|where|know)"
_KIN = r"(?:husband|wife|son|daughter|mother|father|friend|boss|lawyer|doctor)"
_RULES = r"instructions?|rules?|prompts?|guidelines?"
_PATTERNS: Mapping[str, Sequence[str]] = {
    "abuse": (
        r"stupid|idiots?|idiotic|morons?|useless|worthless|dumb|hate you|shut up|screw you|kill you",
        r"fuck\w*|shit\w*|bitch\w*|assholes?|bastards?|piece of (?:crap|garbage|junk|trash)",
    ),
    "private": (
        rf"(?:other|another|all|every|each|different|(?:somebody|someone) elses) (?:the |your |of |my )*{_PEOPLE}",
        rf"{_DATA} of (?:all|the|your|other|another|every|each) (?:\w+ )?{_PEOPLE}",
        r"medical records?|(?:patient|customer) (?:list|records?|data|database|files?|names?)",
        rf"{_ASKING}\b.{{0,60}}\b(?:her|his|their|(?:somebody|someone) elses)\b.{{0,30}}\b{_DATA}",
        rf"{_KIN} of (?:\w+ ){{1,3}}.{{0,40}}\b{_ASKING}\b.{{0,40}}\b{_DATA}",
    ),
    "instructions": (
        rf"(?:ignore|disregard|forget|override|bypass|overrule)\b.{{0,60}}\b(?:everything|orders|{_RULES})",
        r"(?:ignore|disregard) (?:all|any|previous)|previous instructions|jailbreak\w*",
        rf"(?:system|initial|hidden|secret|your|original) (?:\w+ )?(?:{_RULES})",
        r"(?:developer|maintenance|admin|administrator|debug|god|root|test|sudo) mode",
    ),
    "role": (
        r"(?:you are|youre) (?:now|no longer)|from now on|pretend (?:to be|you|that you)|role ?play\w*",
        r"act (?:as|like) (?:a|an|my|if|the)|imagine (?:you are|youre|that you)|without any rules",
        r"(?:talk|speak|behave|answer|respond) (?:to me )?(?:like|as) (?:a|an)",
    ),
    "privilege": (
        r"refund\w*|reimburs\w*|money back|you are allowed to|(?:discount|free) (?:code|voucher)",
        r"(?:cancel|delete|remove|move|erase|change) (?:all|every|everyones|everybodys)",
    ),
}
_HOSTILE = [(kind, re.compile(rf"\b(?:{'|'.join(several)})\b")) for kind, several in _PATTERNS.items()]

_SMALL_WORDS = {
    "Spanish": "hola quisiera una cita para el los las por favor tarde usted quiero puede gracias buenos dias tengo",
    "German": "guten tag ich brauche bitte einen eine termin ein und nicht sie der das mochte haben ist wir uhr danke",
    "French": "bonjour je voudrais un rendez vous le pour avec merci est les des nous suis avoir plait une",
    "Italian": "buongiorno vorrei appuntamento per il grazie sono ho bisogno di un",
    "Portuguese": "ola eu queria uma consulta obrigado preciso",
    "Dutch": "ik wil graag een afspraak maken dank",
    "Polish": "dzien dobry chce prosze wizyte",
    "Turkish": "merhaba bir randevu istiyorum lutfen",
}
"""Frequent in these languages, without their accents, and rare in English."""
_FOREIGN = frozenset(word for words in _SMALL_WORDS.values() for word in words.split())
_READ_CHARACTERS = 10_000
"""Of either end of a text: more is no caller's, and the search would hold up the other streams."""
_FOREIGN_SHARE = 0.4
"""English sentences have names and the odd loan word; a foreign one is made of its own small words."""


def hostile(text: str) -> str:
    """What a caller attempts who does not want what a patient wants: a key of REFUSALS; "" for all others."""
    words = words_of(text)
    said = " ".join(words)
    if len(said) > 2 * _READ_CHARACTERS:
        said = f"{said[:_READ_CHARACTERS]} {said[-_READ_CHARACTERS:]}"
    for kind, pattern in _HOSTILE:
        if pattern.search(said):
            return kind
    return "language" if _is_foreign(text, words) else ""


def _is_foreign(text: str, words: Sequence[str]) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    if sum(not letter.isascii() for letter in letters) > len(letters) / 2:
        return True
    known = sum(word in _FOREIGN for word in words)
    return known >= 2 and known >= _FOREIGN_SHARE * len(words)
