"""The pytest plugin, in suites of its own: what passes, what fails with which words, what is kept, and what is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import pytest
import pytest_asyncio.plugin
import uvloop  # noqa: F401  (a suite within ours forgets what it was the first to import, which numpy cannot bear)

import busyhour.emulators
import busyhour.reports.html
import busyhour.suites.asking
import busyhour.testing  # noqa: F401  (and so on)
from busyhour import pytest_plugin
from busyhour.errors import JournalError
from busyhour.journal import open_run
from busyhour.proc import stat

pytest_plugins = ["pytester"]

PLANS = Path(__file__).parent / "plans"
PLUGIN = ("-p", "busyhour.pytest_plugin", "-p", "no:cacheprovider")
ASYNCIO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
WORD = """
import numpy as np
from busyhour import Audio

SAMPLES = np.zeros(3200, np.int16)
SAMPLES[160:-160:2], SAMPLES[161:-160:2] = 8000, -8000
WORD = Audio("word", "Hello?", SAMPLES, 8000, 160, 3040)
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with a plan and an agent, in which to write tests; of plugins there are those that a test names."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the suite that this test is a part of
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    pytester.makepyfile(tiny=(PLANS / "small.py").read_text(), agent=(PLANS / "plain.py").read_text(), word=WORD)
    pytester.syspathinsert()
    return pytester


def made(suite: pytest.Pytester, tests: str, *flags: str) -> pytest.RunResult:
    """Make these tests, and run them in this process."""
    suite.makepyfile(test_agent=tests)
    words = ("-p", "no:cacheprovider", *ASYNCIO, *flags)
    return suite.runpytest_inprocess(*words, plugins=[pytest_plugin, pytest_asyncio.plugin])


def journals(suite: pytest.Pytester) -> list[Path]:
    return sorted(suite.path.rglob("*.journal"))


# ---------------------------------------------------------------- plans


def test_a_plan_that_passes_and_one_that_fails(suite: pytest.Pytester) -> None:
    result = made(
        suite,
        """
        import pytest

        from busyhour import open_run
        from busyhour.pytest_plugin import Busyhour


        def test_answers(busyhour: Busyhour):
            judged = busyhour.run("tiny.py", calls=9, seed=5)
            assert judged.verdict("p50 response").estimate.value < 20_000
            with pytest.raises(pytest.fail.Exception, match="2 gates have 'talk' in the name; .*: .*dropped"):
                judged.verdict("talk")
            with open_run(judged.journal) as run:
                assert len(run.operations("call")) == 9
                assert run.meta["seed"] == 5


        def test_answers_at_once(busyhour):
            busyhour.run("tiny.py", limit_ms=0.001)
            raise AssertionError("it went on")


        def test_of_another_gate(busyhour):
            busyhour.run("tiny.py", calls=9).verdict("deadair")
        """,
        "--junitxml=junit.xml",
        "--basetemp=temporary",
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            '>       busyhour.run("tiny.py", limit_ms=0.001)',
            "E       Failed: FAIL: p50 response latency in talk is 50 ms (n=8), over 0.001 ms: 8 of 8 turns *",
            "E       journal: */temporary/*/test_agent-test_answers_at_once.journal",
            "*- Captured verdicts of tiny.py call -*",
            "PASS * the journal is whole",
            "FAIL * p50 response latency in talk is 50 ms *[[]UNPROVEN[]]",
            "FAIL (* pass, 1 fail; 2 not proven able to fail)",
            '>       busyhour.run("tiny.py", calls=9).verdict("deadair")',
            "E       Failed: no gate has 'deadair' in the name; their names are: *; p50 response latency *",
            "FAILED test_agent.py::test_answers_at_once - Failed: FAIL: p50 response*",
        ]
    )
    assert "it went on" not in result.stdout.str()
    assert "running.py" not in result.stdout.str()
    assert [journal.name for journal in journals(suite)] == ["test_agent-test_answers_at_once.journal"]
    told = properties(suite.path / "junit.xml")
    assert told["test_answers"]["busyhour: p50 response latency in talk <= 20000 ms"].startswith("PASS: p50 response")
    assert told["test_answers_at_once"]["busyhour journal"] == str(journals(suite)[0])


def properties(junit: Path) -> dict[str, dict[str, str]]:
    """Of each test in JUnit XML."""
    cases = ElementTree.parse(junit).getroot().iter("testcase")
    return {
        str(case.get("name")): {str(p.get("name")): str(p.get("value")) for p in case.iter("property")}
        for case in cases
    }


MADE = """
import asyncio
from dataclasses import replace

import pytest
from busyhour import AtMost
from tiny import plan


def test_passes(busyhour):
    assert busyhour.plan(plan()).judgement.outcome == "pass"


async def test_passes_while_a_loop_runs(busyhour):
    assert busyhour.plan(plan()).judgement.outcome == "pass"


async def test_lets_the_loop_go_on(busyhour):
    loop, ticks = asyncio.get_running_loop(), []
    ticking = loop.call_later(0.05, lambda: ticks.append(1))
    judged = await asyncio.to_thread(busyhour.plan, plan())
    assert judged.journal.is_file() and ticks


def test_is_inconclusive(busyhour):
    busyhour.plan(plan(calls=2))


def test_is_invalid(busyhour):
    busyhour.plan(plan(calls=8, at_once=1))


def test_is_wrong(busyhour):
    busyhour.plan(replace(plan(), gates=[], phases=[plan().phases[0]] * 2))


def test_wants_it_red(busyhour):
    with pytest.raises(pytest.fail.Exception, match="over 0.001 ms"):
        busyhour.plan(plan(limit_ms=0.001))
"""


def test_plans_made_in_tests(suite: pytest.Pytester) -> None:
    result = made(
        suite,
        MADE,
        "--busyhour-journals=kept",
        "--busyhour-html=pages",
    )
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines(
        [
            "E * Failed: INCONCLUSIVE: p50 response latency in talk is * (n=2), not shown to be *",
            "E * Failed: INVALID: count of dropped arrivals in talk is 7 (n=8), over 0",
            "E * INVALID: nothing is said of the target: 3 gates not judged",
            "E * journal: */kept/test_agent-test_is_invalid-*.journal",
            "E * report: */pages/test_agent-test_is_invalid-*.html",
            "E * Failed: there are 2 phases named 'talk'; names must differ",
            "E * the plan has no gates, *",
        ],
        consecutive=False,
    )
    assert len(list((suite.path / "kept").glob("test_agent-test_*-*T*.journal"))) == 6  # of those that passed, too
    with open_run(next((suite.path / "kept").glob("test_agent-test_passes-*"))) as run:
        assert "plan" not in run.meta
        assert run.meta["machine"]
    pages = sorted((suite.path / "pages").glob("*.html"))
    assert [re.sub("-[0-9T]+.html", "", page.name) for page in pages] == [
        f"test_agent-test_{which}" for which in ("is_inconclusive", "is_invalid", "wants_it_red")
    ]
    assert "over 0.001 ms" in pages[-1].read_text()


def test_what_is_wrong_is_said_in_a_sentence(suite: pytest.Pytester) -> None:
    suite.makepyfile(broken="def plan(:\n", raising="raise ValueError('no key')\n")
    wire = str(PLANS / "wire.py")
    result = made(
        suite,
        f"""
        import pytest


        @pytest.mark.parametrize(("path", "options"), [
            ("nowhere.py", {{}}),
            ("broken.py", {{}}),
            ("raising.py", {{}}),
            ("tiny.py", {{"cals": 3}}),
            ("tiny.py", {{"calls": "many"}}),
            ({wire!r}, {{"mischief": "dies at start"}}),
        ])
        def test_is_wrong(busyhour, path, options):
            busyhour.run(path, **options)


        @pytest.mark.parametrize(("ask", "value"), [("run", 3), ("plan", "tiny.py"), ("call", 3)])
        def test_is_something_else(busyhour, ask, value):
            getattr(busyhour, ask)(value)
        """,
    )
    result.assert_outcomes(failed=9)
    result.stdout.fnmatch_lines(
        [
            "E * Failed: */nowhere.py: there is no such plan file; *",
            "E * Failed: */broken.py:1: this is not Python: *",
            "E * Failed: */raising.py:1: ValueError: no key",
            "E * Failed: */tiny.py: there is no option 'cals'; the plan's options are: limit_ms, calls, at_once",
            "E * Failed: */tiny.py: option calls='many' is not a valid int",
            "E * Failed: agent (*) exited with 1 when it was started; its last lines:",
            "E *     no API key: set AGENT_KEY",
            "E * Failed: busyhour.run takes the path of a plan file, not a int; see busyhour.plan",
            "E * Failed: busyhour.plan takes a Plan, not a str; a plan file is for busyhour.run",
            "E * Failed: busyhour.call takes the ws:// URL of an agent, or a service like Command(...), not 3",
        ]
    )
    assert "pytest_plugin.py" not in result.stdout.str()


def test_a_folder_that_cannot_be(suite: pytest.Pytester) -> None:
    suite.makefile(".txt", taken="")
    result = suite.runpytest_subprocess(*PLUGIN, "--busyhour-journals=taken.txt/journals")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --busyhour-journals */taken.txt/journals: it cannot be made a folder: Not a directory; give another *"]
    )


def test_workers_of_xdist(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        test_agent="""
        import pytest
        from tiny import plan


        @pytest.mark.parametrize("number", range(4))
        def test_passes(busyhour, number):
            busyhour.plan(plan(limit_ms=0.001 if number == 3 else 20_000))
        """
    )
    result = suite.runpytest_subprocess(
        *PLUGIN, "-p", "xdist", "-n2", "--busyhour-journals=kept", "--junitxml=junit.xml"
    )
    result.assert_outcomes(passed=3, failed=1)
    names = [journal.name for journal in journals(suite)]
    assert len(names) == 4
    assert all(re.search(r"-gw[01]\.journal$", name) for name in names)
    told = properties(suite.path / "junit.xml")["test_passes[3]"]
    assert told["busyhour: p50 response latency in talk <= 0.001 ms"].startswith("FAIL: ")


# ---------------------------------------------------------------- calls


CALLS = """
import asyncio
import sys
from math import inf

import pytest
from aiohttp import web
from agent import application
from busyhour import Command
from word import WORD

HERE = [sys.executable, "agent.py"]
HOW = {"path": "/media", "carrier": "plain", "says": [WORD], "patience_seconds": 20}


async def test_three_at_once(busyhour):
    runner = web.AppRunner(application(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    here = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    try:
        started, own, mute = await asyncio.gather(
            asyncio.to_thread(busyhour.call, Command(HERE), **HOW),
            asyncio.to_thread(busyhour.call, here, **HOW),
            asyncio.to_thread(
                busyhour.call, Command([*HERE, "mute"]), **HOW | {"patience_seconds": 0.5}, must_answer=False
            ),
        )
    finally:
        await runner.cleanup()
    for call in (started, own):
        assert (call.outcome, call.ended_by) == ("ok", "caller")
        assert 0 <= call.greeting_ms < 20_000
        (turn,) = call.turns
        assert (turn.said, turn.outcome) == ("Hello?", "ok")
        assert 100 < turn.response_ms < 20_000
        assert 0.1 < turn.heard_seconds < 20
        assert "the agent answers" in call.timeline
    assert mute.turns[0].response_ms == inf
    assert mute.turns[0].heard_seconds == 0


def test_an_agent_that_is_mute(busyhour):
    busyhour.call(Command([*HERE, "mute"]), **HOW | {"patience_seconds": 0.5})


async def test_nobody_there(busyhour):
    busyhour.call("ws://127.0.0.1:9/media", carrier="plain", says=[WORD])


def test_no_path(busyhour):
    busyhour.call(Command(HERE), carrier="plain", says=[WORD])


def test_wrong_path(busyhour):
    busyhour.call(Command(HERE), **HOW | {"path": "/medai"})


@pytest.mark.parametrize(("url", "more"), [
    ("http://127.0.0.1:9", {}),
    ("ws://127.0.0.1:9", {"carrier": "pigeon"}),
    ("ws://127.0.0.1:9", {"says": "hours.tomorow"}),
])
def test_is_wrong(busyhour, url, more):
    busyhour.call(url, **more)
"""


def test_calls(suite: pytest.Pytester) -> None:
    result = made(
        suite,
        CALLS,
    )
    result.assert_outcomes(passed=1, failed=7)
    result.stdout.fnmatch_lines(
        [
            'E * Failed: the agent does not answer "Hello?" (missed)',
            "*- Captured timeline call -*",
            "* s  the agent greets, *",
            "call: ok; 0 of 1 turns answered",
            "E * Failed: no call: nobody listens at 127.0.0.1:9; start the agent, or correct the port",
            "E * This test's own event loop stood still meanwhile: *to_thread(busyhour.call, ...)`",
            'E * Failed: *, but takes no WebSocket at / (it answers 404); give path=, like path="/media"',
            "E * Failed: *, but takes no WebSocket at /medai (it answers 404); correct the path",
            "E * Failed: 'http://127.0.0.1:9' is no media stream; *",
            "E * Failed: there is no carrier 'pigeon'; *telnyx, twilio, plain, *",
            "E * Failed: no utterance 'hours.tomorow': did you mean *",
        ]
    )


# ---------------------------------------------------------------- being a good guest


SYNC = """
def test_holds(busyhour):
    busyhour.run({plan!r}, hold=60, calls=2)
"""
ASYNC = """
import asyncio
import runpy

async def test_holds(busyhour):
    await asyncio.to_thread(busyhour.plan, runpy.run_path({plan!r})["plan"](hold=60, calls=2))
"""


GIVEN_UP = """
import asyncio
import runpy
from pathlib import Path

async def test_holds(busyhour):
    run = asyncio.create_task(asyncio.to_thread(busyhour.plan, runpy.run_path({plan!r})["plan"](hold=600, calls=2)))
    while not list(Path("kept").glob("*.journal")):
        await asyncio.sleep(0.01)
    run.cancel()
"""


@pytest.mark.parametrize("tests", [SYNC, ASYNC], ids=["in a process", "in a thread of an async test"])
def test_ctrl_c_ends_the_run_in_order_and_leaves_no_process(
    suite: pytest.Pytester, tests: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"BUSYHOUR_TEST_GUEST={uuid4().hex}"
    monkeypatch.setenv(*mark.split("="))
    suite.makepyfile(test_agent=tests.format(plan=str(PLANS / "wire.py")))
    argv = [sys.executable, "-m", "pytest", *PLUGIN, "-p", "asyncio", *ASYNCIO, "--busyhour-journals=kept"]
    started = suite.popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    with started:
        try:
            until(lambda: any(marks(journal, "phase.began") for journal in journals(suite)), started)
            os.killpg(started.pid, signal.SIGINT)
            out, _ = started.communicate(timeout=90)
        finally:
            started.kill()
    assert b"KeyboardInterrupt" in out
    assert started.returncode == pytest.ExitCode.INTERRUPTED
    (journal,) = journals(suite)
    assert len(marks(journal, "run.stopped")) == 1
    assert not left(mark)


def test_a_run_that_its_test_has_given_up_is_ended(suite: pytest.Pytester) -> None:
    result = made(suite, GIVEN_UP.format(plan=str(PLANS / "wire.py")), "--busyhour-journals=kept")
    result.assert_outcomes(passed=1)
    (journal,) = journals(suite)
    assert not marks(journal, "run.ended")


def until(holds: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Another process sets no events."""
    while not holds():
        assert process.poll() is None, process.communicate()[0].decode()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)


def marks(journal: Path, kind: str) -> Sequence[object]:
    try:
        with open_run(journal) as run:
            return run.marks(kind)
    except JournalError:  # it is just being made
        return ()


def left(mark: str) -> list[int]:
    """The processes with that in their environment, but for ourselves."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                environment = Path("/proc", entry, "environ").read_bytes()
            except OSError:  # it ended while we looked, or is another user's
                continue
            one = stat(int(entry)) if mark.encode() in environment.split(b"\0") else None
            if one is not None and one.state != "Z":
                found.append(one.pid)
    return found


def test_pytest_finds_it() -> None:
    (found,) = [point for point in entry_points(group="pytest11") if point.name == "busyhour"]
    assert found.load() is pytest_plugin


def test_collecting_imports_nothing_heavy(suite: pytest.Pytester) -> None:
    suite.makeconftest(
        """
        import sys


        def pytest_collection_finish():
            heavy = {"numpy", "scipy", "aiohttp", "picows", "uvloop", "rich.console", "asyncio", "sqlite3"}
            print("imported:", sorted((heavy | {"busyhour.model"}) & set(sys.modules)))
        """
    )
    suite.makepyfile(test_agent="def test_answers(busyhour):\n    pass\n")
    result = suite.runpytest_subprocess(*PLUGIN, "--collect-only")
    result.stdout.fnmatch_lines(["imported: []", "*1 test collected*"])
