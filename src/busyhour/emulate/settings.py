"""The settings of a twin that have no flag of their own: read from text by their type.

A type that is not in the table cannot be written on a command line, and is not offered there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from busyhour.emulate.grammar import SWITCH
from busyhour.emulate.vendors import Vendor
from busyhour.errors import PlanError

_NEVER = ("name", "port", "outcomes")


def offered(vendor: Vendor, flags: Collection[str]) -> list[str]:
    """The names that can be set so; `flags`: those of the settings that have a flag."""
    types = vendor.settings()
    return [name for name in types if name not in (*_NEVER, *flags) and types[name] in _READERS]


def read(vendor: Vendor, texts: Sequence[str], flags: Collection[str]) -> dict[str, object]:
    """The settings that these "NAME=VALUE" ask for. Raises PlanError with every problem."""
    names, found, problems = offered(vendor, flags), dict[str, object](), list[str]()
    for text in texts:
        name, equals, value = text.partition("=")
        if name in flags and name not in _NEVER:
            problems.append(f"--set {text:.80}: it has a flag of its own; write --{name.replace('_', '-')} VALUE")
        elif not equals or name not in names:
            problems.append(f"--set {text:.80}: write it as NAME=VALUE, with a name of {', '.join(names)}")
        elif name in found:
            problems.append(f"--set {text:.80}: {name} is given twice; give it once")
        else:
            try:
                found[name] = _READERS[vendor.settings()[name]](value)
            except ValueError as problem:
                problems.append(f"--set {text:.80}: {problem}")
    if problems:
        raise PlanError(problems)
    return found


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("no whole number") from None


def _switch(text: str) -> bool:
    if text.lower() not in SWITCH:
        raise ValueError("it is a switch; write on or off")
    return SWITCH[text.lower()]


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or set(text) & set("[]{}\"'"):
        raise ValueError("write the names with commas between them, like a,b")
    return names


_READERS: Mapping[str, Callable[[str], object]] = {
    "str": str,
    "int": _whole_number,
    "int | None": _whole_number,
    "bool": _switch,
    "Sequence[str]": _names,
    "Sequence[Mapping[str, Any]] | str | Path": str,  # Pinecone's records: the path of a file
}
