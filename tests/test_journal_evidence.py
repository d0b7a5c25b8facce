"""Evidence survives: a full disk, a second writer, a run that is continued, a machine that was started anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from busyhour.errors import JournalError
from busyhour.holding import demand_free
from busyhour.journal import Journal, open_run
from busyhour.model import JSON, SECOND, Mark, Operation, Sample
from busyhour.recording import Recorded, Sound, Track

SMALL_DISK = Path(__file__).parent / "journeys" / "small_disk.py"
NOT_ALLOWED = 77

# ---------------------------------------------------------------- a full disk

FULL_DISK = """
import os, resource, sys, threading
from pathlib import Path
from busyhour.errors import JournalError
from busyhour.journal import Journal, open_run
from busyhour.model import Mark, Sample
from busyhour.recording import Recorded, Sound, Track
import numpy as np

path, what, limited = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
told = threading.Event()
journal = Journal.create(path, {})
if limited:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
journal.on_failure = lambda error: told.set()
count = 0
silent = Track(b"", np.zeros((0, 2), np.int64))
while not told.wait(0.005) and count < 1_000_000:
    if what == "sound":
        name, octets = f"steady/{count}", os.urandom(100_000)
        heard = Track(octets, np.array([[0, len(octets)]], np.int64))
        about = {"began_ns": 0, "ended_ns": 1, "codec": "PCMU", "rate_hz": 8000}
        sound = Sound(silence=b"0", caller=silent, agent=heard, **about)
        journal.keep(Recorded(call=name, phase="steady", bytes=len(octets), **about), sound)
    for _ in range(1 if what == "sound" else 500):
        journal.append(Sample(count, "a", "b", 1.0))
        count += 1
journal.append(Mark(count, "run.stopped", "", {"why": "no room"}))
try:
    journal.close()
except JournalError as error:
    print("close:", error)
filler = path.with_name("filler")
try:
    with open(filler, "wb", buffering=0) as file:
        while not limited and file.write(bytes(4096)):
            pass
except OSError as error:
    print("filled:", error.strerror)
with open_run(path) as run:
    print("kept:", len(run.samples("a", "b")), count, len(run.marks("run.stopped")))
"""


@pytest.mark.parametrize("what", ["readings", "sound"])
def test_a_run_whose_disk_is_full_is_there_to_its_last_word(tmp_path: Path, what: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    journal = disk / "run.journal"
    here = [sys.executable, "-c", FULL_DISK, str(journal), what]
    small = [sys.executable, str(SMALL_DISK), str(disk), str(13 << 20), *here]
    done = subprocess.run(small, capture_output=True, text=True, check=False, timeout=120)
    on_disk = done.returncode != NOT_ALLOWED
    if not on_disk:  # the kernel refuses in another way: then there is no room that could be given up
        done = subprocess.run([*here, "limited"], capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert f"{journal} cannot be written: " in lines["close"]
    assert "what was written before can be judged. Make room there, or give another place" in lines["close"]
    assert lines["close"].endswith(f"`busyhour resume {journal}` continues it")
    kept, appended, ended = map(int, lines["kept"].split())
    if on_disk:
        assert "database or disk is full" in lines["close"]
        assert lines["filled"] == "No space left on device", "there is no room left to read it by"
        assert (kept, ended) == (appended, 1)
    else:
        assert 0 < kept < appended


def test_a_disk_without_room_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    create = f"from busyhour.journal import Journal; Journal.create({str(tmp_path / 'run.journal')!r}, {{}})"
    small = [sys.executable, str(SMALL_DISK), str(tmp_path), str(1 << 20), sys.executable, "-c", create]
    done = subprocess.run(small, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode in {1, NOT_ALLOWED}
    if done.returncode == 1:
        assert "there is less than 8 MB of room left on its disk, too little for any run; make room" in done.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is left of what was not begun"


# ---------------------------------------------------------------- one writer


def test_a_journal_has_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, {}) as journal:
        journal.append(Mark(1, "run.began"))
        with pytest.raises(JournalError, match="is still being written by a running busyhour; wait until"):
            Journal.reopen(path)
        with pytest.raises(JournalError, match="is still being written"):
            demand_free(path)
    demand_free(path)
    with Journal.reopen(path) as journal:
        journal.append(Mark(2, "run.resumed"))
    with open_run(path) as run:
        assert [mark.at_ns for kind in ("run.began", "run.resumed") for mark in run.marks(kind)] == [1, 2]
    assert [file.name for file in tmp_path.iterdir()] == ["run.journal"]


def test_the_lock_of_a_killed_writer_is_gone_with_it(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    write = (
        "import sys, threading; from busyhour.journal import Journal, open_run; from busyhour.model import Mark\n"
        "path = sys.argv[1]; journal = Journal.create(path, {}); journal.append(Mark(1, 'run.began'))\n"
        "while True:\n"
        "    with open_run(path) as run:\n"
        "        if run.marks('run.began'): break\n"
        "    threading.Event().wait(0.01)\n"
        "print('written', flush=True); threading.Event().wait()"
    )
    with subprocess.Popen([sys.executable, "-c", write, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        with pytest.raises(JournalError, match="is still being written"):
            Journal.reopen(path)
        writer.kill()
    with Journal.reopen(path) as journal:
        journal.append(Mark(2, "run.resumed"))
    with open_run(path) as run:
        assert len(run.marks("run.began")) == len(run.marks("run.resumed")) == 1


def test_what_is_no_journal_cannot_be_continued(tmp_path: Path) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("milk, eggs")
    with pytest.raises(JournalError, match="is no journal of busyhour"):
        Journal.reopen(foreign)
    with pytest.raises(JournalError, match="there is no journal"):
        Journal.reopen(tmp_path / "none")
    assert foreign.read_text() == "milk, eggs"


# ---------------------------------------------------------------- another zero of the clock


def test_all_instants_of_a_later_segment_are_moved_to_the_axis_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run.journal"
    with Journal.create(path, {}) as journal:
        journal.append(Mark(100 * SECOND, "run.began"))
    moved = 90 * SECOND
    silent = Track(b"", np.zeros((0, 2), np.int64))
    sound = Sound(
        began_ns=12,
        ended_ns=20,
        codec="PCMU",
        rate_hz=8000,
        silence=b"\xff",
        caller=silent,
        agent=silent,
        clears_ns=(15,),
    )
    about = {"began_ns": 12, "ended_ns": 20, "codec": "PCMU", "rate_hz": 8000, "clears_ns": (15,)}
    with Journal.reopen(path, shift_ns=moved) as journal:
        journal.append(Mark(11, "fault.proof", "x", {"from_ns": 7, "count": 3}))
        journal.append(Sample(13, "agent", "rss_mb", 5.0))
        detail: dict[str, JSON] = {"answered_ns": 14, "opened_ns": 0, "why": "no"}
        journal.append(Operation(id="p/1", kind="call", phase="p", due_ns=12, ended_ns=20, detail=detail))
        journal.keep(Recorded(call="p/1", phase="p", bytes=0, **about), sound)  # type: ignore[arg-type]  # as they are named
    with open_run(path) as run:
        (call,), (mark,), (sample,) = run.operations("call"), run.marks("fault.proof"), run.samples("agent", "rss_mb")
        assert (call.due_ns, call.began_ns, call.ended_ns) == (moved + 12, None, moved + 20)
        assert call.detail == {"answered_ns": moved + 14, "opened_ns": 0, "why": "no"}
        assert (mark.at_ns, mark.detail) == (moved + 11, {"from_ns": moved + 7, "count": 3})
        assert sample.at_ns == moved + 13
        (recorded,) = run.recordings()
        assert (recorded.began_ns, recorded.ended_ns, recorded.clears_ns) == (moved + 12, moved + 20, (moved + 15,))
        assert run.recording("p/1").began_ns == moved + 12
        assert run.last_ns() == 100 * SECOND
