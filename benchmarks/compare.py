"""What a run costs now, beside what it cost at an earlier commit: `engine.py` of both, by turns.

    python benchmarks/compare.py [COMMIT] [--rounds 5] [--runs 400]

Without a commit it is the last one, beside what is changed since. Each round runs the script of either
tree once, so that both meet the same noise of the machine. A ratio above 1 is slower, or more, than then;
that of the best rounds is the one to go by, since what else runs on the machine can only add to a figure.
Both run with the packages that are installed now.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURES = {
    "idle latency, p50 ms": re.compile(r"^idle latency.* p50 ([0-9.]+) ms", re.MULTILINE),
    "ms of a run, 64 at work": re.compile(
        r"^throughput, in process +([0-9.]+) runs/s", re.MULTILINE
    ),
    "CPU of a run, ms": re.compile(r"^throughput, in process.* ([0-9.]+) ms of CPU", re.MULTILINE),
    "200 steps, wide, ms": re.compile(r"^200 steps, wide +median ([0-9.]+) ms", re.MULTILINE),
    "cold start, s": re.compile(r"^cold start.* median ([0-9.]+) s", re.MULTILINE),
    "over HTTP, p50 ms": re.compile(r"^over HTTP +p50 ([0-9.]+) ms", re.MULTILINE),
}
RATE = "ms of a run, 64 at work"


def main() -> None:
    """Measures and prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        then = Path(folder) / "then"
        git("worktree", "add", "--quiet", "--detach", str(then), options.commit)
        try:
            rounds = [
                (measure(then, options.runs), measure(ROOT, options.runs))
                for _ in range(options.rounds)
            ]
        finally:
            git("worktree", "remove", "--force", str(then))
    print(f"{len(rounds)} rounds: best and median of {options.commit}, of now, and their ratios")
    for name in FIGURES:
        before, now = ([one[side][name] for one in rounds] for side in (0, 1))
        best, middle = (of(now) / of(before) for of in (min, statistics.median))
        print(
            f"{name:<26} {min(before):>8.2f} {statistics.median(before):>8.2f}"
            f" {min(now):>8.2f} {statistics.median(now):>8.2f}   {best:.2f} {middle:.2f}"
        )


def measure(tree: Path, runs: int) -> dict[str, float]:
    """The figures that the tree's own script gives."""
    script = tree / "benchmarks" / "engine.py"
    done = subprocess.run(
        [sys.executable, str(script), "--runs", str(runs)],
        cwd=tree,
        check=True,
        capture_output=True,
        text=True,
    )
    figures = {}
    for name, pattern in FIGURES.items():
        found = pattern.search(done.stdout)
        if found is None:
            raise SystemExit(f"{script} tells no {name!r}:\n{done.stdout}")
        figures[name] = float(found[1])
    figures[RATE] = 1_000 / figures[RATE]
    return figures


def git(*arguments: str) -> None:
    """Runs git in this tree."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
