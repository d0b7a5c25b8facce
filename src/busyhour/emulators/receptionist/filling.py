"""JSON that validates against a schema, with values from what the caller said: arguments and structured outputs.

Source: JSON Schema 2020-12 and the subset that the vendors' strict modes accept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from busyhour.emulators.receptionist.manners import hostile
from busyhour.emulators.receptionist.nouns import Said
from busyhour.emulators.receptionist.wording import DIGITS, days_in, digits_in, occurs, words_of
from busyhour.model import JSON

_DEEPEST = 32
_NODES_AT_MOST = 5000
_SPOKEN = ("reply", "answer", "response", "message", "text", "say", "spoken", "speech", "content")
"""Properties of such names are what the receptionist says."""
_BY_FORMAT = {
    "date-time": "2030-01-08T09:00:00Z",
    "date": "2030-01-08",
    "time": "09:00:00Z",
    "duration": "PT30M",
    "email": "anna.miller@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
}
_CANDIDATES = (*_BY_FORMAT.values(), "09:00", "5550142", "+15550142", "555-0142", "tuesday", "Anna Miller", "a", "A1")
"""Tried in turn against a pattern."""
_NOT_STRICT = (
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "patternProperties",
)


class Unfillable(Exception):
    """A schema for which no value is found; says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What values are made of: the caller's texts, what will be said, and words that hint at the right choice."""

    texts: Sequence[str] = ()
    spoken: str = ""
    hints: Sequence[str] = ()

    @staticmethod
    def of(conversation: Sequence[Said], *, spoken: str = "", hints: Sequence[str] = ()) -> Known:
        texts = [said.text for said in conversation if said.role == "user"]
        return Known(texts=texts, spoken=spoken, hints=[*words_of(" ".join(texts[-6:])), *hints])


def filled(schema: Mapping[str, JSON], known: Known) -> JSON:
    """A value for the schema. Raises Unfillable."""
    return _Filler(schema, known).value(schema, "", 0)


def check_schema(schema: Mapping[str, JSON], *, strict: bool) -> None:
    """Raises Unfillable unless `filled` will find a value whatever is said; strict: and the vendors' subset is kept."""
    if strict:
        _check_strict(schema, "", 0)
        if schema.get("type") != "object":
            raise Unfillable("schema must be a JSON Schema of 'type: \"object\"'.")
    filled(schema, Known())


def _check_strict(schema: object, where: str, depth: int) -> None:
    if not isinstance(schema, Mapping):
        return
    place = f"In context=({where}), "
    if depth > _DEEPEST:
        raise Unfillable(f"{place}the schema is nested too deeply.")
    for keyword in _NOT_STRICT:
        if keyword in schema:
            raise Unfillable(f"{place}'{keyword}' is not permitted.")
    properties = schema.get("properties")
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            raise Unfillable(f"{place}'additionalProperties' is required to be supplied and to be false.")
        names = list(properties) if isinstance(properties, Mapping) else []
        required = schema.get("required")
        missing = [name for name in names if not isinstance(required, list) or name not in required]
        if missing:
            raise Unfillable(
                f"{place}'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{missing[0]}'."
            )
    for keyword in ("properties", "$defs", "definitions"):
        inner = schema.get(keyword)
        for name, item in inner.items() if isinstance(inner, Mapping) else ():
            _check_strict(item, f"{where}{', ' if where else ''}'{keyword}', '{name:.80}'", depth + 1)
    _check_strict(schema.get("items"), f"{where}{', ' if where else ''}'items'", depth + 1)
    several = schema.get("anyOf")
    for item in several if isinstance(several, list) else ():
        _check_strict(item, f"{where}{', ' if where else ''}'anyOf'", depth + 1)


class _Filler:
    """One filling: the whole schema for its references, and how many nodes may still be made."""

    def __init__(self, root: Mapping[str, JSON], known: Known) -> None:
        self._root = root
        self._known = known
        self._left = _NODES_AT_MOST

    def value(self, schema: JSON, name: str, depth: int) -> JSON:
        """name: of the property it is for, "" for none."""
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise Unfillable("the schema is nested too deeply, or has no end.")
        if not isinstance(schema, Mapping):
            return self._string({}, name)
        if "$ref" in schema:
            return self.value(self._referred(schema["$ref"]), name, depth + 1)
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(choices, list) and choices:
            return self._choice(choices)
        for keyword in ("anyOf", "oneOf"):
            options = schema.get(keyword)
            if isinstance(options, list) and options:
                return self._first(options, name, depth)
        parts = schema.get("allOf")
        if isinstance(parts, list) and parts:
            return self.value(self._merged(schema, parts), name, depth + 1)
        return self._of_type(schema, name, depth)

    def _of_type(self, schema: Mapping[str, JSON], name: str, depth: int) -> JSON:
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._first([{**schema, "type": one} for one in kind], name, depth)
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema, depth)
        if kind == "array" or (kind is None and "items" in schema):
            return self._array(schema, name, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return "hostile" not in name.lower() or any(hostile(text) for text in self._known.texts)
        return None if kind == "null" else self._string(schema, name)

    def _object(self, schema: Mapping[str, JSON], depth: int) -> JSON:
        properties, required = schema.get("properties"), schema.get("required")
        needed = [item for item in required if isinstance(item, str)] if isinstance(required, list) else []
        made: dict[str, JSON] = {}
        for name, item in properties.items() if isinstance(properties, Mapping) else ():
            if name in needed or self._is_known(item, name):
                made[name] = self.value(item, name, depth + 1)
        for name in needed:
            if name not in made:
                made[name] = ""
        return made

    def _array(self, schema: Mapping[str, JSON], name: str, depth: int) -> JSON:
        leading = schema.get("prefixItems")
        made = [self.value(item, name, depth + 1) for item in leading] if isinstance(leading, list) else []
        fewest = schema.get("minItems")
        while isinstance(fewest, int) and len(made) < fewest:
            made.append(self.value(schema.get("items"), name, depth + 1))
        return made

    def _first(self, options: Sequence[JSON], name: str, depth: int) -> JSON:
        """The first option that can be filled; null if it is one and nothing is known of the property."""
        nulls = [option for option in options if isinstance(option, Mapping) and option.get("type") == "null"]
        others = [option for option in options if option not in nulls]
        if nulls and not any(self._is_known(option, name) for option in others):
            return None
        problem = Unfillable("no alternative can be filled.")
        for option in [*others, *nulls]:
            try:
                return self.value(option, name, depth + 1)
            except Unfillable as found:
                problem = found
        raise problem

    def _is_known(self, schema: JSON, name: str) -> bool:
        """Whether an optional property is worth telling: there is a choice, or the caller said it."""
        if isinstance(schema, Mapping):
            if schema.get("enum") or any(isinstance(schema.get(k), list) for k in ("anyOf", "oneOf")):
                return True
            inner = schema.get("properties")
            if isinstance(inner, Mapping) and any(_fact(key.lower(), self._known.texts) for key in inner):
                return True
            kind = schema.get("type")
            if kind not in (None, "string") and not (isinstance(kind, list) and "string" in kind):
                return False
        return bool(_fact(name.lower(), self._known.texts)) or (bool(self._known.spoken) and name.lower() in _SPOKEN)

    def _choice(self, choices: Sequence[JSON]) -> JSON:
        """The choice that was said, or that what will be said is about; the first if none was."""
        said = self._known.hints
        exact = (choice for choice in choices if str(choice).lower() in said)
        close = (choice for choice in choices if any(_alike(str(choice).lower(), word) for word in said))
        return next(exact, next(close, choices[0]))

    def _string(self, schema: Mapping[str, JSON], name: str) -> str:
        known, lowered = self._known, name.lower()
        spoken = known.spoken if lowered in _SPOKEN else ""
        last = known.texts[-1] if known.texts else ""
        for text in (spoken, _fact(lowered, known.texts), last, _BY_FORMAT.get(str(schema.get("format")), "")):
            if text and (cut := _fitted(text, schema)) is not None:
                return cut
        fit = (cut for text in ("", *_CANDIDATES) if (cut := _fitted(text, schema)) is not None)
        found = next(fit, None)
        if found is None:
            raise Unfillable(f"no string is found for the property '{name:.80}'.")
        return found

    def _referred(self, ref: JSON) -> JSON:
        at: JSON = self._root
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise Unfillable(f"the reference {ref!r:.80} does not lead into the schema.")
        for step in ref[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(at, Mapping) or key not in at:
                raise Unfillable(f"the reference {ref!r:.80} leads nowhere.")
            at = at[key]
        return at

    def _merged(self, schema: Mapping[str, JSON], parts: Sequence[JSON]) -> Mapping[str, JSON]:
        whole: dict[str, JSON] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in parts:
            resolved = self._referred(part["$ref"]) if isinstance(part, Mapping) and "$ref" in part else part
            for key, value in resolved.items() if isinstance(resolved, Mapping) else ():
                had = whole.get(key)
                if isinstance(had, Mapping) and isinstance(value, Mapping):
                    whole[key] = {**had, **value}
                elif isinstance(had, list) and isinstance(value, list):
                    whole[key] = [*had, *value]
                else:
                    whole[key] = value
        return whole


# ---------------------------------------------------------------- values


def _fitted(text: str, schema: Mapping[str, JSON]) -> str | None:
    """The text as the schema wants it, None if it cannot be."""
    longest, shortest, form, pattern = (schema.get(key) for key in ("maxLength", "minLength", "format", "pattern"))
    if isinstance(form, str) and form in _BY_FORMAT and text != _BY_FORMAT[form]:
        return None
    if isinstance(longest, int):
        text = text[: max(0, longest)]
    if isinstance(shortest, int) and len(text) < shortest:
        if shortest > _NODES_AT_MOST or (isinstance(longest, int) and longest < shortest):
            return None
        text = text.ljust(shortest, ".")
    if isinstance(pattern, str) and not _matches(pattern, text):
        return None
    return text


def _matches(pattern: str, text: str) -> bool:
    # A pattern comes from the request, and Python's may take for ever: repeated groups and many repetitions are what
    # makes them, so these match nothing here, nor do long texts.
    if len(text) > 40 or len(pattern) > 200 or re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+}]", pattern)) > 6:
        return False
    try:
        return re.search(pattern, text) is not None
    except (re.error, OverflowError, RecursionError):
        return False


def _number(schema: Mapping[str, JSON], *, whole: bool) -> JSON:
    low, high, step = _bound(schema, "minimum"), _bound(schema, "maximum"), _bound(schema, "multipleOf")
    above, below = _bound(schema, "exclusiveMinimum"), _bound(schema, "exclusiveMaximum")
    tick = 1 if whole else 0.5
    lows = [value for value in (low, None if above is None else above + tick) if value is not None]
    highs = [value for value in (high, None if below is None else below - tick) if value is not None]
    value: float = 1
    if lows:
        value = max(value, *lows)
    if highs:
        value = min(value, *highs)
    if whole:
        value = int(value) if value == int(value) else int(value) + (1 if value > 0 and lows else 0)
    if step is not None and step > 0 and value % step:
        value = (value // step + 1) * step
    if any(value < item for item in lows) or any(value > item for item in highs):
        raise Unfillable("no number is found between 'minimum' and 'maximum'.")
    return value


def _bound(schema: Mapping[str, JSON], keyword: str) -> float | None:
    value = schema.get(keyword)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return value


def _alike(choice: str, word: str) -> bool:
    """ "booking" is like "book", and "cancelled" like "cancel"."""
    shorter = min(len(choice), len(word))
    return shorter >= 4 and (choice.startswith(word) or word.startswith(choice))


def _fact(name: str, texts: Sequence[str]) -> str:
    """What the caller said last that fits a property of this name."""
    for text in reversed(texts):
        words = words_of(text)
        if ("day" in name or "date" in name) and (days := days_in(words)):
            return days[0]
        if "time" in name and occurs("half", words):
            return "14:30"
        if "time" in name and "nine" in words and digits_in(words) == 1:
            return "09:00"
        if ("phone" in name or "number" in name) and digits_in(words) >= 3:
            return " ".join(word for word in words if word.isdigit() or word in DIGITS)
        if "name" in name and (match := re.search(r"(?i)(?:name is|it'?s|this is|i am|i'm)\s+([\w' -]+)", text)):
            return match.group(1).strip()
    return ""
