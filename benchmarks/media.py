"""What the media engine costs: microseconds for each frame heard, and how late frames leave, without any socket.

    python benchmarks/media.py [legs ...]

A core can spend 20,000 us on the frames of one turn of the wheel; one call is one frame heard and one sent.
"""

from __future__ import annotations

import argparse
import gc
import time

import numpy as np
import pybase64
import uvloop
from rich.console import Console
from rich.table import Table

from busyhour.clock import SystemClock
from busyhour.media.codec import Codec, codec
from busyhour.media.leg import Leg
from busyhour.media.studio import Studio
from busyhour.media.utterances import sentences
from busyhour.model import MS, SECOND, Sample

TURNS = 200
SECONDS = 3


class StepClock:
    """Time that moves in steps of a frame, so that only the work is measured."""

    def __init__(self) -> None:
        self.at_ns = SECOND

    def now_ns(self) -> int:
        return self.at_ns

    async def sleep_until(self, at_ns: int) -> None:
        self.at_ns = at_ns


def agent_frames(named: Codec, *, speaks: bool, frame_ms: int) -> list[bytes]:
    """An agent's sentence (or as much silence) in base64, cut into frames."""
    samples = sentences(named.rate_hz)["hours.week"].samples
    octets = named.encode(samples if speaks else np.zeros_like(samples))
    step = named.frame_bytes * frame_ms // 20
    return [pybase64.b64encode(octets[at : at + step]) for at in range(0, len(octets) - step, step)]


def heard_us(named: Codec, legs: int, *, speaks: bool, frame_ms: int = 20) -> float:
    """CPU for one frame on its way from the socket's callback through decoding and playout to the events."""
    clock = StepClock()
    studio = Studio(clock)
    ears = [Leg(studio=studio, codec=named, send=lambda _payload, _index: None) for _ in range(legs)]
    payloads = agent_frames(named, speaks=speaks, frame_ms=frame_ms)
    began = time.process_time()
    for turn in range(TURNS):
        payload = payloads[turn % len(payloads)]
        # Decoded in quarters, as the wheel does.
        for quarter in range(4):
            for ear in ears[quarter::4]:
                ear.media(payload, clock.at_ns)
            studio.decode()
            for ear in ears[quarter::4]:
                ear._listen(clock.at_ns)
        clock.at_ns += frame_ms * MS
    return (time.process_time() - began) / (TURNS * legs) * 1e6


def percentile_ms(samples: list[Sample], share: float) -> float:
    late = [sample for sample in samples if sample.name == "send_lateness_ms"]
    left = share * sum(sample.count for sample in late)
    for sample in late:
        left -= sample.count
        if left <= 0:
            return sample.value
    return late[-1].value


async def lateness(legs: int) -> tuple[float, float, float, float, float]:
    """p50, p99, p99.9 lateness in ms, skipped frames and CPU in %, while every leg sends and hears a sentence."""
    clock = SystemClock()
    studio = Studio(clock)
    payloads = agent_frames(codec("PCMU"), speaks=True, frame_ms=20)
    open_legs: list[Leg] = []

    def answer(number: int) -> Leg:
        def send(_payload: bytes, index: int) -> None:
            leg.media(payloads[(index + number) % len(payloads)], clock.now_ns())

        leg = Leg(studio=studio, codec=codec("PCMU"), send=send)
        return leg

    async with studio.turning():
        for number in range(legs):
            await studio.wheel.admitted()
            open_legs.append(answer(number))
            open_legs[-1].open(clock.now_ns())
        gc.collect()
        gc.freeze()
        gc.disable()
        studio.wheel.drain(0)
        used = time.process_time()
        await clock.sleep_until(clock.now_ns() + SECONDS * SECOND)
        used = time.process_time() - used
        samples = studio.wheel.drain(0)
        gc.enable()
        for leg in open_legs:
            leg.close()
    p50, p99, p999 = (percentile_ms(samples, share) for share in (0.5, 0.99, 0.999))
    return p50, p99, p999, samples[-1].value, used / SECONDS * 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("legs", type=int, nargs="*", default=[100, 500, 1_000])
    counts = parser.parse_args().legs
    console = Console()
    heard = Table("codec", "frames", "silence, us", "speech, us", title="one frame heard, 1,000 legs")
    for named in (codec("PCMU"), codec("PCMA"), codec("L16", 16_000)):
        for frame_ms in (20, 60):
            figures = [heard_us(named, 1_000, speaks=speaks, frame_ms=frame_ms) for speaks in (False, True)]
            heard.add_row(f"{named.name} {named.rate_hz}", f"{frame_ms} ms", *(f"{figure:.2f}" for figure in figures))
    console.print(heard)
    late = Table("legs", "p50, ms", "p99, ms", "p99.9, ms", "skipped", "CPU, %", title=f"lateness, {SECONDS} s")
    for legs in counts:
        p50, p99, p999, skipped, cpu = uvloop.run(lateness(legs))
        late.add_row(f"{legs}", f"{p50:.2f}", f"{p99:.2f}", f"{p999:.2f}", f"{skipped:.0f}", f"{cpu:.0f}")
    console.print(late)


if __name__ == "__main__":
    main()
