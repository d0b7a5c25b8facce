"""What the twins witness of words is enough to judge them by, and bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

from busyhour.clock import VirtualClock
from busyhour.emulators.behaviour import Behaviour, Fate
from busyhour.emulators.language_model import Asked
from busyhour.emulators.language_model.witness import Record
from busyhour.emulators.receptionist import Said
from busyhour.emulators.synthesis import Sound, Speech
from busyhour.emulators.twin import Twin
from busyhour.indicators import said, sensible_speech, structured_answers
from busyhour.model import Operation
from busyhour.testing import MemoryRun

LONG = "We are open from Monday to Friday, and on Saturday morning too, as we have been for years. " * 9
"""Two thirds of a minute of speech, in 819 characters."""


def _twin() -> Twin:
    return Twin("twin", Behaviour(possible=()), VirtualClock())


def _row(twin: Twin) -> Operation:
    """The one that was witnessed, in phase "p"."""
    assert twin.as_json()["served"] == {"ok": 1}
    (row,) = twin.drain()[0]
    return replace(row, phase="p")


def _spoken(text: str) -> Operation:
    twin = _twin()
    speech = Speech(twin, Fate(number=1, outcome="ok", random=Random(1)), Sound("pcm_mulaw", 8000), model="m")
    speech.note(text)
    speech.first_audio_ns = 1
    speech.over = True
    speech.witness()
    return _row(twin)


def _answered(reply: str) -> Operation:
    twin = _twin()
    api: Any = SimpleNamespace(name="chat")

    def shape(finished: object) -> Any:
        raise AssertionError("nothing is dressed here")

    asked = Asked(model="m", conversation=[Said(role="user", text="q" * 9000)], shape=shape, schema={})
    record = Record(began_ns=0, number=1, outcome="ok", asked=asked)
    for piece in reply:
        record.sent(piece)
    record.witness(twin, api)
    return _row(twin)


def test_what_a_long_reply_ends_with_is_judged_too() -> None:
    run = MemoryRun([_spoken(LONG + "The code is seven three nine one.")])
    assert sensible_speech("p")(run).value == 100
    assert said("p", "seven three nine one")(run).value == 1


def test_a_long_structured_answer_is_one() -> None:
    run = MemoryRun([_answered(json.dumps({"reason": "question", "summary": LONG}))])
    assert structured_answers("p", "summary", reason="question")(run).value == 1


def test_a_text_without_end_is_kept_in_part() -> None:
    assert len(str(_spoken("x" * 100_000).detail["text"])) == 4000
    detail = _answered("x" * 100_000).detail
    assert (len(str(detail["reply"])), len(str(detail["prompt"]))) == (4000, 500)
