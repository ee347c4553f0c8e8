"""The client of Cloud Run jobs, beside an API that refuses, hangs, or wants to know who asks."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.errors import Unavailable
from shared.jobs.cloudrun import TRIES, CloudRunJobs
from tests.support.jobs import JOB, Fault, JobsServer

HOUR = timedelta(hours=1)


def client(host: str | None, timeout_seconds: float = 2.0) -> CloudRunJobs:
    return CloudRunJobs(
        JOB,
        sleep=lambda _: None,
        random=random.random,
        emulator=host,
        timeout_seconds=timeout_seconds,
    )


@pytest.fixture
def server() -> Iterator[JobsServer]:
    with JobsServer() as made:
        made.start_after = 3600  # no process is wanted here
        yield made


def test_a_passing_refusal_is_asked_again(server: JobsServer) -> None:
    server.faults += [Fault.REFUSED, Fault.LOST, Fault.DROPPED]
    client(server.host).start("r1", "load", 3, HOUR)
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[1] == server.asked[2]
    assert server.asked[0]["overrides"]["timeout"] == "3900s"
    assert "authorization" not in {name.lower() for name in server.headers[0]}


@pytest.mark.parametrize(
    ("fault", "tries", "said"),
    [
        (Fault.REFUSED, TRIES, r"\(waiting may help\): http 503"),
        (Fault.DENIED, 1, r"roles/run\.jobsExecutorWithOverrides on it\): http 403"),
        (Fault.GONE, 1, r"there is no such job: .* http 404"),
    ],
)
def test_a_refusal_that_stays_says_what_to_do(
    server: JobsServer, fault: Fault, tries: int, said: str
) -> None:
    server.faults += [fault] * TRIES
    with pytest.raises(Unavailable, match=said) as raised:
        client(server.host).start("r1", "load", 1, HOUR)
    assert len(server.asked) == tries
    assert f"start {JOB} for r1/load.1" in str(raised.value)


def test_an_api_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(Unavailable, match="waiting may help"):
        client(host).start("r1", "load", 1, HOUR)


def test_an_api_that_hangs_is_unavailable_in_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(Unavailable, match="Timeout"):
            client(host, 0.3).start("r1", "load", 1, HOUR)
        assert time.monotonic() - began < 20


def test_a_client_is_closed_twice_as_once(server: JobsServer) -> None:
    jobs = client(server.host)
    jobs.close()
    jobs.close()


class Tokens:
    """A token server, and the key file of a service account that asks it."""

    def __init__(self, folder: Path) -> None:
        self.asked = 0
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                tokens.asked += 1
                raw = json.dumps({"access_token": "secret-token", "expires_in": 3600}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.key_file = folder / "account.json"
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        account = {
            "type": "service_account",
            "client_email": "worker@test.iam.gserviceaccount.com",
            "private_key": pem.decode(),
            "token_uri": f"http://127.0.0.1:{self.server.server_port}/token",
        }
        self.key_file.write_text(json.dumps(account))


def test_a_request_to_google_carries_a_token_that_is_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = Tokens(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tokens.key_file))
    jobs = client(None)
    headers: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: headers.append(jobs._headers())) for _ in range(8)]
    with tokens.server:
        serving = threading.Thread(target=tokens.server.serve_forever, args=(0.05,))
        serving.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tokens.server.shutdown()
        serving.join()
    assert [sent["authorization"] for sent in headers] == ["Bearer secret-token"] * 8
    assert tokens.asked == 1
    jobs.close()


def test_a_process_without_credentials_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nothing"))
    with pytest.raises(Unavailable, match="no token for this process"):
        client(None).start("r1", "load", 1, HOUR)
