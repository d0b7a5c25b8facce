"""What recording costs: CPU of calls that sound both ways, without sockets, with none, 20 and all of them recorded.

    python benchmarks/recording.py [--legs 100] [--seconds 30] [--rounds 5]

Every leg is ticked, sends an utterance and hears an agent that sends a frame every 20 ms, as in a call; time moves in
steps, so that only the work is measured. The rounds take turns and the median is told. The sockets, which cost more
than all of this, are left out: the share of a whole harness is smaller. At the end of each round every recording is
made and written into a journal; the writer's thread counts as CPU, too.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from pathlib import Path

import pybase64
from rich.console import Console
from rich.table import Table

from busyhour.journal import Journal
from busyhour.media.codec import codec
from busyhour.media.leg import Leg, _Speaking
from busyhour.media.studio import Studio
from busyhour.media.utterances import sentences
from busyhour.model import MS, SECOND
from busyhour.recording import Figures, Recorded, Sound

NAMED = codec("PCMU")


class StepClock:
    """Time that moves in steps of a frame."""

    def __init__(self) -> None:
        self.at_ns = SECOND

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = at_ns


class Unwaited:
    """Stands for the future of an utterance that nobody waits for."""

    def done(self) -> bool:
        return True


def round_us(legs: int, recorded: int, seconds: int) -> tuple[list[float], list[Sound]]:
    """CPU in us for a frame heard and one sent: while calls last, to make recordings and to write them; and these."""
    clock = StepClock()
    studio = Studio(clock)
    samples = sentences(NAMED.rate_hz)["hours.week"]
    frames = studio.frames(samples, NAMED)
    agent = [
        pybase64.b64encode(NAMED.encode(samples.samples[at : at + 160]))
        for at in range(0, len(samples.samples) - 160, 160)
    ]
    calls = [
        Leg(
            studio=studio,
            codec=NAMED,
            send=lambda _payload, _index: None,
            record_ns=600 * SECOND if number < recorded else 0,
        )
        for number in range(legs)
    ]
    for leg in calls:
        leg._opened_ns = clock.at_ns
    gc.collect()
    began = time.process_time()
    for turn in range(seconds * 50):
        # The caller speaks for a half of the time, the agent sends all the time.
        speaks = turn % (2 * len(frames.payloads)) == 0
        for quarter in range(4):
            for leg in calls[quarter::4]:
                if speaks:
                    leg._speaking = _Speaking(frames, Unwaited())  # type: ignore[arg-type]  # nobody awaits it
                leg.media(agent[turn % len(agent)], clock.at_ns)
                leg._tick(clock.at_ns)
            studio.decode()
        clock.at_ns += 20 * MS
    used = time.process_time() - began
    began = time.process_time()
    sounds = [(number, sound) for number, leg in enumerate(calls) if (sound := ended(leg)) is not None]
    making = time.process_time() - began
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Journal.create(Path(folder) / "sound.journal", {}) as journal:
        for number, sound in sounds:
            journal.keep(described(f"steady/{number}", sound), sound)
    writing = time.process_time() - began
    count = seconds * 50 * legs
    return [part / count * 1e6 for part in (used, making, writing)], [sound for _, sound in sounds]


def ended(leg: Leg) -> Sound | None:
    leg.close()
    return leg.recorded()


def described(call: str, sound: Sound) -> Recorded:
    return Recorded(
        call=call,
        phase="steady",
        began_ns=sound.began_ns,
        ended_ns=sound.ended_ns,
        codec=sound.codec,
        rate_hz=sound.rate_hz,
        bytes=sound.bytes,
        figures=Figures(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--legs", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    legs, seconds = arguments.legs, arguments.seconds
    figures: dict[int, list[list[float]]] = {0: [], 20: [], legs: []}
    minute_kb = 0.0
    for _ in range(arguments.rounds):
        for recorded, rounds in figures.items():
            parts_us, sounds = round_us(legs, recorded, seconds)
            rounds.append(parts_us)
            if sounds:
                minute_kb = statistics.mean(sound.bytes for sound in sounds) / seconds * 60 / 1e3
    title = f"{legs} calls of {seconds} s, a frame heard and one sent; median of {arguments.rounds}"
    table = Table("recorded", "while they last, us", "to make, us", "to write, us", "more than none", title=title)
    base_us = 0.0
    for recorded, rounds in figures.items():
        parts_us = [statistics.median(column) for column in zip(*rounds, strict=True)]
        base_us = base_us or sum(parts_us)
        table.add_row(f"{recorded}", *(f"{part:.3f}" for part in parts_us), f"{sum(parts_us) / base_us - 1:+.1%}")
    console = Console()
    console.print(table)
    console.print(f"kept: {minute_kb:,.0f} KB for each minute of a call, both channels ({NAMED.name})")


if __name__ == "__main__":
    main()
