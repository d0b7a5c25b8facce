"""Circuit breakers: every way from one state to another, and none that should not be."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from voice_agent.breaker import Breaker, State, incurable, usable
from voice_agent.defects import Defects, Switched
from voice_agent.log import Log
from voice_agent.metrics import Metrics
from voice_agent.settings import Settings

_LOG = Log()


def _breaker(defect: str = "", seconds: float = 0.02) -> Breaker:
    keys = dict.fromkeys(("TELNYX_API_KEY", "OPENAI_API_KEY", "DEEPGRAM_API_KEY", "CARTESIA_API_KEY"), "k")
    limits = {"TELNYX_VERIFY": "off", "BREAKER_FAILURES": "3", "BREAKER_OPEN_SECONDS": str(seconds)}
    settings = Settings.from_environment({**keys, **limits})
    defects = Defects(Switched.parse(defect), Random(1), lambda _: None)
    return Breaker("v", settings, metrics=Metrics(), defects=defects)


def _try(breaker: Breaker, problem: str | None) -> None:
    with breaker.attempt(_LOG) as attempt:
        if problem:
            attempt.failed(problem)
        elif problem == "":
            attempt.succeeded()


async def _passed() -> None:
    """The time for which a breaker stays open here."""
    await asyncio.sleep(0.025)


async def test_failures_in_a_row_open_it() -> None:
    breaker = _breaker(seconds=60)
    for problem in ("stalled", "stalled", "", "stalled", None, "stalled"):
        _try(breaker, problem)
        assert breaker.state is State.CLOSED
        assert breaker.admits()
    _try(breaker, "stalled")
    assert breaker.state is State.OPEN
    assert not breaker.admits()


@pytest.mark.parametrize("reason", ["HTTP 401", "HTTP 403", "error 402", "quota", "error quota_exceeded"])
async def test_what_will_not_heal_opens_it_at_once(reason: str) -> None:
    breaker = _breaker()
    _try(breaker, reason)
    assert breaker.state is State.OPEN
    other = _breaker()
    other.failed(f"connect: {reason}", _LOG)
    assert other.state is State.OPEN


@pytest.mark.parametrize("reason", ["HTTP 500", "HTTP 429", "no token", "error 4013", "ConnectError", "lost"])
def test_what_may_heal(reason: str) -> None:
    assert not incurable(reason)


async def test_one_probe_at_a_time_decides() -> None:
    breaker = _breaker()
    _try(breaker, "quota")
    await _passed()
    with breaker.attempt(_LOG) as probe:
        assert breaker.state is State.HALF_OPEN
        assert not breaker.admits()  # another call's
        probe.failed("stalled")
    assert breaker.state is State.OPEN
    assert not breaker.admits()
    await _passed()
    _try(breaker, None)  # cancelled: no verdict, and the next may probe
    assert breaker.state is State.HALF_OPEN
    assert breaker.admits()
    _try(breaker, "")
    assert breaker.state is State.CLOSED


async def test_an_attempt_from_before_it_opened_decides_nothing() -> None:
    breaker = _breaker(seconds=60)
    with breaker.attempt(_LOG) as slow:
        _try(breaker, "quota")
        slow.succeeded()
    assert breaker.state is State.OPEN
    with breaker.attempt(_LOG) as asked_all_the_same:  # there is no other vendor
        asked_all_the_same.succeeded()
    assert breaker.state is State.CLOSED


async def test_one_that_is_alone_is_asked_all_the_same() -> None:
    class Vendor:
        def __init__(self) -> None:
            self.breaker = _breaker(seconds=60)

    one, other = Vendor(), Vendor()
    _try(one.breaker, "quota")
    assert usable([one]) == [one]
    assert usable([one, other]) == [other]


async def test_defects_of_the_breaker() -> None:
    breaker = _breaker("breaker_off")
    for _ in range(5):
        _try(breaker, "quota")
    assert breaker.state is State.CLOSED
    breaker, healthy = _breaker("breaker_never_closes"), _breaker()
    for one in (breaker, healthy):
        _try(one, "quota")
    await _passed()
    assert healthy.admits()
    assert not breaker.admits()


async def test_its_turns_are_logged(caplog: Any) -> None:
    _try(_breaker(), "quota")
    rows = [record.fields for record in caplog.records if record.getMessage() == "breaker"]
    assert rows == [{"provider": "v", "state": "open", "was": "closed", "reason": "quota"}]
