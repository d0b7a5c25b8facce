"""What telling live figures costs the loop that paces the calls: an entry of the journal, a page, a push.

The figures are those of a run of 40 phases with all readings of a probe. A frame is due every 20 ms: a stretch of work
of less than a millisecond is not seen by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from busyhour.arrivals import Burst
from busyhour.clock import SystemClock, unix_ns
from busyhour.exporting.counting import Tally, Tapped
from busyhour.exporting.messages import Message
from busyhour.exporting.openmetrics import pieces
from busyhour.model import MS, Mark, Operation, Phase, Sample
from busyhour.performing import Progress
from busyhour.recording import Recorded, Sound
from busyhour.workloads.idle import Idle

TIMES = 200_000
PHASES = 40


class Journal:
    """Takes entries and forgets them."""

    def append(self, entry: Operation | Sample | Mark) -> None: ...

    def keep(self, recorded: Recorded, sound: Sound) -> None: ...

    def discard(self, calls: Iterable[str]) -> None: ...


def figures() -> Tally:
    tally, progress = Tally(plan="telephone", seed=0, clock=SystemClock()), Progress(phases=PHASES)
    tally.follow(progress)
    for number in range(PHASES):
        name = f"phase {number}"
        progress.enter(Phase(name, Burst(1), Idle(seconds=1)), number + 1, 0)
        for kind in ("call", "greeting", "turn", "barge_in", "speech", "llm", "stt", "tts"):
            for outcome in ("ok", "client closed"):
                tally.count(Operation(id="1", kind=kind, phase=name, due_ns=0, ended_ns=MS, outcome=outcome))
        progress.note(Operation(id="1", kind="turn", phase=name, due_ns=0, ended_ns=300 * MS))
        tally.count(Mark(1, "phase.ended", name))
    for reading in range(50):
        tally.count(Sample(1, "voice-agent", f"reading_{reading}", 1.0))
    for name in ("send_lateness_ms", "loop_lag_ms"):
        tally.count(Sample(1, "harness", name, 0.3, 50))
    return tally


def each_us(append: Callable[[Operation | Sample | Mark], None], entry: Operation | Sample | Mark) -> float:
    began = time.thread_time_ns()
    for _ in range(TIMES):
        append(entry)
    return (time.thread_time_ns() - began) / TIMES / 1000


def longest_ms(steps: Iterator[object]) -> tuple[float, float, list[object]]:
    """All of the steps, and the longest of them."""
    took, made = [], []
    while True:
        began = time.thread_time_ns()
        step = next(steps, None)
        took.append((time.thread_time_ns() - began) / MS)
        if step is None:
            return sum(took), max(took), made
        made.append(step)


def pushed(tally: Tally) -> Iterator[object]:
    resource = {"service.name": "busyhour"}
    message = Message(resource, version="0", began_unix_ns=unix_ns(), at_unix_ns=unix_ns())
    for family, series in tally.families():
        for _ in message.add(family, series):
            yield True
    yield message.encoded()


def main() -> None:
    tally, journal = figures(), Journal()
    tapped = Tapped(journal, tally)
    entries = {
        "operation": Operation(id="1", kind="turn", phase="phase 1", due_ns=0, ended_ns=MS),
        "sample of a histogram": Sample(1, "harness", "send_lateness_ms", 0.3, 50),
        "reading": Sample(1, "voice-agent", "rss_mb", 80.0),
    }
    for name, entry in entries.items():
        print(f"{name:22} {each_us(tapped.append, entry) - each_us(journal.append, entry):6.2f} us more for an entry")
    for name, steps in {
        "page": lambda: iter(pieces(tally.families())),
        "push": lambda: pushed(tally),
    }.items():
        best = min((longest_ms(steps()) for _ in range(20)), key=lambda found: found[0])
        made = "".join(part for part in best[2] if isinstance(part, str)) or best[2][-1]
        assert isinstance(made, str | bytes)
        print(f"{name:22} {best[0]:6.2f} ms in all, {best[1]:.2f} ms at most at a time, {len(made) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
