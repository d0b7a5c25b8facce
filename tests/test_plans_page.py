"""The page on writing plans: its blocks work, one after the other, and it has all that a plan is made of, as it is."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import pytest

import busyhour
from busyhour import arrivals, gates, model, planfile
from busyhour.gates.leaks import COUNTED
from busyhour.media import utterances
from busyhour.media.rendering import write_wav
from busyhour.workloads import call, http, idle

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "reference" / "plans.md").read_text(encoding="utf-8")
BLOCKS = re.findall("```python\n(.*?)```", PAGE, flags=re.DOTALL)
PLACES = (busyhour, arrivals, gates, call, http, idle, utterances)
RECORDED = "recordings/tuesday.wav"


def rows(of: str) -> list[list[str]]:
    """The cells of all tables below a heading, as far as the next."""
    below = PAGE.partition(f"## {of}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def told() -> dict[str, str]:
    """Name -> parameters, of whatever the page writes as a call in the first cell of a row, or as an own thing."""
    spans = re.findall(r"^\| `(\w+)\(([^`]*)\)` \|", PAGE, flags=re.MULTILINE)
    return dict(spans + re.findall(r"`(AlreadyRunning|Scenario|Table|Control)\(([^`]*)\)`", PAGE))


def thing(name: str) -> Any:
    return next(getattr(place, name) for place in PLACES if hasattr(place, name))


class Parameter(NamedTuple):
    name: str
    default: object
    by_name: bool


def signature(code: Any) -> list[Parameter]:
    """A default that each has of its own is made anew."""
    found = []
    for name, parameter in inspect.signature(code).parameters.items():
        default: object = parameter.default
        made = getattr(code, "__dataclass_fields__", {}).get(name)
        if made is not None and callable(made.default_factory):
            default = made.default_factory()
        default = "required" if default is inspect.Parameter.empty else default
        found.append(Parameter(name, default, parameter.kind is inspect.Parameter.KEYWORD_ONLY))
    return found


def written(parameters: str) -> list[Parameter]:
    """The same of what the page says."""
    made: dict[str, Any] = {}
    known = {"inf": inf, "COUNTED": COUNTED, "OSError": OSError}
    exec(f"def told({parameters}): pass", known, made)
    return signature(made["told"])


# ---------------------------------------------------------------- its blocks


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the blocks look for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    recorded = utterances.utterance("booking.tuesday")
    write_wav(tmp_path / RECORDED, recorded.samples, recorded.rate_hz)
    return tmp_path


def test_each_block_works_after_those_before_it(at_hand: Path) -> None:
    assert RECORDED in PAGE
    names: dict[str, Any] = {"__name__": "mine"}
    for block in BLOCKS:
        exec(compile(block, "plans.md", "exec"), names)
    made = SimpleNamespace(**names)
    assert planfile.check(made.shown) == []
    rest = [made.busy, made.stairs, made.crowd, made.soak, made.mixed, made.limited, made.killed, *made.batches]
    plan = made.Plan(
        target=made.own,
        carrier=made.carrier,
        services=[made.llm, made.stt, made.tts],
        phases=[*rest, made.Phase("in my words", made.Schedule([0, 1]), made.Call([made.asking]))],
        probes=made.probes,
        gates=[*made.more, made.memory],
    )
    assert planfile.check(plan) == []


SHORT = """
import runpy
from dataclasses import replace


def plan():
    whole = runpy.run_path("mine.py")["plan"](scale=0.1, command={command!r})
    return replace(whole, valid_if=())
"""


@pytest.mark.long
def test_the_whole_plan_can_be_carried_out(tmp_path: Path) -> None:
    """A tenth of its calls, to the agent of the tutorial, and hardly a limit: a busy machine is no fault of its."""
    free = re.sub(r'\d+, "(ms|s)"', r'60_000, "\1"', BLOCKS[0])
    (tmp_path / "mine.py").write_text(free, encoding="utf-8")
    command = f"{sys.executable} {DOCS / 'tutorial' / 'agent.py'}"
    (tmp_path / "short.py").write_text(SHORT.format(command=command), encoding="utf-8")
    argv = [sys.executable, "-m", "busyhour", "run", "short.py", "--json", "verdicts.json"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in {0, 2}, done.stdout + done.stderr  # so few calls are little evidence
    verdicts = json.loads((tmp_path / "verdicts.json").read_text(encoding="utf-8"))["verdicts"]
    found = {verdict["gate"]: verdict["outcome"] for verdict in verdicts}
    assert found["longest dead air in silent model <= 60000 s"] == "pass", done.stdout
    assert set(found.values()) <= {"pass", "inconclusive"}, done.stdout


# ---------------------------------------------------------------- what it names


ARRIVALS = [
    name
    for name, one in vars(arrivals).items()
    if inspect.isclass(one) and one.__module__ == arrivals.__name__ and not name.startswith("_")
]
STEPS = [step.__name__ for step in get_args(call.Step)]
GATES = [name for name in gates.__all__ if hasattr(getattr(gates, name), "judge")]
OTHERS = ["AlreadyRunning", "Scenario", "Control", "Table", "Http", "Function", "InTurn", "Idle"]


def test_there_is_something_to_look_for() -> None:
    assert {"Poisson", "Hold", "Schedule"} <= set(ARRIVALS)
    assert {"Greeting", "Press"} <= set(STEPS)
    assert {"AtMost", "NoLeak", "Holds"} <= set(GATES)


@pytest.mark.parametrize("name", [*ARRIVALS, *STEPS, *GATES, *OTHERS])
def test_each_is_on_the_page(name: str) -> None:
    assert name in told()


@pytest.mark.parametrize("name", told())
def test_what_is_on_the_page_is_as_it_is_told(name: str) -> None:
    ours = signature(thing(name))
    if name == "rendered":  # whose cache is nobody's business
        ours = [one for one in ours if one.name != "cache"]
    assert written(told()[name]) == ours


@pytest.mark.parametrize(
    ("of", "code"),
    [
        ("The plan", model.Plan),
        ("The agent", busyhour.Command),
        ("Phases", model.Phase),
        ("Controls: can the gate fail?", model.Variation),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_each_field_is_told_with_its_default(of: str, code: Any) -> None:
    found = []
    for name, default, *_ in rows(of):
        value = "required"
        if default:
            shown = default.strip("`")
            value = busyhour.Recording() if shown == "Recording()" else ast.literal_eval(shown)
        found.append((name.strip("`"), value))
    assert found == [(one.name, one.default) for one in signature(code)]


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "docs/tutorial/01-your-own-agent.md"])
def test_it_is_found(page: str) -> None:
    assert "reference/plans.md" in (DOCS.parent / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([\w.-]+)#?[\w-]*\)", PAGE))))
def test_it_leads_to_what_there_is(link: str) -> None:
    assert (DOCS / "reference" / link).is_file()
