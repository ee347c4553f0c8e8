"""What a run costs the embedded engine: five steps that do nothing, durable.

    python benchmarks/engine.py [--runs 1000]

Every figure is of this machine and this minute, so the floor is measured beside it, in the same run:
the same number of durable commits on the same disk by SQLite alone. Latency is from the answer of the
start to the first reading that says `completed`, one run at a time; throughput with 64 runs at work; CPU is of the whole process, the driver included.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared.accounts import Limits, Scope  # noqa: E402
from shared.bootstrap.embedded import Embedded, open_embedded  # noqa: E402
from shared.cli.dev import Server  # noqa: E402
from shared.engine.submit import Submission, submit  # noqa: E402
from shared.log import Level  # noqa: E402
from shared.settings import Settings  # noqa: E402

ORG = "bench_org"
DIAMOND = """\
pipeline_id: bench_diamond
name: Five steps
provider: bench
domain: noop
steps:
  - {step_id: extract, ps_type: generic.noop, depends_on: []}
  - {step_id: left, ps_type: generic.noop, depends_on: [extract]}
  - {step_id: right, ps_type: generic.noop, depends_on: [extract]}
  - {step_id: load, ps_type: generic.noop, depends_on: [left, right]}
  - {step_id: notify, ps_type: generic.noop, depends_on: [load]}
"""
WIDE_STEPS = 199


def main() -> None:
    """Measures and prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first-run", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_run:
        first_run(Path(options.first_run))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        settings = prepare(folder)
        floor = bare_commits(folder / "floor.db")
        say("floor", f"{floor * 1e3:.2f} ms for one FULL commit of SQLite alone")
        cold_start(folder)
        embedded = open_embedded(settings)
        try:
            measure(embedded, options.runs, floor)
        finally:
            embedded.close()
    finally:
        shutil.rmtree(folder)


def prepare(folder: Path) -> Settings:
    """A data folder with the pipelines of the benchmark."""
    configs = folder / "configs"
    (configs / "system").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "system" / "plans.yml", configs / "system")
    pipelines = configs / "bench" / "noop"
    pipelines.mkdir(parents=True)
    (pipelines / "diamond.yml").write_text(DIAMOND)
    wide = ["pipeline_id: bench_wide", "name: Wide", "provider: bench", "domain: noop", "steps:"]
    names = [f"part_{number}" for number in range(WIDE_STEPS)]
    wide += [f"  - {{step_id: {name}, ps_type: generic.noop, depends_on: []}}" for name in names]
    wide.append(f"  - {{step_id: join, ps_type: generic.noop, depends_on: [{', '.join(names)}]}}")
    (pipelines / "wide.yml").write_text("\n".join(wide) + "\n")
    settings = Settings(
        data=folder / "data",
        configs=configs,
        objects=folder / "objects",
        log_level=Level.ERROR,
    )
    embedded = open_embedded(settings)
    app = embedded.engine.app
    app.accounts.create_organization(ORG, "Benchmark", "enterprise", app.now())
    # A refusal and its repetition would be measured as work on runs.
    app.accounts.set_plan(ORG, "enterprise", Limits(daily=None, monthly=None, concurrent=100_000))
    embedded.close()
    return settings


def measure(embedded: Embedded, runs: int, floor: float) -> None:
    """Idle latency, throughput, a wide run, and the same over HTTP."""
    for _ in range(20):
        run_once(embedded, "bench/noop/diamond")
    idle = [run_once(embedded, "bench/noop/diamond") for _ in range(200)]
    p50 = statistics.median(idle)
    p95 = statistics.quantiles(idle, n=20)[18]
    say(
        "idle latency, accepted to finished",
        f"p50 {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms ({p50 / floor:.0f} x the floor's commit)",
    )
    rate, cpu = throughput(runs, lambda: start(embedded), lambda run_id: ended(embedded, run_id))
    say("throughput, in process", f"{rate:.0f} runs/s, {cpu * 1e3:.1f} ms of CPU a run")
    wide = [run_once(embedded, "bench/noop/wide") for _ in range(5)]
    say("200 steps, wide", f"median {statistics.median(wide) * 1e3:.0f} ms")
    over_http(embedded, runs // 2)


def run_once(embedded: Embedded, address: str) -> float:
    """Seconds from accepted to finished."""
    run_id = submit(embedded.engine.app, Submission(ORG, address)).run.run_id
    accepted = time.perf_counter()
    while not ended(embedded, run_id):
        time.sleep(0.0002)
    return time.perf_counter() - accepted


def start(embedded: Embedded) -> str:
    """Starts a run."""
    return submit(embedded.engine.app, Submission(ORG, "bench/noop/diamond")).run.run_id


def ended(embedded: Embedded, run_id: str) -> bool:
    """Whether the run has ended."""
    status = embedded.engine.app.runs.run_status(run_id)
    return status is not None and status.terminal


def throughput(
    runs: int, begin: Callable[[], str], is_over: Callable[[str], bool]
) -> tuple[float, float]:
    """(runs/s, CPU seconds a run): four threads, each with at most 16 runs that have not ended."""

    def some() -> None:
        going: deque[str] = deque()
        for _ in range(runs // 4):
            going.append(begin())
            if len(going) == 16:
                wait(going.popleft())
        for run_id in going:
            wait(run_id)

    def wait(run_id: str) -> None:
        while not is_over(run_id):
            time.sleep(0.005)

    cpu, wall = time.process_time(), time.perf_counter()
    threads = [threading.Thread(target=some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = runs // 4 * 4
    return done / (time.perf_counter() - wall), (time.process_time() - cpu) / done


def over_http(embedded: Embedded, runs: int) -> None:
    """The same, started and watched over HTTP by another process's means: sockets and JSON."""
    server = Server(embedded, "127.0.0.1", 0)
    host = server.url.removeprefix("http://")
    app = embedded.engine.app
    _, text = app.accounts.create_key(ORG, "bench", [Scope.READ, Scope.EXECUTE], app.now())
    local = threading.local()

    def call(method: str, path: str) -> tuple[int, Any]:
        connection = getattr(local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(host)
            local.connection = connection
        connection.request(method, "/api/v1" + path, headers={"X-API-Key": text})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def begin() -> str:
        status, said = call("POST", f"/pipelines/run/{ORG}/bench/noop/diamond")
        assert status == 202, said
        return str(said["run_id"])

    def is_over(run_id: str) -> bool:
        return bool(call("GET", f"/pipelines/status/{ORG}/{run_id}")[1]["finished_at"])

    def once() -> float:
        run_id = begin()
        accepted = time.perf_counter()
        while not is_over(run_id):
            time.sleep(0.0005)
        return time.perf_counter() - accepted

    idle = [once() for _ in range(100)]
    p95 = statistics.quantiles(idle, n=20)[18]
    rate, cpu = throughput(runs, begin, is_over)
    say(
        "over HTTP",
        f"p50 {statistics.median(idle) * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms;"
        f" {rate:.0f} runs/s, {cpu * 1e3:.1f} ms of CPU a run (client included)",
    )
    server.close()


def cold_start(folder: Path) -> None:
    """A new process: from its start to its first finished run, imports included."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, __file__, "--first-run", str(folder)],
            check=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        seconds.append(time.perf_counter() - began)
    say("cold start to the first finished run", f"median {statistics.median(seconds):.2f} s")


def first_run(folder: Path) -> None:
    """The child of `cold_start`."""
    settings = Settings(
        data=folder / "data",
        configs=folder / "configs",
        objects=folder / "objects",
        log_level=Level.ERROR,
    )
    embedded = open_embedded(settings)
    run_once(embedded, "bench/noop/diamond")
    os._exit(0)


def bare_commits(path: Path) -> float:
    """Seconds of one FULL commit in WAL mode on this disk, by SQLite alone."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    began = time.perf_counter()
    for _ in range(500):
        db.execute("INSERT INTO t (body) VALUES (?)", (b"x" * 400,))
    seconds = (time.perf_counter() - began) / 500
    db.close()
    return seconds


def say(name: str, value: str) -> None:
    """One line of the answer."""
    print(f"{name:<40} {value}", flush=True)


if __name__ == "__main__":
    main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if "--first-run" not in sys.argv:
        say("peak memory", f"{peak} MiB")
