"""Each function as functions-framework serves it: found through `main`, over the settings' stores."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from shared.core.message import PushEnvelope, PushMessage, seal_envelope
from shared.settings import ROOT
from tests.support.system import EmbeddedSystem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with an organization in it."""
    with EmbeddedSystem(tmp_path) as system:
        system.organization("acme")
    return tmp_path


class Served:
    """One function in a process of its own."""

    def __init__(self, target: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.key = (folder / "data" / "platform.key").read_text()
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "functions-framework"),
                "--target",
                target,
                "--source",
                str(ROOT / "main.py"),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PIPELINES_DATA": str(folder / "data"),
                "PIPELINES_CONFIGS": str(folder / "configs"),
                "THREADS": "4",
            },
        )
        deadline = time.monotonic() + 30
        while not self._listens(port):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _listens(self, port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        answer = urllib3.request(
            method,
            self.url + path,
            body=body,
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
        )
        return answer.status, answer.data

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(60) == 0


@pytest.fixture
def served(request: pytest.FixtureRequest, folder: Path) -> Iterator[Served]:
    made = Served(request.param, folder)
    yield made
    made.stop()


@pytest.mark.parametrize("served", ["api"], indirect=True)
def test_the_api_runs_a_pipeline(served: Served) -> None:
    status, body = served.call("POST", "/pipelines/run/acme/engine/noop/five", b"{}")
    assert status == 202, body
    run_id = json.loads(body)["run_id"]
    deadline = time.monotonic() + 30
    while True:
        status, body = served.call("GET", f"/api/v1/pipelines/status/acme/{run_id}")
        if json.loads(body)["status"] == "completed":
            break
        assert time.monotonic() < deadline, body
        time.sleep(0.05)


FIRST_AT_ONCE = """
import os
from concurrent.futures import ThreadPoolExecutor
from shared.bootstrap import engine

with ThreadPoolExecutor(4) as pool:
    print(len({id(made) for made in pool.map(engine, [{}] * 4)}), flush=True)
os._exit(0)
"""


def test_requests_that_come_first_at_once_share_one_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_AT_ONCE],
        cwd=ROOT,
        env={**os.environ, "PIPELINES_DATA": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("served", ["step_worker", "coordinator"], indirect=True)
def test_a_message_that_is_not_ours_is_acknowledged_and_parked(
    served: Served, folder: Path
) -> None:
    for body in (
        b"not json",
        b"{}",
        seal_envelope(PushEnvelope(message=PushMessage(data=b"\xff"))),
        seal_envelope(PushEnvelope(message=PushMessage(data=b'{"v": 99}'))),
        seal_envelope(PushEnvelope(message=PushMessage(data=b'{"v": 1}'))),
        b'{"message": {"attributes": {"a": "b"}}}',
    ):
        assert served.call("POST", "/", body)[0] == 204
    served.stop()
    served.stop = lambda: None  # type: ignore[method-assign]  # stopped already
    with EmbeddedSystem(folder) as system:
        letters = system.app.bus.dead_letters()
    assert len(letters) == 6
    assert all(letter.reason for letter in letters)
    assert "version 99" in letters[3].reason


@pytest.mark.parametrize("served", ["scheduler"], indirect=True)
def test_the_tick_says_what_it_did(served: Served) -> None:
    assert served.call("POST", "/") == (200, b"starts=0 hints=0 expired=0 orphans=0 purged=0\n")


def test_a_folder_has_one_process(folder: Path) -> None:
    with EmbeddedSystem(folder):
        second = subprocess.run(
            [sys.executable, "-m", "shared.cli", "dev", "--port", "0"],
            cwd=ROOT,
            env={**os.environ, "PIPELINES_DATA": str(folder / "data")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode != 0
    assert "another process" in second.stderr
    assert "Traceback" not in second.stderr
