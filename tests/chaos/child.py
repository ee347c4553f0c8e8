"""One life of the embedded system: brings the runs it is asked for to their end, or dies on the way.

    python -m tests.chaos.child LIFE.json     one life, in an interpreter of its own
    python -m tests.chaos.child               a life for every line of JSON, each in a fork

The fork is a process of its own and dies like one; it only saves the imports. Of each fork two lines
are said: its process id, and how it ended.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import traceback
from collections import Counter
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from shared.app import App
from shared.bootstrap.embedded import open_embedded
from shared.core.run import EMBEDDED_TIMING, Attempt, Run
from shared.core.secret import Secret
from shared.engine.submit import Submission, submit
from shared.log import Level
from shared.settings import Settings
from shared.state import HistoryFilter
from tests.chaos.proxies import Kill, Notes, Points, wrapped

TABLES = ("aws_focus", "focus_costs")
_COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
_OF_THE_RUN = ("x_org_slug", "x_run_id", "x_ingested_at", "x_ingestion_date")
_ALL = HistoryFilter()
# The nets are far below: what goes on after a restart in less time goes on by the restart itself.
TIMING = msgspec.structs.replace(
    EMBEDDED_TIMING,
    lease=timedelta(seconds=60),
    requeue=timedelta(seconds=30),
    effects_delay=timedelta(seconds=30),
)


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A run to submit; the key makes a restarted process find the one it had submitted."""

    org: str
    address: str
    key: str
    day: str


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do. `born` is when its parent started it (seconds since 1970)."""

    data: str
    configs: str
    objects: str
    out: str
    notes: str
    asks: tuple[Ask, ...] = ()
    organizations: tuple[str, ...] = ()  # to create, with a credential each
    kill: Kill | None = None
    twice: int | None = None  # a seed: every message comes two times, in any order
    born: float | None = None
    limit_seconds: float = 60


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands at the end of a life."""

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


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """What a life found: the steps that somebody was at, and the ended runs that still hold quota."""

    at: float
    released: list[tuple[str, str]]
    unsettled: list[str]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a life left."""

    runs: dict[str, Ended]
    used: dict[str, Used]
    tables: dict[str, dict[str, Held]]
    loads: dict[str, list[Loaded]]
    rejects: dict[str, int]
    dead_letters: list[str]
    changed: list[str]  # attempts that were closed at its birth and are not what they were
    executions: dict[str, int]
    passages: dict[str, int]
    commits: list[int]
    open_seconds: float
    seconds: float


def live(life: Life) -> None:
    """Lives, and writes the result."""
    faulthandler.dump_traceback_later(life.limit_seconds, exit=True)
    born = time.time() if life.born is None else life.born
    settings = Settings(
        data=Path(life.data),
        configs=Path(life.configs),
        objects=Path(life.objects),
        environment="test",
        step_threads=4,
        log_level=Level.ERROR,
    )
    notes = Notes(Path(life.notes))
    points = Points(life.kill, notes)
    executions: Counter[tuple[str, str]] = Counter()
    found: dict[str, Ended] = {}

    def wrap(app: App) -> App:
        # Nothing is delivered yet: what is there now was left by the life before.
        for org in {ask.org for ask in life.asks}:
            page = app.runs.history(org, _ALL)
            found.update({run.run_id: _ended(app, run.run_id) for run in page.runs})
        notes.add("born", msgspec.json.encode(_birth(born, found)).decode())
        return wrapped(app, points, executions, None if life.twice is None else Random(life.twice))

    embedded = open_embedded(settings, timing=TIMING, wrap=wrap)
    opened = time.time()
    app = embedded.engine.app
    for org in life.organizations:
        app.accounts.create_organization(org, org, "enterprise", app.now())
        metadata = {"source": "file:exports", "export_name": "costs"}
        app.vault.put(org, "aws", "main", Secret(b"{}"), metadata)
    run_ids = [
        submit(
            app,
            Submission(
                ask.org, ask.address, ask.day, ask.day, idempotency_key=ask.key, parameters={}
            ),
        ).run.run_id
        for ask in life.asks
    ]
    while not all(_is_over(app, run_id) for run_id in run_ids):
        time.sleep(0.002)
    while _messages(app):
        time.sleep(0.002)
    if life.asks:
        times = opened - born, time.time() - born
        result = _result(app, life, points, executions, found, run_ids, times)
        Path(life.out).write_bytes(msgspec.json.encode(result))
    embedded.close()
    faulthandler.cancel_dump_traceback_later()


def _birth(at: float, found: dict[str, Ended]) -> Birth:
    return Birth(
        at=at,
        released=[
            (run_id, step_id)
            for run_id, ended in found.items()
            for step_id, state in ended.run.steps.items()
            if state.status.released
        ],
        unsettled=[
            run_id
            for run_id, ended in found.items()
            if ended.run.status.terminal and not ended.run.effects_done
        ],
    )


def _is_over(app: App, run_id: str) -> bool:
    stored = app.runs.run(run_id)
    return stored is not None and stored.run.effects_done


def _messages(app: App) -> int:
    # Also the delayed ones: whatever is still to come must change nothing either.
    journal = app.bus._journal  # type: ignore[attr-defined]  # the proxy hands it through
    count: int = journal.read(lambda db: db.execute("SELECT count(*) FROM messages").fetchone()[0])
    return count


def _ended(app: App, run_id: str) -> Ended:
    stored = app.runs.run(run_id)
    if stored is None:
        raise AssertionError(run_id)
    return Ended(run=stored.run, attempts=app.runs.attempts_of(run_id))


def _result(
    app: App,
    life: Life,
    points: Points,
    executions: Counter[tuple[str, str]],
    found: dict[str, Ended],
    run_ids: list[str],
    times: tuple[float, float],
) -> Result:
    ended = {run_id: _ended(app, run_id) for run_id in run_ids}
    orgs = {ask.org for ask in life.asks}
    passages = dict(points.counts)  # before the questions below are counted, too
    return Result(
        runs=ended,
        used={org: _used(app, org) for org in orgs},
        tables={org: {table: _held(app, org, table) for table in TABLES} for org in orgs},
        loads={org: _loads(app, org) for org in orgs},
        rejects={org: len(_query(app, org, "SELECT 1 AS one FROM _rejects").rows) for org in orgs},
        dead_letters=[letter.reason for letter in app.bus.dead_letters()],
        changed=[
            f"{run_id} {was.key}"
            for run_id, before in found.items()
            for was in before.attempts
            if was.closed and was not in _ended(app, run_id).attempts
        ],
        executions={f"{run} {step}": count for (run, step), count in executions.items()},
        passages=passages,
        commits=points.commits,
        open_seconds=times[0],
        seconds=times[1],
    )


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


def _query(app: App, org: str, sql: str) -> Any:
    return app.warehouse().query(f"{org}_test", sql, {}, limit=1_000_000)


def _held(app: App, org: str, table: str) -> Held:
    answer = _query(app, org, f"SELECT * FROM {table}")
    kept = [i for i, name in enumerate(answer.columns) if name not in _OF_THE_RUN]
    owner = answer.columns.index("x_org_slug")
    if any(row[owner] != org for row in answer.rows):
        raise AssertionError(f"{table} of {org} has rows of somebody else")
    rows = sorted(repr([row[i] for i in kept]) for row in answer.rows)
    places = [answer.columns.index(cost) for cost in _COSTS]
    return Held(
        rows=len(rows),
        digest=sha256("\n".join(rows).encode()).hexdigest(),
        sums=tuple(str(sum(row[place] for row in answer.rows)) for place in places),
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


def _serve() -> None:
    # What a life imports when it needs it, so that a fork has it.
    import duckdb  # noqa: F401
    import sqlglot.dialects.bigquery
    import sqlglot.dialects.duckdb  # noqa: F401

    import main  # noqa: F401
    import shared.accounts.sqlite
    import shared.bus.local
    import shared.engine.catalog
    import shared.objects.files
    import shared.processors
    import shared.state.sqlite
    import shared.vault.local
    import shared.warehouse.duckdb  # noqa: F401

    if threading.active_count() != 1:
        raise AssertionError("a thread would be lost in the forks")
    for line in sys.stdin:
        life = msgspec.json.decode(line, type=Life)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                live(life)
                code = 0
            except BaseException:  # noqa: BLE001  # a fork must never return into the parent's loop
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _main() -> None:
    if len(sys.argv) > 1:
        live(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Life))
    else:
        _serve()


if __name__ == "__main__":
    _main()
