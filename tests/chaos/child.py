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
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from shared.app import App
from shared.bootstrap.embedded import open_embedded
from shared.core.run import EMBEDDED_TIMING
from shared.core.secret import Secret
from shared.engine.submit import Submission, submit
from shared.log import Level
from shared.settings import Settings
from shared.state import HistoryFilter
from tests.chaos.left import Ended, ended, left
from tests.chaos.proxies import Kill, LifePoints, Notes, wrapped
from tests.chaos.scenes import Ask, Result

_ALL = HistoryFilter()
# The nets are far below: what goes on after a restart in less time goes on by the restart itself.
TIMING = msgspec.structs.replace(
    EMBEDDED_TIMING,
    lease=timedelta(seconds=60),
    requeue=timedelta(seconds=30),
    effects_delay=timedelta(seconds=30),
)


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


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """What a life found: the steps that somebody was at, and the ended runs that still hold quota."""

    at: float
    released: list[tuple[str, str]]
    unsettled: list[str]


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
    twice = None if life.twice is None else Random(life.twice)
    points = LifePoints(life.kill, notes, twice)
    found: dict[str, Ended] = {}

    def wrap(app: App) -> App:
        # Nothing is delivered yet: what is there now was left by the life before.
        for org in {ask.org for ask in life.asks}:
            page = app.runs.history(org, _ALL)
            found.update({run.run_id: ended(app, run.run_id) for run in page.runs})
        notes.add("born", msgspec.json.encode(_birth(born, found)).decode())
        _acknowledged(app.bus, points)
        return wrapped(app, points)

    embedded = open_embedded(settings, timing=TIMING, wrap=wrap)
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
        result = _result(app, life, points, found, run_ids, born)
        Path(life.out).write_bytes(msgspec.json.encode(result))
    embedded.close()
    faulthandler.cancel_dump_traceback_later()


def _acknowledged(bus: Any, points: LifePoints) -> None:
    """Has the bus pass a point between each answer and its acknowledgement."""
    deliver = bus._deliver

    def counted(path: str, body: bytes) -> Any:
        answer = deliver(path, body)
        points.passing("ack.before")
        return answer

    bus._deliver = counted


def _birth(at: float, found: dict[str, Ended]) -> Birth:
    return Birth(
        at=at,
        released=[
            (run_id, step_id)
            for run_id, there in found.items()
            for step_id, state in there.run.steps.items()
            if state.status.released
        ],
        unsettled=[
            run_id
            for run_id, there in found.items()
            if there.run.status.terminal and not there.run.effects_done
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


def _result(
    app: App,
    life: Life,
    points: LifePoints,
    found: dict[str, Ended],
    run_ids: list[str],
    born: float,
) -> Result:
    executions = {f"{run} {step}": count for (run, step), count in points.executions.items()}
    passages = dict(points.counts)  # before the questions below are counted, too
    now = {run_id: ended(app, run_id) for run_id in found}
    seconds = time.time() - born
    return Result(
        left=left(app, run_ids, {ask.org: ask.org for ask in life.asks}),
        changed=[
            f"{run_id} {was.key}"
            for run_id, before in found.items()
            for was in before.attempts
            if was.closed and was not in now[run_id].attempts
        ],
        executions=executions,
        passages=passages,
        commits=points.commits,
        seconds=seconds,
    )


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
