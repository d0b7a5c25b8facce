"""`busyhour call`: what is wrong with it is said before anybody is called, and what happened is told in order."""

from __future__ import annotations

from io import StringIO

import pytest

from busyhour import timeline
from busyhour.errors import PlanError
from busyhour.model import MS, SECOND, Operation
from busyhour.timeline import Notes


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:80", "ws://", "ws://[::1", "ws://127.0.0.1:99999/x", "ws://:80", "hello"]
)
def test_what_is_no_media_stream(url: str) -> None:
    with pytest.raises(PlanError, match="is no media stream; give the agent's WebSocket"):
        timeline.media_url(url)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:8080/media", "wss://agent.test", "ws://[::1]:80/a?b=c"])
def test_what_is_one(url: str) -> None:
    assert timeline.media_url(url) == url


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 601])
def test_a_patience_that_is_none(seconds: float) -> None:
    with pytest.raises(PlanError, match=r"a patience of \S+ s: give more than 0 s, and at most 600 s"):
        timeline.conversation([], seconds)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "nothing to say"),
        (" ", "nothing to say"),
        ("hours.tomorow", "did you mean hours.today"),
        ("nowhere.wav", "nowhere.wav: cannot be read as a WAV file: No such file or directory; give one that is mono"),
    ],
)
def test_what_cannot_be_said(text: str, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        timeline.spoken(text)


def test_what_the_line_saw_comes_before_what_follows_from_it() -> None:
    greeting = Operation(
        id="call/1/greeting/1",
        kind="greeting",
        phase="call",
        due_ns=SECOND,
        began_ns=SECOND,
        outcome="lost",
        detail={"gave_up_ns": SECOND + 20 * MS},
    )
    call = Operation(
        id="call/1",
        kind="call",
        phase="call",
        due_ns=SECOND,
        began_ns=SECOND,
        ended_ns=2 * SECOND,
        outcome="lost",
        detail={"why": "lost: the socket broke"},
    )
    notes = Notes([greeting, call], [(SECOND, "the socket is open"), (SECOND + 20 * MS, "lost by the agent")])
    out = StringIO()
    timeline.write(notes, out)
    assert out.getvalue().splitlines() == [
        "   0.000 s  the socket is open",
        "   0.020 s  lost by the agent",
        "   0.020 s  the agent does not greet (lost)",
        "",
        "call: lost (the socket broke); 0 of 0 turns answered",
    ]
