"""A door in front of each dependency of a system in the cloud mode."""

from __future__ import annotations

from pathlib import Path

from tests.support.cloud import Backends
from tests.support.door import Door
from tests.support.postgres import SOCKET


class Doors:
    """All of them open, until a test says otherwise."""

    def __init__(self, backends: Backends) -> None:
        self.by_name = {
            "firestore": Door(backends.firestore),
            "pubsub": Door(backends.pubsub),
            "tasks": Door(backends.tasks),
            "postgres": Door(f"{backends.postgres.sockets}/{SOCKET}"),
            "kms": Door(backends.kms.host),
            "bigquery": Door(backends.bigquery),
        }

    @property
    def environ(self) -> dict[str, str]:
        """What has a system go through them, but for Postgres."""
        at = {name: door.host for name, door in self.by_name.items()}
        return {
            "FIRESTORE_EMULATOR_HOST": at["firestore"],
            "PUBSUB_EMULATOR_HOST": at["pubsub"],
            "CLOUD_TASKS_EMULATOR_HOST": at["tasks"],
            "CLOUD_KMS_EMULATOR_HOST": at["kms"],
            "BIGQUERY_EMULATOR_HOST": f"http://{at['bigquery']}",
        }

    @property
    def postgres(self) -> Path:
        """The host of Postgres that goes through its door."""
        return Path(self.by_name["postgres"].host)

    def close(self) -> None:
        for door in self.by_name.values():
            door.close()
