"""The first thing that a stranger does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = (sys.executable, "-m", "shared.cli", "demo")


def environ(tmp: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINES_")}
    return kept | {"TMPDIR": str(tmp)}


def test_the_demo_shows_the_same_sum_everywhere_and_nothing_changed_by_a_second_run(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept"
    done = subprocess.run(
        [*DEMO, "--rows", "2000", "--keep", str(kept)],
        cwd=ROOT,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert "\x1b" not in told
    assert "2,000 rows extracted = 2,000 loaded + 0 rejected" in told
    sums = re.findall(r" 2,000  +(-?[\d,]+\.\d+)$", told, re.MULTILINE)
    assert len(sums) == 6
    assert len(set(sums)) == 1
    assert re.search(r"runs today +0 +1 +6", told)
    assert "✓ nothing changed; 0 runs at work, 2 of 6 runs of today used" in told
    assert "Everything is equal." in told
    assert (kept / "warehouse.duckdb").is_file()
    again = subprocess.run(
        [*DEMO, "--keep", str(kept)],
        cwd=ROOT,
        env=environ(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_a_demo_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DEMO, "--rows", "1000000"],
        cwd=ROOT,
        env=environ(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = ""
    while "onboard" not in told:
        told += process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
