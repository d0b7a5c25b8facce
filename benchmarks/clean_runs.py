"""Does a sound agent ever FAIL? The telephone plan, small, over and over with different callers.

    python benchmarks/clean_runs.py 20 --at-once 3        about 15 minutes

Each run draws its arrivals and its callers' choices from its own seed. A run that is INCONCLUSIVE has too little
evidence, and says so; one that FAILs has accused a sound agent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PLAN = Path(__file__).parents[1] / "plans" / "telephone.py"


def one(seed: int, scale: float, folder: Path) -> tuple[str, list[str]]:
    """The outcome of a run and the sentences of whatever did not pass."""
    verdicts = folder / f"{seed}.json"
    journal = folder / f"{seed}.journal"
    command = [sys.executable, "-m", "busyhour", "run", str(PLAN), "-o", f"scale={scale}", "-o", f"seed={seed}"]
    subprocess.run(
        [*command, "--seed", str(seed), "--journal", str(journal), "--json", str(verdicts)],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=300,
    )
    report = json.loads(verdicts.read_text())
    told = [v for v in [*report["validity"], *report["verdicts"]] if v["outcome"] != "pass"]
    return report["outcome"], [f"{v['outcome']}: {v['because']}" for v in told]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", type=int, nargs="?", default=20)
    parser.add_argument("--at-once", type=int, default=1, help="runs at the same time; they share the machine's cores")
    parser.add_argument("--scale", type=float, default=0.5, help="of the plan: how many of its calls (default 0.5)")
    parser.add_argument("--first", type=int, default=1, help="the seed of the first run; the others follow")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.at_once) as pool:
        seeds = range(arguments.first, arguments.first + arguments.runs)
        for seed, (outcome, sentences) in zip(
            seeds, pool.map(lambda s: one(s, arguments.scale, Path(folder)), seeds), strict=True
        ):
            outcomes[outcome] += 1
            print(f"run {seed}: {outcome}", *sentences, sep="\n    ", flush=True)
    print(f"{arguments.runs} runs of a sound agent: {dict(outcomes)}; false FAIL: {outcomes['fail']}")


if __name__ == "__main__":
    main()
