"""The backends of Google Cloud, for one function of one process.

A client is made when it is first used, so that a function pays at its cold start for those that it
uses: a worker whose steps load nothing never imports BigQuery, and only who asks for quota connects to
Postgres.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from shared import VERSION
from shared.app import App
from shared.bootstrap import (
    AtFirstUse,
    Clock,
    default_processors,
    load_catalog,
    load_providers,
    once,
    open_http,
    read_text,
)
from shared.bootstrap.sources import open_source
from shared.core.run import Timing
from shared.engine import Engine
from shared.log import Log
from shared.settings import CloudSettings, Settings
from shared.step import Processor
from shared.warehouse import Warehouse

if TYPE_CHECKING:
    from shared.accounts import Accounts
    from shared.accounts.postgres import PostgresAccounts
    from shared.firestore import Database
    from shared.schedules import Schedules
    from shared.subscriptions import Subscriptions


FOLLOWERS = 16  # half the requests that terraform/functions.tf lets an instance of the API have


class Opened(NamedTuple):
    """An engine, and what releases its connections."""

    engine: Engine
    close: Callable[[], None]


def open_accounts(settings: Settings, cloud: CloudSettings) -> PostgresAccounts:
    """The accounts alone. Raises ConfigError for a DSN or plans that cannot be read."""
    from shared.accounts.postgres import PostgresAccounts  # noqa: PLC0415  # who needs quota
    from shared.core.plans import parse_plans  # noqa: PLC0415  # reads YAML

    plans = parse_plans(*read_text(settings.configs / "system" / "plans.yml"))
    return PostgresAccounts(cloud.accounts.reveal().decode(), plans)


def open_cloud(
    settings: Settings,
    cloud: CloudSettings,
    *,
    clock: Clock | None = None,
    timing: Timing | None = None,
    processors: Mapping[str, Processor] | None = None,
    wrap: Callable[[App], App] = lambda app: app,
) -> Opened:
    """Nothing is connected yet when it returns.

    `processors` replaces those of the release, and `wrap` may put something between engine and ports:
    both are for tests. Raises Unavailable without credentials of Google's.
    """
    from shared.bus.letters import FirestoreLetters  # noqa: PLC0415  # only this branch uses them
    from shared.bus.pubsub import PubsubBus  # noqa: PLC0415
    from shared.firestore import Database  # noqa: PLC0415
    from shared.jobs.cloudrun import CloudRunJobs  # noqa: PLC0415
    from shared.state.firestore import FirestoreRunStore  # noqa: PLC0415
    from shared.vault.firestore import FirestoreVault  # noqa: PLC0415
    from shared.vault.kms import KmsKeyRing  # noqa: PLC0415

    clock, timing = clock or Clock(), timing or Timing()
    now, new_id, sleep, chance = clock.now, clock.new_id, clock.sleep, clock.random
    table = default_processors() if processors is None else processors
    project, emulators = settings.project_id, cloud.emulators
    with ExitStack() as stack:
        database = Database(
            project, cloud.firestore, sleep=sleep, random=chance, emulator=emulators.firestore
        )
        stack.callback(database.close)
        ring = KmsKeyRing(cloud.kms_key, sleep=sleep, random=chance, emulator=emulators.kms)
        stack.callback(ring.close)
        bus = PubsubBus(
            project,
            prefix=f"pipelines-{settings.environment}-",
            letters=FirestoreLetters(database, now=now, new_id=new_id),
            queue=cloud.tasks_queue,
            account=cloud.tasks_account,
            now=now,
            sleep=sleep,
            random=chance,
            emulator=emulators.pubsub,
            tasks_emulator=emulators.tasks,
        )
        stack.callback(bus.close)
        jobs = None
        if cloud.long_steps_job is not None:
            jobs = CloudRunJobs(
                cloud.long_steps_job, sleep=sleep, random=chance, emulator=emulators.jobs
            )
            stack.callback(jobs.close)
        accounts = AtFirstUse(lambda: open_accounts(settings, cloud))
        stack.callback(accounts.close)
        schedules = AtFirstUse(lambda: _schedules(cloud))
        stack.callback(schedules.close)
        subscriptions = AtFirstUse(lambda: _subscriptions(cloud))
        stack.callback(subscriptions.close)
        warehouse = AtFirstUse(lambda: _warehouse(settings, cloud, clock, timing, database))
        stack.callback(warehouse.close)
        http = AtFirstUse(lambda: open_http(clock))
        stack.callback(http.close)
        app = App(
            runs=FirestoreRunStore(database, now=now, new_id=new_id),
            bus=bus,
            accounts=cast("Accounts", _Standing(accounts)),
            schedules=cast("Schedules", _Standing(schedules)),
            subscriptions=cast("Subscriptions", _Standing(subscriptions)),
            vault=FirestoreVault(
                database, ring, now=now, new_id=new_id, sleep=sleep, random=chance
            ),
            warehouse=warehouse,
            objects=lambda _, url, credential: open_source(
                url, credential, clock, settings.sources
            ),
            http=http,
            catalog=once(lambda: load_catalog(settings.configs, table)),
            providers=once(lambda: load_providers(settings.configs)),
            processors=table,
            jobs=jobs,
            callers=None
            if cloud.push_account is None
            else _callers(cloud, cloud.push_account, now),
            requests_per_minute=settings.requests_per_minute,
            failed_keys_per_minute=settings.failed_keys_per_minute,
            followers=FOLLOWERS,
            timing=timing,
            project_id=project,
            environment=settings.environment,
            code_version=VERSION,
            log=Log(settings.log_level),
            now=now,
            monotonic=clock.monotonic,
            sleep=sleep,
            random=chance,
            new_id=new_id,
        )
        made = Engine(wrap(app))
        stack.callback(made.close)
        return Opened(made, stack.pop_all().close)


class _Standing:
    """Stands for a port until somebody asks it something: psycopg alone costs a function 60 ms."""

    def __init__(self, get: Callable[[], object]) -> None:
        self._get = get

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get(), name)


def _callers(
    cloud: CloudSettings, account: str, now: Callable[[], datetime]
) -> Callable[[str, str], None]:
    from shared.oidc import Callers, GoogleKeys  # noqa: PLC0415  # none is asked for on emulators

    return Callers(account, cloud.push_audience, GoogleKeys(now).find, now).check


def _schedules(cloud: CloudSettings) -> Schedules:
    from shared.schedules.postgres import PostgresSchedules  # noqa: PLC0415  # who needs them

    return PostgresSchedules(cloud.accounts.reveal().decode())


def _subscriptions(cloud: CloudSettings) -> Subscriptions:
    from shared.subscriptions.postgres import PostgresSubscriptions  # noqa: PLC0415  # who needs them

    return PostgresSubscriptions(cloud.accounts.reveal().decode())


def _warehouse(
    settings: Settings, cloud: CloudSettings, clock: Clock, timing: Timing, database: Database
) -> Warehouse:
    from shared.warehouse.bigquery import BigQueryWarehouse  # noqa: PLC0415  # who loads pays for it
    from shared.warehouse.firestore_leases import FirestoreLeases  # noqa: PLC0415
    from shared.warehouse.staging import Staging  # noqa: PLC0415

    now, new_id, sleep, chance = clock.now, clock.new_id, clock.sleep, clock.random
    storage = cloud.emulators.storage
    return BigQueryWarehouse(
        settings.project_id,
        settings.configs / "system" / "procedures",
        now,
        new_id=new_id,
        sleep=sleep,
        random=chance,
        location=cloud.location,
        # Whoever dies in a commit holds its dataset no longer than its attempt.
        leases=FirestoreLeases(
            database, now=now, new_id=new_id, sleep=sleep, random=chance, hold=timing.lease
        ),
        scratch=settings.data,
        memory_limit=f"{settings.memory_mb}MB",
        maximum_bytes_billed=cloud.max_bytes_billed,
        staging=None
        if cloud.staging_bucket is None
        else Staging(cloud.staging_bucket, emulator=storage and f"http://{storage}"),
        emulator=cloud.emulators.bigquery,
    )
