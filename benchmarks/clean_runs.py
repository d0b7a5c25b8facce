"""Does a sound agent ever FAIL? The telephone plan, small, over and over with different callers.

    python benchmarks/clean_runs.py [runs]         20 runs, about 25 minutes

Each run draws its callers' choices from its own seed. A run that is INCONCLUSIVE has too little evidence, and says so;
one that FAILs has accused a sound agent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

PLAN = Path(__file__).parents[1] / "plans" / "telephone.py"


def one(seed: int, folder: Path) -> tuple[str, list[str]]:
    """The outcome of a run and the sentences of whatever did not pass."""
    verdicts = folder / f"{seed}.json"
    journal = folder / f"{seed}.journal"
    command = [sys.executable, "-m", "busyhour", "run", str(PLAN), "-o", "scale=0.5"]
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
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, runs + 1):
            outcome, sentences = one(seed, Path(folder))
            outcomes[outcome] += 1
            print(f"run {seed}: {outcome}", *sentences, sep="\n    ", flush=True)
    print(f"{runs} runs of a sound agent: {dict(outcomes)}; false FAIL: {outcomes['fail']}")


if __name__ == "__main__":
    main()
