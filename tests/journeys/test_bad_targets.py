"""Targets that do everything wrong, over real sockets: their calls fail under a reason, and the run ends in order."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from busyhour.cli import main
from busyhour.clock import SystemClock
from busyhour.model import SECOND

from .runs import MARKER, Traces, arguments, marks, operations

SUCCESS = "rate of successful calls in talk"


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a target does: when the command returns, all its processes are gone, and not as late as never."""
    traces, began_ns = Traces(), SystemClock().now_ns()
    monkeypatch.setenv(MARKER, traces.value)
    yield
    assert traces.left() == []
    assert SystemClock().now_ns() - began_ns < 120 * SECOND


def said(capsys: pytest.CaptureFixture[str], gate: str) -> str:
    """The verdict on a gate: outcome and sentence."""
    lines = capsys.readouterr().out.splitlines()
    return next(" ".join(line.split()) for line in lines if gate in line)


# ---------------------------------------------------------------- in a call


@pytest.mark.parametrize(
    ("mischief", "reason", "words"),
    [
        ("refuses with 500", "webhook refused", "/api/telnyx/webhook: 500 not for you"),
        ("refuses with 401", "webhook refused", "/api/telnyx/webhook: 401 not for you"),
        ("hangs in the webhook", "webhook unanswered", "/api/telnyx/webhook: no answer"),
        ("never answers", "no answer", "no answer command within 1.5 s"),
        ("rejects", "rejected", "USER_BUSY"),
        ("hangs up at once", "no media", "hung up by the agent before media"),
        ("starts no stream", "no media", "answered, but no media stream was started"),
        ("gives a wrong path", "media refused", "/nowhere: expected upgrade response with status 101"),
        ("gives another machine", "media refused", "wss://agent.example.com/media is neither on this machine nor"),
        ("hangs in the handshake", "media refused", "/media: no answer to the WebSocket handshake in time"),
        ("slams the door", "media refused", "the connection was closed before the WebSocket handshake"),
        ("sends malformed JSON", "protocol error", "more than 100 malformed frames; the last: The frame is not JSON"),
        ("sends half a character", "protocol error", "the last: media.payload is not base64"),
        ("sends binary frames", "protocol error", "a binary frame of 160 bytes; Telnyx takes JSON in text frames"),
        ("sends frames of 2 MB", "protocol error", "the limit is 1048576"),
        ("sends frames of 16 MB", "protocol error", "16777216 > 4194304"),
        ("sends a minute in one frame", "protocol error", "a media chunk of more than 30 s"),
        ("floods", "protocol error", "more than"),
        ("floods for ever", "protocol error", "more than"),
        ("closes the socket", "lost", "the agent closed the media socket (4000 enough), and no command followed"),
        ("breaks the socket", "lost", "the media socket broke without a close frame"),
        ("hangs up", "hung up early", "hung up"),
    ],
)
def test_calls_that_go_wrong_fail_under_their_reason(  # type: ignore[no-untyped-def]
    mischief, reason, words, journal, capsys, monkeypatch
) -> None:
    monkeypatch.setattr("busyhour.carriers.media_stream.CONNECT_SECONDS", 60)
    assert main(arguments(journal, mischief=mischief)) == 1
    out, err = capsys.readouterr()
    verdict = next(line for line in out.splitlines() if SUCCESS in line)
    assert verdict.startswith("FAIL ")
    assert f"0 of 5 calls; 5 {reason} (talk/" in verdict
    assert words in verdict
    assert "INVALID" not in out
    assert "Traceback" not in err
    assert [call.outcome for call in operations(journal, "call")] == [reason] * 5
    assert marks(journal, "run.ended")


def test_what_only_the_real_carrier_can_do_is_not_the_targets_failure(journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal, mischief="asks for a codec there is not")) == 3
    out = capsys.readouterr().out
    assert "in 5 of 5 calls it could not: busyhour's twin of Telnyx does not support the codec OPUS" in out
    assert "INVALID       nothing is said of the target" in out


def test_a_target_that_does_nothing_wrong_passes(journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal)) == 0
    assert said(capsys, SUCCESS).startswith("PASS")


def test_a_target_that_dies_in_a_call_is_told_with_its_last_lines(journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal, mischief="dies in a call")) == 1
    out, err = capsys.readouterr()
    assert "FAIL          the target stayed up: agent exited with 7; its last lines: out of ideas" in out
    assert err.endswith("The run was cut short: agent exited with 7\n")
    calls = operations(journal, "call")
    assert calls
    assert "ok" not in {call.outcome for call in calls}


def test_a_target_that_ignores_sigterm_is_killed(journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal, mischief="ignores SIGTERM", stop_within=0.3)) == 0
    assert said(capsys, SUCCESS).startswith("PASS")


# ---------------------------------------------------------------- at the start


@pytest.fixture
def held() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"command": "no-such-agent"},
            "agent: no program 'no-such-agent' on the PATH; install it, or correct the command",
        ),
        ({"command": shlex.join([sys.executable, "no-such-agent.py"])}, "exited with 2 when it was started; its last"),
        (
            {"mischief": "dies at start"},
            "exited with 1 when it was started; its last lines:\n    no API key: set AGENT_KEY",
        ),
        (
            {"mischief": "never gets healthy", "start_within": 4},
            "/health to be answered with 2xx (last: HTTP/1.1 503 Service Unavailable); correct its `health` path, or",
        ),
    ],
    ids=lambda given: next(iter(given.values())) if isinstance(given, dict) else "",
)
def test_a_target_that_does_not_start_is_told_once_and_judged(options, words, journal, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    junit = tmp_path / "verdicts.xml"
    assert main([*arguments(journal, **options), "--junit", str(junit)]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("busyhour: agent") == 1
    assert "Traceback" not in err
    assert "the run could not be carried out: agent" in ElementTree.parse(junit).getroot().find(".//error").get(
        "message"
    )  # type: ignore[union-attr]
    assert main(["judge", str(journal)]) == 3
    assert said(capsys, "the journal is whole").startswith(
        "INVALID the journal is whole: the run could not be carried out"
    )


@pytest.mark.parametrize(("option", "who"), [("port", "agent: port"), ("carrier_port", "telnyx cannot listen on")])
def test_a_port_in_use_is_named_with_the_mend(option, who, held, journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal, **{option: held})) == 69
    err = capsys.readouterr().err
    assert who in err
    assert str(held) in err
    assert "Address already in use" in err
    assert err.endswith("or use port=0 for a free one\n")


def test_a_command_that_cannot_be_split_is_an_error_of_the_plan(journal, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(arguments(journal, command="agent 'unclosed")) == 64
    told = capsys.readouterr().err
    assert re.search(r"wire\.py:\d+: agent: the command \"agent 'unclosed\" cannot be split", told), told
    assert not journal.exists()
