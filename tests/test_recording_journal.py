"""Recordings in the journal, and how a person gets them out."""

from __future__ import annotations

import sqlite3
import threading
import wave
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from busyhour import journal as journals
from busyhour.cli import main
from busyhour.clock import SystemClock
from busyhour.errors import JournalError
from busyhour.journal import FORMAT_VERSION, Journal, open_run
from busyhour.media.codec import codec
from busyhour.model import SECOND, Mark, Operation
from busyhour.recording import Figures, Recorded, Sound, Track
from busyhour.testing import barge_in, greeting, turn, underrun

BEGAN_NS = 5 * SECOND
PCMU, L16 = codec("PCMU"), codec("L16", 16_000, little_endian=True)
TONE = (8_000 * np.sin(np.arange(800) / 3)).astype(np.int16)


def track(samples: np.ndarray, *begins: int, named: str = "PCMU") -> Track:
    """The same sound at each of these places."""
    octets = (PCMU if named == "PCMU" else L16).encode(samples) * len(begins)
    return Track(octets, np.array([[begin, len(samples)] for begin in begins], np.int64).reshape(-1, 2))


def sound(named: str = "PCMU", seconds: int = 1) -> Sound:
    """The caller speaks at 100 samples, the agent at 200 and at 3,000."""
    return Sound(
        began_ns=BEGAN_NS,
        ended_ns=BEGAN_NS + seconds * SECOND,
        codec=named,
        rate_hz=8_000 if named == "PCMU" else 16_000,
        silence=b"\xff" if named == "PCMU" else b"\x00\x00",
        caller=track(TONE, 100, named=named),
        agent=track(TONE, 200, 3_000, named=named),
        clears_ns=(BEGAN_NS + 10,),
        marks=((BEGAN_NS + 20, "said"),),
    )


def recorded(call: str, whole: Sound, **figures: object) -> Recorded:
    return Recorded(
        call=call,
        phase=call.partition("/")[0],
        began_ns=whole.began_ns,
        ended_ns=whole.ended_ns,
        codec=whole.codec,
        rate_hz=whole.rate_hz,
        bytes=whole.bytes,
        clears_ns=whole.clears_ns,
        marks=whole.marks,
        figures=Figures(**figures),  # type: ignore[arg-type]  # a test names them well
    )


def happened(call: str) -> Operation:
    return Operation(id=call, kind="call", phase=call.partition("/")[0], due_ns=BEGAN_NS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.journal"


@pytest.fixture
def full(path: Path) -> Path:
    """Four calls of which three can be heard, of one phase, and one of another."""
    with Journal.create(path, {}) as journal:
        for n in range(1, 5):
            journal.append(happened(f"steady/{n}"))
        journal.append(happened("outage/1"))
        journal.append(greeting(180, call="steady/2", at_s=5))
        journal.append(turn(2_345, call="steady/2", text="when do you open"))
        journal.append(barge_in(None, call="steady/2"))
        ms = 1_000_000
        slow = Figures(response_ns=2_345 * ms, dead_air_ns=2_345 * ms, talked_over=1)
        for call, figures in (
            ("steady/1", Figures(response_ns=700 * ms, dead_air_ns=700 * ms)),
            ("steady/2", slow),
            ("steady/3", Figures(outcome="hung up early", response_ns=650 * ms, missed=1, dead_air_ns=6 * SECOND)),
            ("outage/1", Figures()),
        ):
            whole = sound()
            one = recorded(call, whole)
            journal.keep(Recorded(**{n: getattr(one, n) for n in one.__slots__} | {"figures": figures}), whole)
        told = {"recorded": 3, "kept": 3, "left_out": 0, "bytes": 9, "bytes_max": 99, "worst": 2, "all": False}
        journal.append(Mark(9 * SECOND, "recordings", "steady", told))
    return path


# ---------------------------------------------------------------- the journal


@pytest.mark.parametrize("named", ["PCMU", "L16"])
def test_what_was_kept_is_read_back(path: Path, named: str) -> None:
    whole = sound(named)
    with Journal.create(path, {}) as journal:
        journal.keep(recorded("steady/1", whole, outcome="lost", response_ns=7), whole)
    with open_run(path) as run:
        assert run.recordings() == [recorded("steady/1", whole, outcome="lost", response_ns=7)]
        assert not run.recordings("outage")
        read = run.recording("steady/1")
    assert (read.codec, read.rate_hz, read.silence, read.cut) == (whole.codec, whole.rate_hz, whole.silence, False)
    assert (read.clears_ns, read.marks) == (whole.clears_ns, whole.marks)
    for one, other in ((read.caller, whole.caller), (read.agent, whole.agent)):
        assert one.octets == other.octets
        assert (one.runs == other.runs).all()
    assert read.octets(read.agent) == whole.octets(whole.agent)


def test_a_channel_is_silent_where_nothing_sounds() -> None:
    whole = sound()
    octets = whole.octets(whole.agent)
    assert len(octets) == 8_000
    assert set(octets[:200]) == set(octets[1_000:3_000]) == set(octets[3_800:]) == {0xFF}
    assert octets[200:1_000] == octets[3_000:3_800] == PCMU.encode(TONE)


def test_sound_beyond_its_time_is_left_away() -> None:
    whole = sound()
    late = Sound(**{n: getattr(whole, n) for n in whole.__slots__} | {"agent": track(TONE, -100, 7_900)})
    octets = late.octets(late.agent)
    assert len(octets) == 8_000
    assert octets[:700] == PCMU.encode(TONE)[100:]
    assert octets[7_900:] == PCMU.encode(TONE)[:100]


def test_what_is_discarded_is_gone_though_it_was_kept_in_the_same_breath(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        for n in range(10):
            journal.keep(recorded(f"steady/{n}", sound()), sound())
            if n:
                journal.discard([f"steady/{n - 1}"])
    with open_run(path) as run:
        assert [one.call for one in run.recordings()] == ["steady/9"]


def test_the_place_of_what_is_discarded_is_used_again(path: Path) -> None:
    whole = Sound(
        **{n: getattr(sound(), n) for n in sound().__slots__} | {"agent": Track(b"x" * 500_000, track(TONE).runs)}
    )
    with Journal.create(path, {}) as journal:
        for n in range(10):
            journal.keep(recorded(f"steady/{n}", whole), whole)
            journal._wake.set()
            written(journal)
            journal.discard([f"steady/{n}"])
    assert path.stat().st_size < 10 * 500_000 / 2


def written(journal: Journal) -> None:
    """Wait until the writer has written all sound: it sets no event."""
    give_up_ns = SystemClock().now_ns() + 20 * SECOND
    while journal._sound_bytes_written < journal._sound_bytes:
        assert SystemClock().now_ns() < give_up_ns
        threading.Event().wait(0.005)


def test_a_journal_from_before_there_was_sound_opens(path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(happened("steady/1"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE recordings")
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
    with open_run(path) as run:
        assert run.recordings() == []
        with pytest.raises(JournalError, match="it has no recordings"):
            run.recording("steady/1")


def test_sound_that_waits_for_the_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_SOUND_BYTES_WAITING_MAX", 10)
    journal = Journal.create(path, {})
    with pytest.raises(JournalError, match="the disk does not keep up"):
        journal.keep(recorded("steady/1", sound()), sound())
    with pytest.raises(JournalError, match="the disk does not keep up"):
        journal.close()


# ---------------------------------------------------------------- busyhour listen


def test_the_table_says_why_each_was_kept(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", str(full)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert "steady: 3 of 4 calls" in lines
    assert "outage: 1 of 1 calls" in lines
    why = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert "talked over 1x" in why["steady/2"]
    assert "worst response 2,345 ms" in why["steady/2"]
    assert "failed: hung up early" in why["steady/3"]
    assert "worst dead air 6.0 s" in why["steady/3"]
    assert "sample: " in why["steady/1"]
    assert "0:01" in why["steady/1"]
    assert lines.index(why["steady/2"]) < lines.index(why["steady/3"]) < lines.index(why["steady/1"])
    assert "nothing out of the ordinary" in why["outage/1"]
    assert "--to call.wav" in lines[-1]


def test_a_call_becomes_a_wav_with_the_caller_left_and_the_agent_right(
    full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "call.wav"
    assert main(["listen", str(full), "steady/2", "--to", str(to)]) == 0
    with wave.open(str(to)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8_000)
        both = np.frombuffer(file.readframes(8_001), "<i2").reshape(-1, 2)
    assert len(both) == 8_000
    coded = PCMU.decode(PCMU.encode(TONE))
    assert (both[100:900, 0] == coded).all()
    assert (both[200:1_000, 1] == coded).all()
    assert not both[:100].any()
    out = capsys.readouterr().out
    assert "0.18 s  the agent greets, after 180 ms" in out
    assert '5.00 s  caller: "when do you open"' in out
    assert "9.35 s  the agent answers, after 2,345 ms" in out
    assert "the agent talks on (not yielded)" in out
    assert f"{to}: 1.0 s, the caller left, the agent right" in out


def test_wide_codecs_are_written_as_they_are(path: Path, tmp_path: Path) -> None:
    with Journal.create(path, {}) as journal:
        journal.keep(recorded("steady/1", sound("L16")), sound("L16"))
    to = tmp_path / "call.wav"
    assert main(["listen", str(path), "steady/1", "--to", str(to)]) == 0
    with wave.open(str(to)) as file:
        assert file.getframerate() == 16_000
        both = np.frombuffer(file.readframes(20_000), "<i2").reshape(-1, 2)
    assert (both[3_000:3_800, 1] == TONE).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("steady/22", "there is no call 'steady/22' with sound; there is steady/2"),
        ("steady/4", "the call steady/4 was not kept as sound; run the plan with --record all"),
    ],
)
def test_a_call_that_cannot_be_heard_is_said_clearly(
    full: Path, call: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["listen", str(full), call]) == 66
    assert says in capsys.readouterr().err


def test_a_run_without_sound_says_how_to_have_some(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(happened("steady/1"))
    for more in ([], ["steady/1"]):
        assert main(["listen", str(path), *more]) == 66
        err = capsys.readouterr().err
        assert "it has no recordings" in err
        assert "--record all" in err


def failed(call: str, outcome: str, why: str, **detail: int) -> Operation:
    told = {"why": why, "opened_ns": None, **detail}
    return Operation(id=call, kind="call", phase="steady", due_ns=BEGAN_NS, outcome=outcome, detail=told)


def test_a_run_whose_calls_never_had_media_says_that_and_why(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.create(path, {}) as journal:
        for n in range(3):
            journal.append(failed(f"steady/{n}", "webhook refused", "webhook refused: call.initiated: 404 Not Found"))
        journal.append(failed("steady/3", "lost", "the socket broke", opened_ns=0))
    for more in ([], ["steady/1"]):
        assert main(["listen", str(path), *more]) == 66
        assert capsys.readouterr().err == (
            f"busyhour: {path}: it has no recordings: all 4 calls failed before there was media, "
            "3 of them: webhook refused (call.initiated: 404 Not Found)\n"
        )


def test_calls_that_had_media_and_failed_are_not_blamed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(failed("steady/1", "webhook refused", ""))
        journal.append(failed("steady/2", "lost", "", opened_ns=BEGAN_NS))
    assert main(["listen", str(path)]) == 66
    assert "they were switched off" in capsys.readouterr().err


def test_the_only_call_of_a_run_is_told_as_such(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(failed("steady/1", "webhook refused", "webhook refused"))
    assert main(["listen", str(path)]) == 66
    assert "the only call failed before there was media: webhook refused\n" in capsys.readouterr().err


def test_what_was_bad_is_told_in_words_of_its_own(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    borne = {
        "steady/1": Figures(missed=1, ungreeted=True),
        "steady/2": Figures(missed=3, ungreeted=True),
        "steady/3": Figures(missed=2),
        "steady/4": Figures(cut_ins=5, cut_in_ns=1_984_000_000, holes=1, hole_ns=60_000_000),
        "steady/5": Figures(cut_ins=1, holes=3, hole_ns=300_000_000),
    }
    with Journal.create(path, {}) as journal:
        for call, figures in borne.items():
            journal.append(happened(call))
            one = recorded(call, sound())
            journal.keep(Recorded(**{n: getattr(one, n) for n in one.__slots__} | {"figures": figures}), sound())
    assert main(["listen", str(path)]) == 0
    told = {line.split()[0]: line.split("  ")[-1] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "}
    assert told == {
        "steady/1": "no greeting",
        "steady/2": "no greeting, 2 unanswered",
        "steady/3": "2 unanswered",
        "steady/4": "most cut-ins: 5",
        "steady/5": "cuts in 1x, most holes: 3",
    }


def test_an_agent_that_cuts_in_is_not_said_to_answer_after_less_than_nothing(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.create(path, {}) as journal:
        journal.append(happened("steady/1"))
        journal.append(turn(-1_531, call="steady/1", text="when do you open"))
        journal.append(underrun(15, call="steady/1", ms=290))
        journal.keep(recorded("steady/1", sound()), sound())
    assert main(["listen", str(path), "steady/1", "--to", str(tmp_path / "call.wav")]) == 0
    out = capsys.readouterr().out
    assert "the agent cuts in, 1,531 ms early" in out
    assert "a hole of 290 ms in the agent's speech" in out


def test_a_place_that_cannot_be_written_is_said(full: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["listen", str(full), "steady/1", "--to", str(tmp_path / "no" / "call.wav")]) == 66
    assert "the sound cannot be written there" in capsys.readouterr().err


def test_what_is_no_number_of_calls_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Path(__file__).parent / "plans" / "memory.py"
    assert main(["run", str(plan), "--record", "some"]) == 64
    assert "--record some: give all, none, or how many calls of each phase" in capsys.readouterr().err
