"""The engine over Firestore: what a run costs, counted at the client, and what faults do to it.

Accounts and bus are the embedded ones; where nothing fails, leases and intervals are those of production.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shared.app import App
from shared.bootstrap.embedded import open_embedded
from shared.core.run import Run, RunStatus, StepStatus, Timing
from shared.engine.submit import Submission, submit
from shared.engine.tick import tick
from shared.errors import Unavailable
from shared.log import Level
from shared.settings import Settings
from shared.state import RunStore
from shared.state.firestore import FirestoreRunStore
from tests.support.emulators import Emulator
from tests.support.firestore import Watch, lost
from tests.support.stores import firestore_database, new_id, open_runs
from tests.support.system import configs_in

pytestmark = pytest.mark.cloud

FIVE, WIDE = "engine/noop/five", "engine/noop/wide"
WAIT_SECONDS = 90.0
QUICK = Timing(
    lease=timedelta(seconds=1),
    heartbeat=timedelta(seconds=0.3),
    lease_grace=timedelta(seconds=0.2),
    requeue=timedelta(seconds=1),
    effects_delay=timedelta(seconds=0.5),
    orphan_age=timedelta(seconds=1),
)


def now() -> datetime:
    return datetime.now(UTC)


class Engine:
    """The embedded system, but for its runs, which are in Firestore. A folder can be opened again."""

    def __init__(self, folder: Path, host: str, project: str, timing: Timing) -> None:
        settings = Settings(
            data=folder / "data",
            configs=configs_in(folder),
            objects=folder / "objects",
            environment="test",
            step_threads=16,
            log_level=Level.ERROR,
        )
        self._spec = f"firestore {host} {project}"
        self._database = firestore_database(host, project)
        self.watch = Watch(self._database)
        self._embedded = open_embedded(settings, timing=timing, wrap=self._wrap)
        self.app = self._embedded.engine.app
        if self.app.accounts.organization("acme") is None:
            self.app.accounts.create_organization("acme", "Acme", "enterprise", now())

    def _wrap(self, app: App) -> App:
        return replace(app, runs=FirestoreRunStore(self._database, now=now, new_id=new_id))

    def submit(self, address: str, key: str = "k") -> str:
        asked = Submission(org="acme", address=address, idempotency_key=key)
        return submit(self.app, asked).run.run_id

    def ended(self, run_id: str) -> Run:
        """The run when its effects are done, read by a store that nobody counts."""
        store = open_runs(self._spec)
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            while True:
                stored = store.run(run_id)
                if stored is not None and stored.run.effects_done:
                    return stored.run
                assert time.monotonic() < deadline, stored
                time.sleep(0.05)
        finally:
            store.close()

    def aside(self) -> RunStore:
        """A store of its own that nobody counts, at the same documents."""
        return open_runs(self._spec)

    def close(self) -> None:
        self._embedded.close()
        self._database.close()


Opener = Callable[[Timing], Engine]


@pytest.fixture
def opener(
    firestore_emulator: Emulator, firestore_project: str, tmp_path: Path
) -> Iterator[Opener]:
    opened: list[Engine] = []

    def again(timing: Timing) -> Engine:
        opened.append(Engine(tmp_path, firestore_emulator.host, firestore_project, timing))
        return opened[-1]

    yield again
    for engine in opened:
        engine.close()


def held(engine: Engine) -> int:
    usage = engine.app.accounts.usage("acme", now())
    assert usage is not None
    return usage.concurrent


def assert_whole(engine: Engine, run: Run) -> None:
    assert run.status is RunStatus.COMPLETED
    assert {state.status for state in run.steps.values()} == {StepStatus.COMPLETED}
    store = engine.aside()
    assert all(attempt.closed for attempt in store.attempts_of(run.run_id))
    store.close()
    assert held(engine) == 0


def test_a_chain_of_five_costs_17_writes_and_11_reads(opener: Opener) -> None:
    engine = opener(Timing())
    run = engine.ended(engine.submit(FIVE))
    assert_whole(engine, run)
    watch = engine.watch
    read = {name: count for name, count in watch.read.items() if name != "runs by wake_at"}
    print(f"chain of five: written {dict(watch.written)}, read {read}")
    assert watch.written == {"runs": 7, "attempts": 10}
    assert sum(read.values()) <= 11
    assert watch.refused == 0


def test_two_hundred_steps_and_a_join_do_not_contend(opener: Opener) -> None:
    engine = opener(Timing())
    began = time.monotonic()
    run = engine.ended(engine.submit(WIDE))
    seconds = time.monotonic() - began
    assert_whole(engine, run)
    watch = engine.watch
    print(
        f"200 steps in {seconds:.1f} s: written {dict(watch.written)}, read {dict(watch.read)},"
        f" {watch.refused} conditional writes lost"
    )
    assert watch.written["attempts"] == 400
    assert watch.written["runs"] <= 25
    assert all(state.attempt == 1 and not state.requeues for state in run.steps.values())
    store = engine.aside()
    assert len(store.attempts_of(run.run_id)) == 200
    store.close()


def test_a_chain_whose_every_answer_is_lost_is_the_same_chain(opener: Opener) -> None:
    engine = opener(Timing())
    engine.watch.after = lost
    run = engine.ended(engine.submit(FIVE))
    assert_whole(engine, run)
    engine.close()  # waits for the last write to be tried again
    assert engine.watch.written == {"runs": 7, "attempts": 10}
    assert engine.watch.refused == 17
    assert all(state.attempt == 1 for state in run.steps.values())


@pytest.mark.parametrize("k", range(1, 18))
def test_a_death_before_each_write_of_a_run_is_survived(opener: Opener, k: int) -> None:
    engine = opener(QUICK)

    def dead(number: int) -> None:
        if number >= k:
            lost(number)

    engine.watch.before = dead
    try:
        engine.submit(FIVE)
    except Unavailable:
        assert k == 1
    deadline = time.monotonic() + WAIT_SECONDS
    while engine.watch.commits < k + 2:  # it has tried, and given up
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.close()
    survivor = opener(QUICK)
    run = survivor.ended(survivor.submit(FIVE))
    assert_whole(survivor, run)
    assert tick(survivor.app).hints == 0, "nothing is due for ever"
