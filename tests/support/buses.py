"""Buses to hold to the port's promises, each with a push endpoint behind its subscriptions."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from flask import Request

from functions.dead_letter import dead_letter
from shared.bootstrap import ENGINE_KEY
from shared.bus import Bus, Outgoing
from shared.bus import local as local_bus
from shared.bus.letters import FirestoreLetters
from shared.bus.local import LocalBus, Subscription
from shared.bus.pubsub import PubsubBus
from shared.bus.push import Deliver, in_process, over_http
from shared.core.message import Topic
from shared.firestore import Database
from shared.journal import Journal
from shared.log import Log
from tests.support.endpoint import Endpoint, served
from tests.support.pubsub import MAX_DELIVERIES, create_queue, provision, unsubscribe
from tests.support.stores import firestore_database, new_id

PREFIX = "test-"


class Scene(NamedTuple):
    """A bus. `settle` returns when what was delivered would have come again, were it not acknowledged."""

    bus: Bus
    endpoint: Endpoint
    settle: Callable[[], None]


class LocalScene(NamedTuple):
    """The embedded bus; `reopen` ends it and opens it again, as the next process would."""

    bus: LocalBus
    endpoint: Endpoint
    reopen: Callable[[], LocalBus]


class PubsubScene(NamedTuple):
    """The bus on emulators, and where they are."""

    bus: PubsubBus
    endpoint: Endpoint
    letters: FirestoreLetters
    database: Database
    project: str
    pubsub: str
    tasks: str
    queue: str


def step(body: bytes, not_before: datetime | None = None, **attributes: str) -> Outgoing:
    return Outgoing(Topic.STEPS, body, not_before, attributes)


@contextmanager
def transport_in_process(endpoint: Endpoint) -> Iterator[Deliver]:
    yield in_process(endpoint, {})


@contextmanager
def transport_over_http(endpoint: Endpoint) -> Iterator[Deliver]:
    with served(endpoint) as url:
        yield over_http(url)


TRANSPORTS = {"in-process": transport_in_process, "http": transport_over_http}


@contextmanager
def local_scene(transport: str, folder: Path) -> Iterator[LocalScene]:
    """The embedded bus, with retries after milliseconds and as many as the emulator of Pub/Sub makes."""
    endpoint = Endpoint()
    opened: list[tuple[LocalBus, Journal]] = []

    def close() -> None:
        for bus, journal in opened:
            bus.close()
            journal.close()

    with TRANSPORTS[transport](endpoint) as deliver, pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_bus, "FIRST_RETRY", timedelta(milliseconds=20))
        patch.setattr(local_bus, "MAX_DELIVERIES", MAX_DELIVERIES)

        def reopen() -> LocalBus:
            close()
            journal = Journal(folder / "bus.db")
            bus = LocalBus(
                journal,
                {
                    Topic.STEPS: Subscription("/push/steps", 4),
                    Topic.COMPLETIONS: Subscription("/push/completions", 2),
                },
                deliver,
                lambda: datetime.now(UTC),
            )
            opened.append((bus, journal))
            return bus

        bus = reopen()
        bus.start()
        yield LocalScene(bus, endpoint, reopen)
        close()


def open_pubsub(
    project: str,
    letters: FirestoreLetters,
    pubsub: str,
    tasks: str,
    queue: str,
    **options: Any,
) -> PubsubBus:
    """A bus over emulators (HOST:PORT)."""
    return PubsubBus(
        project,
        prefix=PREFIX,
        letters=letters,
        queue=queue,
        account="tasks@example.iam.gserviceaccount.com",
        now=lambda: datetime.now(UTC),
        sleep=time.sleep,
        random=random.random,
        emulator=pubsub,
        tasks_emulator=tasks,
        **options,
    )


@contextmanager
def pubsub_scene(request: pytest.FixtureRequest) -> Iterator[PubsubScene]:
    """Push subscriptions of the emulator to the endpoint, and of dead letters to the real function."""
    pubsub, tasks, firestore = (
        request.getfixturevalue(f"{name}_emulator").host
        for name in ("pubsub", "tasks", "firestore")
    )
    project = request.getfixturevalue("firestore_project")
    endpoint = Endpoint()
    engine = SimpleNamespace(app=SimpleNamespace(log=Log(stream=StringIO()), callers=None))

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/push/dead_letter":
            answer: Any = dead_letter(Request({**environ, ENGINE_KEY: engine}))
            return answer(environ, start_response)
        return endpoint(environ, start_response)

    queue = f"projects/{project}/locations/here/queues/later"
    create_queue(tasks, queue)
    database = firestore_database(firestore, project)
    letters = FirestoreLetters(database, now=lambda: datetime.now(UTC), new_id=new_id)
    bus = open_pubsub(project, letters, pubsub, tasks, queue)
    engine.app.bus = bus
    with served(application) as url:
        endpoints = {
            Topic.STEPS: f"{url}/push/steps",
            Topic.COMPLETIONS: f"{url}/push/completions",
            Topic.DEAD_LETTERS: f"{url}/push/dead_letter",
        }
        provision(pubsub, project, PREFIX, endpoints)
        yield PubsubScene(bus, endpoint, letters, database, project, pubsub, tasks, queue)
        unsubscribe(pubsub, project)
    bus.close()
    database.close()
