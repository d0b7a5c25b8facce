"""Plan files: what is wrong with one is said before anything is started, all at once, with the place."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from busyhour.arrivals import Burst, Hold
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.errors import PlanError
from busyhour.faults.provider import NoToken
from busyhour.gates import AtMost
from busyhour.indicators import response_latency
from busyhour.model import Control, Phase, Plan, Variation
from busyhour.planfile import check, load, vary
from busyhour.workloads.call import BargeIn, Call, Greeting, Press, Say, Scenario

PREAMBLE = """
from busyhour.arrivals import Burst
from busyhour.carriers.memory import MemoryCarrier, MemoryService
from busyhour.clock import VirtualClock
from busyhour.gates import AtMost
from busyhour.indicators import response_latency
from busyhour.model import Phase, Plan
from busyhour.workloads.call import Call, Greeting, Scenario

def make(*names, gate="steady"):
    call = Call([Scenario("s", [Greeting()])])
    return Plan(target=MemoryService("agent"), carrier=MemoryCarrier(clock=VirtualClock()),
                phases=[Phase(name, Burst(1), call) for name in names],
                gates=[AtMost(response_latency(gate), 800, "ms")])
"""


@pytest.fixture
def written(tmp_path: Path):  # type: ignore[no-untyped-def]
    def write(text: str) -> Path:
        path = tmp_path / "plan.py"
        path.write_text(PREAMBLE + text)
        return path

    return write


def problems_of(path: Path, **options: str) -> list[str]:
    with pytest.raises(PlanError) as caught:
        load(path, options)
    return caught.value.problems


def test_a_plan_that_exits_is_an_error_with_its_place(written) -> None:  # type: ignore[no-untyped-def]
    path = written("import sys\nsys.exit('not here')\n")
    line = path.read_text().splitlines().index("sys.exit('not here')") + 1
    assert problems_of(path) == [f"{path}:{line}: SystemExit: not here"]
    assert problems_of(written("def plan():\n    raise SystemExit(3)\n"))[0].endswith("SystemExit: 3")


def test_a_plan_is_loaded_with_its_source(written) -> None:  # type: ignore[no-untyped-def]
    file = load(written("plan = make('steady')"))
    assert [phase.name for phase in file.plan.phases] == ["steady"]
    assert "plan = make('steady')" in file.source


def test_a_function_of_options_is_called_with_their_types(written) -> None:  # type: ignore[no-untyped-def]
    path = written(
        "def plan(n: int = 1, name: str = 'steady'):\n"
        "    return make(*[name + str(i) for i in range(n)], gate=name + '0')"
    )
    assert [p.name for p in load(path, {"n": "3", "name": "x"}).plan.phases] == ["x0", "x1", "x2"]
    assert problems_of(path, n="many") == [f"{path}: option n='many' is not a valid int"]
    assert "there is no option 'm'; the plan's options are: n, name" in problems_of(path, m="1")[0]


def test_an_option_without_a_default_has_to_be_given(written) -> None:  # type: ignore[no-untyped-def]
    path = written("def plan(url: str, **more):\n    return make('steady')")
    assert problems_of(path) == [
        f"{path}: the option 'url' has no default and is not given: write -o url=VALUE, or give it a default in plan()"
    ]
    assert load(path, {"url": "ws://127.0.0.1:1"}).plan.phases[0].name == "steady"


def test_all_problems_are_told_at_once(written) -> None:  # type: ignore[no-untyped-def]
    problems = problems_of(written("plan = make('steady', 'steady', gate='stedy')"))
    assert len(problems) == 2
    assert "2 phases named 'steady'" in problems[0]
    assert "'stedy', which is not in the plan (its phases: steady)" in problems[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "defines no `plan`"),
        ("plan = 7", "`plan` is a int"),
        ("plan = make()", "no phases"),
        ("def plan(): return None", "returned a NoneType"),
        ("plan = make(", "this is not Python"),
        ("plan = 1 / 0", "ZeroDivisionError"),
        ("def plan(): return 1 / 0", "ZeroDivisionError"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("plan = make('a', gate='a'); plan = type(plan)(**{**vars(plan), 'gates': []})", "no gates"),
        ("Burst(0)", "must be a positive number"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(written, text: str, words: str) -> None:  # type: ignore[no-untyped-def]
    path = written(text)
    problems = problems_of(path)
    assert any(words in problem for problem in problems)
    assert all(str(path) in problem for problem in problems)


def test_the_line_in_the_plan_is_named(written) -> None:  # type: ignore[no-untyped-def]
    path = written("plan = 1 / 0")
    assert problems_of(path)[0].startswith(f"{path}:{len(PREAMBLE.splitlines()) + 1}:")


@pytest.mark.parametrize(
    "text",
    [
        "plan = make('steady')\ngates = [AtMost(response_latency('steady', q=50), 800, 'ms')]",
        "plan = make('steady')\ngates = [AtMost(response_latency, 800, 'ms')]",
        "def plan():\n    return make('steady', gate=Burst(0))",
    ],
)
def test_the_line_in_the_plan_at_which_busyhour_refused_is_named(written, text: str) -> None:  # type: ignore[no-untyped-def]
    path = written(text)
    assert [problem.partition(": ")[0] for problem in problems_of(path)] == [f"{path}:{len(PREAMBLE.splitlines()) + 2}"]


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "there is no such plan file" in problems_of(tmp_path / "none.py")[0]
    assert "cannot be read" in problems_of(tmp_path)[0]


@pytest.mark.parametrize(("text", "phase"), [("false", "quick"), ("no", "quick"), ("0", "quick"), ("True", "full")])
def test_a_switch_that_is_off_is_off(written, text: str, phase: str) -> None:  # type: ignore[no-untyped-def]
    plan = "def plan(full: bool = False):\n    name = 'full' if full else 'quick'\n    return make(name, gate=name)\n"
    path = written(plan)
    assert [p.name for p in load(path, {"full": text}).plan.phases] == [phase]
    assert problems_of(path, full="of course") == [f"{path}: option full='of course' is not a valid bool"]


def test_options_for_a_plan_without_any(written) -> None:  # type: ignore[no-untyped-def]
    assert "takes no options" in problems_of(written("plan = make('steady')"), profile="x")[0]


# ---------------------------------------------------------------- checks that need no file


@dataclass
class Watching:
    service: str

    def read(self, endpoint: object) -> dict[str, float]:
        return {}


@pytest.fixture
def plan() -> Plan:
    call = Call([Scenario("s", [Greeting()])])
    return Plan(
        target=MemoryService("agent"),
        carrier=MemoryCarrier(clock=VirtualClock()),
        phases=[Phase("steady", Burst(1), call), Phase("outage", Burst(2), call)],
        gates=[AtMost(response_latency("steady"), 800, "ms")],
        services=[MemoryService("llm")],
    )


def test_a_sound_plan_has_no_problems(plan: Plan) -> None:
    assert check(plan) == []


def test_strangers_are_named(plan: Plan) -> None:
    stranger = MemoryService("tts")
    gate = AtMost(response_latency("steady"), 900, "ms")
    wrong = replace(
        plan,
        phases=[plan.phases[0], replace(plan.phases[1], faults=[NoToken(stranger)])],
        probes=[Watching("redis")],
        controls=[
            Control(gate, red=Variation(name="v", services=[stranger]), benign=Variation(name="w", faults={"x": []}))
        ],
    )
    told = "\n".join(check(wrong))
    for words in ("harms 'tts'", "watches 'redis'", "<= 900 ms", "replaces a service 'tts'", "changes a phase 'x'"):
        assert words in told


def test_what_a_phase_cannot_do_is_said_before_it_starts(plan: Plan) -> None:
    call = Call([Scenario("s", [Say("hours.todya"), Press("1x"), BargeIn("barge.stop", asking="hours.today")])])
    phases = [replace(plan.phases[0], workload=call), replace(plan.phases[1], arrivals=Hold(200, 60))]
    told = "\n".join(check(replace(plan, phases=phases)))
    for words in ("hours.today", "there is no key 'x'", "to hold 200 operations in progress, but has room for 100"):
        assert words in told
    assert len(told.splitlines()) == 3


def test_two_services_of_one_name(plan: Plan) -> None:
    assert "2 services named 'agent'" in check(replace(plan, services=[MemoryService("agent")]))[0]


def test_a_variation_replaces_by_name_and_keeps_only_what_is_asked(plan: Plan) -> None:
    other, fault = MemoryService("agent"), NoToken(MemoryService("llm"))
    varied = vary(plan, Variation(name="v", services=[other], faults={"outage": [fault]}), ["outage"])
    assert varied.target is other
    assert [phase.name for phase in varied.phases] == ["outage"]
    assert list(varied.phases[0].faults) == [fault]
    assert varied.gates == []  # the gate reads a phase that is not carried out
    assert vary(plan, Variation(name="w", phases=[replace(plan.phases[0], at_once=1)])).phases[0].at_once == 1
