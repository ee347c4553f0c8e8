"""Cloud Run jobs on this machine: an API over HTTP, and a real process for each execution.

As a script it is that process: `jobs.py STORE URL RUN STEP ATTEMPT` opens the run store that the spec
names (tests.support.stores), hands what it publishes to the bus of the test at URL, and does what
`functions.step_job` does.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, cast

import urllib3

from functions.step_job import run_attempt
from shared.app import App
from shared.bus import Outgoing
from shared.core.message import Topic
from shared.core.run import EMBEDDED_TIMING, Timing
from shared.engine import Engine
from shared.log import Level, Log
from shared.processors import PROCESSORS
from shared.settings import ROOT
from shared.state import RunStore
from tests.support.stores import new_id, open_runs

JOB = "projects/test/locations/europe-west1/jobs/pipelines-long-steps"
LEASE = timedelta(seconds=3)


def timing(lease: timedelta = LEASE, job_start: timedelta = timedelta(seconds=2)) -> Timing:
    """Times of seconds. The process of a job has a lease of LEASE, unless it is told another one."""
    changes: dict[str, Any] = {
        "lease": lease,
        "heartbeat": timedelta(seconds=0.5),
        "lease_grace": timedelta(seconds=0.5),
        "requeue": timedelta(seconds=0.3),
        "requeue_cap": timedelta(seconds=10),
        "job_start": job_start,
        "effects_delay": timedelta(seconds=0.5),
    }
    fields = {name: getattr(EMBEDDED_TIMING, name) for name in EMBEDDED_TIMING.__struct_fields__}
    return Timing(**{**fields, **changes})


class Fault(Enum):
    """What happens to the next request."""

    REFUSED = "503, and nothing is started"
    LOST = "started, and the answer is lost"
    DROPPED = "answered, and nothing is ever started"
    DENIED = "403"
    GONE = "404"


class JobsServer:
    """The API at `host` (HOST:PORT). `asked` are the bodies of its requests, `started` the processes."""

    def __init__(
        self, store: str = "", *, lease: timedelta = LEASE, command: Sequence[str] = ()
    ) -> None:
        """An execution is this file as a script over `store`, or the `command` with `environ`."""
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.started: list[subprocess.Popen[bytes]] = []
        self.faults: deque[Fault] = deque()
        self.start_after = 0.0  # seconds until the machine of a job is there
        self.publish: Callable[[Sequence[Outgoing]], None] = lambda _: None
        self.environ: Mapping[str, str] = {
            **os.environ,
            "JOB_LEASE": str(lease.total_seconds()),
        }
        self._guard = threading.Lock()
        self._timers: list[threading.Timer] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.host = f"127.0.0.1:{self._server.server_port}"
        script = (sys.executable, "-m", "tests.support.jobs", store, f"http://{self.host}/publish")
        self._command = command or script
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for timer in self._timers:
            timer.cancel()
            timer.join()
        for process in self.started:
            process.kill()
            process.wait()

    def ask(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> int | None:
        """The status of an answer; None is none."""
        assert path == f"/v2/{JOB}:run", path
        with self._guard:
            self.asked.append(body)
            self.headers.append(headers)
            fault = self.faults.popleft() if self.faults else None
        match fault:
            case Fault.REFUSED:
                return 503
            case Fault.DENIED:
                return 403
            case Fault.GONE:
                return 404
            case Fault.DROPPED:
                return 200
            case _:
                (container,) = body["overrides"]["containerOverrides"]
                timer = threading.Timer(self.start_after, self.start, container["args"])
                timer.start()
                self._timers.append(timer)
                return None if fault is Fault.LOST else 200

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """An execution with these arguments."""
        process = subprocess.Popen([*self._command, *arguments], cwd=ROOT, env=dict(self.environ))
        with self._guard:
            self.started.append(process)
        return process


def _handler(jobs: JobsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/publish":
                jobs.publish(
                    [
                        Outgoing(Topic(sent["topic"]), b64decode(sent["body"]), None, sent["said"])
                        for sent in body
                    ]
                )
                self._answer(200, {})
                return
            status = jobs.ask(self.path, dict(self.headers), body)
            if status is None:
                self.close_connection = True
                return
            operation = {"name": f"projects/test/operations/{len(jobs.asked)}", "done": False}
            error = {"error": {"code": status, "message": "told to say so"}}
            self._answer(status, operation if status == 200 else error)

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler


class _TestBus:
    """The bus of the process that the test is in."""

    def __init__(self, url: str, runs: RunStore) -> None:
        self._url = url
        self._runs = runs

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self._runs.sync()  # another process reads what this one tells of
        sent = [
            {
                "topic": message.topic,
                "body": b64encode(message.body).decode(),
                "said": dict(message.attributes),
            }
            for message in messages
        ]
        urllib3.request("POST", self._url, body=json.dumps(sent))


def _engine(store: str, url: str) -> Engine:
    nothing = cast("Any", None)
    runs = open_runs(store)
    app = App(
        runs=runs,
        bus=cast("Any", _TestBus(url, runs)),
        accounts=nothing,
        subscriptions=nothing,
        schedules=nothing,
        vault=nothing,
        warehouse=nothing,
        objects=nothing,
        http=nothing,
        catalog=nothing,
        providers=nothing,
        processors=PROCESSORS,
        timing=timing(timedelta(seconds=float(os.environ["JOB_LEASE"]))),
        project_id="test",
        environment="test",
        code_version="test",
        log=Log(Level.INFO, readable=True),
        now=lambda: datetime.now(UTC),
        monotonic=time.monotonic,
        sleep=time.sleep,
        random=random.random,
        new_id=new_id,
    )
    return Engine(app)


def store_in(folder: Path) -> str:
    """The spec of a run store in a file of its own."""
    return f"sqlite {folder / 'runs.db'}"


if __name__ == "__main__":
    sys.exit(run_attempt(_engine(sys.argv[1], sys.argv[2]), sys.argv[3:]))
