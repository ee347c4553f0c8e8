"""The embedded backends: the whole system in one process, over one data folder."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from shared import VERSION
from shared.accounts import Accounts, Scope
from shared.app import App
from shared.bootstrap import (
    ENGINE_KEY,
    AtFirstUse,
    Clock,
    default_processors,
    function,
    load_catalog,
    load_providers,
    once,
    open_http,
    read_text,
)
from shared.bootstrap.sources import open_source
from shared.bus.push import in_process
from shared.core.message import Topic
from shared.core.run import EMBEDDED_TIMING, Timing
from shared.engine import Engine
from shared.errors import Terminal, Unavailable
from shared.log import Log
from shared.objects import ObjectStore
from shared.settings import PLATFORM_KEY_FILE, Settings
from shared.step import Processor
from shared.warehouse import Warehouse

TICK_SECONDS = 1.0
_PUSH = "/push/"


class Embedded:
    """The whole system in one process, over one data folder. `close` it before opening it again."""

    def __init__(
        self,
        engine: Engine,
        start: Callable[[], None],
        unfinished: Callable[[], list[str]],
        opened: ExitStack,
    ) -> None:
        self.engine = engine
        self._unfinished = unfinished
        self._opened = opened
        self._stopping = threading.Event()
        start()
        self._ticker = threading.Thread(target=self._tick, name="ticker", daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Stops delivering, waits for what runs now, and closes every file. Twice is once."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._ticker.join()
        self._opened.close()

    def _tick(self) -> None:
        self._recover()
        deliver = in_process(push_application, {ENGINE_KEY: self.engine})
        log = self.engine.app.log
        while not self._stopping.wait(TICK_SECONDS):
            try:
                answer = deliver(_PUSH + "scheduler", b"{}")
            except Exception as error:  # noqa: BLE001  # the next tick may do what this one could not
                log.error("tick.failed", error=f"{type(error).__name__}: {error}")
                continue
            if answer.status >= 300:
                log.error("tick.failed", status=answer.status, said=answer.text)

    def _recover(self) -> None:
        # Every worker of the process before this one is dead: nobody waits for its leases.
        for run_id in self._unfinished():
            if self._stopping.is_set():
                return
            try:
                self.engine.coordinator.recover(run_id)
            except Exception as error:  # noqa: BLE001  # one run's fault is not that of all others
                said = f"{type(error).__name__}: {error}"
                self.engine.app.log.error("recovery.failed", run=run_id, error=said)


def push_application(environ: dict[str, Any], start_response: Any) -> Any:
    """The WSGI application behind the embedded bus: `/push/{function}`. Never served to the outside."""
    from flask import Request  # noqa: PLC0415

    name = environ["PATH_INFO"].removeprefix(_PUSH)
    response = function(name)(Request(environ))
    return response(environ, start_response)


def open_embedded(
    settings: Settings,
    *,
    clock: Clock | None = None,
    timing: Timing = EMBEDDED_TIMING,
    processors: Mapping[str, Processor] | None = None,
    wrap: Callable[[App], App] = lambda app: app,
) -> Embedded:
    """Opens the embedded backends in `settings.data` and goes on with what was left there.

    `processors` replaces those of the release, and `wrap` may put something between engine and ports:
    both are for tests. Raises ConfigError, Unavailable (another process has the folder); then nothing
    is left open.
    """
    table = default_processors() if processors is None else processors
    with ExitStack() as stack:
        return _embedded(settings, clock or Clock(), timing, table, wrap, stack)


def _embedded(
    settings: Settings,
    clock: Clock,
    timing: Timing,
    table: Mapping[str, Processor],
    wrap: Callable[[App], App],
    stack: ExitStack,
) -> Embedded:
    from shared.accounts.sqlite import SqliteAccounts  # noqa: PLC0415  # only this branch uses them
    from shared.bus.local import LocalBus, Subscription  # noqa: PLC0415
    from shared.core.plans import parse_plans  # noqa: PLC0415
    from shared.journal import Journal  # noqa: PLC0415
    from shared.schedules.sqlite import SqliteSchedules  # noqa: PLC0415
    from shared.state.sqlite import SqliteRunStore  # noqa: PLC0415
    from shared.subscriptions.sqlite import SqliteSubscriptions  # noqa: PLC0415
    from shared.vault.local import LocalKeyRing, SqliteVault  # noqa: PLC0415

    plans = parse_plans(*read_text(settings.configs / "system" / "plans.yml"))
    stack.callback(_take(settings.data))
    journal = Journal(settings.data / "state.db")
    stack.callback(journal.close)
    runs = SqliteRunStore(journal)
    runs.expire_leases(clock.now())
    environ: dict[str, Any] = {}
    bus = LocalBus(
        journal,
        {
            Topic.STARTS: Subscription(_PUSH + "event_trigger", 2),
            Topic.STEPS: Subscription(_PUSH + "step_worker", settings.step_threads),
            Topic.COMPLETIONS: Subscription(_PUSH + "coordinator", 2),
        },
        in_process(push_application, environ),
        clock.now,
    )
    http = AtFirstUse(lambda: open_http(clock))
    stack.callback(http.close)
    warehouse = AtFirstUse(lambda: _warehouse(settings, clock))
    stack.callback(warehouse.close)
    accounts = SqliteAccounts(journal, plans)
    _make_platform_key(accounts, settings.data / PLATFORM_KEY_FILE, clock.now())
    app = App(
        runs=runs,
        bus=bus,
        accounts=accounts,
        subscriptions=SqliteSubscriptions(journal),
        schedules=SqliteSchedules(journal),
        vault=SqliteVault(journal, LocalKeyRing(settings.data / "keys.json"), clock.now),
        warehouse=warehouse,
        objects=lambda org, url, credential: (
            _folder(settings.objects / org, url)
            if url.startswith("file:")
            else open_source(url, credential, clock, settings.sources, beside="file:PATH, ")
        ),
        http=http,
        catalog=once(lambda: load_catalog(settings.configs, table)),
        providers=once(lambda: load_providers(settings.configs)),
        processors=table,
        timing=timing,
        project_id=settings.project_id,
        environment=settings.environment,
        requests_per_minute=settings.requests_per_minute,
        failed_keys_per_minute=settings.failed_keys_per_minute,
        code_version=VERSION,
        log=Log(settings.log_level, readable=True),
        now=clock.now,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        random=clock.random,
        new_id=clock.new_id,
    )
    app = wrap(app)
    made = Engine(app)
    environ[ENGINE_KEY] = made
    stack.callback(made.close)
    stack.callback(bus.close)
    return Embedded(made, bus.start, runs.unfinished, stack.pop_all())


def _warehouse(settings: Settings, clock: Clock) -> Warehouse:
    from shared.warehouse.duckdb import DuckdbWarehouse  # noqa: PLC0415  # who loads pays for it

    return DuckdbWarehouse(
        settings.data / "warehouse.duckdb",
        settings.configs / "system" / "procedures",
        clock.now,
        memory_limit=f"{settings.memory_mb}MB",
    )


def _take(folder: Path) -> Callable[[], None]:
    """Makes the folder and takes it for this process. Raises Unavailable when another one has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be used as PIPELINES_DATA: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Unavailable(
            f"{folder}: another process has it open; stop it, or name another folder in PIPELINES_DATA"
        ) from error
    return lock.close


def _make_platform_key(accounts: Accounts, path: Path, now: datetime) -> None:
    """The operator's key, made with the folder and kept in it for the command line of this machine."""
    if path.exists():
        return
    _, text = accounts.create_key(None, "platform", [Scope.ADMIN], now)
    written = path.with_suffix(".new")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    written.replace(path)  # a key that is there is whole


def _folder(root: Path, url: str) -> ObjectStore:
    """`file:PATH` under the organization's own folder; nothing outside of it can be named."""
    from shared.objects.files import FolderStore  # noqa: PLC0415

    path = url.removeprefix("file:")
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/"):
        raise Terminal(
            f"source {url!r}: `file:PATH` has a PATH inside the organization's objects folder",
            code="bad_source",
        )
    return FolderStore(root.joinpath(*parts), inside=root, name=f"source {url!r}")
