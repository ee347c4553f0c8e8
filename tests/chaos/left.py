"""What runs leave, asked of the ports when they are over: the same questions on every set of backends."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from hashlib import sha256

import msgspec

from shared.app import App
from shared.core.run import Attempt, Run
from shared.errors import Terminal
from shared.warehouse import Rows

TABLES = ("aws_focus", "focus_costs")
_COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
_OF_THE_RUN = ("x_org_slug", "x_run_id", "x_ingested_at", "x_ingestion_date")


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A run and its attempts as they stand."""

    run: Run
    attempts: list[Attempt]


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What an organization's quota says."""

    concurrent: int
    today: int
    month: int
    succeeded: int
    failed: int


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A table without what depends on the run that wrote it and on whose it is."""

    rows: int
    digest: str
    sums: tuple[str, ...]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `_loads`."""

    table: str
    slice: str
    run_id: str
    step_id: str
    attempt: int
    rows: int
    rejected: int


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Runs by their id, everything else by the organization as the scene calls it."""

    runs: dict[str, Ended]
    used: dict[str, Used]
    tables: dict[str, dict[str, Held | None]]  # None: cannot be read
    loads: dict[str, list[Loaded]]
    rejects: dict[str, int | None]
    dead_letters: list[str]


def left(app: App, run_ids: list[str], orgs: Mapping[str, str]) -> Left:
    """`orgs`: what the organizations are called in the scene, and here."""
    return Left(
        runs={run_id: ended(app, run_id) for run_id in run_ids},
        used={name: _used(app, org) for name, org in orgs.items()},
        tables={
            name: {table: _held(app, org, table) for table in TABLES} for name, org in orgs.items()
        },
        loads={name: _loads(app, org) for name, org in orgs.items()},
        rejects={name: _rejects(app, org) for name, org in orgs.items()},
        dead_letters=[letter.reason for letter in app.bus.dead_letters()],
    )


def ended(app: App, run_id: str) -> Ended:
    stored = app.runs.run(run_id)
    if stored is None:
        raise AssertionError(run_id)
    return Ended(run=stored.run, attempts=app.runs.attempts_of(run_id))


def _used(app: App, org: str) -> Used:
    usage = app.accounts.usage(org, app.now())
    if usage is None:
        raise AssertionError(org)
    return Used(
        concurrent=usage.concurrent,
        today=usage.today,
        month=usage.month,
        succeeded=usage.succeeded,
        failed=usage.failed,
    )


def _query(app: App, org: str, sql: str) -> Rows | None:
    try:
        return app.warehouse().query(f"{org}_test", sql, {}, limit=1_000_000)
    except Terminal:
        return None  # a run that failed may not have made its tables


def _rejects(app: App, org: str) -> int | None:
    answer = _query(app, org, "SELECT 1 AS one FROM _rejects")
    return None if answer is None else len(answer.rows)


def _held(app: App, org: str, table: str) -> Held | None:
    answer = _query(app, org, f"SELECT * FROM {table}")
    if answer is None:
        return None
    kept = [i for i, name in enumerate(answer.columns) if name not in _OF_THE_RUN]
    owner = answer.columns.index("x_org_slug")
    if any(row[owner] != org for row in answer.rows):
        raise AssertionError(f"{table} of {org} has rows of somebody else")
    rows = sorted(repr([row[i] for i in kept]) for row in answer.rows)
    places = [answer.columns.index(cost) for cost in _COSTS]
    return Held(
        rows=len(rows),
        digest=sha256("\n".join(rows).encode()).hexdigest(),
        sums=tuple(
            str(sum((Decimal(str(row[place])) for row in answer.rows), Decimal(0)))
            for place in places
        ),
    )


def _loads(app: App, org: str) -> list[Loaded]:
    return [
        Loaded(
            table=loaded.table,
            slice=" ".join(map(str, loaded.slice)),
            run_id=loaded.run_id,
            step_id=loaded.step_id,
            attempt=loaded.attempt,
            rows=loaded.rows,
            rejected=loaded.rejected,
        )
        for loaded in app.warehouse().loads(f"{org}_test")
    ]
