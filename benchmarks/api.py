"""What a start costs over HTTP, beside a function that only says hello, served in the same way.

    python benchmarks/api.py [--requests 2000]

Each is one process of functions-framework on this machine, with eight threads, asked by clients of
another process that keep their connections. The API accepts a run durably before it answers, and runs
its one step (which does nothing) meanwhile; so its rate is that of whole runs, not of answers alone.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from engine import ORG, ROOT, prepare, say

from shared.bootstrap.embedded import open_embedded
from shared.settings import PLATFORM_KEY_FILE, Settings

THREADS = 8
ONE_STEP = """\
pipeline_id: bench_one
name: One step
provider: bench
domain: noop
steps:
  - {step_id: only, ps_type: generic.noop}
"""
HELLO = """\
import functions_framework

@functions_framework.http
def hello(request):
    return {"hello": "world"}, 202
"""


class Asked(NamedTuple):
    """A request, again and again."""

    method: str
    path: str
    headers: dict[str, str]


def main() -> None:
    """Measures and prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        settings = prepare(folder)
        (settings.configs / "bench" / "noop" / "one.yml").write_text(ONE_STEP)
        (folder / "hello.py").write_text(HELLO)
        key = {"X-API-Key": (settings.data / PLATFORM_KEY_FILE).read_text()}
        start = Asked("POST", f"/api/v1/pipelines/run/{ORG}/bench/noop/one", key)
        quota = Asked("GET", f"/api/v1/pipelines/quota/{ORG}", key)
        with served("hello", folder / "hello.py", {}) as port:
            report("hello world", port, Asked("POST", "/", {}), requests)
        with served("api", ROOT / "main.py", environ_of(settings)) as port:
            report("GET quota", port, quota, requests)
            report("POST run, accepted", port, start, requests)
        check(settings, requests)
    finally:
        shutil.rmtree(folder)


def environ_of(settings: Settings) -> dict[str, str]:
    """The settings as a process of its own reads them."""
    return {
        "PIPELINES_DATA": str(settings.data),
        "PIPELINES_CONFIGS": str(settings.configs),
        "PIPELINES_LOG": "error",
    }


@contextmanager
def served(target: str, source: Path, environ: dict[str, str]) -> Iterator[int]:
    """The function on a port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("functions-framework")),
            f"--target={target}",
            f"--source={source}",
            "--host=127.0.0.1",
            f"--port={port}",
        ],
        cwd=ROOT,
        env={**os.environ, **environ, "WORKERS": "1", "THREADS": str(THREADS)},
    )
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def report(name: str, port: int, asked: Asked, requests: int) -> None:
    """One line for one client at a time, one for eight."""
    ask(port, asked, 100)
    for clients in (1, THREADS):
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as threads:
            asking = [threads.submit(ask, port, asked, requests // clients) for _ in range(clients)]
        seconds = [second for one in asking for second in one.result()]
        rate = len(seconds) / (time.perf_counter() - began)
        p99 = statistics.quantiles(seconds, n=100)[98]
        say(
            f"{name}, {clients} at a time",
            f"{rate:.0f}/s, p50 {statistics.median(seconds) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms",
        )


def ask(port: int, asked: Asked, times: int) -> list[float]:
    """The seconds of each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        connection.request(
            asked.method, asked.path, headers={**asked.headers, "Content-Length": "0"}
        )
        answer = connection.getresponse()
        body = answer.read()
        taken.append(time.perf_counter() - began)
        assert answer.status in (200, 202), body
    connection.close()
    return taken


def check(settings: Settings, requests: int) -> None:
    """Every run that was accepted is there, and none besides."""
    embedded = open_embedded(settings)
    app = embedded.engine.app
    usage = app.accounts.usage(ORG, app.now())
    assert usage is not None
    wanted = 100 + requests + requests // THREADS * THREADS
    assert usage.today == wanted, (usage.today, wanted)
    embedded.close()


if __name__ == "__main__":
    main()
