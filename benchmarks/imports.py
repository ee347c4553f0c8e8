"""What a function of the cloud mode costs before its first request, beside its SDKs alone.

    python benchmarks/imports.py [--rounds 9]

`ours` imports the function and opens its engine; `SDKs` imports functions_framework and the clients that
this function uses at once, and nothing of this project. Each in a fresh interpreter, in turn, as CPU
seconds; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.unit.test_settings import CLOUD  # noqa: E402

# What every function opens at once; Postgres is connected to by those that ask for quota.
GOOGLE = """
import functions_framework
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.pubsub_v1.services.publisher import PublisherClient
"""
POSTGRES = "import psycopg"
USES_POSTGRES = ("api", "coordinator", "scheduler")
OURS = """
import main
main.{name}
from shared.bootstrap import engine
app = engine({{}}).app
"""
ASKS = "app.accounts.close()"
MEASURE = "import time\nbegan = time.process_time()\n{}\nprint(time.process_time() - began)"
# Nothing is connected before a request.
NOWHERE = dict.fromkeys(("FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"), "127.0.0.1:1")


def cost(code: str) -> float:
    """CPU seconds of the code in a fresh interpreter."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIPELINES_"))}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(code)],
        cwd=ROOT,
        env={**plain, **CLOUD, **NOWHERE},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{'function':<12} {'ours':>7} {'SDKs':>7} {'ratio':>6}   (s of CPU, {rounds} rounds)")
    for name in ("api", "step_worker", "coordinator", "scheduler", "dead_letter"):
        asks = name in USES_POSTGRES
        ours = OURS.format(name=name) + (ASKS if asks else "")
        sdks = GOOGLE + (POSTGRES if asks else "")
        cost(ours), cost(sdks)  # compiles the bytecode, fills the page cache
        pairs = [(cost(sdks), cost(ours)) for _ in range(rounds)]
        ratio = statistics.median(own / base for base, own in pairs)
        base, own = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name:<12} {own:7.3f} {base:7.3f} {ratio:6.2f}")


if __name__ == "__main__":
    main()
