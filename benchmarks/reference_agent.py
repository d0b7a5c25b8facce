"""What the reference agent and the harness cost: latency of its own, CPU, memory, at 10 and 30 calls at once.

    python benchmarks/reference_agent.py
    python benchmarks/reference_agent.py --seconds 600 --calls 10      does the harness's memory stay flat?

The vendors' twins answer at once, so what is left is the agent's own: end-pointing (VAD_STOP_MS = 200) and work.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from busyhour.arrivals import Hold
from busyhour.carriers.telnyx import Telnyx
from busyhour.emulators import Cartesia, Constant, Deepgram, OpenAI
from busyhour.engine import Execution
from busyhour.indicators import response_latency, send_lateness
from busyhour.journal import Journal, StoredRun, open_run
from busyhour.model import Phase, Plan
from busyhour.probes.process import Process
from busyhour.services import Command
from busyhour.workloads.call import Call, Greeting, Say, Scenario

TALK = Scenario(
    "talk",
    [Greeting(), *map(Say, ("hours.saturday", "hours.parking", "price.cleaning", "price.insurance", "price.card"))],
)


def plan(levels: Sequence[int], seconds: int) -> Plan:
    llm = OpenAI(first_token=Constant(0), between_tokens=Constant(0))
    stt = Deepgram(final=Constant(0), interim=Constant(0))
    tts = Cartesia(first_audio=Constant(0), realtime_factor=50)
    carrier = Telnyx()
    agent = Command(
        [sys.executable, "-m", "voice_agent"],
        name="voice-agent",
        env={
            "TELNYX_API_BASE": carrier,
            "TELNYX_PUBLIC_KEY": carrier.public_key,
            "TELNYX_API_KEY": "key",
            "LLM_CHAIN": "openai",
            "TTS_CHAIN": "cartesia",
            "OPENAI_BASE_URL": llm,
            "OPENAI_API_KEY": "key",
            "DEEPGRAM_URL": stt,
            "DEEPGRAM_API_KEY": "key",
            "CARTESIA_URL": tts,
            "CARTESIA_API_KEY": "key",
        },
    )
    phases = [Phase(f"{n} calls", Hold(n, seconds), Call([TALK]), at_once=n) for n in levels]
    probes = [Process(agent, memory_map_seconds=1)]
    return Plan(target=agent, carrier=carrier, services=[llm, stt, tts], phases=phases, gates=[], probes=probes)


def busy(run: StoredRun, source: str, name: str, phase: str, seconds: int) -> list[float]:
    """The samples of a phase's middle, when its calls are all in progress."""
    values = [sample.value for sample in run.samples(source, name, phase)]
    return values[10 : seconds - 5]


def report(run: StoredRun, levels: Sequence[int], seconds: int) -> None:
    table = Table(
        "calls", "turns", "p50 ms", "p95 ms", "agent CPU %/call", "agent MB/call", "harness CPU %", "harness MB"
    )
    idle_mb = run.samples("voice-agent", "uss_mb")[0].value
    for level in levels:
        phase = f"{level} calls"
        p50, p95 = (response_latency(phase, q)(run) for q in (0.5, 0.95))
        agent_mb = max(busy(run, "voice-agent", "uss_mb", phase, seconds))
        rss = busy(run, "harness", "rss_mb", phase, seconds)
        table.add_row(
            str(level),
            str(p50.n),
            f"{p50.value:.0f}",
            f"{p95.value:.0f}",
            f"{statistics.median(busy(run, 'voice-agent', 'cpu_pct', phase, seconds)) / level:.2f}",
            f"{(agent_mb - idle_mb) / level:.2f}",
            f"{statistics.median(busy(run, 'harness', 'cpu_pct', phase, seconds)):.1f}",
            " ".join(f"{rss[round(share * (len(rss) - 1))]:.1f}" for share in (0, 0.25, 0.5, 0.75, 1)),
        )
    lateness = send_lateness(0.99)(run)
    Console().print(
        table, f"frames left p99 {lateness.value:.2f} ms late; the idle agent has {idle_mb:.0f} MB of its own"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each number of calls (default 60, at least 30)")
    parser.add_argument("--calls", type=int, nargs="+", default=[10, 30], help="at once (default 10 30)")
    chosen = parser.parse_args()
    seconds = max(30, chosen.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.journal"
        with Journal.create(path, {}) as journal:
            uvloop.run(Execution(plan(chosen.calls, seconds), journal).execute())
        with open_run(path) as run:
            report(run, chosen.calls, seconds)


if __name__ == "__main__":
    main()
