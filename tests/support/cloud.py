"""The whole system on emulators: each function a process of functions-framework, as it is deployed.

Pub/Sub pushes to them, Firestore, BigQuery, Cloud Storage, Cloud Tasks and Cloud KMS are emulators, and
the accounts are in a real PostgreSQL. Systems of one session share the emulators, each in a project of
its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import urllib3

from shared.accounts import Scope
from shared.app import App
from shared.bootstrap.cloud import Opened, open_cloud
from shared.core.message import Topic
from shared.settings import ROOT, read_settings
from tests.support.gcs import KEY
from tests.support.jobs import JOB, JobsServer
from tests.support.kms import KmsServer
from tests.support.postgres import Postgres
from tests.support.processes import Supervised
from tests.support.pubsub import MAX_DELIVERIES, create_queue, provision, unsubscribe
from tests.support.quick_main import TIMING
from tests.support.stores import everything, firestore_database
from tests.support.system import System, configs_in

FUNCTIONS = ("api", "step_worker", "coordinator", "scheduler", "dead_letter", "event_trigger")
SUBSCRIBERS = {
    Topic.STARTS: "event_trigger",
    Topic.STEPS: "step_worker",
    Topic.COMPLETIONS: "coordinator",
    Topic.DEAD_LETTERS: "dead_letter",
}
SOURCE = Path(__file__).with_name("quick_main.py")
READY_SECONDS = 60.0
STOP_SECONDS = 40.0
TICK_SECONDS = 1.0
THREADS = 16
ENVIRONMENT = "test"

_numbers = itertools.count(1)


class Backends(NamedTuple):
    """Where the emulators are: what they are started for is the same for every system of a session."""

    firestore: str
    pubsub: str
    tasks: str
    bigquery: str
    storage: str
    kms: KmsServer
    postgres: Postgres
    buckets: Path  # the folder of Cloud Storage: BUCKET/OBJECT

    @property
    def environ(self) -> dict[str, str]:
        """As the settings name them."""
        return {
            "FIRESTORE_EMULATOR_HOST": self.firestore,
            "PUBSUB_EMULATOR_HOST": self.pubsub,
            "CLOUD_TASKS_EMULATOR_HOST": self.tasks,
            "BIGQUERY_EMULATOR_HOST": f"http://{self.bigquery}",
            "STORAGE_EMULATOR_HOST": self.storage,
            "CLOUD_KMS_EMULATOR_HOST": self.kms.host,
        }


class Function:
    """One function in a process of its own, on a port of its own that it keeps."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        folder: Path,
        port: int = 0,
        source: Path = SOURCE,
    ) -> None:
        self.name = name
        self._source = source
        self.log = folder / f"{name}.log"
        self._environ = environ
        self._process: Supervised | None = None
        with socket.create_server(("127.0.0.1", port)) as probe:
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [
            str(Path(sys.executable).with_name("functions-framework")),
            f"--target={self.name}",
            f"--source={self._source}",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        with self.log.open("ab") as log:
            self._process = Supervised(command, log, self._environ, ROOT)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> None:
        """Lets the requests that run end, as Cloud Run does."""
        process, self._process = self._process, None
        if process is not None:
            process.stop(STOP_SECONDS)

    def kill(self) -> None:
        """As a machine dies."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()


class CloudSystem(System):
    """Five processes over emulators. The folder holds the configs and the logs of the functions."""

    def __init__(
        self,
        folder: Path,
        backends: Backends,
        environ: Mapping[str, str] | None = None,
        postgres: Path | None = None,
        api_port: int = 0,
        source: Path = SOURCE,
        max_deliveries: int = MAX_DELIVERIES,
    ) -> None:
        """`environ` may put something in an emulator's place, and `postgres` is another host.

        `api_port` 0 is any that is free; `source` is what functions-framework is given.
        """
        super().__init__()
        self._backends = backends
        self.project = f"system-{os.getpid()}-{next(_numbers)}"
        self.bucket = f"{self.project}-objects"
        self._database = backends.postgres.database()
        self.jobs = JobsServer(command=[sys.executable, "-m", "functions.step_job"])
        place = f"projects/{self.project}/locations/europe-west1"
        ours = {
            "PIPELINES_MODE": "cloud",
            "PIPELINES_PROJECT": self.project,
            "PIPELINES_ENVIRONMENT": ENVIRONMENT,
            "PIPELINES_CONFIGS": str(configs_in(folder)),
            "PIPELINES_DATA": str(folder / "scratch"),
            "PIPELINES_LOCATION": "EU",
            "PIPELINES_ACCOUNTS": backends.postgres.dsn(self._database, host=postgres),
            "PIPELINES_KMS_KEY": f"{place}/keyRings/vault/cryptoKeys/data-keys",
            "PIPELINES_TASKS_QUEUE": f"{place}/queues/later",
            "PIPELINES_TASKS_ACCOUNT": f"tasks@{self.project}.iam.gserviceaccount.com",
            "PIPELINES_LONG_STEPS_JOB": JOB,
            "PIPELINES_LOG": "info",
            "CLOUD_RUN_EMULATOR_HOST": self.jobs.host,
            **backends.environ,
            **(environ or {}),
        }
        self.settings_environ = ours
        self.environ = {
            **{name: text for name, text in os.environ.items() if not _is_setting(name)},
            **ours,
            "THREADS": str(THREADS),
            "PYTHONPATH": str(ROOT),
        }
        self.jobs.environ = self.environ
        self.settings = read_settings(ours)
        ports = {"api": api_port}
        self.functions = {
            name: Function(name, self.environ, folder, ports.get(name, 0), source)
            for name in FUNCTIONS
        }
        self.url = self.functions["api"].url + "/api/v1"
        self._opened: Opened | None = None
        self._stopping = threading.Event()
        self._ticker: threading.Thread | None = None
        (backends.buckets / self.bucket).mkdir(parents=True)
        backends.kms.rotate(ours["PIPELINES_KMS_KEY"])
        create_queue(backends.tasks, ours["PIPELINES_TASKS_QUEUE"])
        provision(
            backends.pubsub,
            self.project,
            f"pipelines-{ENVIRONMENT}-",
            {topic: self.functions[name].url for topic, name in SUBSCRIBERS.items()},
            max_deliveries=max_deliveries,
        )

    @property
    def app(self) -> App:
        assert self._opened is not None
        return self._opened.engine.app

    def objects(self, org: str) -> Path:
        return self._backends.buckets / self.bucket / org

    def source(self, org: str, path: str) -> dict[str, Any]:
        return {
            "metadata": {"source": f"gs://{self.bucket}/{org}/{path}", "export_name": "costs"},
            "secret": KEY,
        }

    def foreign_sources(self, org: str, there: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        # Without a credential of its own the platform's identity would read it.
        yield f"gs://{self.bucket}/{there.relative_to(self._backends.buckets / self.bucket)}", {}
        yield "gs://no-such-bucket/exports", {"secret": KEY}
        yield "file:exports", {}
        yield "file:/etc", {}

    def at_rest(self) -> Iterator[bytes]:
        database = firestore_database(self._backends.firestore, self.project)
        yield everything(database)
        database.close()
        yield self._backends.postgres.stored()
        for function in self.functions.values():
            yield function.log.read_bytes()

    def _open(self) -> None:
        try:
            self._start()
        except BaseException:
            self._close()
            raise

    def _start(self) -> None:
        assert self.settings.cloud is not None
        for function in self.functions.values():
            function.start()
        self._opened = open_cloud(self.settings, self.settings.cloud, timing=TIMING)
        for function in self.functions.values():
            function.wait_until_ready()
        if not hasattr(self, "platform_key"):
            now = datetime.now(UTC)
            _, self.platform_key = self.app.accounts.create_key(None, "tests", [Scope.ADMIN], now)
        self._stopping.clear()
        self._ticker = threading.Thread(target=self._tick, name="ticker", daemon=True)
        self._ticker.start()

    def _close(self) -> None:
        self._stopping.set()
        if self._ticker is not None:
            self._ticker.join()
        with ThreadPoolExecutor(len(self.functions)) as at_once:  # each takes seconds to let go
            list(at_once.map(Function.stop, self.functions.values()))
        if self._opened is not None:
            self._opened.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, trace)
        self.jobs.__exit__()
        unsubscribe(self._backends.pubsub, self.project)

    def _tick(self) -> None:
        """What Cloud Scheduler does every minute."""
        http = urllib3.PoolManager(retries=False)
        while not self._stopping.wait(TICK_SECONDS):
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                http.request("POST", self.functions["scheduler"].url, body=b"{}")


def _is_setting(name: str) -> bool:
    return name.startswith("PIPELINES_") or name.endswith("_EMULATOR_HOST")
