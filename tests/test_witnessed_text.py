"""What the twins witness of words is enough to judge them by, and bounded."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

from busyhour.emulators.behaviour import Fate
from busyhour.emulators.language_model import Asked
from busyhour.emulators.language_model.witness import Record
from busyhour.emulators.receptionist import Said
from busyhour.emulators.synthesis import Sound, Speech
from busyhour.indicators import said, sensible_speech, structured_answers
from busyhour.model import Operation
from busyhour.testing import MemoryRun

LONG = "We are open from Monday to Friday, and on Saturday morning too, as we have been for years. " * 9
"""Two thirds of a minute of speech, in 819 characters."""


class _Twin:
    name = "twin"

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self.clock = SimpleNamespace(now_ns=lambda: 1)
        self.witness = self.rows.append

    def count(self, outcome: str) -> None:
        assert outcome == "ok"


def _spoken(text: str) -> Operation:
    kept = _Twin()
    twin: Any = kept
    speech = Speech(twin, Fate(number=1, outcome="ok", random=Random(1)), Sound("pcm_mulaw", 8000), model="m")
    speech.note(text)
    speech.first_audio_ns = 1
    speech.over = True
    speech.witness()
    (row,) = kept.rows
    return replace(row, phase="p")


def _answered(reply: str) -> Operation:
    kept = _Twin()
    twin: Any = kept
    api: Any = SimpleNamespace(name="chat")

    def shape(finished: object) -> Any:
        raise AssertionError("nothing is dressed here")

    asked = Asked(model="m", conversation=[Said(role="user", text="q" * 9000)], shape=shape, schema={})
    record = Record(began_ns=0, number=1, outcome="ok", asked=asked)
    for piece in reply:
        record.sent(piece)
    record.witness(twin, api)
    (row,) = kept.rows
    return replace(row, phase="p")


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
