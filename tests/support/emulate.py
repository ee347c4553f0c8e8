"""`make emulators`: the whole system in the cloud mode on this machine, for a developer.

The emulators, a PostgreSQL and every function, each a process of its own, until Ctrl-C; then nothing is
left. The API listens where `pipelines` looks for it, unless another has the port.
"""

from __future__ import annotations

import shlex
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.support.cloud import Backends, CloudSystem
from tests.support.emulators import FIRESTORE, PUBSUB, TASKS, Emulator, Kind, Missing, bigquery, gcs
from tests.support.gcs import CloudStorage
from tests.support.kms import KmsServer
from tests.support.postgres import server

PORT = 8001


def emulate() -> None:
    """Serves until SIGINT or SIGTERM. Raises Missing."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pipelines-")))

        def start(kind: Kind) -> str:
            print(f"starting {kind.name} …", flush=True)
            emulator = Emulator(kind)
            stack.callback(emulator.stop)
            return emulator.host

        buckets = folder / "buckets"
        storage = CloudStorage(start(gcs(buckets)), buckets)
        stack.callback(storage.stop)
        kms = KmsServer()
        stack.callback(kms.stop)
        backends = Backends(
            firestore=start(FIRESTORE),
            pubsub=start(PUBSUB),
            tasks=start(TASKS),
            bigquery=start(bigquery(folder / "bigquery", buckets)),
            storage=storage.host,
            kms=kms,
            postgres=server(),
            buckets=buckets,
        )
        print("starting the functions …", flush=True)
        system = stack.enter_context(CloudSystem(folder, backends, api_port=_free(PORT)))
        _tell(system, folder)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        threading.Event().wait()


def _free(port: int) -> int:
    """The port, or 0 (any) when somebody has it."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return 0
    return port


def _tell(system: CloudSystem, folder: Path) -> None:
    print()
    print(f"  API        {system.url}")
    print(f"  buckets    {system.objects('ORG')} is gs://{system.bucket}/ORG")
    print(f"  logs       {folder}/*.log")
    print()
    print("In another terminal:")
    print(f"  export PIPELINES_URL={system.url.removesuffix('/api/v1')}")
    print(f"  export PIPELINES_API_KEY={system.platform_key}")
    print("and, for a process that is to see the same backends:")
    for name, text in system.settings_environ.items():
        print(f"  export {name}={shlex.quote(text)}")
    print()
    print("Ctrl-C stops it.", flush=True)


if __name__ == "__main__":
    try:
        emulate()
    except Missing as missing:
        sys.exit(str(missing))
    except KeyboardInterrupt:
        print("stopped")
