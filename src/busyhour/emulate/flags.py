"""The flags of a twin's behaviour, made from the behaviour itself: its JSON form says what there is to set."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from busyhour.emulate.grammar import NOTHING, SHARE, SWITCH, exactly, latency, latency_text, share, share_text
from busyhour.errors import PlanError
from busyhour.model import JSON

_GENERAL = ("outcomes", "seed", "served")


def add(
    parser: argparse.ArgumentParser, behaviour: Mapping[str, JSON], possible: Sequence[str] = (), *, unless: str
) -> None:
    """A flag for each setting of a behaviour, given as JSON; `possible`: the outcomes that can be asked for; `unless`:
    what the value is that holds unless another is given: "default" or "now"."""
    for name, value in behaviour.items():
        if name in _GENERAL:
            continue
        help_, metavar = f"{unless} {in_words(value)}", "TEXT"
        if isinstance(value, Mapping):
            metavar = "LATENCY"
        elif isinstance(value, bool):
            metavar = "on|off"
        elif isinstance(value, int | float):
            metavar = "NUMBER"
        parser.add_argument(flag(name), dest=f"setting {name}", metavar=metavar, help=help_.replace("%", "%%"))
    outcomes = f" ({', '.join(name.removeprefix('http_') for name in possible)})" if possible else ""
    fails = f"a share of the requests fails, like {SHARE}{outcomes}; may be repeated; {NOTHING} for no failures"
    parser.add_argument("--fail", action="append", metavar="SHARE:HOW", help=fails.replace("%", "%%"))
    parser.add_argument("--seed", type=int, help=f"of all that is random ({unless} {behaviour.get('seed')})")


def change(arguments: argparse.Namespace, behaviour: Mapping[str, JSON]) -> dict[str, JSON]:
    """What the flags ask for, as a change of the behaviour. Raises PlanError with every problem."""
    asked: dict[str, JSON] = {}
    problems: list[str] = []
    for name, value in behaviour.items():
        text = getattr(arguments, f"setting {name}", None)
        if text is None:
            continue
        try:
            asked[name] = _value(text, value, flag(name))
        except PlanError as problem:
            problems.extend(problem.problems)
    if arguments.fail is not None:
        try:
            asked["outcomes"] = _outcomes(arguments.fail)
        except PlanError as problem:
            problems.extend(problem.problems)
    if arguments.seed is not None:
        asked["seed"] = arguments.seed
    if problems:
        raise PlanError(problems)
    return asked


def shown(behaviour: Mapping[str, JSON]) -> list[str]:
    """The behaviour, a setting a line, as the flags that make it."""
    rows = [(flag(name), in_words(value)) for name, value in behaviour.items() if name not in _GENERAL]
    outcomes = behaviour.get("outcomes")
    shares = outcomes.items() if isinstance(outcomes, Mapping) else []
    fails = [share_text(outcome, value) for outcome, value in shares if isinstance(value, int | float) and value]
    rows += [("--fail", text) for text in fails or [NOTHING]]
    rows.append(("--seed", str(behaviour.get("seed"))))
    wide = max(len(name) for name, _ in rows)
    return [f"  {name:{wide}}  {text}" for name, text in rows]


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """As `parse_args`, but what it does not know is complained of with what was meant."""
    arguments, strange = parser.parse_known_args(argv)
    if strange:
        parser.error(unrecognized(parser, strange))
    return arguments


def unrecognized(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Words that a parser does not know, and the flags of its own that were meant, where that can be told."""
    known = re.findall(r"--[\w-]+", parser.format_usage())
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    meant = [near[0] for word in given if (near := get_close_matches(word, known, n=1, cutoff=0.7))]
    hint = f"; did you mean {' '.join(dict.fromkeys(meant))}?" if meant else ""
    return f"unrecognized arguments: {' '.join(words)}{hint}"


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def in_words(value: JSON) -> str:
    if isinstance(value, Mapping):
        return latency_text(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return exactly(value) if isinstance(value, int | float) else str(value)


def _value(text: str, now: JSON, flag: str) -> JSON:
    if isinstance(now, Mapping):
        return latency(text, flag).as_json()
    if isinstance(now, bool):
        if text.lower() not in SWITCH:
            raise PlanError(f"{flag} {text:.80}: it is a switch; write on or off")
        return SWITCH[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"{flag} {text:.80}: no number") from None


def _outcomes(texts: Sequence[str]) -> dict[str, JSON]:
    if NOTHING in texts:
        if len(texts) > 1:
            raise PlanError(f"--fail {NOTHING} stands alone: leave it out, or the others")
        return {}
    outcomes: dict[str, JSON] = {}
    problems = []
    for text in texts:
        try:
            outcome, value = share(text)
        except PlanError as problem:
            problems.extend(problem.problems)
            continue
        if outcome in outcomes:
            problems.append(f"--fail {text:.80}: {outcome} is given twice; give it once")
        outcomes[outcome] = value
    if problems:
        raise PlanError(problems)
    return outcomes
