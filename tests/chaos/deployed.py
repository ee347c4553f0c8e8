"""The functions as they are deployed, but that they die, or stand still, where a scene says so.

functions-framework is given this file as its source. `CHAOS_FOLDER` names the folder of the scenes, in
which the link `now` leads to the one that is played; its `orders.json` says what is to happen.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import msgspec

import main
from shared.app import App
from shared.bootstrap import ENGINE_KEY, once
from shared.bootstrap.cloud import open_cloud
from shared.core.message import open_envelope
from shared.core.run import Attempt, Timing
from shared.engine import Engine
from shared.errors import Unreadable
from shared.settings import read_settings
from shared.state import Close, StoredAttempt
from shared.step import StepContext
from tests.chaos.proxies import Freeze, Kill, Notes, Points, wrapped

# Short, so that a scene takes seconds; not so short that a busy machine loses a lease by itself.
TIMING = Timing(
    lease=timedelta(seconds=5),
    heartbeat=timedelta(seconds=1.25),
    lease_grace=timedelta(seconds=1),
    requeue=timedelta(seconds=4),
    requeue_cap=timedelta(seconds=8),
    effects_delay=timedelta(seconds=2),
    orphan_age=timedelta(seconds=6),
)
ENVIRON = "CHAOS_FOLDER"
NOW, ORDERS, NOTES, PASSAGES = "now", "orders.json", "notes", "passages"

# What a process imports with its first request, so that the fork which follows a dead one has it: only
# imports, no connection. Those of the backends come with `open_cloud` otherwise.
_IMPORTED = (
    "google.api_core.exceptions",
    "google.cloud.tasks_v2.services.cloud_tasks",
    "google.pubsub_v1.services.publisher",
    "shared.accounts.postgres",
    "shared.bus.letters",
    "shared.bus.pubsub",
    "shared.core.plans",
    "shared.engine.catalog",
    "shared.processors",
    "shared.state.firestore",
    "shared.vault.firestore",
    "shared.vault.kms",
)
_IMPORTED_BY_WORKERS = (
    "duckdb",
    "google.cloud.bigquery",
    "shared.objects.gcs",
    "shared.warehouse.bigquery",
)


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What is to happen in a scene. A point is named with its function: `step_worker claim.before`."""

    blows: Sequence[Kill | Freeze]
    twice: int | None
    claims_anyhow: bool


class _Told:
    """The scene as this process knows it."""

    def __init__(self, folder: Path, function: str) -> None:
        self.folder = folder
        self.orders = msgspec.json.decode((folder / ORDERS).read_bytes(), type=Orders)
        self.notes = Notes(folder / NOTES)
        seed = self.orders.twice
        self.twice = None if seed is None else Random(f"{seed} {function} {os.getpid()}")


class ScenePoints(Points):
    """Those of one function, counted over the scene, whichever of its processes passes."""

    def __init__(self, function: str, folder: Path) -> None:
        self._function = function
        self._folder = folder
        self._guard = threading.Lock()
        self._known: _Told | None = None

    @property
    def twice(self) -> Random | None:
        return self._told().twice

    @property
    def claims_anyhow(self) -> bool:
        return self._told().orders.claims_anyhow

    def passing(self, point: str) -> None:
        told = self._told()
        name = f"{self._function} {point}"
        path = told.folder / PASSAGES / name
        # Of bytes that are appended, each has a place of its own, also between processes.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, b".")
            passage = os.lseek(file, 0, os.SEEK_CUR)
        finally:
            os.close(file)
        for blow in told.orders.blows:
            if (blow.point, blow.passage) == (name, passage):
                self.strike(blow)

    def note(self, kind: str, text: str) -> None:
        self._told().notes.add(kind, text)

    def committed(self) -> None:
        passages = self._told().folder / PASSAGES / f"{self._function} load.check"
        self.note("commit", str(passages.stat().st_size))

    def ran(self, step: StepContext) -> None:
        self.note("ran", json.dumps([step.run_id, step.step_id, step.attempt]))

    def closed(self, attempt: Attempt, how: Close) -> None:
        self.note("closed", json.dumps([attempt.run_id, attempt.key, how.result]))

    def acknowledged(self, body: bytes) -> None:
        """The body is that of a push, unless the request was another one."""
        try:
            self.note("acknowledged", open_envelope(body).message.message_id)
        except Unreadable:
            return

    def _told(self) -> _Told:
        folder = self._folder / (self._folder / NOW).readlink()
        with self._guard:
            if self._known is None or self._known.folder != folder:
                if self._known is not None:
                    self._known.notes.close()
                self._known = _Told(folder, self._function)
            return self._known


class ClaimsAnyhow:
    """The run store; where the scene says so, whoever finds an attempt claimed has claimed it, too."""

    def __init__(self, runs: Any, points: ScenePoints) -> None:
        self._runs = runs
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runs, name)

    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        claimed: StoredAttempt | None = self._runs.claim(attempt)
        if claimed is None and self._points.claims_anyhow:
            claimed = self._runs.attempt(attempt.run_id, attempt.step_id, attempt.number)
        return claimed


def _open(points: ScenePoints) -> Engine:
    settings = read_settings()
    assert settings.cloud is not None

    def wrap(app: App) -> App:
        runs: Any = ClaimsAnyhow(app.runs, points)
        return wrapped(replace(app, runs=runs), points)

    return open_cloud(settings, settings.cloud, timing=TIMING, wrap=wrap).engine


def __getattr__(name: str) -> Any:
    function = getattr(main, name)
    for module in _IMPORTED + (_IMPORTED_BY_WORKERS if name == "step_worker" else ()):
        import_module(module)
    points = ScenePoints(name, Path(os.environ[ENVIRON]))
    engine = once(lambda: _open(points))

    def mortal(request: Any) -> Any:
        body = b"" if name == "api" else request.get_data()  # the API reads its stream itself
        request.environ[ENGINE_KEY] = engine()
        answer = function(request)
        points.passing("ack.before")
        if 200 <= answer.status_code < 300:
            points.acknowledged(body)
        return answer

    return mortal
